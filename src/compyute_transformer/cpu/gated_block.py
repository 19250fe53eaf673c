"""Gated block on a CPU: a few positions through all blocks of a Llama in one kernel, as `block` does for GPT.

Optimization history:

1. A kernel an op, and a dozen calls a block from Python.
2. This: one for all blocks, which is told where each weight lies. Gate and up are multiplied by the same thread, column
   by column, so that the gate is applied while both are in its cache.
"""

from collections.abc import Sequence

import numpy as np
from numba import carray, prange

from ..arrays import Array
from ..dispatch import kernel_for
from ..ops.activation import Gate
from ..ops.attention import Mask
from ..ops.block import FixedWeights
from ..ops.gated_block import GatedBlockWeights, RotaryTables, gated_blocks_step, gated_shapes
from ..precision import precision
from ._blas import pointer
from ._kernel import compile_parallel, compile_part, is_float32, is_ready, num_threads, pool_for
from ._tiles import few_task
from .activation import GATE_CODES, gated_part
from .attention import arguments, is_strided, supports_mask
from .block import add_product, as_multiplied, as_rounded, belong_together, remember
from .linear import FEW_ROWS, columns_of
from .norm import rms_rows
from .quantized import addresses_of, any_columns, is_held

__all__ = ["gated_blocks_step_kernel"]

MATRICES = (1, 3, 6, 8, 10)  # among the arrays of a block: those that may be quantized


@compile_part
def _turn_rows(packed, cos, sin, heads, D):
    """Turn the first heads, D columns each, of every row (B·T) of packed; pairs are halves."""
    T, P = cos.shape
    for n in range(packed.shape[0]):
        c, s = cos[n % T], sin[n % T]
        for h in range(heads):
            first, second = packed[n, h * D : h * D + P], packed[n, h * D + P : h * D + 2 * P]
            for i in range(P):
                a, b = first[i], second[i]
                first[i] = a * c[i] - b * s[i]
                second[i] = b * c[i] + a * s[i]


@compile_part
def _gated_product(x, at, held, b_gate, b_up, code, gate, up, first, last):
    """Columns [first, last) of gate = activation(x w_gateᵀ + b_gate) · (x w_upᵀ + b_up)."""
    any_columns(held[2, 1], x, at[6], held[2, 0], b_gate, gate, first, last)
    any_columns(held[3, 1], x, at[8], held[3, 0], b_up, up, first, last)
    for n in range(gate.shape[0]):
        part = gate[n, first:last]
        gated_part(part, up[n, first:last], code, part)


@compile_parallel
def _gated_step(places, scales, eps, F, packed, cos, sin, options, lengths, bias, code, x, slices):
    """Transform x in place; the steps of `ops.gated_block`, one after the other."""
    o = options[0]
    (N, C), rows, width = x.shape, packed.shape[1], o.H * o.D
    read, stream, rrms = np.empty((N, C), np.float32), np.empty((N, C), np.float32), np.empty(N, np.float32)
    gate, up = np.empty((N, F), np.float32), np.empty((N, F), np.float32)
    heads, statistics = np.empty((o.B, o.T, o.H, o.D), np.float32), np.empty((2, o.B, o.H, o.T), np.float32)
    merged = heads.reshape(N, width)
    for block in range(places.shape[0]):
        at, held = places[block], scales[block]
        norm_1, norm_2 = carray(pointer(at[0]), (C,)), carray(pointer(at[5]), (C,))
        b_in, b_out = carray(pointer(at[2]), (rows,)), carray(pointer(at[4]), (C,))
        b_gate, b_up = carray(pointer(at[7]), (F,)), carray(pointer(at[9]), (F,))
        b_down = carray(pointer(at[11]), (C,))
        o.k_at, o.v_at = at[12], at[13]

        rms_rows(x, norm_1, eps[block, 0], read, rrms)
        read = as_multiplied(read, o.rounds, read)
        for index in prange(slices):
            first, last = columns_of(index, slices, rows)
            any_columns(held[0, 1], read, at[1], held[0, 0], b_in, packed, first, last)
        _turn_rows(packed, cos, sin, o.H + o.K, o.D)
        remember(packed, options)
        for task in prange(o.B * o.H):
            few_task(np.int64(task), options, lengths, bias, heads, statistics[0], statistics[1])
        merged = as_multiplied(merged, o.rounds, merged)
        for index in prange(slices):
            first, last = columns_of(index, slices, C)
            add_product(held[1, 1], merged, at[3], held[1, 0], b_out, x, stream, first, last)

        rms_rows(stream, norm_2, eps[block, 1], read, rrms)
        read = as_multiplied(read, o.rounds, read)
        for index in prange(slices):
            first, last = columns_of(index, slices, F)
            _gated_product(read, at, held, b_gate, b_up, code, gate, up, first, last)
        gate = as_multiplied(gate, o.rounds, gate)
        for index in prange(slices):
            first, last = columns_of(index, slices, C)
            add_product(held[4, 1], gate, at[10], held[4, 0], b_down, stream, x, first, last)


