"""Position: the learned table and the fixed sinusoids, as modules."""

import numpy as np
import pytest
from module_checks import module_error
from tolerances import limit

from compyute_transformer.arrays import Array
from compyute_transformer.errors import RangeError
from compyute_transformer.nn import LearnedPosition, SinusoidalPosition
from compyute_transformer.ops import sinusoids
from compyute_transformer.random import Generator


@pytest.fixture
def x() -> Array:
    return np.random.default_rng(3).normal(size=(2, 4, 5))


@pytest.mark.parametrize("start", [0, 3])
def test_learned_rows_are_added_from_the_start_on(x: Array, start: int) -> None:
    module = LearnedPosition(7, 5, generator=Generator(2)).to(dtype=np.float64)
    assert np.array_equal(module(x, start), x + module.weight.data[start : start + 4])
    dy = np.ones_like(x)
    assert np.array_equal(module.backward(dy), dy)
    expected = np.zeros((7, 5))
    expected[start : start + 4] = 2.0  # the batch rows add up; positions that were not taken get nothing
    assert np.array_equal(module.weight.grad, expected)


def test_the_learned_gradients_follow_the_differences(x: Array) -> None:
    module = LearnedPosition(7, 5)
    assert module_error(module, [x]) <= limit("differences", np.float64)
    assert module_error(module, [x], lambda x: module(x, 2)) <= limit("differences", np.float64)


def test_a_position_past_the_context_is_refused_naming_both_numbers(x: Array) -> None:
    module = LearnedPosition(6, 5).to(dtype=np.float64)
    with pytest.raises(RangeError, match=r"\[0, 6\), the context length, got 4 positions from 3 on"):
        module(x, 3)
    one = LearnedPosition(1, 5).to(dtype=np.float64)  # one row would broadcast over all positions
    with pytest.raises(RangeError, match=r"\[0, 1\), the context length, got 4 positions"):
        one(x)


@pytest.mark.parametrize("start", [0, 300])
def test_sinusoids_are_added_and_nothing_is_learned(x: Array, start: int) -> None:
    module = SinusoidalPosition()
    assert np.array_equal(module(x, start), x + sinusoids(start + 4, 5, np.float64)[start:])
    dy = np.ones_like(x)
    assert np.array_equal(module.backward(dy), dy)
    assert module.num_parameters == 0


def test_the_sinusoidal_gradient_follows_the_differences(x: Array) -> None:
    assert module_error(SinusoidalPosition(), [x]) <= limit("differences", np.float64)
