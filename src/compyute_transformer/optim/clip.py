"""Clip: a gradient that is too long keeps its direction and gets a smaller norm."""

from bisect import bisect_right
from collections.abc import Iterable
from itertools import pairwise
from math import inf, isfinite, sqrt
from typing import Any, NamedTuple

import numpy as np

from ..arrays import Array, array_module
from ..dispatch import kernels_of
from ..errors import DtypeError, RangeError
from .flat import FlatBuffer, Shard, contiguous_ranges

__all__ = ["clip_grad_norm_", "get_total_norm", "global_norm", "gradients_of"]

PIECE = 1 << 14  # elements whose squares float32 still sums to seven digits, more or less


class _Part(NamedTuple):
    """Gradients that lie side by side. start: the index of the first one in its buffer. shard: of that buffer."""

    gradient: Array
    start: int = 0
    shard: Shard | None = None

    def own(self) -> list[Array]:
        """Return the views of those that this process has summed: all, if it is alone."""
        if self.shard is None:
            return [self.gradient]
        ends = ((start - self.start, stop - self.start) for start, stop in self.shard.slices)
        return [self.gradient[max(start, 0) : stop] for start, stop in ends if stop > 0 and start < self.gradient.size]

    def pieces(self) -> list[Array]:
        """Return it cut where PIECE divides the index in the buffer; a piece of another process is left empty."""
        gradient = self.gradient.reshape(-1)
        edges = [0, *range(PIECE - self.start % PIECE, gradient.size, PIECE), gradient.size]
        if self.shard is None:
            return [gradient[a:b] for a, b in pairwise(edges)]
        slices = self.shard.slices
        return [gradient[a:b] if _is_within(self.start + a, slices) else gradient[:0] for a, b in pairwise(edges)]


def _is_within(index: int, slices: list[tuple[int, int]]) -> bool:
    """Return whether an index lies in one of the slices (start, stop), which rise."""
    before = bisect_right(slices, (index, inf)) - 1
    return before >= 0 and index < slices[before][1]


def global_norm(*gradients: Array) -> float:
    """Return the Euclidean norm ‖g‖ of all elements of all gradients.

    Squares are summed piece by piece and the pieces in float64: float32's own sum of the 124 million of a GPT-2
    is off by 0.07%. Where squares overflow or vanish in the dtype of the gradient, they are computed scaled, in
    float64.
    """
    return _norm_of([_Part(gradient) for gradient in gradients])


def get_total_norm(parameters: Iterable[Any]) -> float:
    """Return the norm ‖g‖ of the gradients of some parameters, which `clip_grad_norm_` returns too."""
    return _norm_of(_parts_of(parameters))


def _norm_of(parts: list[_Part]) -> float:
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        norms = [_norm(part) for part in parts if part.gradient.size]
    if len(norms) == 1:
        return norms[0]
    largest = max(norms, default=0.0)
    return largest if largest in (0.0, inf) else largest * sqrt(sum((norm / largest) ** 2 for norm in norms))


def _norm(part: _Part) -> float:
    """Return the norm of one part. Processes compute their own pieces, and all of them sum the squares of all."""
    xp = array_module(part.gradient)
    if xp is not np and part.shard is None:
        norm_on_gpu: float = kernels_of("cuda", "clip").norm(part.gradient)
        return norm_on_gpu
    pieces = part.pieces()

    def whole(values: list[Any]) -> Array:
        return np.array(values) if part.shard is None else part.shard.whole(xp.stack(values))

    norm = float(xp.sqrt(whole([piece @ piece for piece in pieces]).sum(dtype=xp.float64)))
    if (1e-12 < norm < inf and part.gradient.dtype.itemsize >= 4) or norm != norm:
        return norm
    largest = float(whole([abs(piece).max() if piece.size else piece.sum() for piece in pieces]).max())
    if largest == 0.0 or not isfinite(largest):
        return largest
    squares = whole([((piece.astype(xp.float64) / largest) ** 2).sum() for piece in pieces])
    return largest * sqrt(float(squares.sum()))


def clip_grad_norm_(parameters: Iterable[Any], max_norm: float) -> float:
    """Scale the gradients of some parameters in place: g ← g · min(1, max_norm / ‖g‖). Returns ‖g‖ as it was.

    A gradient that is not finite stays as it came, so that it can be examined; the returned norm shows it. Parameters
    without a gradient are passed over.

    Source: Pascanu, Mikolov, Bengio 2013, "On the difficulty of training recurrent neural networks".
    """
    if not max_norm > 0:
        raise RangeError(f"clip_grad_norm_: max_norm is above 0, got {max_norm}. Leave out the call to clip nothing.")
    return _clip(_parts_of(parameters), max_norm)


def clip_by_global_norm(gradient: Array, limit: float) -> float:
    """Scale one array of gradients in place; the earlier form of `clip_grad_norm_`."""
    return _clip([_Part(gradient)], limit)


def _clip(parts: list[_Part], max_norm: float) -> float:
    for gradient, *_ in parts:
        if getattr(getattr(gradient, "dtype", None), "kind", None) not in ("f", "V") or not _is_writable(gradient):
            came = getattr(gradient, "dtype", type(gradient).__name__)
            raise DtypeError(
                f"clip_grad_norm_: a gradient is an array of floats that may be written to, got {came}. Assign "
                "np.array(gradient, parameter.dtype)."
            )
    norm = _norm_of(parts)
    if max_norm < norm < inf:
        factor = max_norm / norm
        for gradient in (own for part in parts for own in part.own()):
            if factor < 1e-30:  # which float32 cannot hold exactly
                gradient *= 1e-30
                gradient *= factor / 1e-30
            else:
                gradient *= factor
    return norm


def _is_writable(gradient: Array) -> bool:
    return not isinstance(gradient, np.ndarray) or gradient.flags.writeable


def gradients_of(parameters: Iterable[Any]) -> list[Array]:
    """Return the gradients of some parameters, those that lie side by side in a buffer as one array."""
    return [part.gradient for part in _parts_of(parameters)]


def _parts_of(parameters: Iterable[Any]) -> list[_Part]:
    given: list[Any] = [parameters] if hasattr(parameters, "requires_grad") else list(parameters)
    buffer = given[0].place.buffer if given and given[0].place is not None else None
    if buffer is not None and _are_whole(given, buffer):  # the usual case, a whole model, fast
        return [_Part(buffer.array_of_gradients(0, buffer.data.size), 0, buffer.shard)]
    with_gradient = list({id(p): p for p in given if p.grad is not None}.values())
    placed = [p for p in with_gradient if p.place is not None and p.grad is p.place.grad]
    others = [_Part(p.grad) for p in with_gradient if p.place is None or p.grad is not p.place.grad]
    ranges = contiguous_ranges(placed)
    return [
        _Part(buffer.array_of_gradients(start, stop), start, buffer.shard) for buffer, start, stop in ranges
    ] + others


def _are_whole(given: list[Any], buffer: FlatBuffer) -> bool:
    """Return whether these are all parameters of a buffer, each once, with their gradients in their places."""
    if not len(set(map(id, given))) == len(given) == len(buffer.parameters):
        return False
    for parameter in given:
        place = parameter.place
        if place is None or place.buffer is not buffer or parameter.grad is not place.grad:
            return False
    return True
