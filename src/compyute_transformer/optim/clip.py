"""Clip: a gradient that is too long keeps its direction and loses its length."""

from math import inf

from ..arrays import Array, array_module
from ..errors import RangeError

__all__ = ["clip_by_global_norm", "global_norm"]

PIECE = 1 << 14  # elements whose squares float32 still sums to seven digits, more or less


def global_norm(gradient: Array) -> float:
    """The Euclidean length ‖g‖ of a flat gradient.

    Squares are summed piece by piece and the pieces in float64: float32's own sum of the 124 million of a GPT-2
    is off by 0.07%.
    """
    xp = array_module(gradient)
    pieces = xp.array_split(gradient, -(-gradient.size // PIECE) or 1)
    return float(xp.sqrt(xp.stack([piece @ piece for piece in pieces]).sum(dtype=xp.float64)))


def clip_by_global_norm(gradient: Array, max_norm: float) -> float:
    """Shorten a flat gradient in place: g ← g · min(1, max_norm / ‖g‖). Returns ‖g‖ as it was.

    A gradient that is not finite stays as it came, for whoever looks into it; its norm says so.

    Source: Pascanu, Mikolov, Bengio 2013, "On the difficulty of training recurrent neural networks".
    """
    if not max_norm > 0:
        raise RangeError(
            f"clip_by_global_norm: max_norm is above 0, got {max_norm}. Leave out the call to clip nothing."
        )
    norm = global_norm(gradient)
    if max_norm < norm < inf:
        gradient *= max_norm / norm
    return norm
