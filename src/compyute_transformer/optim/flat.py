"""Flat buffers: many parameters in one array, so that an optimizer makes one sweep instead of hundreds.

A buffer is an optimization that users cannot break. A parameter remembers its place, the views of its data and of its
gradient in the buffer, but `parameter.data` and `parameter.grad` stay ordinary attributes that anyone may replace.
Before it uses the buffer, an optimizer calls `settle`, which copies replaced arrays back into their places, and lays a
new buffer for the parameters that do not fit their places any more.
"""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..arrays import Array, array_module, byte_bounds, device_of
from ..errors import ShapeError, StateError

__all__ = ["FlatBuffer", "ParameterLike", "Place", "Shard", "contiguous_ranges", "settle"]


class ParameterLike(Protocol):
    """What an optimizer needs to know of a parameter; see `nn.Parameter`."""

    data: Array
    grad: Array | None
    requires_grad: bool
    place: "Place | None"
    optimizers: Any

    @property
    def path(self) -> str:
        """The name of the parameter in its model, for messages."""


class Place(NamedTuple):
    """Where a parameter lies: a buffer, the index of the first element, and the views of data and gradient there."""

    buffer: "FlatBuffer"
    start: int
    data: Array
    grad: Array


class Shard(Protocol):
    """The part of a flat buffer whose gradients this process has summed, where several processes share the work."""

    slices: list[tuple[int, int]]  # (start, stop), rising; where one of several processes ends, PIECE divides the index

    def whole(self, array: Array) -> Array:
        """Return an array of which every process computed some elements, and left zeros in the others."""


class FlatBuffer:
    """All given parameters in one array, and their gradients in another; each parameter keeps views.

    Matrices come first and vectors (biases, the scales of norms) last, so that each kind is one contiguous range:
    usually only matrices are decayed.

    data: the array of all weights. grad: the array of all gradients. shard: None where the gradients are whole.
    """

    shard: Shard | None = None
    _lent: bool = False

    def __init__(self, parameters: Iterable[Any]) -> None:
        given = list(parameters)
        _refuse_quantized(given)
        self.parameters: list[Any] = [p for p in given if p.data.ndim >= 2] + [p for p in given if p.data.ndim < 2]
        dtypes = {p.data.dtype for p in given}
        if len(dtypes) > 1:
            raise StateError(
                f"FlatBuffer: the parameters of one buffer have one dtype, got {', '.join(sorted(map(str, dtypes)))}. "
                "Convert them with module.to(dtype=...)."
            )
        xp = array_module(*(p.data for p in given))
        size = sum(p.data.size for p in given)
        dtype = dtypes.pop() if dtypes else np.dtype(np.float32)
        self.data: Array = xp.empty(size, dtype)
        self._grad: Array = xp.empty(size, dtype)
        start = 0
        for parameter in self.parameters:
            part, shape = slice(start, start + parameter.data.size), parameter.data.shape
            parameter.place = Place(self, start, self.data[part].reshape(shape), self._grad[part].reshape(shape))
            start = part.stop
            _restore(parameter)

    def place_for_gradient(self, parameter: Any) -> Array:
        """Return the view into which the next gradient of a parameter is written.

        An earlier gradient may still be in someone's hands (`g = p.grad`, then `zero_grad`), who expects it to stay
        as it is. The array of gradients is then left to them, and a new one takes its place.
        """
        if self._is_held(parameter.place):
            self._renew_gradients()
        grad: Array = parameter.place.grad
        return grad

    def _is_held(self, place: Place) -> bool:
        """Return whether anyone but the buffer has the gradient at a place, or a view of any gradient.

        The view at the place is held by the place, and by the argument of `getrefcount`. The array is held by the
        buffer, by the argument, and by one view for each parameter.
        """
        if self._lent:
            return False
        if sys.getrefcount(place.grad) > 2:
            return True
        is_counted = isinstance(self._grad, np.ndarray)  # which of its arrays hold others is CuPy's own affair
        return is_counted and sys.getrefcount(self._grad) > 2 + len(self.parameters)

    @contextmanager
    def borrowed_gradients(self) -> Iterator[Array]:
        """Let the caller keep views of the array of gradients, which stays the same array within a `with` block."""
        if any(self._is_held(p.place) for p in self.parameters if p.place is not None and p.place.buffer is self):
            self._renew_gradients()
        self._lent = True
        try:
            yield self._grad
        finally:
            self._lent = False

    def _renew_gradients(self) -> None:
        before, self._grad = self._grad, array_module(self._grad).empty_like(self._grad)
        for parameter in self.parameters:
            place = parameter.place
            if place is None or place.buffer is not self:
                continue
            part = slice(place.start, place.start + place.data.size)
            parameter.place = place._replace(grad=self._grad[part].reshape(place.data.shape))
            if parameter.grad is place.grad:
                parameter.place.grad[...] = before[part].reshape(place.data.shape)
                parameter.grad = parameter.place.grad

    @property
    def grad(self) -> Array:
        """The gradients of all parameters; zeros stand where a parameter has none.

        A parameter without a gradient that is not frozen gets these zeros as its gradient, so that what is written
        into the array reaches the optimizer.
        """
        for parameter in self.parameters:
            place = parameter.place
            if place is not None and place.buffer is self and parameter.grad is not place.grad:
                if parameter.grad is None:
                    place.grad.fill(0)
                else:
                    place.grad[...] = parameter.grad
                if parameter.requires_grad:
                    parameter.grad = place.grad
        return self._grad

    def holds_exactly(self, parameters: list[Any]) -> bool:
        """Return whether it was laid for exactly these parameters and all their data are still its views."""
        if len(parameters) != len(self.parameters):
            return False
        return all((place := p.place) is not None and place.buffer is self and p.data is place.data for p in parameters)

    def array_of_gradients(self, start: int, stop: int) -> Array:
        """Return a range of the gradients as it is, without filling in zeros."""
        return self._grad[start:stop]