def _noted(weights: Sequence[GatedBlockWeights], most: int) -> tuple[Array, ...]:
    """Return where the arrays of each block lie, (blocks, 12), scales and kinds of its matrices, eps, and zeros.

    To ask every array takes as long as a tenth of a token. most: the length of the longest bias.
    """
    known: tuple[Array, ...] | None = getattr(weights, "noted", None)
    if known is not None:
        return known
    zeros = np.zeros(most, np.float32)  # in place of biases that there are not
    found = [[addresses_of(zeros if array is None else array) for array in w[:-1]] for w in weights]
    places = np.array([[each[0] for each in block] for block in found], np.int64)
    scales = np.array([[block[matrix][1:] for matrix in MATRICES] for block in found], np.int64)
    eps = np.array([w.eps for w in weights], np.float32)
    if isinstance(weights, FixedWeights):
        weights.noted = places, scales, eps, zeros
    return places, scales, eps, zeros


def _supports(
    x: Array,
    weights: Sequence[GatedBlockWeights],
    keys: Sequence[Array],
    values: Sequence[Array],
    mask: Mask,
    num_heads: int,
    tables: RotaryTables,
    activation: Gate = "silu",
) -> bool:
    # blocks that are alike: one kernel runs through all of them
    if x.size == 0 or not is_float32(x) or not supports_mask(mask):
        return False
    (B, T, C), k, F, (cos, sin) = x.shape, keys[0], len(weights[0].up_weight), tables
    if not is_strided(k) or B * T > FEW_ROWS or not is_ready(cos, sin):
        return False
    if not belong_together(x, weights, keys, values, num_heads):
        return False
    K, _, D = k.shape[1:]
    if cos.ndim != 2 or cos.shape != sin.shape or len(cos) != T or not 1 <= 2 * cos.shape[1] <= D:
        return False
    for array in (*keys, *values):
        if array.shape != k.shape or array.strides != k.strides or array.dtype != np.float32:
            return False
        if not array.flags.writeable:
            return False
    if getattr(weights, "noted", None) is not None:  # all of this was asked before
        return True
    shapes = gated_shapes(C, num_heads, K, D, F)
    for w in weights:
        if not all(array is None or is_held(array) for array in w[:-1]):
            return False
        for weight, shape in zip(w[:-1], shapes, strict=True):
            if weight is not None and weight.shape != shape:
                return False
    return True


@kernel_for(gated_blocks_step, supports=_supports)
def gated_blocks_step_kernel(
    x: Array,
    weights: Sequence[GatedBlockWeights],
    keys: Sequence[Array],
    values: Sequence[Array],
    mask: Mask,
    num_heads: int,
    tables: RotaryTables,
    activation: Gate = "silu",
) -> Array:
    (B, T, C), rows, D, F = x.shape, len(weights[0].in_weight), keys[0].shape[3], len(weights[0].up_weight)
    y, packed, places = x.copy(), np.empty((B, T, rows), np.float32), np.empty((len(weights), 14), np.int64)
    noted, scales, eps, _zeros = _noted(weights, max(C, rows, F))
    places[:, :12] = noted
    if rounds := precision() == "bfloat16":
        scales = as_rounded(scales)
    places[:, 12], places[:, 13] = [k.ctypes.data for k in keys], [v.ctypes.data for v in values]
    q = packed[..., : num_heads * D].reshape(B, T, num_heads, D).swapaxes(1, 2)
    with pool_for(B * T * C * (rows + 3 * F)):
        _gated_step(
            places,
            scales,
            eps,
            F,
            packed.reshape(B * T, rows),
            *tables,
            *arguments(q, keys[0], values[0], mask, 0.0, None, rounds),
            GATE_CODES[activation],
            y.reshape(B * T, C),
            num_threads(),
        )
    return y
