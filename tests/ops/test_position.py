"""Each vector is told where it stands."""

import mpmath
import numpy as np
import pytest

from compyute_transformer.errors import DtypeError, RangeError, ShapeError
from compyute_transformer.ops.position import (
    alibi_slopes,
    learned_position,
    learned_position_backward,
    learned_position_forward,
    sinusoidal_position,
    sinusoids,
)

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 3, 5)).astype(np.float32)
WEIGHT = RNG.normal(size=(7, 5)).astype(np.float32)


def test_learned_positions_are_added_from_the_start_on() -> None:
    assert np.array_equal(learned_position(X, WEIGHT), X + WEIGHT[:3])
    assert np.array_equal(learned_position(X, WEIGHT, 4), X + WEIGHT[4:7])


def test_positions_that_were_not_taken_have_no_gradient() -> None:
    _, saved = learned_position_forward(X, WEIGHT, 2)
    dx, dweight = learned_position_backward(X, saved)
    assert np.array_equal(dx, X)
    assert dweight.shape == WEIGHT.shape
    assert not dweight[[0, 1, 5, 6]].any()
    assert np.allclose(dweight[2:5], X[0] + X[1])


@pytest.mark.usefixtures("validation_only")
@pytest.mark.parametrize(("length", "start"), [(8, 0), (3, 5), (1, 7), (3, -1)])
def test_positions_past_the_context_are_refused_with_both_numbers(length: int, start: int) -> None:
    x = np.zeros((2, length, 5), np.float32)
    with pytest.raises(RangeError, match=rf"\[0, 7\), the context length, got {length} positions from {start} on.*Sh"):
        learned_position(x, WEIGHT, start)


@pytest.mark.usefixtures("validation_only")
def test_a_context_of_one_does_not_broadcast() -> None:
    with pytest.raises(RangeError, match=r"\[0, 1\), the context length, got 3 positions from 0"):
        learned_position(X, WEIGHT[:1])


@pytest.mark.usefixtures("validation_only")
def test_wrong_shapes_and_dtypes_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"learned_position: weight must have shape \(any, 5\)"):
        learned_position(X, WEIGHT[:, :4])
    with pytest.raises(ShapeError, match="learned_position: x must have shape"):
        learned_position(X[0], WEIGHT)
    with pytest.raises(DtypeError, match=r"learned_position: .*x: float32, weight: float64"):
        learned_position(X, WEIGHT.astype(np.float64))
    with pytest.raises(ShapeError, match="sinusoidal_position: x must have shape"):
        sinusoidal_position(X[0])
    with pytest.raises(DtypeError, match=r"sinusoidal_position: .*int64"):
        sinusoidal_position(X.astype(np.int64))
    with pytest.raises(RangeError, match="start is a whole number of at least 0, got -1"):
        sinusoidal_position(X, -1)


def exact(position: int, column: int, width: int) -> float:
    """The table's entry, computed with 40 digits."""
    with mpmath.workdps(40):
        angle = position / mpmath.mpf(10000) ** (mpmath.mpf(2 * (column // 2)) / width)
        return float(mpmath.cos(angle) if column % 2 else mpmath.sin(angle))


@pytest.mark.parametrize("width", [1, 2, 5, 8])
def test_sinusoids_of_any_width_are_the_papers(width: int) -> None:
    table = sinusoids(4, width, np.float64)
    wanted = [[exact(position, column, width) for column in range(width)] for position in range(4)]
    assert table.shape == (4, width)
    assert np.abs(table - wanted).max() < 1e-15


@pytest.mark.parametrize("position", [8192, 65536])
def test_sinusoids_are_accurate_far_out(position: int) -> None:
    """Angles in float32 would be off by 2e-3 at 65536."""
    wanted = np.array([exact(position, column, 8) for column in range(8)])
    row = sinusoids(position + 1, 8, np.float64)[-1]
    assert np.abs(row - wanted).max() < 1e-10
    assert (
        np.abs(sinusoids(position + 1, 8)[-1] - wanted).max() <= 2.0**-24
    )  # float32's own rounding below 1, and a bit


def test_sinusoids_are_rounded_to_the_dtype_and_cannot_be_spoilt() -> None:
    table = sinusoids(4, 6)
    assert table.dtype == np.float32
    table[:] = 9.0
    assert np.abs(sinusoids(4, 6)).max() <= 1.0
    assert sinusoids(0, 6).shape == (0, 6)


def test_sinusoids_are_added_from_the_start_on() -> None:
    table = sinusoids(9, 5)
    assert np.array_equal(sinusoidal_position(X, 6), X + table[6:9])
    assert np.array_equal(sinusoidal_position(X), X + table[:3])


@pytest.mark.usefixtures("validation_only")
def test_sinusoids_without_a_width_or_length_are_refused() -> None:
    with pytest.raises(RangeError, match="length is a whole number of at least 0, got -1"):
        sinusoids(-1, 4)
    with pytest.raises(RangeError, match="width is a whole number of at least 1, got 0"):
        sinusoids(4, 0)


def test_a_text_that_grows_token_by_token_asks_for_few_tables() -> None:
    from compyute_transformer.ops.position import _sinusoids_float64, sinusoidal_position

    whole = sinusoids(100, 6)
    _sinusoids_float64.cache_clear()
    for start in range(100):
        y = sinusoidal_position(np.zeros((1, 1, 6), np.float32), start)
        assert np.array_equal(y[0, 0], whole[start])
    assert _sinusoids_float64.cache_info().misses == 8, "1, 2, 4, … 128"


def test_the_slopes_of_alibi_are_the_papers() -> None:
    assert alibi_slopes(8).tolist() == [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256]
    assert alibi_slopes(4).tolist() == [1 / 4, 1 / 16, 1 / 64, 1 / 256]
    assert np.allclose(alibi_slopes(6), [1 / 4, 1 / 16, 1 / 64, 1 / 256, 1 / 2, 1 / 8], rtol=1e-15)
    assert alibi_slopes(1).tolist() == [1 / 256]
    with pytest.raises(RangeError, match="num_heads"):
        alibi_slopes(0)
