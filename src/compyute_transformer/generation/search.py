"""Beam search for language models: the most probable continuation of a prompt that a beam of hypotheses finds.

The search is that of translations, see `beam`: the prompt takes the place of the source, and end tokens, if the model
has any, that of END. The hypotheses share the keys and values of the prompt until they differ.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..arrays import to_numpy
from ..data.text.tokenizer import Tokenizer
from ..errors import RangeError
from ..models.language import LanguageModel
from ..nn.module import evaluating
from .beam import Beam, BeamOptions, Hypothesis, log_softmax
from .cache import KeyValueCache
from .decode import prefill, step
from .fused_decoder import FusedDecoder
from .text import check_generation, context_of

__all__ = ["Continuation", "beam_search"]


class Continuation(NamedTuple):
    """What follows a prompt. log_probabilities: of each token, the end token included. ended: whether there is one.

    score: the sum of the log-probabilities, divided by ((5 + number) / 6)^length_penalty.
    """

    text: str
    ids: tuple[int, ...]
    log_probabilities: tuple[float, ...]
    score: float
    ended: bool


def beam_search(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompt: str | Sequence[int],
    *,
    max_new_tokens: int,
    beam_size: int = 4,
    length_penalty: float = 0.6,
    stop_ids: Sequence[int] = (),
) -> Continuation:
    """Return the continuation of a prompt with the highest score that beam search finds; the model runs in `eval()`.

    prompt: a text, or its ids. max_new_tokens: of the continuation, its end token included; fewer where the context
    ends. beam_size: how many hypotheses are kept; 1 takes the most probable token each time. length_penalty: α of the
    score, see `beam`. stop_ids: tokens that end a continuation. Without one, all hypotheses have max_new_tokens.

    Raises RangeError for an option outside its range or a prompt longer than the context, and what `stream` raises for
    a prompt and a tokenizer.
    """
    check_generation(model, tokenizer, max_new_tokens, stop_ids)
    ids, L = context_of(tokenizer, prompt), model.config.context_length
    if len(ids) > L:
        raise RangeError(f"beam_search: a prompt has at most {L} tokens, the context length, got {len(ids)}. Cut it.")
    ends = tuple(map(int, stop_ids))
    options = BeamOptions(beam_size, length_penalty, min(max_new_tokens, L - len(ids) + 1), -1, ends)
    options.check("beam_search")
    found = _search(model, tokenizer.vocab_size, ids, options)
    ended = found.ids[-1] in ends
    written = found.ids[:-1] if ended else found.ids
    return Continuation(tokenizer.decode(written), written, found.log_probabilities, found.score(options), ended)


def _search(model: LanguageModel, vocab_size: int, ids: list[int], options: BeamOptions) -> Hypothesis:
    """Return the best hypothesis."""
    cache, beam = KeyValueCache(model, 1, min(model.config.context_length, len(ids) + options.longest)), Beam(options)
    with evaluating():
        fused = FusedDecoder.from_model(model)
    logits = prefill(model, [ids], cache, fused)
    while True:
        # a model may have more rows than there are tokens; those are never written
        parents = beam.extend(log_softmax(to_numpy(logits)[:, :vocab_size].astype(np.float64)))
        if beam.over:
            return beam.best
        if parents != list(range(cache.batch_size)):
            cache.select(parents)
        logits = step(model, [hypothesis.ids[-1] for hypothesis in beam.open], cache, fused)
