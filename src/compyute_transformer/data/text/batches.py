"""Batches of tokens: x of shape (B, T) and its targets y, where y[b, t] is the token after x[b, t].

Training takes random windows, validation takes every window once:

    tokens                t₀ t₁ t₂ t₃ t₄ t₅ t₆           T = 3
    a training window        x  x  x                      starts anywhere in [0, len − T)
                                y  y  y
    validation windows    x  x  x | x  x  x               every target exactly once
                             y  y  y | y  y  y
"""

from collections.abc import Iterator

import numpy as np

from ...errors import CorpusError, DtypeError, RangeError, ShapeError
from ...random import BATCHES, CORPUS, RandomKey, integers, random_bits

__all__ = ["IGNORE_INDEX", "TokenBatches", "chosen_windows", "validation_windows"]

IGNORE_INDEX = -100  # a target that the loss leaves out, as in PyTorch


class TokenBatches:
    """Random windows of a token array, as a pure function of (seed, index).

    tokens: 1-D integers. `next()` returns the batches 0, 1, 2, …; `cursor` is the index of the next one and the whole
    state, so setting it resumes a run. Batches are int32 where the tokens' dtype fits, else int64.

    `for x, y in batches` takes one epoch from the cursor on: as many batches as it takes to see as many tokens as there
    are, `len(batches)`. The next loop takes the next epoch.

    Raises CorpusError for fewer tokens than one window and its last target, context_length + 1.
    """

    def __init__(
        self, tokens: np.ndarray, batch_size: int, context_length: int, seed: int = 0, split: str = "training"
    ) -> None:
        tokens = np.asarray(tokens)
        self.dtype = _batch_dtype(tokens, batch_size, context_length, "TokenBatches")
        if not 0 <= seed < 2**64:
            raise RangeError(f"TokenBatches: a seed lies in [0, 2⁶⁴), got {seed}. Give a non-negative integer.")
        if len(tokens) <= context_length:
            raise CorpusError(
                f"TokenBatches: the {split} split must have at least context_length + 1 = {context_length + 1} tokens, "
                f"got {len(tokens)}. Give a smaller --context-length or more text."
            )
        self.tokens = tokens
        self.batch_size = batch_size
        self.context_length = context_length
        self.seed = seed
        self.cursor = 0

    def batch(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the batch of an index in [0, 2³²), a function of seed and index alone: (x, y), each (B, T)."""
        if not 0 <= index < 2**32:
            raise RangeError(f"TokenBatches.batch: an index lies in [0, 2³²), got {index}. Count batches from 0.")
        # The last start is len − T − 1: its window's last target is the last token.
        starts = integers(
            RandomKey(self.seed, BATCHES, index), (self.batch_size,), len(self.tokens) - self.context_length
        )
        positions = starts[:, None] + np.arange(self.context_length)
        x = self.tokens[positions].astype(self.dtype, copy=False)
        y = self.tokens[positions + 1].astype(self.dtype, copy=False)
        return x, y

    def next(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the batch at the cursor, and advance the cursor."""
        batch = self.batch(self.cursor)
        self.cursor += 1
        return batch

    def __len__(self) -> int:
        return max(1, (len(self.tokens) - 1) // (self.batch_size * self.context_length))

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for _ in range(len(self)):
            yield self.next()


def validation_windows(
    tokens: np.ndarray, context_length: int, batch_size: int, split: str = "validation"
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield non-overlapping windows in which each of the len − 1 targets is scored exactly once.

    tokens: 1-D integers, at least 2. Yields (x, y), each (rows, T) with rows = B, fewer in the last batch. The last
    window is padded after its tokens with inputs 0 and targets IGNORE_INDEX, which a causal model never sees.

    Raises CorpusError for fewer than 2 tokens, at the call.
    """
    tokens = np.asarray(tokens)
    dtype = _batch_dtype(tokens, batch_size, context_length, "validation_windows")
    if len(tokens) < 2:
        raise CorpusError(
            f"validation_windows: the {split} split must have at least 2 tokens, one to read and one to predict, "
            f"got {len(tokens)}. Give more text or a larger validation fraction."
        )
    return _windows(tokens, context_length, batch_size, dtype)


def chosen_windows(
    tokens: np.ndarray, context_length: int, batch_size: int, most: int, seed: int = 0
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield some of the windows of `validation_windows`, in order: as many as have `most` targets, at least one.

    The seed chooses them. Where all windows have no more than `most` targets, it is all of them.
    """
    windows = (len(tokens) - 1) // context_length
    count = max(1, most // context_length)
    if len(tokens) - 1 <= most or count >= windows:
        yield from validation_windows(tokens, context_length, batch_size)
        return
    dtype = _batch_dtype(tokens, batch_size, context_length, "chosen_windows")
    bits = random_bits(RandomKey(seed, CORPUS, 0, 2), 1, windows)[0, 0]
    starts = np.sort(np.argsort(bits, kind="stable")[:count]) * context_length
    for first in range(0, count, batch_size):
        positions = starts[first : first + batch_size, None] + np.arange(context_length)
        yield tokens[positions].astype(dtype), tokens[positions + 1].astype(dtype)


def _windows(
    tokens: np.ndarray, context_length: int, batch_size: int, dtype: np.dtype
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    targets = len(tokens) - 1
    for start in range(0, targets, batch_size * context_length):
        count = min(batch_size * context_length, targets - start)
        rows = -(-count // context_length)
        x = np.zeros((rows, context_length), dtype=dtype)
        y = np.full((rows, context_length), IGNORE_INDEX, dtype=dtype)
        x.reshape(-1)[:count] = tokens[start : start + count]
        y.reshape(-1)[:count] = tokens[start + 1 : start + count + 1]
        yield x, y


def _batch_dtype(tokens: np.ndarray, batch_size: int, context_length: int, operation: str) -> np.dtype:
    if tokens.ndim != 1:
        raise ShapeError(f"{operation}: tokens have one axis, got shape {tokens.shape}. Give one long array of ids.")
    if tokens.dtype.kind not in "iu":
        raise DtypeError(f"{operation}: tokens are integers, got {tokens.dtype}. Encode the text with a tokenizer.")
    for name, value in (("batch_size", batch_size), ("context_length", context_length)):
        if not isinstance(value, int | np.integer) or value < 1:
            raise RangeError(f"{operation}: {name} is a whole number of at least 1, got {value!r}.")
    return np.dtype(np.int32 if np.can_cast(tokens.dtype, np.int32) else np.int64)
