"""Block on a CPU: a few positions through all blocks in one kernel.

A token's time is that of reading the weights once. What comes on top is what lies between the kernels: a dozen calls a
block from Python, whose code and data the weights have pushed out of the cache by the time it runs again.

Optimization history:

1. A kernel an op, eleven a block: 18 to 20 ms a token of GPT-2's shape (124 million weights, 2 cores of a Zen 4,
   2026-11-24), where reading 497 MB takes 14.5 to 15.5 ms.
2. A kernel a block, which calls the kernels of the other files one after the other: 16.5 ms.
3. This: one for all blocks, which is told where each weight lies: 15.3 to 16 ms.
"""

from collections.abc import Sequence

import numpy as np
from numba import carray, get_num_threads, prange

from ..arrays import Array
from ..dispatch import kernel_for
from ..ops.activation import Activation
from ..ops.attention import Mask
from ..ops.block import BlockWeights, blocks_step, each_shape, each_weight
from ..precision import precision
from ._blas import pointer
from ._kernel import compile_kernel, compile_parallel, compile_part, is_float32, is_ready, pool_for
from ._tiles import few_task
from .activation import gelu_part
from .attention import arguments, is_strided, supports_mask
from .linear import FEW_ROWS, columns_of, few_rows_columns
from .norm import norm_rows

__all__ = ["blocks_step_kernel"]

ZERO = np.float32(0.0)
GELU_TANH, GELU, RELU = range(3)
CODES: dict[Activation, int] = {"gelu_tanh": GELU_TANH, "gelu": GELU, "relu": RELU}


@compile_kernel
def _note(places, norm_1, shift_1, w_in, b_in, w_out, b_out, norm_2, shift_2, w_up, b_up, w_down, b_down):
    """Write down where a block's weights lie, in a sixteenth of the time that asking each array takes from Python."""
    places[0], places[1], places[2] = norm_1.ctypes.data, shift_1.ctypes.data, w_in.ctypes.data
    places[3], places[4], places[5] = b_in.ctypes.data, w_out.ctypes.data, b_out.ctypes.data
    places[6], places[7], places[8] = norm_2.ctypes.data, shift_2.ctypes.data, w_up.ctypes.data
    places[9], places[10], places[11] = b_up.ctypes.data, w_down.ctypes.data, b_down.ctypes.data


@compile_part
def remember(packed, options):
    """Write the keys and values among the columns of packed (B·T, (H + 2K)·D) to the end of k and v."""
    o = options[0]
    B, H, K, T, S, D = o.B, o.H, o.K, o.T, o.S, o.D
    for b in range(B):
        for g in range(K):
            for t in range(T):
                s, row = S - T + t, packed[b * T + t]
                key = carray(pointer(o.k_at + 4 * (b * o.k_batch + g * o.k_head + s * o.k_time)), (D,))
                value = carray(pointer(o.v_at + 4 * (b * o.v_batch + g * o.v_head + s * o.v_time)), (D,))
                own_key, own_value = row[(H + g) * D : (H + g + 1) * D], row[(H + K + g) * D : (H + K + g + 1) * D]
                for d in range(key.size):
                    key[d], value[d] = own_key[d], own_value[d]


@compile_part
def add_product(x, weight, bias, stream, y, first, last):
    """Columns [first, last) of y = stream + x weightᵀ + bias."""
    few_rows_columns(x, weight, bias, True, y, first, last)
    for n in range(y.shape[0]):
        a, b = stream[n, first:last], y[n, first:last]
        for i in range(b.size):
            b[i] += a[i]


@compile_part
def _activated_product(x, weight, bias, activation, y, first, last):
    """Columns [first, last) of y = activation(x weightᵀ + bias)."""
    few_rows_columns(x, weight, bias, True, y, first, last)
    for n in range(y.shape[0]):
        part = y[n, first:last]
        if activation == RELU:
            for i in range(part.size):
                part[i] = ZERO if part[i] < ZERO else part[i]
        else:
            gelu_part(part, activation == GELU_TANH, part)


