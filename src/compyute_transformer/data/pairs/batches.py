"""Batches of pairs: ids padded to the longest of a batch, with the lengths without padding.

    source    t₀ t₁ t₂ END  ·          what the encoder reads      (B, S), lengths (B)
    target    BEGIN u₀ u₁   ·  ·       what the decoder reads      (B, T), lengths (B)
    labels    u₀    u₁ END  ×  ×       what it predicts            (B, T), × = IGNORE_INDEX, · = PADDING

Both sides have one tokenizer; PADDING, BEGIN and END are the three ids after its own.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ...errors import CorpusError, RangeError, ShapeError
from ...random import BATCHES, RandomKey, random_bits
from ..text.batches import IGNORE_INDEX
from ..text.tokenizer import Tokenizer
from .corpus import Pair

__all__ = [
    "EncodedPairs",
    "PairBatch",
    "PairBatches",
    "SpecialTokens",
    "fitting_pairs",
    "pair_batches",
    "special_tokens",
]

POOL = 16  # batches whose pairs are sorted by length among themselves, so that a batch has little padding


class SpecialTokens(NamedTuple):
    """Three ids after those of a tokenizer. vocab_size: V, of the tokenizer and these together."""

    padding: int
    begin: int
    end: int
    vocab_size: int


def special_tokens(tokenizer: Tokenizer) -> SpecialTokens:
    """Return the ids that no text has: for padding, for the begin of a target, and for the end of either side."""
    known = tokenizer.vocab_size
    return SpecialTokens(known, known + 1, known + 2, known + 3)


class PairBatch(NamedTuple):
    """The inputs of a model, (source, target, lengths of both), and the labels, as shown at the top of this file.

    source (B, S), target (B, T), labels (B, T), source_lengths (B), target_lengths (B), all int32.
    """

    source: np.ndarray
    target: np.ndarray
    source_lengths: np.ndarray
    target_lengths: np.ndarray
    labels: np.ndarray


class EncodedPairs:
    """The ids of pairs, in two long arrays.

    Raises CorpusError, with file and line, for a side that is longer than context_length with the END or BEGIN that
    goes with it, and for no pairs; VocabularyError for a character that the tokenizer lacks.
    """

    def __init__(self, pairs: Sequence[Pair], tokenizer: Tokenizer, context_length: int, split: str) -> None:
        if not pairs:
            raise CorpusError(
                f"EncodedPairs: the {split} split must have at least one pair, got none. Give more pairs."
            )
        self.special = special_tokens(tokenizer)
        self.source, self._source_ends = _encoded((pair.source for pair in pairs), tokenizer)
        self.target, self._target_ends = _encoded((pair.target for pair in pairs), tokenizer)
        self.source_lengths, self.target_lengths = np.diff(self._source_ends) + 1, np.diff(self._target_ends) + 1
        longest = np.maximum(self.source_lengths, self.target_lengths)
        if longest.max() > context_length:
            first = int((longest > context_length).argmax())
            raise CorpusError(
                f"EncodedPairs: source and target have at most context_length = {context_length} tokens, one of them "
                f"special, but {pairs[first].file}, line {pairs[first].line}, has {self.source_lengths[first]} and "
                f"{self.target_lengths[first]}; the longest of all has {longest.max()}. Give --context-length "
                f"{longest.max()}, or leave long pairs out."
            )

    def __len__(self) -> int:
        return len(self.source_lengths)

    def batch(self, rows: np.ndarray) -> PairBatch:
        """Return the batch of these pairs, as wide as its longest sides."""
        rows = np.asarray(rows)
        if rows.ndim != 1 or rows.size == 0 or rows.dtype.kind not in "iu":
            raise ShapeError(
                f"EncodedPairs.batch: rows are at least one integer, got {rows.dtype} of shape {rows.shape}."
            )
        padding, begin, end, _ = self.special
        source_lengths, target_lengths = self.source_lengths[rows], self.target_lengths[rows]
        source = np.full((len(rows), source_lengths.max()), padding, np.int32)
        target = np.full((len(rows), target_lengths.max()), padding, np.int32)
        labels = np.full_like(target, IGNORE_INDEX)
        target[:, 0] = begin
        for b, row in enumerate(rows):
            S, T = source_lengths[b] - 1, target_lengths[b] - 1
            source[b, :S] = self.source[self._source_ends[row] : self._source_ends[row + 1]]
            source[b, S] = end
            target[b, 1 : T + 1] = labels[b, :T] = self.target[self._target_ends[row] : self._target_ends[row + 1]]
            labels[b, T] = end
        return PairBatch(source, target, source_lengths.astype(np.int32), target_lengths.astype(np.int32), labels)


def _encoded(texts: Iterable[str], tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids of all texts, and the positions where each begins and the last ends."""
    ids = [tokenizer.encode(text) for text in texts]
    return np.concatenate(ids), np.cumsum([0, *map(len, ids)])


