"""Generate texts for several prompts at once: one forward for all, and each gets the tokens it would get alone."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..data.text.tokenizer import Tokenizer
from ..errors import RangeError
from ..models.language import LanguageModel
from ..random import SAMPLING, Generator
from .decode import Reader
from .detokenize import StopTexts, WholeCharacters
from .sampling import Sampling, choose, with_options
from .text import DEFAULT_SAMPLING, check_generation, start_of

__all__ = ["generate_batch"]


def generate_batch(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    sampling: Sampling = DEFAULT_SAMPLING,
    stride: int = 1,
    cached: bool = True,
    **options: Any,
) -> list[str]:
    """Return the texts that follow prompts of any lengths; each equals what `generate` returns for its prompt alone.

    The arguments are those of `stream`. The option `seed` may also be a sequence, with one seed for each prompt.
    Otherwise each has the one seed, and a prompt that was given before has the next, so that four times the same prompt
    get four texts. A text that has met a stop text or an end token leaves the batch. Prompts are padded on the left;
    once the longest text is past the context's end, all are read anew whenever a window moves.

    Raises as `stream`, and RangeError for one text instead of a sequence, or for another number of seeds than prompts.
    """
    several = not isinstance(options.get("seed", 0), int | np.integer)  # seed=range(4): one for each prompt
    given = options.pop("seed") if several else None
    sampling = with_options("generate_batch", sampling, options)
    max_new_tokens = check_generation(model, tokenizer, max_new_tokens, sampling.stop_ids)
    if isinstance(prompts, str):
        raise RangeError("generate_batch: prompts are a sequence of texts, got one text. Use generate, or [prompt].")
    seeds = _seeds(prompts, sampling.seed) if given is None else [int(seed) for seed in given]
    if len(seeds) != len(prompts):
        raise RangeError(
            f"generate_batch: seed is one for all, or one for each prompt, got {len(seeds)} for {len(prompts)}."
        )
    rows = [_Row(tokenizer, prompt, seed, sampling.stop) for prompt, seed in zip(prompts, seeds, strict=True)]
    longest = max((len(row.ids) for row in rows), default=0) + max_new_tokens
    reader = Reader(model, stride, cached, longest)
    for _ in range(max_new_tokens):
        writing = [row for row in rows if not (row.ended or row.stops.found)]
        if not writing:
            break
        logits = reader.read([row.ids for row in writing])[:, : tokenizer.vocab_size]
        for row, row_logits in zip(writing, logits, strict=True):
            row.take(choose(row_logits, sampling, row.ids, key=row.keys.next()), sampling.stop_ids)
    return [row.finish() for row in rows]


def _seeds(prompts: Sequence[str], seed: int) -> list[int]:
    """Return a seed for each prompt: the given one, and the next one each time that a prompt occurs again."""
    occurred: Counter[str] = Counter()
    seeds = []
    for prompt in prompts:
        seeds.append((seed + occurred[prompt]) % 2**64)
        occurred[prompt] += 1
    return seeds


class _Row:
    """One text of a batch; ids are those of the prompt and of the text written so far."""

    def __init__(self, tokenizer: Tokenizer, prompt: str, seed: int, stop: Sequence[str]) -> None:
        self.ids = start_of(tokenizer, prompt)
        self.keys, self.stops = Generator(seed, SAMPLING), StopTexts(stop)
        self._characters = WholeCharacters(tokenizer, self.ids)
        self._text, self.ended = "", False

    def take(self, token: int, stop_ids: Sequence[int]) -> None:
        if token in stop_ids:
            self.ended = True
            return
        self.ids.append(token)
        self._text += self.stops.feed(self._characters.feed(token))

    def finish(self) -> str:
        if self.stops.found:
            return self._text
        return self._text + self.stops.feed(self._characters.flush()) + self.stops.flush()
