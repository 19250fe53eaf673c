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
from typing import Any

import numpy as np
from numba import carray, prange

from ..arrays import Array
from ..dispatch import kernel_for
from ..ops.activation import Activation
from ..ops.attention import Mask
from ..ops.block import BlockWeights, FixedWeights, blocks_step, each_shape, each_weight
from ..precision import precision
from ._blas import pointer
from ._kernel import compile_parallel, compile_part, is_float32, num_threads, pool_for
from ._tiles import few_task
from .activation import CODES, activated_part
from .attention import arguments, is_strided, supports_mask
from .linear import FEW_ROWS, columns_of, rounded_row
from .norm import norm_rows
from .quantized import FLOAT32, ROUNDED, addresses_of, any_columns, is_held

__all__ = ["add_product", "as_multiplied", "as_rounded", "belong_together", "blocks_step_kernel", "remember"]

ZERO = np.float32(0.0)
MATRICES = (2, 4, 8, 10)  # among the arrays of a block: those that may be quantized


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
def as_multiplied(x, rounds, own):
    """Return rows, or their numbers rounded to bfloat16, in `own`, which may be x."""
    if rounds:
        for n in range(x.shape[0]):
            rounded_row(x[n], True, own[n])
        return own
    return x


def as_rounded(scales: Array) -> Array:
    """Return scales and kinds (blocks, matrices, 2), in which matrices of float32 are multiplied as bfloat16."""
    scales = scales.copy()
    kinds = scales[..., 1]
    kinds[kinds == FLOAT32] = ROUNDED
    return scales


@compile_part
def add_product(kind, x, weight, scales, bias, stream, y, first, last):
    """Columns [first, last) of y = stream + x weightᵀ + bias; weight and scales are addresses."""
    any_columns(kind, x, weight, scales, bias, y, first, last)
    for n in range(y.shape[0]):
        a, b = stream[n, first:last], y[n, first:last]
        for i in range(b.size):
            b[i] += a[i]


@compile_part
def _activated_product(kind, x, weight, scales, bias, activation, y, first, last):
    """Columns [first, last) of y = activation(x weightᵀ + bias)."""
    any_columns(kind, x, weight, scales, bias, y, first, last)
    for n in range(y.shape[0]):
        part = y[n, first:last]
        activated_part(part, activation, part)


@compile_parallel
def _step(places, scales, eps, F, packed, options, lengths, bias, activation, norm_first, x, slices):
    """Transform x in place; the steps of `ops.block`, one after the other."""
    o = options[0]
    (N, C), rows, width = x.shape, packed.shape[1], o.H * o.D
    read, stream, hidden = np.empty((N, C), np.float32), np.empty((N, C), np.float32), np.empty((N, F), np.float32)
    heads, statistics = np.empty((o.B, o.T, o.H, o.D), np.float32), np.empty((2, o.B, o.H, o.T), np.float32)
    mean, rstd, merged = np.empty(N, np.float32), np.empty(N, np.float32), heads.reshape(N, width)
    for block in range(places.shape[0]):
        at, held = places[block], scales[block]
        norm_1, shift_1 = carray(pointer(at[0]), (C,)), carray(pointer(at[1]), (C,))
        b_in, b_out = carray(pointer(at[3]), (rows,)), carray(pointer(at[5]), (C,))
        norm_2, shift_2 = carray(pointer(at[6]), (C,)), carray(pointer(at[7]), (C,))
        b_up, b_down = carray(pointer(at[9]), (F,)), carray(pointer(at[11]), (C,))
        eps_1, eps_2 = eps[block]
        o.k_at, o.v_at = at[12], at[13]

        source = x
        if norm_first:
            norm_rows(x, norm_1, shift_1, True, eps_1, read, mean, rstd)
            source = read
        source = as_multiplied(source, o.rounds, read)
        for index in prange(slices):
            first, last = columns_of(index, slices, rows)
            any_columns(held[0, 1], source, at[2], held[0, 0], b_in, packed, first, last)
        remember(packed, options)
        for task in prange(o.B * o.H):
            few_task(np.int64(task), options, lengths, bias, heads, statistics[0], statistics[1])
        merged = as_multiplied(merged, o.rounds, merged)
        for index in prange(slices):
            first, last = columns_of(index, slices, C)
            add_product(held[1, 1], merged, at[4], held[1, 0], b_out, x, stream, first, last)

        source = stream
        if norm_first:
            norm_rows(stream, norm_2, shift_2, True, eps_2, read, mean, rstd)
            source = read
        else:
            norm_rows(stream, norm_1, shift_1, True, eps_1, stream, mean, rstd)
        source = as_multiplied(source, o.rounds, read)
        for index in prange(slices):
            first, last = columns_of(index, slices, F)
            _activated_product(held[2, 1], source, at[8], held[2, 0], b_up, activation, hidden, first, last)
        hidden = as_multiplied(hidden, o.rounds, hidden)
        for index in prange(slices):
            first, last = columns_of(index, slices, C)
            add_product(held[3, 1], hidden, at[10], held[3, 0], b_down, stream, x, first, last)
        if not norm_first:
            norm_rows(x, norm_2, shift_2, True, eps_2, x, mean, rstd)