@compile_parallel
def _step(places, eps, F, packed, options, lengths, bias, activation, norm_first, x, slices):
    """Transform x in place; the steps of `ops.block`, one after the other."""
    o = options[0]
    (N, C), rows, width = x.shape, packed.shape[1], o.H * o.D
    read, stream, hidden = np.empty((N, C), np.float32), np.empty((N, C), np.float32), np.empty((N, F), np.float32)
    heads, statistics = np.empty((o.B, o.T, o.H, o.D), np.float32), np.empty((2, o.B, o.H, o.T), np.float32)
    mean, rstd, merged = np.empty(N, np.float32), np.empty(N, np.float32), heads.reshape(N, width)
    for block in range(places.shape[0]):
        at = places[block]
        norm_1, shift_1 = carray(pointer(at[0]), (C,)), carray(pointer(at[1]), (C,))
        w_in, b_in = carray(pointer(at[2]), (rows, C)), carray(pointer(at[3]), (rows,))
        w_out, b_out = carray(pointer(at[4]), (C, width)), carray(pointer(at[5]), (C,))
        norm_2, shift_2 = carray(pointer(at[6]), (C,)), carray(pointer(at[7]), (C,))
        w_up, b_up = carray(pointer(at[8]), (F, C)), carray(pointer(at[9]), (F,))
        w_down, b_down = carray(pointer(at[10]), (C, F)), carray(pointer(at[11]), (C,))
        eps_1, eps_2 = eps[block]
        o.k_at, o.v_at = at[12], at[13]

        source = x
        if norm_first:
            norm_rows(x, norm_1, shift_1, True, eps_1, read, mean, rstd)
            source = read
        for index in prange(slices):
            first, last = columns_of(index, slices, rows)
            few_rows_columns(source, w_in, b_in, True, packed, first, last)
        remember(packed, options)
        for task in prange(o.B * o.H):
            few_task(np.int64(task), options, lengths, bias, heads, statistics[0], statistics[1])
        for index in prange(slices):
            first, last = columns_of(index, slices, C)
            add_product(merged, w_out, b_out, x, stream, first, last)

        source = stream
        if norm_first:
            norm_rows(stream, norm_2, shift_2, True, eps_2, read, mean, rstd)
            source = read
        else:
            norm_rows(stream, norm_1, shift_1, True, eps_1, stream, mean, rstd)
        for index in prange(slices):
            first, last = columns_of(index, slices, F)
            _activated_product(source, w_up, b_up, activation, hidden, first, last)
        for index in prange(slices):
            first, last = columns_of(index, slices, C)
            add_product(hidden, w_down, b_down, stream, x, first, last)
        if not norm_first:
            norm_rows(x, norm_2, shift_2, True, eps_2, x, mean, rstd)


def _supports(
    x: Array,
    weights: Sequence[BlockWeights],
    keys: Sequence[Array],
    values: Sequence[Array],
    mask: Mask,
    num_heads: int,
    activation: Activation = "gelu_tanh",
    norm_first: bool = True,
) -> bool:
    # blocks that are alike: one kernel runs through all of them, in float32
    if precision() == "bfloat16" or x.size == 0 or not is_float32(x) or not supports_mask(mask):
        return False
    (B, T, C), k, F = x.shape, keys[0], len(weights[0].up_weight)
    if not is_strided(k) or B * T > FEW_ROWS:
        return False
    K, _, D = k.shape[1:]
    for array in (*keys, *values):
        if array.shape != k.shape or array.strides != k.strides or array.dtype != np.float32:
            return False
        if not array.flags.writeable:
            return False
    shapes = each_shape(C, num_heads, K, D, F)
    for w in weights:
        arrays = each_weight(w)
        if not is_ready(*arrays):
            return False
        for weight, shape in zip(arrays, shapes, strict=True):
            if weight is not None and weight.shape != shape:
                return False
    return True


@kernel_for(blocks_step, supports=_supports)
def blocks_step_kernel(
    x: Array,
    weights: Sequence[BlockWeights],
    keys: Sequence[Array],
    values: Sequence[Array],
    mask: Mask,
    num_heads: int,
    activation: Activation = "gelu_tanh",
    norm_first: bool = True,
) -> Array:
    (B, T, C), rows, D, F = x.shape, len(weights[0].in_weight), keys[0].shape[3], len(weights[0].up_weight)
    y, packed, places = x.copy(), np.empty((B, T, rows), np.float32), np.empty((len(weights), 14), np.int64)
    zeros = np.zeros(max(C, rows, F), np.float32)  # in place of biases that there are not
    for at, w, k, v in zip(places, weights, keys, values, strict=True):
        _note(at, *(zeros if array is None else array for array in each_weight(w)))
        at[12], at[13] = k.ctypes.data, v.ctypes.data
    eps = np.array([(w.attention_norm.eps, w.feed_forward_norm.eps) for w in weights], np.float32)
    q = packed[..., : num_heads * D].reshape(B, T, num_heads, D).swapaxes(1, 2)
    with pool_for(B * T * C * (rows + 2 * F)):
        _step(
            places,
            eps,
            F,
            packed.reshape(B * T, rows),
            *arguments(q, keys[0], values[0], mask, 0.0, None),
            CODES[activation],
            norm_first,
            y.reshape(B * T, C),
            get_num_threads(),
        )
    return y
