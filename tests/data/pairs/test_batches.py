"""Batches of pairs: special tokens, padding and lengths; epochs in which each pair comes once; resumed by a cursor."""

from collections import Counter

import numpy as np
import pytest

from compyute_transformer.data import (
    IGNORE_INDEX,
    CharacterTokenizer,
    EncodedPairs,
    Pair,
    PairBatches,
    pair_batches,
    special_tokens,
    train_tokenizer,
)
from compyute_transformer.errors import CorpusError, RangeError, VocabularyError

LETTERS = CharacterTokenizer("abcdefghijklmnopqrstuvwxyz")
PADDING, BEGIN, END = 26, 27, 28


def pairs(*texts: tuple[str, str]) -> list[Pair]:
    return [Pair(source, target, "made.tsv", 10 * n) for n, (source, target) in enumerate(texts, 1)]


def numbered(count: int) -> list[Pair]:
    """Pair n has its number, written in letters, as its source, and is of some length."""
    return pairs(
        *((f"{chr(97 + n // 26)}{chr(97 + n % 26)}" + "x" * (n * 7 % 5), "y" * (n % 3 + 1)) for n in range(count))
    )


@pytest.mark.parametrize("kind", ["characters", "bpe"])
def test_special_tokens_stand_behind_those_of_either_tokenizer(kind: str) -> None:
    tokenizer = train_tokenizer(kind, "the cat sat on the mat", 300)
    padding, begin, end, vocab_size = special_tokens(tokenizer)
    V = tokenizer.vocab_size
    assert (padding, begin, end, vocab_size) == (V, V + 1, V + 2, V + 3)


def test_a_batch_is_as_the_module_draws_it() -> None:
    encoded = EncodedPairs(pairs(("abc", "z"), ("d", "yx")), LETTERS, 8, "training")
    source, target, source_lengths, target_lengths, labels = encoded.batch(np.array([0, 1]))
    assert source.tolist() == [[0, 1, 2, END], [3, END, PADDING, PADDING]]
    assert target.tolist() == [[BEGIN, 25, PADDING], [BEGIN, 24, 23]]
    assert labels.tolist() == [[25, END, IGNORE_INDEX], [24, 23, END]]
    assert source_lengths.tolist() == [4, 2]
    assert target_lengths.tolist() == [2, 3]
    for array in (source, target, source_lengths, target_lengths, labels):
        assert array.dtype == np.int32


def test_byte_pairs_are_batched_alike() -> None:
    made = pairs(("the cat ä", "le chat"), ("the mat", "le tapis"))
    tokenizer = train_tokenizer("bpe", "\n".join(f"{pair.source}\n{pair.target}" for pair in made), 270)
    batch = EncodedPairs(made, tokenizer, 20, "training").batch(np.array([1, 0]))
    for row, pair in enumerate([made[1], made[0]]):
        length = batch.source_lengths[row]
        assert tokenizer.decode(batch.source[row, : length - 1]) == pair.source
        assert batch.source[row, length - 1] == special_tokens(tokenizer).end
        assert tokenizer.decode(batch.labels[row, : batch.target_lengths[row] - 1]) == pair.target


# Epochs


@pytest.mark.parametrize("count", [64, 50, 10, 3, 1])
def test_every_epoch_has_every_pair_once(count: int) -> None:
    batches = PairBatches(numbered(count), LETTERS, 4, 16, seed=3)
    pools = 5
    rows = np.concatenate([batches._make_pool(pool).ravel() for pool in range(pools)])
    epochs, rest = divmod(pools * 64, count)
    counts = np.bincount(rows, minlength=count)
    assert counts.min() >= epochs
    assert counts.max() <= epochs + (rest > 0)