def _noted(weights: Sequence[BlockWeights], most: int) -> tuple[Array, ...]:
    """Return where the arrays of each block lie, (blocks, 12), scales and kinds of its matrices, eps, and zeros.

    To ask every array takes as long as a tenth of a token. most: the length of the longest bias.
    """
    known: tuple[Array, ...] | None = getattr(weights, "noted", None)
    if known is not None:
        return known
    zeros = np.zeros(most, np.float32)  # in place of biases that there are not
    found = [[addresses_of(zeros if array is None else array) for array in each_weight(w)] for w in weights]
    places = np.array([[each[0] for each in block] for block in found], np.int64)
    scales = np.array([[block[matrix][1:] for matrix in MATRICES] for block in found], np.int64)
    eps = np.array([(w.attention_norm.eps, w.feed_forward_norm.eps) for w in weights], np.float32)
    if isinstance(weights, FixedWeights):
        weights.noted = places, scales, eps, zeros
    return places, scales, eps, zeros


def belong_together(
    x: Array, weights: Sequence[Any], keys: Sequence[Array], values: Sequence[Array], num_heads: int
) -> bool:
    """Return whether keys and values are of as many blocks and heads as the weights, and of the batch of x.

    A cache that a caller holds may be of another batch or model. What is strided is asked of each of them apart.
    """
    (B, T, _), (of_batch, K, S, D) = x.shape, keys[0].shape
    rows = (num_heads + 2 * K) * D
    return of_batch == B and S >= T and len(keys) == len(values) == len(weights) and len(weights[0].in_weight) == rows


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
    # blocks that are alike: one kernel runs through all of them
    if x.size == 0 or not is_float32(x) or not supports_mask(mask):
        return False
    (B, T, C), k, F = x.shape, keys[0], len(weights[0].up_weight)
    if not is_strided(k) or B * T > FEW_ROWS:
        return False
    if not belong_together(x, weights, keys, values, num_heads):
        return False
    K, _, D = k.shape[1:]
    for array in (*keys, *values):
        if array.shape != k.shape or array.strides != k.strides or array.dtype != np.float32:
            return False
        if not array.flags.writeable:
            return False
    if getattr(weights, "noted", None) is not None:  # all of this was asked before
        return True
    shapes = each_shape(C, num_heads, K, D, F)
    for w in weights:
        arrays = each_weight(w)
        if not all(array is None or is_held(array) for array in arrays):
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
    noted, scales, eps, _zeros = _noted(weights, max(C, rows, F))
    places[:, :12] = noted
    if rounds := precision() == "bfloat16":
        scales = as_rounded(scales)
    places[:, 12], places[:, 13] = [k.ctypes.data for k in keys], [v.ctypes.data for v in values]
    q = packed[..., : num_heads * D].reshape(B, T, num_heads, D).swapaxes(1, 2)
    with pool_for(B * T * C * (rows + 2 * F)):
        _step(
            places,
            scales,
            eps,
            F,
            packed.reshape(B * T, rows),
            *arguments(q, keys[0], values[0], mask, 0.0, None, rounds),
            CODES[activation],
            norm_first,
            y.reshape(B * T, C),
            num_threads(),
        )
    return y
