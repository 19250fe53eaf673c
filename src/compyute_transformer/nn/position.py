"""Position: the learned table, and the fixed sinusoids, as modules."""

from ..arrays import Array
from ..ops.position import (
    learned_position_backward,
    learned_position_forward,
    sinusoidal_position_backward,
    sinusoidal_position_forward,
)
from ..random import Generator, default_generator
from . import init
from .module import Module, Parameter

__all__ = ["LearnedPosition", "SinusoidalPosition"]


class LearnedPosition(Module):
    """Add a learned vector for each position.

    weight: (context_length, embed_dim), drawn by `weight_init`.
    """

    def __init__(
        self,
        context_length: int,
        embed_dim: int,
        weight_init: init.Init | None = None,
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        weight_init = weight_init or init.normal()
        self.weight = Parameter(weight_init((context_length, embed_dim), generator or default_generator()))

    def forward(self, x: Array, start: int = 0) -> Array:
        """Add rows start … start + T of the table to x (B, T, C)."""
        y, saved = learned_position_forward(x, self.weight.data, start)
        self.save_for_backward(saved)
        return y

    def backward(self, dy: Array) -> Array:
        """The gradient of x."""
        dx, dweight = learned_position_backward(dy, self.pop_saved())
        self.weight.accumulate(dweight)
        return dx


class SinusoidalPosition(Module):
    """Add fixed sinusoids; nothing is learned, and no context is too long."""

    def forward(self, x: Array, start: int = 0) -> Array:
        """Add the sinusoids of positions start … start + T to x (B, T, C)."""
        y, saved = sinusoidal_position_forward(x, start)
        self.save_for_backward(saved)
        return y

    def backward(self, dy: Array) -> Array:
        """The gradient of x."""
        return sinusoidal_position_backward(dy, self.pop_saved())
