"""Dropout: a probability, a generator, and `ops.dropout`."""

from ..arrays import Array
from ..ops._checks import check_probability
from ..ops.dropout import dropout_backward, dropout_forward
from ..random import DROPOUT, Generator, default_generator
from .module import Module

__all__ = ["Dropout"]


class Dropout(Module):
    """In training, drop each element with a probability and scale up the rest; in `eval()`, the identity.

    generator: hands out a new draw for each forward; the modules of one model share one, and a run saves its state.
    """

    def __init__(self, probability: float, generator: Generator | None = None) -> None:
        super().__init__()
        check_probability("Dropout", probability)
        self.probability = probability
        self.generator = generator or default_generator(DROPOUT)

    def forward(self, x: Array) -> Array:
        """Drop elements of x, of any shape."""
        if not self.training or self.probability == 0.0:
            self.save_for_backward(None)
            return x
        y, saved = dropout_forward(x, self.probability, self.generator.next())
        self.save_for_backward(saved)
        return y

    def backward(self, dy: Array) -> Array:
        """The gradient of x."""
        saved = self.pop_saved()
        return dy if saved is None else dropout_backward(dy, saved)
