"""Dropout: drops in training by the shared generator, and does nothing in eval."""

import numpy as np
import pytest
from module_checks import module_error
from tolerances import limit

from compyute_transformer.arrays import Array
from compyute_transformer.errors import RangeError
from compyute_transformer.nn import Dropout, MultiHeadAttention
from compyute_transformer.random import DROPOUT, Generator, RandomKey, default_generator, keep_mask


@pytest.fixture
def x() -> Array:
    return np.random.default_rng(3).normal(size=(2, 40, 50))


def test_it_drops_what_the_next_draw_says_and_scales_the_rest(x: Array) -> None:
    generator = Generator(9, DROPOUT)
    module = Dropout(0.3, generator=generator)
    for offset in range(2):
        y = module(x)
        keep = keep_mask(RandomKey(9, DROPOUT, offset), 0.3, x.shape)
        assert np.array_equal(y != 0.0, keep)
        assert np.allclose(y[keep], x[keep] / 0.7, rtol=1e-15)
    assert generator.offset == 2


def test_the_backward_drops_the_same_elements_last_in_first_out(x: Array) -> None:
    module = Dropout(0.3, generator=Generator(9, DROPOUT))
    first, second = module(x), module(x)
    assert not np.array_equal(first, second)
    assert np.array_equal(module.backward(x), second)
    assert np.array_equal(module.backward(x), first)


def test_the_share_that_is_dropped_is_the_probability(x: Array) -> None:
    dropped = (Dropout(0.3, generator=Generator(2, DROPOUT))(x) == 0.0).mean()
    assert abs(dropped - 0.3) <= 4 * (0.3 * 0.7 / x.size) ** 0.5


def test_in_eval_it_is_the_identity_and_draws_nothing(x: Array) -> None:
    generator = Generator(9, DROPOUT, offset=5)
    module = Dropout(0.3, generator=generator).eval()
    assert module(x) is x
    assert generator.offset == 5


def test_at_zero_it_is_the_identity_both_ways_and_draws_nothing(x: Array) -> None:
    generator = Generator(9, DROPOUT)
    module = Dropout(0.0, generator=generator)
    assert module(x) is x
    assert module.backward(x) is x
    assert generator.offset == 0


def test_modules_that_share_a_generator_never_drop_alike(x: Array) -> None:
    generator = Generator(9, DROPOUT)
    first, second = Dropout(0.3, generator=generator), Dropout(0.3, generator=generator)
    assert not np.array_equal(first(x) == 0.0, second(x) == 0.0)


def test_modules_that_are_given_no_generator_share_the_default_one() -> None:
    assert Dropout(0.3).generator is default_generator(DROPOUT)
    assert MultiHeadAttention(4, 2).generator is default_generator(DROPOUT)
    assert default_generator(DROPOUT).stream == DROPOUT


def test_the_gradient_follows_the_differences(x: Array) -> None:
    module = Dropout(0.3, generator=Generator(9, DROPOUT))
    assert module_error(module, [x[:, :4]]) <= limit("differences", np.float64)


@pytest.mark.parametrize("probability", [-0.5, 1.0, 1.5, float("nan")])
def test_a_probability_outside_its_range_is_refused(probability: float) -> None:
    with pytest.raises(RangeError, match=r"Dropout: a dropout probability lies in \[0, 1\)"):
        Dropout(probability)
