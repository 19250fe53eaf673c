"""Decode: the logits of the token that follows a growing text, by prefill and steps with a cache.

    prefill   reads whole contexts, which may differ in length, and fills a cache
    step      reads one further token of each row
    Reader    chooses between the two; it also reads several tokens ahead, and back

The model is given the same tokens with a cache and without, by the rule of `window_start`: the whole text while it fits
into the context, and from then on its last context_length tokens. With learned positions a moved window is another
input at every position, so the cache is filled anew: each token past the end of the context costs a whole context. With
a `stride` above 1 the window moves that many tokens at once, and between two moves every token is a step.
"""

from collections.abc import Sequence

import numpy as np

from ..arrays import Array, to_device
from ..errors import DtypeError, RangeError, ShapeError
from ..models.language import LanguageModel, check_context
from ..nn.module import evaluating
from .cache import KeyValueCache
from .captured_decoder import CapturedDecoder
from .fused_decoder import FusedDecoder

__all__ = ["Reader", "evaluating", "prefill", "step", "window_start"]

Decoder = FusedDecoder | CapturedDecoder


def window_start(length: int, context_length: int, stride: int = 1) -> int:
    """Return the first position of the part of a text of `length` tokens that the model is given.

    It is the least multiple of stride from which the rest fits: ⌈max(0, length − context_length) / stride⌉ · stride. A
    model is given at least context_length − stride + 1 tokens once there are as many; with stride 1 always the last
    context_length.

    Raises RangeError unless stride lies in [1, context_length].
    """
    if not 1 <= stride <= context_length:
        raise RangeError(f"window_start: stride lies in [1, {context_length}], the context length, got {stride}.")
    return -(-max(0, length - context_length) // stride) * stride


def prefill(
    model: LanguageModel,
    contexts: Sequence[Sequence[int]],
    cache: KeyValueCache | None = None,
    fused: Decoder | None = None,
) -> Array:
    """Return the logits (B, V) of the tokens that follow B contexts of 1 to context_length tokens each.

    Shorter contexts are padded on the left; padding is masked and counts no positions, so that each row has the logits
    that it would have alone. cache: is cleared, then filled.

    Raises ShapeError for no context, an empty one, or one of several axes, DtypeError for tokens that are no integers,
    RangeError for a context longer than context_length.
    """
    rows = [np.asarray(context) for context in contexts] if isinstance(contexts, Sequence | np.ndarray) else []
    if not rows or any(row.ndim != 1 or row.size == 0 for row in rows):
        raise ShapeError(
            "prefill: at least one context, and in each at least one token, got "
            f"{', '.join(str(row.shape) for row in rows[:9]) or type(contexts).__name__}."
        )
    if any(row.dtype.kind not in "iu" for row in rows):
        raise DtypeError("prefill: the tokens of a context are integers. Encode the text with the model's tokenizer.")
    width, L = max(map(len, rows)), model.config.context_length
    if width > L:
        raise RangeError(
            f"prefill: a context has at most {L} tokens, the context length, got {width}. Give its last {L}."
        )
    padding = np.array([width - len(row) for row in rows])
    ids = np.zeros((len(rows), width), np.int32)
    for row, context in zip(ids, rows, strict=True):
        row[width - len(context) :] = context
    pads = to_device(padding, model.device) if padding.any() else None
    if cache is None:
        with evaluating():
            logits: Array = model(to_device(ids, model.device), padding=pads, logits_to_keep=1)[:, 0]
            return logits
    cache.clear(pads)
    return _extend(model, ids, cache, fused)[:, 0]


def step(model: LanguageModel, tokens: Sequence[int], cache: KeyValueCache, fused: Decoder | None = None) -> Array:
    """Return the logits (B, V) that follow one further token (B) of each row, which joins the cache.

    fused: the model's `FusedDecoder`, or on a GPU its `CapturedDecoder`, which runs where it supports the arguments;
    else the model's forward runs.
    """
    given = np.asarray(tokens)
    if given.ndim != 1 or given.dtype.kind not in "iu":
        raise ShapeError(f"step: tokens are integers (B), got {given.dtype} of shape {given.shape}.")
    return _extend(model, given.astype(np.int32)[:, None], cache, fused)[:, 0]


def _extend(
    model: LanguageModel, ids: Array, cache: KeyValueCache, fused: Decoder | None = None, count: int = 1
) -> Array:
    """Return the logits (B, count, V) after the last of the ids (B, T) of the CPU, which join the cache."""
    with evaluating():
        if fused is not None:
            check_context(type(model).__name__, "ids", ids, model.config.context_length, cache.length)
            if (logits := fused(ids, cache, count)) is not None:
                return logits
        logits = model(to_device(ids, model.device), cache, logits_to_keep=count)
    return logits


def _decoder(model: LanguageModel) -> Decoder | None:
    if model.device == "cuda":
        return CapturedDecoder.from_model(model)
    return FusedDecoder.from_model(model)


class Reader:
    """Computes the logits after growing texts: by a step where the cache holds all but the last token, else by prefill.

    stride: see `window_start`. cached: False for a prefill each time, to compare. longest: how many tokens a text will
    have at most, which bounds the memory of the cache; None for any number. The weights must stay as they are while a
    reader is in use.
    """

    def __init__(self, model: LanguageModel, stride: int = 1, cached: bool = True, longest: int | None = None) -> None:
        self._model, self._stride, self._cached = model, stride, cached
        self._capacity = min(longest or model.config.context_length, model.config.context_length)
        self._cache: KeyValueCache | None = None
        with evaluating():
            self._fused = _decoder(model) if cached else None
        self._read: list[Sequence[int]] = []  # what the cache holds
        window_start(0, model.config.context_length, stride)  # raises for a wrong stride at once

    def read(self, texts: Sequence[Sequence[int]]) -> Array:
        """Return the logits (B, V) of the tokens that follow B texts."""
        L = self._model.config.context_length
        windows = [text[window_start(len(text), L, self._stride) :] for text in texts]
        if not self._cached:
            return prefill(self._model, windows)
        if self._cache is None or self._cache.batch_size != len(windows):
            self._cache, self._read = KeyValueCache(self._model, len(windows), self._capacity), []
        if [window[:-1] for window in windows] == self._read:
            logits = step(self._model, [window[-1] for window in windows], self._cache, self._fused)
        else:
            self._read = []  # if the prefill is interrupted, the cache holds nothing
            logits = prefill(self._model, windows, self._cache, self._fused)
        self._read = windows
        return logits

    def room(self, text: Sequence[int]) -> int:
        """Return how many tokens may follow a text until its window moves."""
        L = self._model.config.context_length
        return L - (len(text) - window_start(len(text), L, self._stride))

    def read_ahead(self, text: Sequence[int], count: int) -> Array:
        """Return the logits (count, V) that follow each of the last `count` tokens of one text.

        The positions of the cache that the text has too are kept, and those of other tokens are removed. The text has
        at least `count` tokens in its window.
        """
        window = list(text[window_start(len(text), self._model.config.context_length, self._stride) :])
        if self._cache is None or self._cache.batch_size != 1:
            self._cache, self._read = KeyValueCache(self._model, 1, self._capacity), []
        held = min(_count_common(window, self._read[0]) if self._read else 0, len(window) - count)
        self._cache.truncate(held)
        self._read = [window[:held]]  # if the rest is interrupted
        logits = _extend(self._model, np.array([window[held:]], np.int32), self._cache, self._fused, count)
        self._read = [window]
        return logits[0]


def _count_common(a: Sequence[int], b: Sequence[int]) -> int:
    """Return how many first tokens two texts share."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
