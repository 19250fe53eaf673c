"""Pieces: attention by CuPy for some rows of the batch at a time, so that the weights of a piece fit into memory.

It computes what the reference computes, in float32 and float64, and in bfloat16 where cuDNN cannot be used.

Versions: 1. pieces of the batch. Not yet timed on a GPU.
"""

from importlib import import_module
from math import prod
from typing import Any

import numpy as np

from ..arrays import Array
from ..ops.attention import (
    FusedAttentionSaved,
    Mask,
    masked_scores,
    repeat_heads,
    soft_cap_backward,
    sum_heads,
    weighted_sum,
)
from ..precision import operands, precision
from ..random import RandomKey, dropout_threshold, random_bits

__all__ = ["backward_in_pieces", "forward_in_pieces", "in_pieces", "pieces"]

MOST_WEIGHTS = 1 << 28  # numbers of the attention weights of a piece: 1 GiB in float32


def in_pieces(q: Array, k: Array, mask: Mask) -> bool:
    """Return whether the weights are too many for one piece and can be cut, or CuPy cannot multiply the dtype."""
    return q.dtype.name == "bfloat16" or (q.shape[0] > 1 and prod(q.shape[:3]) * k.shape[2] > MOST_WEIGHTS)


def widened(array: Array) -> Array:
    """Return bfloat16 as float32: CuPy does not multiply it along more than two axes."""
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array


def pieces(q: Array, k: Array) -> list[slice]:
    """Return ranges of the batch whose weights fit."""
    each = max(1, MOST_WEIGHTS // (prod(q.shape[1:3]) * k.shape[2]))
    return [slice(start, min(start + each, len(q))) for start in range(0, len(q), each)]


def _mask_of(mask: Mask, part: slice, batch: int) -> Mask:
    lengths, array = mask.key_lengths, mask.array
    if array is not None and array.ndim == 4 and array.shape[0] == batch:
        array = array[part]
    return mask._replace(key_lengths=None if lengths is None else lengths[part], array=array)


def _drop(weights: Array, dropout: float, key: RandomKey | None, first: int) -> Array:
    """Return `ops.attention.drop_weights` of rows of the batch that begin at `first`."""
    if dropout == 0.0 or key is None:
        return weights
    B, H, T, S = weights.shape
    bits = random_bits(key, B * T, S, heads=H, xp=import_module("cupy"), first=first * T)
    keep = (bits >= np.uint32(dropout_threshold(dropout))).reshape(H, B, T, S).swapaxes(0, 1)
    dropped: Array = weights * keep * weights.dtype.type(1.0 / (1.0 - dropout))
    return dropped


def forward_in_pieces(q: Array, k: Array, v: Array, mask: Mask, dropout: float, key: RandomKey | None) -> Any:
    """Return what the reference returns, computed for some rows of the batch at a time."""
    cupy, group, kind, chosen = import_module("cupy"), q.shape[1] // k.shape[1], q.dtype, precision()
    q, k, v = map(widened, (q, k, v))
    y = cupy.empty_like(q)
    highest, total = (cupy.empty(q.shape[:3], q.dtype) for _ in range(2))
    for part in pieces(q, k):
        queries, keys = operands(chosen, q[part], k[part])
        scores = masked_scores(queries, keys, _mask_of(mask, part, len(q)))
        most = scores.max(-1, keepdims=True)
        most = cupy.where(most != -np.inf, most, scores.dtype.type(0))
        weights = cupy.exp(scores - most)
        sums = weights.sum(-1, keepdims=True)
        weights /= cupy.where(sums == 0, sums.dtype.type(1), sums)
        dropped, values = operands(chosen, _drop(weights, dropout, key, part.start), v[part])
        y[part] = weighted_sum(dropped, repeat_heads(values, group))
        highest[part], total[part] = most[..., 0], sums[..., 0]
    y = y.astype(kind, copy=False)
    q, k, v = (array.astype(kind, copy=False) for array in (q, k, v))
    return y, FusedAttentionSaved(q, k, v, y, highest, total, mask, dropout, key, chosen)


def backward_in_pieces(dy: Array, saved: FusedAttentionSaved) -> tuple[Array, Array, Array]:
    """Return the gradients, computed for some rows of the batch at a time."""
    cupy, (*arrays, highest, total, mask, dropout, key, chosen) = import_module("cupy"), saved
    q, k, v, y, dy_wide = map(widened, (*arrays, dy))
    q, k, v, dy_wide = operands(chosen, q, k, v, dy_wide)
    group, scale = q.shape[1] // k.shape[1], q.dtype.type(q.shape[3] ** -0.5)
    dq, dk, dv = (cupy.empty_like(x) for x in (q, k, v))
    for part in pieces(q, k):
        scores = masked_scores(q[part], k[part], _mask_of(mask, part, len(q)))
        sums = total[part][..., None]
        weights = cupy.exp(scores - highest[part][..., None]) / cupy.where(sums == 0, sums.dtype.type(1), sums)
        (dropped,) = operands(chosen, _drop(weights, dropout, key, part.start))
        dv[part] = sum_heads(weighted_sum(dropped.swapaxes(2, 3), dy_wide[part]), group)
        dweights = _drop(dy_wide[part] @ repeat_heads(v[part], group).swapaxes(2, 3), dropout, key, part.start)
        dscores = weights * (dweights - (dy_wide[part] * y[part]).sum(-1, keepdims=True))
        dscores = soft_cap_backward(
            cupy.where(weights == 0, scale * 0, dscores * scale), q[part], k[part], mask.soft_cap
        )
        (dscores,) = operands(chosen, dscores)
        dq[part] = weighted_sum(dscores, repeat_heads(k[part], group))
        dk[part] = sum_heads(weighted_sum(dscores.swapaxes(2, 3), q[part]), group)
    dq, dk, dv = (gradient.astype(dy.dtype, copy=False) for gradient in (dq, dk, dv))
    return dq, dk, dv
