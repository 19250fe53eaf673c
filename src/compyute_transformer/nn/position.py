"""Positions as modules: a learned table, fixed sinusoids, and rotations of queries and keys."""

from functools import lru_cache
from typing import Any

from ..arrays import Array, array_module, constant
from ..errors import ConfigError
from ..ops.embedding import embedding
from ..ops.position import (
    learned_position_backward,
    learned_position_forward,
    sinusoidal_position_backward,
    sinusoidal_position_forward,
    sinusoids,
)
from ..ops.rotary import (
    RotaryScaling,
    rotary_frequencies,
    rotary_position_backward,
    rotary_position_forward,
    rotary_tables,
)
from ..random import Generator, default_generator
from . import init
from .module import Module
from .parameter import Parameter, is_trained

__all__ = ["LearnedPosition", "RotaryPosition", "SinusoidalPosition", "check_evaluating", "positions_of"]


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


class RotaryPosition(Module):
    """Turn pairs of columns of queries and keys by angles that grow with the position; there are no parameters.

    dim: how many columns are turned; further columns of a head stay. theta: the base of the frequencies. scaling: for
    texts longer than those of the training. interleaved: whether pairs lie side by side; otherwise they are halves, as
    in Hugging Face's Llama. See `ops.rotary`.
    """

    def __init__(
        self, dim: int, *, theta: float = 10000.0, scaling: RotaryScaling | None = None, interleaved: bool = False
    ) -> None:
        super().__init__()
        rotary_frequencies(dim, theta, scaling)  # raises for sizes that make no pairs
        self.dim, self.theta, self.scaling, self.interleaved = dim, theta, scaling, interleaved

    def forward(self, x: Array, start: int = 0) -> Array:
        """Turn queries or keys x (B, H, T, D) at positions start … start + T.

        Raises ConfigError for dynamic scaling past its original length behind positions that were turned before: those
        would have other frequencies.
        """
        end = start + x.shape[2]
        longer = self.scaling is not None and self.scaling.kind == "dynamic" and end > self.scaling.original_length
        if longer and start:
            raise ConfigError(
                "RotaryPosition: with dynamic scaling, a text longer than original_length has other frequencies at "
                f"every position, got positions {start} to {end} behind a cache. Read the whole text without a cache."
            )
        tables = _rotary_tables(self.dim, self.theta, self.scaling, end if longer else 0, _room(end), x.dtype)
        cos, sin = (constant(table[start:end], x) for table in tables)
        y, saved = rotary_position_forward(x, cos, sin, self.interleaved)
        self.save_for_backward(saved)
        return y

    def tables(self, start: int, count: int, dtype: Any) -> tuple[Array, Array]:
        """Return the cosines and sines (count, P) of positions from `start` on, unless the scaling is dynamic."""
        end = start + count
        cos, sin = _rotary_tables(self.dim, self.theta, self.scaling, 0, _room(end), dtype)
        return cos[start:end], sin[start:end]

    def backward(self, dy: Array) -> Array:
        """Return the gradient of x."""
        return rotary_position_backward(dy, self.pop_saved())


def _room(end: int) -> int:
    """Return a length of tables for `end` positions: a power of two, so that a growing text seldom asks for others."""
    return 1 << max(int(end) - 1, 0).bit_length()


@lru_cache(maxsize=8)
def _rotary_tables(
    dim: int, theta: float, scaling: RotaryScaling | None, length: int, room: int, dtype: Any
) -> tuple[Array, Array]:
    frequencies = rotary_frequencies(dim, theta, scaling, length)
    tables = rotary_tables(frequencies, 0, room, dtype, 1.0 if scaling is None else scaling.scale)
    for table in tables:
        table.flags.writeable = False  # all attentions of a model get the same arrays
    return tables
