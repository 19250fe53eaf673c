"""Likelihood: how probable a given text is to a language model, token by token.

perplexity   exp(−mean of log p(token | those before it)), over a text that may be longer than the context:
             windows overlap, and each token is scored once, with at least window − stride tokens before it

choice       of several continuations of a prompt the most probable one
"""

from collections.abc import Sequence
from math import exp, log
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..arrays import to_device, to_numpy
from ..data.text.tokenizer import Tokenizer
from ..errors import RangeError, ShapeError
from ..models.language import LanguageModel
from ..nn.module import evaluating
from .text import start_of

__all__ = ["Choice", "choose", "evaluate_ids", "log_likelihoods"]

WINDOW = 1024  # the largest by default: the logits of all its tokens are in memory together


class Choice(NamedTuple):
    """One of several continuations. log_probability: of all its tokens together. probability: among the choices."""

    text: str
    log_probability: float
    probability: float


def log_likelihoods(
    model: LanguageModel, ids: Sequence[int], window: int | None = None, stride: int | None = None
) -> NDArray[np.float64]:
    """Return log p of each token but the first, given those before it within its window: (number of ids − 1).

    window: how many tokens the model is given at most; None for its context_length, at most 1024. stride: by how many
    tokens a window moves; None for half a window. With stride 1 each token has all of a window before it, and costs as
    much as one.

    Raises:
        ShapeError: fewer than two ids. RangeError: a window or a stride outside its range.
    """
    L = model.config.context_length
    window = min(L, WINDOW) if window is None else window
    stride = max(1, window // 2) if stride is None else stride
    if not 1 <= stride <= window <= L:
        raise RangeError(
            f"log_likelihoods: 1 ≤ stride ≤ window ≤ {L}, the context length, got stride {stride} and window {window}."
        )
    given = np.asarray(ids)
    if given.ndim != 1 or given.size < 2:
        raise ShapeError(f"log_likelihoods: at least two ids, one to read and one to score, got shape {given.shape}.")
    found: list[NDArray[np.float64]] = []
    scored = 0  # of the targets given[1:]
    while scored < given.size - 1:
        # the first window is full of targets, later ones score what the stride adds
        end = min(given.size - 1, scored + (stride if scored else window))
        begin = max(0, end - window)
        with evaluating():
            read = to_device(given[None, begin:end], model.device)
            logits = to_numpy(model(read, logits_to_keep=end - scored))[0]
        found.append(_log_p(logits, given[scored + 1 : end + 1]))
        scored = end
    return np.concatenate(found)


def _log_p(logits: Any, targets: Any) -> NDArray[np.float64]:
    """Return log softmax of the logits (T, V) at the targets (T)."""
    highest = logits.max(axis=-1)
    total = np.exp(logits - highest[:, None]).sum(axis=-1, dtype=np.float64)
    chosen = logits[np.arange(len(targets)), targets]
    log_p: NDArray[np.float64] = chosen.astype(np.float64) - highest - np.log(total)
    return log_p


def evaluate_ids(
    model: LanguageModel, tokenizer: Tokenizer, ids: Sequence[int], window: int | None = None, stride: int | None = None
) -> dict[str, float]:
    """Return how probable a text is: loss, perplexity, bits_per_byte and tokens; see `log_likelihoods`.

    loss: the mean negative log-likelihood in nats per token, perplexity its exponential. bits_per_byte: of the UTF-8
    text of the tokens that were scored, which compares models with different tokenizers.
    """
    log_p = log_likelihoods(model, ids, window, stride)
    loss = -float(log_p.mean())
    size = len(tokenizer.decode(np.asarray(ids)[1:]).encode("utf-8", "surrogatepass"))
    return {
        "loss": loss,
        "perplexity": exp(min(loss, 700.0)),
        "bits_per_byte": loss * log_p.size / log(2) / max(1, size),
        "tokens": log_p.size,
    }


def choose(
    model: LanguageModel, tokenizer: Tokenizer, prompt: str | Sequence[int], choices: Sequence[str]
) -> list[Choice]:
    """Return continuations of a prompt, the most probable first.

    The tokens of a choice follow those of the prompt; its log-probability is the sum of theirs, so that of two equally
    apt choices the shorter one usually wins.

    Raises:
        RangeError: fewer than two choices, one without a token, or one that does not fit into the context.
    """
    before = start_of(tokenizer, prompt) if isinstance(prompt, str) else [int(token) for token in prompt]
    after = [tokenizer.encode(choice).tolist() for choice in choices]
    L = model.config.context_length
    if len(after) < 2 or not before or not all(after) or len(before) + max(map(len, after)) > L + 1:
        raise RangeError(
            "choose: at least two choices, each with at least one token, that fit behind the prompt into the context of"
            f" {L} tokens, got {len(after)} choices behind {len(before)} tokens. "
            "Give other choices, or a shorter prompt."
        )
    sums = [float(log_likelihoods(model, [*before, *ids], L, L)[-len(ids) :].sum()) for ids in after]
    shares = np.exp(np.array(sums) - max(sums))
    shares /= shares.sum()
    found = [Choice(*each) for each in zip(choices, sums, shares.tolist(), strict=True)]
    return sorted(found, key=lambda choice: -choice.log_probability)
