"""Feed-forward on a CPU in bfloat16: the activation and its slope on rows of a product while they are in cache.

    hidden = x upᵀ + bias;   activated, slopes = activation(hidden), activation′(hidden);   y = activated downᵀ + bias
    dhidden = (dy down) · slopes;   the other gradients as those of two linear layers

It is no op: modules call it in training, where products are in bfloat16 and a kernel of `_products` computes them.
Against two linear layers with an activation between them, hidden and dhidden lie in no memory but that of 128 rows by
256 columns, which stays in the second-level cache: from there what the next products read is written as they read it.
What the backward needs, x, activated and slopes, is kept rounded. Rounding the slopes moves a number of dhidden by at
most 2⁻⁸ of itself, as much as rounding dhidden itself, which follows.

Optimization history, a step of the 384-wide GPT in bfloat16 on two cores of a Zen 4, 2026-11-29:

1. The activation and its slope computed on whole rows of a product's result: 32 numbers at a time, as squares are made,
   a step of 1.04 s took 1.12.
2. Chunks of columns, rounded and packed from the cache, and the slope along with the activation: with
   lines that begin where memory does (`_buffers`), 844 -> 815 ms, the fastest of 40 steps each, in turns.
"""

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import numpy as np
from numba import prange

from ..arrays import Array
from ..errors import ShapeError
from ..ops._checks import check_gradient
from ..ops.activation import Activation
from ..ops.dropout import DropoutSaved
from ..ops.quantized import is_quantized
from ..precision import precision
from ._amx import LAYOUT
from ._buffers import empty
from ._kernel import compile_parallel, hold, is_float32, is_ready, pool_for, sum_of_partials
from ._packing import (
    ROW,
    SQUARE,
    empty_rows,
    gradient_operands,
    pack_gradient,
    pack_gradient_strip,
    pack_panels,
    pack_rows,
    panels_of_rows,
    squares_of,
)
from ._products import ROWS, WORK, Kernel, Onto, add_panels, begin, end, groups_of, multiply, start_of
from ._vector import float_from_bits
from .activation import CODES, rounded_with_slope_part
from .linear import packed_kernel

__all__ = [
    "FeedForwardSaved",
    "feed_forward_backward",
    "feed_forward_forward",
    "feed_forward_of_rows",
    "gradient_of_weight",
    "supports",
]


class FeedForwardSaved(NamedTuple):
    """shape: of x. x, activated: what the products read, as rows of A; see `_packing`. up, down: as given.

    slopes: (rows, F), the upper halves of float32. has_bias: of up and of down. kernel: of the products.
    """

    shape: tuple[int, ...]
    x: Array
    up: Array
    down: Array
    slopes: Array
    activated: Array
    has_bias: tuple[bool, bool]
    kernel: Kernel


CHUNK = 256  # columns of hidden that are computed at once
LINE = 16  # numbers between two of their rows, which would share few places of the cache if they lay 1 kB apart


