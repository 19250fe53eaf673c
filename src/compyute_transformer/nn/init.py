"""Initial weights, in float32.

`normal` and `xavier_uniform` return an initializer, (shape, generator) -> array, which draws from Philox; `zeros` and
`ones` draw nothing, and return the array.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from math import sqrt
from typing import TypeAlias

import numpy as np

from .. import random
from ..arrays import Array
from ..random import Generator

__all__ = ["Init", "Inits", "are_skipped", "both", "normal", "ones", "skipped", "xavier_uniform", "zeros"]

Init: TypeAlias = Callable[[tuple[int, ...], Generator], Array]
Inits: TypeAlias = Init | tuple[Init, Init]  # of a module with two matrices: one for both, or one for each


_skips: ContextVar[bool] = ContextVar("skips", default=False)


@contextmanager
def skipped() -> Iterator[None]:
    """Make all initial weights zeros within a `with` block, for a model whose weights are read right after.

    To draw 135 million numbers takes a minute, and zeros take neither time nor, before they are used, memory.
    """
    token = _skips.set(True)
    try:
        yield
    finally:
        _skips.reset(token)


def are_skipped() -> bool:
    """Return whether initial weights are skipped just now."""
    return _skips.get()


def normal(std: float = 0.02) -> Init:
    """Return an initializer that draws normal numbers with mean 0 and a standard deviation.

    0.02 is GPT-2's (Radford et al. 2019).
    """

    def weight_init(shape: tuple[int, ...], generator: Generator) -> Array:
        if _skips.get():
            return zeros(shape)
        return random.normal(generator.next(), shape) * np.float32(std)

    return weight_init


def xavier_uniform() -> Init:
    """Return an initializer that draws uniform numbers on ±√(6 / (inputs + outputs)) for a matrix (outputs, inputs).

    Source: Glorot, Bengio 2010, "Understanding the difficulty of training deep feedforward neural networks".
    """

    def weight_init(shape: tuple[int, ...], generator: Generator) -> Array:
        if _skips.get():
            return zeros(shape)
        bound = sqrt(6.0 / (shape[0] + shape[1]))
        return (random.uniform(generator.next(), shape) * 2 - 1) * np.float32(bound)

    return weight_init


def uniform(bound: float) -> Init:
    """Return an initializer that draws uniform numbers on ±bound."""

    def weight_init(shape: tuple[int, ...], generator: Generator) -> Array:
        if _skips.get():
            return zeros(shape)
        return (random.uniform(generator.next(), shape) * 2 - 1) * np.float32(bound)

    return weight_init


def zeros(shape: tuple[int, ...]) -> Array:
    """Return zeros in float32, as biases start."""
    return np.zeros(shape, dtype=np.float32)


def ones(shape: tuple[int, ...]) -> Array:
    """Return ones in float32, as the scales of norms start."""
    return np.ones(shape, dtype=np.float32)


def both(weight_init: Inits | None) -> tuple[Init, Init]:
    """Return the initializers of the two matrices of a module: the same for both, unless a pair is given."""
    if weight_init is None:
        return normal(), normal()
    return weight_init if isinstance(weight_init, tuple) else (weight_init, weight_init)