def test_batches_are_drawn_from_all_pairs_and_each_batch_is_of_like_length() -> None:
    made = numbered(640)
    batches = PairBatches(made, LETTERS, 10, 16, seed=1)
    seen = Counter(LETTERS.decode(row[:2]) for _ in range(64) for row in batches.next().source)
    assert len(seen) == 640
    assert set(seen.values()) == {1}
    spread = [float(np.ptp(batches.batch(i).source_lengths + batches.batch(i).target_lengths)) for i in range(64)]
    assert np.mean(spread) < 2  # of lengths from 4 to 10
    totals = [batch.source_lengths + batch.target_lengths for batch in map(batches.batch, range(16))]
    means = [float(total.mean()) for total in totals]
    assert means != sorted(means)
    assert means != sorted(means, reverse=True)


def test_a_batch_depends_on_seed_and_index_alone() -> None:
    first, again = (PairBatches(numbered(100), LETTERS, 4, 16, seed=7) for _ in range(2))
    later = again.batch(40)
    for index in (0, 1, 17, 40):
        for ours, theirs in zip(first.batch(index), again.batch(index), strict=True):
            assert np.array_equal(ours, theirs)
    assert np.array_equal(first.batch(40).source, later.source)
    other = PairBatches(numbered(100), LETTERS, 4, 16, seed=8)
    assert any(not np.array_equal(first.batch(i).labels, other.batch(i).labels) for i in range(4))


def test_the_cursor_is_the_whole_state() -> None:
    run = PairBatches(numbered(30), LETTERS, 4, 16, seed=3)
    made = [run.next() for _ in range(20)]
    assert run.cursor == 20
    resumed = PairBatches(numbered(30), LETTERS, 4, 16, seed=3)
    resumed.cursor = 18
    assert np.array_equal(resumed.next().source, made[18].source)
    assert np.array_equal(resumed.next().source, made[19].source)


def test_pair_batches_gives_every_pair_once_the_shortest_first() -> None:
    encoded = EncodedPairs(numbered(23), LETTERS, 16, "validation")
    batches = list(pair_batches(encoded, 5))
    assert [len(batch.source) for batch in batches] == [5, 5, 5, 5, 3]
    sources = [LETTERS.decode(row[:2]) for batch in batches for row in batch.source]
    assert sorted(sources) == sorted(pair.source[:2] for pair in numbered(23))
    lengths = [n for batch in batches for n in (batch.source_lengths + batch.target_lengths).tolist()]
    assert lengths == sorted(lengths)


# What cannot be used


@pytest.mark.parametrize(("context", "fits"), [(5, False), (6, True)])
def test_a_pair_longer_than_the_context_is_named_and_never_cut(context: int, fits: bool) -> None:
    made = pairs(("abc", "z"), ("d", "abcde"), ("abcd", "abcde"))
    if fits:
        EncodedPairs(made, LETTERS, context, "training")
        return
    with pytest.raises(CorpusError) as caught:
        PairBatches(made, LETTERS, 2, context)
    assert "context_length = 5 tokens" in str(caught.value)
    assert "made.tsv, line 20, has 2 and 6; the longest of all has 6" in str(caught.value)
    assert "Give --context-length 6" in str(caught.value)


def test_no_pairs_unknown_characters_and_bad_numbers_are_refused() -> None:
    with pytest.raises(CorpusError, match="the validation split must have at least one pair"):
        EncodedPairs([], LETTERS, 8, "validation")
    with pytest.raises(VocabularyError, match="lacks 'Z'"):
        EncodedPairs(pairs(("Z", "z")), LETTERS, 8, "training")
    with pytest.raises(RangeError, match="batch_size is at least 1"):
        PairBatches(numbered(3), LETTERS, 0, 8)
    for seed in (-1, 2**64):
        with pytest.raises(RangeError, match=r"a seed lies in \[0, 2"):
            PairBatches(numbered(3), LETTERS, 1, 16, seed)
    for index in (-1, 2**32):
        with pytest.raises(RangeError, match=r"an index lies in \[0, 2"):
            PairBatches(numbered(3), LETTERS, 1, 16).batch(index)