@compile_parallel
def _activate(number, layout_at, x, up, start, code, activated, slopes, groups):
    """Write activated, as rows of A, and slopes. start: what the sums of each column start from."""
    (rows, F), depth = slopes.shape, x.shape[1]
    x_at, up_at, start_at, chunks = x.ctypes.data, up.ctypes.data, start.ctypes.data, (F + CHUNK - 1) // CHUNK
    for task in prange((rows + ROWS - 1) // ROWS * groups):
        top, group = task // groups * ROWS, task % groups
        height = min(ROWS, rows - top)
        hidden = np.empty((ROWS, CHUNK + LINE), np.float32)
        begin(number, layout_at)
        for chunk in range(chunks * group // groups, chunks * (group + 1) // groups):
            first = CHUNK * chunk
            width = min(CHUNK, F - first)
            add_panels(
                number, x_at + 2 * depth * top, 2 * depth, squares_of(height), up_at + 2 * depth * first,
                squares_of(width), np.int64(depth // SQUARE), start_at + 4 * first,
                hidden.ctypes.data, hidden.strides[0],
            )  # fmt: skip
            for r in range(height):
                rounded, slope = activated[top + r, first : first + width], slopes[top + r, first : first + width]
                rounded_with_slope_part(hidden[r, :width], code, rounded, slope)
        end(number)
        hold(hidden)


@compile_parallel
def _pack_hidden_gradient(number, layout_at, dy, down, start, slopes, rows, turned, sums, groups):
    """Write dhidden and its transpose as rows of A, and the sums of its columns over the rows of each task."""
    (N, F), depth, strips = slopes.shape, dy.shape[1], turned.shape[1] // SQUARE
    dy_at, down_at, start_at, chunks = dy.ctypes.data, down.ctypes.data, start.ctypes.data, (F + CHUNK - 1) // CHUNK
    rows_at, turned_at = rows.ctypes.data, turned.ctypes.data
    lines, turned_lines = 2 * rows.shape[1], 2 * turned.shape[1]
    blocks = (N + ROWS - 1) // ROWS
    for task in prange(blocks * groups):
        block, group = task // groups, task % groups
        top = ROWS * block
        height = min(ROWS, N - top)
        last_strip = strips if block == blocks - 1 else (top + ROWS) // SQUARE
        dhidden, edge = np.empty((ROWS, CHUNK + LINE), np.float32), np.empty((2, SQUARE), np.float32)
        rounded, line = np.empty(SQUARE * CHUNK, np.uint16), np.int64(4 * (CHUNK + LINE))
        begin(number, layout_at)
        for chunk in range(chunks * group // groups, chunks * (group + 1) // groups):
            first = CHUNK * chunk
            width = min(CHUNK, F - first)
            across = CHUNK // SQUARE if chunk < chunks - 1 else (rows.shape[1] - first) // SQUARE
            add_panels(
                number, dy_at + 2 * depth * top, 2 * depth, squares_of(height), down_at + 2 * depth * first,
                squares_of(width), np.int64(depth // SQUARE), start_at + 4 * first, dhidden.ctypes.data, line,
            )  # fmt: skip
            for r in range(height):
                target, slope = dhidden[r, :width], slopes[top + r, first : first + width]
                for c in range(target.size):
                    target[c] *= float_from_bits(np.int32(slope[c]) << np.int32(16))
            total = sums[block, first : first + width]
            total[:] = 0
            for strip in range(top // SQUARE, last_strip):
                n = SQUARE * strip
                pack_gradient_strip(
                    dhidden.ctypes.data + line * (n - top), line, max(0, min(SQUARE, N - n)), width,
                    rows_at + lines * n + 2 * first if n < rows.shape[0] else 0, lines, across,
                    turned_at + turned_lines * first + ROW * strip, turned_lines, squares_of(width),
                    total, edge.ctypes.data, rounded.ctypes.data,
                )  # fmt: skip
        end(number)
        hold(dhidden, edge, rounded)


def supports(x: Array, up: Array, down: Array, activation: Activation) -> bool:
    """Return whether the products are computed by a kernel of `_products`."""
    if precision() != "bfloat16" or type(x) is not np.ndarray or is_quantized(up) or is_quantized(down):
        return False
    if not (is_float32(x) and is_ready(up, down) and x.size > 0 and up.size > 0 and down.size > 0 and x.ndim > 0):
        return False
    fits = x.shape[-1] == up.shape[1] and down.shape[1] == up.shape[0]
    return fits and packed_kernel("bfloat16", x.size // x.shape[-1]) is not None


def feed_forward_forward(
    x: Array, up: Array, up_bias: Array | None, down: Array, down_bias: Array | None, activation: Activation
) -> tuple[Array, FeedForwardSaved]:
    """Return down(activation(up(x))) and what the backward needs. x (*rows, C); up (F, C); down (C, F)."""
    for bias, weight in ((up_bias, up), (down_bias, down)):
        if bias is not None and not (is_float32(bias) and bias.shape == weight.shape[:1]):
            raise ShapeError(
                f"feed_forward: bias must have one float32 number for each of {len(weight)} outputs, got {bias.dtype} "
                f"of shape {bias.shape}. Give each bias the length of its weight."
            )
    rows = np.ascontiguousarray(x).reshape(-1, x.shape[-1])
    return feed_forward_of_rows(x.shape, pack_rows(rows), up, up_bias, down, down_bias, activation)


def feed_forward_of_rows(
    shape: tuple[int, ...],
    packed: Array,
    up: Array,
    up_bias: Array | None,
    down: Array,
    down_bias: Array | None,
    activation: Activation,
    onto: Onto | None = None,
) -> tuple[Array, FeedForwardSaved]:
    """Return what `feed_forward_forward` does for x of a shape, given as rows of A. onto: see `_products.multiply`."""
    F, N = len(up), prod(shape[:-1])
    kernel = packed_kernel("bfloat16", N)
    assert kernel is not None, "supports said so"
    slopes, activated = empty((N, F), np.uint16), empty_rows(N, F)
    panels, has_bias = pack_panels(up), (up_bias is not None, down_bias is not None)
    with pool_for(slopes.size * packed.shape[1] // WORK):
        _activate(
            kernel.number, LAYOUT.ctypes.data, packed, panels, start_of(panels, up_bias), CODES[activation],
            activated, slopes, _groups(N, F),
        )  # fmt: skip
    y = empty((*shape[:-1], len(down)))
    multiply(kernel, activated, pack_panels(down), y.reshape(N, -1), down_bias, onto)
    return y, FeedForwardSaved(shape, packed, up, down, slopes, activated, has_bias, kernel)


def _groups(rows: int, F: int) -> int:
    """Return into how many groups the chunks of hidden are shared out."""
    return min(groups_of(rows), -(-F // CHUNK))


def feed_forward_backward(
    dy: Array, saved: FeedForwardSaved, needs: Sequence[bool], dropout: DropoutSaved | None = None
) -> tuple[Array, Array | None, Array | None, Array | None, Array | None]:
    """Return the gradients of x, up, up_bias, down and down_bias; None for parameters that need none.

    dropout: of y, of which dy is the gradient.
    """
    shape, x, up, down, slopes, activated, has_bias, kernel = saved
    check_gradient("feed_forward", dy, up, (*shape[:-1], len(down)))
    dy_rows, turned, sums = pack_gradient(np.ascontiguousarray(dy).reshape(-1, len(down)), dropout)
    ddown = gradient_of_weight(kernel, turned, panels_of_rows(activated, len(up)), down) if needs[2] else None
    ddown_bias = sum_of_partials(sums) if needs[3] and has_bias[1] else None
    rows, turned = gradient_operands(*slopes.shape)
    panels, sums = pack_panels(down, turned=True), np.empty((-(-len(slopes) // ROWS), len(up)), np.float32)
    with pool_for(slopes.size * dy_rows.shape[1] // WORK):
        _pack_hidden_gradient(
            kernel.number, LAYOUT.ctypes.data, dy_rows, panels, start_of(panels, None), slopes,
            rows, turned, sums, _groups(*slopes.shape),
        )  # fmt: skip
    dx = empty(shape)
    multiply(kernel, rows, pack_panels(up, turned=True), dx.reshape(-1, up.shape[1]))
    dup = gradient_of_weight(kernel, turned, panels_of_rows(x, up.shape[1]), up) if needs[0] else None
    return dx, dup, sum_of_partials(sums) if needs[1] and has_bias[0] else None, ddown, ddown_bias


def gradient_of_weight(kernel: Kernel, a: Array, b: Array, weight: Array) -> Array:
    """Return A B, the gradient of a weight."""
    dweight = empty(weight.shape)
    multiply(kernel, a, b, dweight)
    return dweight
