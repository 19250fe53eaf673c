"""Masked tokens: which are hidden and how, and that batches and windows are functions of the seed alone."""

import numpy as np
import pytest

from compyute_transformer.data.text.batches import IGNORE_INDEX, TokenBatches
from compyute_transformer.data.text.masked import MaskedBatches, hide_tokens, masked_windows
from compyute_transformer.errors import CorpusError
from compyute_transformer.random import CORPUS, RandomKey

MASK = 50
IDS = np.random.default_rng(0).integers(0, MASK, (200, 64)).astype(np.int32)
WHOLE = np.full(200, 64)


def test_a_seventh_is_hidden_in_three_ways() -> None:
    inputs, targets = hide_tokens(IDS, WHOLE, MASK, RandomKey(1, CORPUS, 0))
    chosen = targets != IGNORE_INDEX
    assert 0.14 < chosen.mean() < 0.16
    assert np.array_equal(targets[chosen], IDS[chosen])
    assert np.array_equal(inputs[~chosen], IDS[~chosen])
    under, kept = inputs[chosen] == MASK, inputs[chosen] == IDS[chosen]
    assert 0.77 < under.mean() < 0.83
    assert 0.08 < kept.mean() < 0.13  # a random token may be the right one
    others = inputs[chosen][~under & ~kept]
    assert len(set(others)) > 40
    assert others.max() < MASK
    assert inputs.dtype == targets.dtype == np.int32


def test_every_row_has_a_target_and_padding_has_none() -> None:
    lengths = np.arange(200) % 5 + 1
    inputs, targets = hide_tokens(IDS, lengths, MASK, RandomKey(1, CORPUS, 0))
    is_token = np.arange(64) < lengths[:, None]
    assert ((targets != IGNORE_INDEX).sum(axis=1) >= 1).all()
    assert (targets[~is_token] == IGNORE_INDEX).all()
    assert np.array_equal(inputs[~is_token], IDS[~is_token])


def test_a_key_decides_what_is_hidden() -> None:
    first, again = (hide_tokens(IDS, WHOLE, MASK, RandomKey(1, CORPUS, 0)) for _ in range(2))
    assert np.array_equal(first, again)
    for key in (RandomKey(2, CORPUS, 0), RandomKey(1, CORPUS, 1)):
        assert not np.array_equal(first[1], hide_tokens(IDS, WHOLE, MASK, key)[1])


def test_batches_are_the_windows_of_the_text_with_tokens_hidden() -> None:
    tokens = np.arange(MASK).repeat(4)
    batches, plain = MaskedBatches(tokens, 3, 16, MASK, seed=5), TokenBatches(tokens, 3, 16, seed=5)
    for index in (0, 7):
        inputs, targets = batches.batch(index)
        ids, _ = plain.batch(index)
        assert np.array_equal(np.where(targets == IGNORE_INDEX, inputs, targets), ids)
        assert np.array_equal(batches.batch(index), (inputs, targets))
    batches.next()
    assert batches.cursor == 1
    with pytest.raises(CorpusError):
        MaskedBatches(tokens, 3, len(tokens), MASK)


def test_windows_cover_a_text_once_and_always_hide_the_same() -> None:
    tokens = np.arange(45) % MASK
    found = list(masked_windows(tokens, 16, 2, MASK, len(tokens), seed=3))
    ids = [np.where(targets == IGNORE_INDEX, inputs, targets) for inputs, _, targets in found]
    lengths = np.concatenate([lengths for _, lengths, _ in found])
    assert lengths.tolist() == [16, 16, 12]
    rows = np.concatenate(ids)
    read = np.concatenate([row[:length] for row, length in zip(rows, lengths, strict=True)])
    assert np.array_equal(read, tokens[:-1])
    for first, again in zip(found, masked_windows(tokens, 16, 2, MASK, len(tokens), seed=3), strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
