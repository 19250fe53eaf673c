"""Elements are silenced at random, and the same ones again in the backward pass."""

import numpy as np
import pytest

from compyute_transformer import random
from compyute_transformer.errors import DtypeError, RangeError
from compyute_transformer.ops.dropout import dropout, dropout_backward, dropout_forward
from compyute_transformer.random import RandomKey

DRAW = RandomKey(7, random.DROPOUT, 3)
X = np.random.default_rng(0).normal(size=(40, 50)).astype(np.float32)


def test_what_is_kept_is_scaled_so_that_the_expectation_stays() -> None:
    y = dropout(np.ones((200, 100), np.float32), 0.2, DRAW)
    assert set(np.unique(y)) == {np.float32(0.0), np.float32(1.25)}
    assert abs(y.mean() - 1.0) < 4 * 0.5 / np.sqrt(y.size)  # four standard deviations


def test_the_same_elements_are_dropped_in_the_backward_pass() -> None:
    y, saved = dropout_forward(X, 0.5, DRAW)
    dx = dropout_backward(np.ones_like(X), saved)
    assert np.array_equal(dx == 0.0, y == 0.0)
    assert np.array_equal(y, X * dx)


def test_the_elements_are_those_of_keep_mask() -> None:
    assert np.array_equal(dropout(X, 0.3, DRAW) != 0.0, random.keep_mask(DRAW, 0.3, X.shape))


def test_another_draw_drops_other_elements() -> None:
    a, b = dropout(X, 0.5, DRAW), dropout(X, 0.5, DRAW._replace(offset=4))
    assert not np.array_equal(a == 0.0, b == 0.0)


def test_probability_zero_is_the_identity() -> None:
    y, saved = dropout_forward(X, 0.0, DRAW)
    assert np.array_equal(y, X)
    assert np.array_equal(dropout_backward(X, saved), X)


@pytest.mark.usefixtures("validation_only")
@pytest.mark.parametrize("probability", [-0.5, 1.0, 1.5])
def test_probabilities_of_minus_half_and_of_one_and_more_are_refused(probability: float) -> None:
    with pytest.raises(RangeError, match=rf"dropout: a dropout probability lies in \[0, 1\), got {probability}"):
        dropout(X, probability, DRAW)


@pytest.mark.usefixtures("validation_only")
def test_integers_are_refused() -> None:
    with pytest.raises(DtypeError, match=r"dropout: .* got x: int64"):
        dropout(np.ones(3, np.int64), 0.5, DRAW)
