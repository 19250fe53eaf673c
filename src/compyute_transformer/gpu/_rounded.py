"""Rounded: one copy in bfloat16 of all the weights of a model, which products read in place of the float32 ones.

    with rounded_weights(model.flat.data): ...      the copy is made here, once; products within the block find it

Without it each product rounds its weight anew, in the forward and again in the backward. AdamW could write the copy as
it writes the weights, which saves reading them once; but others change weights too (a state that is loaded, another
optimizer, an assignment to `parameter.data[...]`), and CuPy's arrays do not tell. A copy that is made at the beginning
of a step, in a captured step at the beginning of the graph, is always that of the weights of the step. An array outside
the buffer, as that of a replaced parameter, has no copy and is rounded by each product.

Versions: 1. each product rounds. 2. one copy a step. Not yet timed on a GPU.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from typing import Any

import numpy as np

from ..arrays import Array
from ._kernel import address_of

__all__ = ["narrowed", "rounded_weights"]


class Rounded:
    """A flat buffer of float32, its copy in bfloat16, and the views of the copy that were asked for."""

    def __init__(self, weights: Array, copy: Array) -> None:
        self.weights, self.copy = weights, copy
        self.start = address_of(weights)
        self.views: dict[tuple[int, tuple[int, ...]], Array] = {}

    def view(self, array: Array) -> Array | None:
        """Return the part of the copy that is that of an array in the buffer; None for another array."""
        first, rest = divmod(address_of(array) - self.start, self.weights.itemsize)
        if not 0 <= first <= self.weights.size - array.size or rest or not array.flags.c_contiguous:
            return None
        key = first, array.shape
        if key not in self.views:
            self.views[key] = self.copy[first : first + array.size].reshape(array.shape)
        return self.views[key]


_rounded: ContextVar[Rounded | None] = ContextVar("rounded", default=None)


@contextmanager
def rounded_weights(weights: Array, copy: Array | None = None) -> Iterator[None]:
    """Copy a flat buffer of float32 in bfloat16, and let products read the copy within a `with` block.

    The weights must not change within the block. copy: the array to copy into, as large as the buffer.
    """
    copy = import_module("cupy").empty(weights.shape, bfloat16()) if copy is None else copy
    copy[...] = weights
    token = _rounded.set(Rounded(weights, copy))
    try:
        yield
    finally:
        _rounded.reset(token)


def bfloat16() -> Any:
    """Return the dtype, which `ml_dtypes` adds to NumPy's."""
    return np.dtype(import_module("ml_dtypes").bfloat16)


def narrowed(array: Array) -> Array:
    """Return float32 as bfloat16: a weight by its copy, another array rounded, in the order of its memory."""
    if array.dtype != np.float32:
        return array
    rounded = _rounded.get()
    view = None if rounded is None else rounded.view(array)
    return array.astype(bfloat16()) if view is None else view
