"""Positions as modules: a learned table, and fixed sinusoids."""

from ..arrays import Array, array_module
from ..errors import ConfigError
from ..ops.embedding import embedding
from ..ops.position import (
    learned_position_backward,
    learned_position_forward,
    sinusoidal_position_backward,
    sinusoidal_position_forward,
    sinusoids,
)
from ..random import Generator, default_generator
from . import init
from .module import Module
from .parameter import Parameter, is_trained

__all__ = ["LearnedPosition", "SinusoidalPosition", "check_evaluating", "positions_of"]


def positions_of(padding: Array, start: int, count: int) -> Array:
    """Return the position (B, count) of each token in its own text, 0 in padding.

    padding: (B) integers, the number of positions at the start of each row that hold no token. The tokens are those at
    start … start + count of the padded rows.
    """
    xp = array_module(padding)
    return xp.maximum(xp.arange(start, start + count) - padding[:, None], 0)


def check_evaluating(op: str, name: str, training: bool) -> None:
    """Raise ConfigError for an argument that only `eval()` supports, where nothing is saved for a backward."""
    if training:
        raise ConfigError(f"{op}: {name} is supported in eval() only, got a module in training. Call model.eval().")


class LearnedPosition(Module):
    """Add a learned vector for each position.

    weight: (context_length, embed_dim), initialized by `weight_init`.
    """

    def __init__(
        self,
        context_length: int,
        embed_dim: int,
        *,
        weight_init: init.Init | None = None,
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        weight_init = weight_init or init.normal()
        self.weight = Parameter(weight_init((context_length, embed_dim), generator or default_generator()))

    def forward(self, x: Array, start: int = 0, padding: Array | None = None) -> Array:
        """Add rows start … start + T of the table to x (B, T, C).

        padding: (B) integers, the number of positions at the start of each row that hold no token; a row then counts
        its positions from its first token. It is accepted in `eval()` only, where nothing is saved for a backward.
        """
        if padding is not None:
            check_evaluating("LearnedPosition", "padding", self.training)
            return x + embedding(positions_of(padding, start, x.shape[1]), self.weight.data)
        y, saved = learned_position_forward(x, self.weight.data, start)
        self.save_for_backward(saved)
        return y

    def backward(self, dy: Array) -> Array:
        """Return the gradient of x."""
        dx, dweight = learned_position_backward(dy, self.pop_saved(), is_trained(self.weight))
        self.weight.accumulate(dweight)
        return dx


class SinusoidalPosition(Module):
    """Add fixed sinusoids; there are no parameters, and no limit on the context length."""

    def forward(self, x: Array, start: int = 0, padding: Array | None = None) -> Array:
        """Add the sinusoids of positions start … start + T to x (B, T, C). padding: see `LearnedPosition.forward`."""
        if padding is not None:
            check_evaluating("SinusoidalPosition", "padding", self.training)
            table = array_module(x).asarray(sinusoids(start + x.shape[1], x.shape[2], x.dtype))
            return x + table[positions_of(padding, start, x.shape[1])]
        y, saved = sinusoidal_position_forward(x, start)
        self.save_for_backward(saved)
        return y

    def backward(self, dy: Array) -> Array:
        """Return the gradient of x."""
        return sinusoidal_position_backward(dy, self.pop_saved())
