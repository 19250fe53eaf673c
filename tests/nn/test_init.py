"""Initial weights: distributions with the moments they promise, the same for the same generator."""

from itertools import pairwise

import numpy as np
import pytest

from compyute_transformer.nn import init
from compyute_transformer.random import Generator

SHAPE = (200, 300)


@pytest.mark.parametrize("std", [0.02, 1.5])
def test_normal_has_its_moments(std: float) -> None:
    weights = init.normal(std)(SHAPE, Generator(3)).astype(np.float64) / std
    n = weights.size
    assert abs(weights.mean()) <= 4 / n**0.5
    assert abs(weights.std() - 1.0) <= 4 / (2 * n) ** 0.5
    assert abs((weights**3).mean()) <= 4 * (15 / n) ** 0.5
    assert abs((weights**4).mean() - 3.0) <= 4 * (96 / n) ** 0.5
    assert init.normal()(SHAPE, Generator(3)).std() == pytest.approx(0.02, rel=0.02)


def test_xavier_is_uniform_between_its_bounds() -> None:
    bound = (6.0 / 500.0) ** 0.5
    weights = init.xavier_uniform()(SHAPE, Generator(3)).astype(np.float64) / bound
    n = weights.size
    assert -1.0 <= weights.min() <= -0.999
    assert 0.999 <= weights.max() <= 1.0
    assert abs(weights.mean()) <= 4 / (3 * n) ** 0.5
    shares = np.histogram(weights, bins=10, range=(-1.0, 1.0))[0] / n
    assert np.abs(shares - 0.1).max() <= 4 * (0.09 / n) ** 0.5


@pytest.mark.parametrize("weight_init", [init.normal(), init.xavier_uniform()])
def test_draws_are_float32_and_follow_the_generator(weight_init: init.Init) -> None:
    generator = Generator(3)
    draws = [weight_init((4, 5), generator) for _ in range(3)]
    assert all(draw.dtype == np.float32 and draw.shape == (4, 5) for draw in draws)
    assert not any(np.array_equal(a, b) for a, b in pairwise(draws))
    assert np.array_equal(weight_init((4, 5), Generator(3)), draws[0])


def test_zeros_and_ones_are_float32() -> None:
    for made, value in ((init.zeros((2, 3)), 0.0), (init.ones((2, 3)), 1.0)):
        assert made.dtype == np.float32
        assert np.array_equal(made, np.full((2, 3), value))


def test_skipped_initializers_draw_nothing_and_draw_again_afterwards() -> None:
    generator = Generator(3)
    with init.skipped():
        assert not init.normal()((2, 3), generator).any()
        assert not init.xavier_uniform()((2, 3), generator).any()
    assert generator.offset == 0
    assert init.normal()((2, 3), generator).all()
    assert init.xavier_uniform()((2, 3), generator).all()
