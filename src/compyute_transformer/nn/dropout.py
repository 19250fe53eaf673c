"""Dropout: a probability, a generator, and `ops.dropout`."""

from typing import TypeVar

from ..arrays import Array
from ..ops._checks import check_probability
from ..ops.dropout import dropout_backward, dropout_forward
from ..random import DROPOUT, Generator, default_generator
from .module import Module

__all__ = ["Dropout", "share_generator"]


M = TypeVar("M", bound=Module)


def share_generator(module: M, generator: Generator) -> M:
    """Let all dropout in a module draw from one generator, that of attention weights too. Return the module."""
    for inner in module.modules():
        if hasattr(inner, "generator"):
            inner.generator = generator
    return module


class Dropout(Module):
    """In training, drop each element with a probability and scale up the rest; in `eval()`, return the input.

    p: the probability. generator: hands out a new random key for each forward; the modules of one model share one, and
    a run saves its state.
    """

    def __init__(self, p: float = 0.5, *, generator: Generator | None = None) -> None:
        super().__init__()
        check_probability("Dropout", p)
        self.p = p
        self.generator = generator or default_generator(DROPOUT)

    def forward(self, x: Array) -> Array:
        """Drop elements of x, of any shape."""
        if not self.training or self.p == 0.0:
            self.save_for_backward(None)
            return x
        y, saved = dropout_forward(x, self.p, self.generator.next())
        self.save_for_backward(saved)
        return y

    def backward(self, dy: Array) -> Array:
        """Return the gradient of x."""
        saved = self.pop_saved()
        return dy if saved is None else dropout_backward(dy, saved)
