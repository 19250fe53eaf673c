"""Batches: windows shifted by one, a pure function of seed and index; validation scores every target exactly once."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compyute_transformer.data import IGNORE_INDEX, TokenBatches, validation_windows
from compyute_transformer.errors import CorpusError, DtypeError, RangeError, ShapeError

LENGTHS = st.integers(2, 60)
SMALL = st.integers(1, 12)


@given(LENGTHS, SMALL, SMALL, st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1))
def test_targets_are_the_tokens_after_the_inputs(length: int, batch: int, context: int, seed: int, index: int) -> None:
    context = min(context, length - 1)
    x, y = TokenBatches(np.arange(length), batch, context, seed).batch(index)
    assert x.shape == y.shape == (batch, context)
    assert np.array_equal(y, x + 1)  # the tokens count up by one
    assert np.array_equal(x, x[:, :1] + np.arange(context))
    assert x.min() >= 0
    assert y.max() < length
    assert x.flags.c_contiguous
    assert y.flags.c_contiguous


def test_windows_start_uniformly_at_every_valid_start_and_at_no_other() -> None:
    length, context, draws = 13, 4, 9000
    x, _ = TokenBatches(np.arange(length), draws, context, seed=1).batch(0)
    counts = np.bincount(x[:, 0])
    assert len(counts) == length - context  # the last start included: its last target is the last token
    expected = draws / (length - context)
    assert np.sum((counts - expected) ** 2 / expected) < 26.1  # chi-squared with 8 degrees of freedom, p = 0.001


def test_a_batch_depends_on_seed_and_index_alone() -> None:
    tokens = np.arange(1000)
    first, again = TokenBatches(tokens, 4, 8, seed=7), TokenBatches(tokens, 4, 8, seed=7)
    later = again.batch(5)
    for index in range(5):
        assert np.array_equal(first.batch(index), again.batch(index))
    assert np.array_equal(first.batch(5), later)
    assert not np.array_equal(first.batch(0), first.batch(1))
    assert not np.array_equal(first.batch(0), TokenBatches(tokens, 4, 8, seed=8).batch(0))


def test_the_cursor_is_the_whole_state() -> None:
    tokens = np.arange(1000)
    run = TokenBatches(tokens, 4, 8, seed=3)
    batches = [run.next() for _ in range(6)]
    assert run.cursor == 6
    resumed = TokenBatches(tokens, 4, 8, seed=3)
    resumed.cursor = 4
    assert np.array_equal(resumed.next(), batches[4])
    assert np.array_equal(resumed.next(), batches[5])


@pytest.mark.parametrize(
    ("tokens", "batch"), [("int32", "int32"), ("uint16", "int32"), ("int64", "int64"), ("uint32", "int64")]
)
def test_batches_are_int32_where_the_tokens_fit(tokens: str, batch: str) -> None:
    array = np.arange(20, dtype=tokens)
    x, y = TokenBatches(array, 2, 3).next()
    assert x.dtype == y.dtype == np.dtype(batch)
    for x, y in validation_windows(array, 3, 2):
        assert x.dtype == y.dtype == np.dtype(batch)


def test_one_window_and_its_last_target_are_enough() -> None:
    x, y = TokenBatches(np.arange(5), 2, 4).next()
    assert x.tolist() == [[0, 1, 2, 3]] * 2
    assert y.tolist() == [[1, 2, 3, 4]] * 2


@pytest.mark.parametrize("length", [0, 3, 4])
def test_a_corpus_shorter_than_one_context_is_refused(length: int) -> None:
    with pytest.raises(CorpusError, match=rf"training split .* \+ 1 = 5 tokens, got {length}\. .*--context-length"):
        TokenBatches(np.arange(length), 2, 4)
    with pytest.raises(CorpusError, match="the tiny split"):
        TokenBatches(np.arange(length), 2, 4, split="tiny")


@pytest.mark.parametrize(("seed", "index"), [(-1, 0), (2**64, 0), (0, -1), (0, 2**32)])
def test_a_seed_or_index_out_of_range_is_refused(seed: int, index: int) -> None:
    with pytest.raises(RangeError, match=r"lies in \[0, 2"):
        TokenBatches(np.arange(9), 2, 4, seed).batch(index)


@pytest.mark.parametrize("make", [TokenBatches, lambda t, b, c: validation_windows(t, c, b)])
def test_what_cannot_be_cut_into_windows(make) -> None:
    with pytest.raises(ShapeError, match=r"got shape \(3, 3\)"):
        make(np.zeros((3, 3), dtype=int), 1, 1)
    with pytest.raises(DtypeError, match="got float64"):
        make(np.zeros(9), 1, 1)
    with pytest.raises(RangeError, match="batch_size is a whole number of at least 1, got 0"):
        make(np.arange(9), 0, 1)
    with pytest.raises(RangeError, match="context_length is a whole number of at least 1, got -1"):
        make(np.arange(9), 1, -1)


# Validation


@given(LENGTHS, SMALL, SMALL)
def test_validation_scores_every_target_exactly_once(length: int, context: int, batch: int) -> None:
    tokens = np.arange(100, 100 + length)
    batches = list(validation_windows(tokens, context, batch))
    for x, y in batches:
        assert x.shape == y.shape == (len(x), context)
        assert 1 <= len(x) <= batch
    assert all(len(x) == batch for x, _ in batches[:-1])
    x, y = (np.concatenate(arrays).ravel() for arrays in zip(*batches, strict=True))
    scored = y != IGNORE_INDEX
    assert y[scored].tolist() == tokens[1:].tolist()
    assert x[scored].tolist() == tokens[:-1].tolist()
    assert scored[: length - 1].all()  # what is filled up comes last
    assert not x[~scored].any()
    assert len(y) - (length - 1) < context


@pytest.mark.parametrize("multiple", [1, 2, 3])
def test_seed_bug_corpus_length_a_multiple_of_context_length(multiple: int) -> None:
    tokens = np.arange(8 * multiple)
    scored = [y[y != IGNORE_INDEX] for _, y in validation_windows(tokens, 8, 2)]
    assert np.concatenate(scored).tolist() == tokens[1:].tolist()
    if multiple > 1:
        x, y = TokenBatches(tokens, 64, 8).next()
        assert np.array_equal(y, x + 1)
        assert y.max() == tokens[-1]


def test_validation_of_a_text_shorter_than_one_context() -> None:
    [(x, y)] = validation_windows(np.array([7, 8]), 4, 16)
    assert x.tolist() == [[7, 0, 0, 0]]
    assert y.tolist() == [[8, -100, -100, -100]]


@pytest.mark.parametrize("length", [0, 1])
def test_validation_without_a_target_is_refused_at_the_call(length: int) -> None:
    with pytest.raises(CorpusError, match=rf"validation split must have at least 2 tokens.*got {length}\."):
        validation_windows(np.arange(length), 4, 2)