def settle(parameters: Iterable[Any]) -> None:
    """Make sure that the data and the gradient of every parameter are views of a buffer.

    A replaced array of the same shape and dtype is copied into its place. Parameters without a place, or with one
    that does not fit their shape, dtype or device any more, are laid into new buffers, one for each dtype and device.

    Raises:
        ShapeError: a gradient has another shape than its parameter.
        StateError: two parameters share memory, which a buffer would separate in silence.
    """
    loose: dict[tuple[Any, str], list[Any]] = {}
    parameters = list(parameters)
    _refuse_quantized(parameters)
    for parameter in parameters:
        if _fits(parameter):
            if parameter.data is not parameter.place.data:
                _refuse_shared_memory(parameters)
            _restore(parameter)
        else:
            loose.setdefault((parameter.data.dtype, device_of(parameter.data)), []).append(parameter)
    if loose:
        _refuse_shared_memory(parameters)
    for group in loose.values():
        FlatBuffer(group)


def contiguous_ranges(parameters: Iterable[Any]) -> list[tuple["FlatBuffer", int, int]]:
    """Return the ranges (buffer, start, stop) that the gradients of settled parameters cover, neighbors joined."""
    ranges: list[tuple[FlatBuffer, int, int]] = []
    places = [parameter.place for parameter in parameters]
    for place in sorted(places, key=lambda place: (id(place.buffer), place.start)):
        stop = place.start + place.data.size
        if ranges and ranges[-1][0] is place.buffer and ranges[-1][2] == place.start:
            ranges[-1] = (place.buffer, ranges[-1][1], stop)
        else:
            ranges.append((place.buffer, place.start, stop))
    return ranges


def _fits(parameter: Any) -> bool:
    place, data = parameter.place, parameter.data
    if place is None or place.data.shape != data.shape or place.data.dtype != data.dtype:
        return False
    return device_of(place.data) == device_of(data)


def _restore(parameter: Any) -> None:
    """Copy data and gradient into the place of the parameter, unless they are its views already."""
    place = parameter.place
    if parameter.data is not place.data:
        place.data[...] = parameter.data
        parameter.data = place.data
    if parameter.grad is not None and parameter.grad is not place.grad:
        gradient = array_module(place.grad).asarray(parameter.grad)
        if gradient.shape != place.grad.shape:
            raise ShapeError(
                f"{parameter.path}.grad: a gradient has the parameter's shape {tuple(place.grad.shape)}, got "
                f"{tuple(gradient.shape)}. Assign an array of that shape, or None."
            )
        parameter.grad = place.buffer.place_for_gradient(parameter)
        parameter.grad[...] = gradient


def _refuse_quantized(parameters: Iterable[Any]) -> None:
    """Refuse weights in few bits: `ops.QuantizedWeight` is no array, and nothing is written to it."""
    for parameter in parameters:
        if not hasattr(parameter.data, "fill"):
            raise StateError(
                f"{parameter.path}: weights in int8 or bfloat16 are for inference, and are not trained. Load the model "
                "without weights=."
            )


def _refuse_shared_memory(parameters: Iterable[Any]) -> None:
    """Refuse parameters whose data overlap in memory: `a.data = b.data` ties them for PyTorch, a copy would not."""
    spans = []
    for parameter in parameters:
        if parameter.data.size:
            spans.append((*byte_bounds(parameter.data), parameter))
    spans.sort(key=lambda span: span[:2])
    for (_, high, one), (low, _, other) in pairwise(spans):
        if low < high:
            raise StateError(
                f"{other.path}: every parameter has memory of its own, got data that {one.path} has too. To tie "
                "weights, assign the Parameter itself: module.weight = other.weight."
            )