def fitting_pairs(
    pairs: Sequence[Pair], tokenizer: Tokenizer, context_length: int
) -> tuple[tuple[Pair, ...], tuple[Pair, ...]]:
    """Return (pairs whose sides fit a context with their END or BEGIN, the others)."""

    def fits(text: str) -> bool:  # a token has at least one byte, so a short text need not be encoded
        return len(text.encode()) < context_length or len(tokenizer.encode(text)) < context_length

    kept = [fits(pair.source) and fits(pair.target) for pair in pairs]
    return (
        tuple(pair for pair, fit in zip(pairs, kept, strict=True) if fit),
        tuple(pair for pair, fit in zip(pairs, kept, strict=True) if not fit),
    )


class PairBatches:
    """Shuffled batches of training pairs, as a pure function of (seed, index). Every pair comes once an epoch.

    An epoch is a shuffled order of all pairs. The epochs follow each other without a gap and are cut into batches; the
    pairs of 16 batches at a time are sorted by length, and these batches are shuffled. `next()` returns the batches
    0, 1, 2, …; `cursor` is the index of the next one and the whole state, so setting it resumes a run.

    `for x, y in batches` takes one epoch from the cursor on, `len(batches)` batches: x holds the four inputs of the
    model, as in `model(*x)`, and y the labels. The next loop continues.

    Raises what `EncodedPairs` raises, and RangeError for a batch size below 1 or a seed outside [0, 2⁶⁴).
    """

    def __init__(
        self, pairs: Sequence[Pair], tokenizer: Tokenizer, batch_size: int, context_length: int, seed: int = 0
    ) -> None:
        if batch_size < 1 or not 0 <= seed < 2**64:
            raise RangeError(
                f"PairBatches: batch_size is at least 1, a seed lies in [0, 2⁶⁴), got {batch_size} and {seed}."
            )
        self.encoded = EncodedPairs(pairs, tokenizer, context_length, "training")
        self.batch_size = batch_size
        self.seed = seed
        self.cursor = 0
        self._pool: tuple[int, np.ndarray] = (-1, np.zeros((0, 0), np.int64))  # the last one made, and its number

    def batch(self, index: int) -> PairBatch:
        """The batch of an index in [0, 2³²), whatever was drawn before."""
        if not 0 <= index < 2**32:
            raise RangeError(f"PairBatches.batch: an index lies in [0, 2³²), got {index}. Count batches from 0.")
        number, position = divmod(index, POOL)
        known, pool = self._pool  # taken once: another thread may put its own there meanwhile
        if known != number:
            pool = self._make_pool(number)
            self._pool = (number, pool)
        return self.encoded.batch(pool[position])

    def next(self) -> PairBatch:
        """The batch at the cursor, which moves on by one."""
        batch = self.batch(self.cursor)
        self.cursor += 1
        return batch

    def __len__(self) -> int:
        return -(-len(self.encoded) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[tuple[np.ndarray, ...], np.ndarray]]:
        for _ in range(len(self)):
            *inputs, labels = self.next()
            yield tuple(inputs), labels

    def _make_pool(self, pool: int) -> np.ndarray:
        """The pairs of 16 batches, (16, B): those of like length share a row, rows in shuffled order."""
        size, count = POOL * self.batch_size, len(self.encoded)
        positions = np.arange(pool * size, (pool + 1) * size)
        epochs = positions // count
        rows = np.empty(size, np.int64)
        for epoch in np.unique(epochs):
            inside = epochs == epoch
            rows[inside] = self._shuffled(int(epoch), count)[positions[inside] % count]
        lengths = self.encoded.source_lengths[rows] + self.encoded.target_lengths[rows]
        batches = rows[np.argsort(lengths, kind="stable")].reshape(POOL, self.batch_size)
        return batches[self._shuffled(pool, POOL, head=1)]

    def _shuffled(self, offset: int, count: int, head: int = 0) -> np.ndarray:
        """The numbers below count in a random order, another for every offset: ranked by 32 random bits each."""
        return np.argsort(random_bits(RandomKey(self.seed, BATCHES, offset, head), 1, count)[0, 0], kind="stable")


def pair_batches(encoded: EncodedPairs, batch_size: int) -> Iterator[PairBatch]:
    """Yield every pair once, the shortest first, in batches of batch_size rows; the last may be smaller."""
    order = np.argsort(encoded.source_lengths + encoded.target_lengths, kind="stable")
    for start in range(0, len(order), batch_size):
        yield encoded.batch(order[start : start + batch_size])
