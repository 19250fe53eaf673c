"""Attention on an NVIDIA GPU: cuDNN's graphs read the packed projection where it lies; no (T, S) matrix is built.

cuDNN's attention computes in bfloat16 and float16 only, so it runs for arrays of these, and for float32 where
`use_precision("bfloat16")` says that products are computed so. Queries, keys and values are views of the projection
(B, T, H + 2K, D), given by their strides; the output is written as (B, T, H, D), and so is each gradient. A graph is
built once for each shape and mask (`_graphs`). Which weights are dropped is drawn by cuDNN, from a seed made of the
key.

All else runs in pieces of the batch (`_pieces`): the reference's numbers.

Versions: 1. graphs of cuDNN's front end 1.27. 2. a projection that is bfloat16 already is read without a copy. Not yet
timed on a GPU.
"""

from importlib import import_module
from typing import Any

import numpy as np

from ..arrays import Array
from ..dispatch import kernel_for
from ..ops.attention import NO_MASK, FusedAttentionSaved, Mask, fused_attention_backward, fused_attention_forward
from ..precision import precision
from ..random import RandomKey, random_bits
from ._graphs import (
    DK,
    DQ,
    DV,
    DY,
    KV_LENGTHS,
    OFFSET,
    Q_LENGTHS,
    SEED,
    STATS,
    K,
    Q,
    Shape,
    V,
    Y,
    graphs,
    rows_first,
)
from ._kernel import ADVANCE, NULL, address_of
from ._pieces import backward_in_pieces, forward_in_pieces, in_pieces
from ._rounded import narrowed

__all__ = ["fused_attention_backward_kernel", "fused_attention_forward_kernel"]

WIDEST, MULTIPLE = 256, 8  # of a head
OFFSET_STEP = 1 << 20  # more random numbers than a thread of cuDNN's draws in a call


def by_cudnn(q: Array, k: Array, mask: Mask) -> bool:
    """Return whether cuDNN computes attention of these arrays in the precision that is asked for."""
    narrow = q.dtype.name in ("bfloat16", "float16") or (q.dtype == np.float32 and precision() == "bfloat16")
    return narrow and fits_cudnn(q, k, mask) and graphs() is not None


def fits_cudnn(q: Array, k: Array, mask: Mask) -> bool:
    """Return whether cuDNN has a graph of these shapes and this mask, whatever the dtype."""
    T, S, D = q.shape[2], k.shape[2], q.shape[3]
    banded = mask.causal or mask.window is not None
    known = mask.array is None and mask.soft_cap is None and mask.slopes is None
    if not known or D % MULTIPLE or D > WIDEST or T * S < 2:
        return False
    # with lengths, cuDNN counts a band from the last key of each row, not from the last of all
    return not (banded and (T > S or (mask.key_lengths is not None and T != S)))


def strides_of(array: Array) -> tuple[int, ...]:
    """Return the strides in elements."""
    return tuple(stride // array.itemsize for stride in array.strides)


def is_readable(array: Array) -> bool:
    """Return whether the numbers of a head lie side by side, at an address that cuDNN reads 16 bytes at a time from."""
    strides = strides_of(array)
    return strides[3] == 1 and not any(each % MULTIPLE for each in strides[:3]) and address_of(array) % 16 == 0


def readable(array: Array) -> Array:
    """Return an array that cuDNN reads, itself or a copy in the order (B, T, H, D)."""
    array = narrowed(array)
    if is_readable(array):
        return array
    return import_module("cupy").ascontiguousarray(array.swapaxes(1, 2)).swapaxes(1, 2)


def seed_of(key: RandomKey) -> int:
    """Return a seed for cuDNN; keys that differ in their offset alone have one seed, and offsets that lie far apart."""
    low, high = (int(word) for word in random_bits(key._replace(offset=0), 1, 2)[0, 0])
    return low | (high >> 1) << 32


def side_inputs(shape: Shape, mask: Mask, key: RandomKey | None) -> dict[int, Array]:
    """Return the lengths and the seed as arrays on the device."""
    cupy = import_module("cupy")
    found: dict[int, Array] = {}
    if shape.padded and mask.key_lengths is not None:
        found[Q_LENGTHS] = cupy.full((shape.q[0],), shape.q[2], np.int32)
        found[KV_LENGTHS] = mask.key_lengths.astype(np.int32, copy=False)
    if shape.dropout and key is not None:
        found[SEED] = cupy.full((1,), seed_of(key), np.int64)
        offset, advance = cupy.full((1,), key.offset, np.int64), ADVANCE.get()
        found[OFFSET] = (offset if advance is NULL else offset + advance.astype(np.int64)) * OFFSET_STEP
    return found


def forward_by_cudnn(q: Array, k: Array, v: Array, mask: Mask, dropout: float, key: RandomKey | None) -> Any:
    """Return y and what the backward needs, of which y is as cuDNN wrote it."""
    cupy, found = import_module("cupy"), graphs()
    assert found is not None
    q16, k16, v16 = map(readable, (q, k, v))
    B, H, T, D = q.shape
    y16 = cupy.empty((B, T, H, D), q16.dtype).swapaxes(1, 2)
    stats = cupy.empty((B, H, T, 1), np.float32)
    strides = tuple(map(strides_of, (q16, k16, v16)))
    padded, p = mask.key_lengths is not None, dropout if key is not None else 0.0
    shape = Shape(False, q16.dtype.name, q.shape, k.shape, strides, mask.causal, mask.window, padded, p)
    side = side_inputs(shape, mask, key)
    arrays = {Q: q16, K: k16, V: v16, Y: y16, STATS: stats, **side}
    found.run(shape, {uid: address_of(array) for uid, array in arrays.items()})
    highest = stats[..., 0]
    sees = cupy.isfinite(highest)
    if padded:  # a query without keys gets zeros
        y16 = cupy.where(sees[..., None], y16, y16.dtype.type(0))
    total = sees.astype(np.float32)
    highest = cupy.where(sees, highest, np.float32(0))
    y = y16.astype(q.dtype, copy=False)
    return y, FusedAttentionSaved(q, k, v, y16, highest, total, mask, dropout, key, precision())


def backward_by_cudnn(dy: Array, saved: FusedAttentionSaved) -> tuple[Array, Array, Array]:
    """Return the gradients, in the dtype of dy, each in the order (B, T, H, D)."""
    cupy, found = import_module("cupy"), graphs()
    assert found is not None
    q, k, v = (readable(array) for array in saved[:3])
    y, dy16 = (_rows_first(narrowed(array)) for array in (saved.y, dy))
    make = cupy.empty if saved.mask.key_lengths is None else cupy.zeros  # keys past a length are not written
    gradients = [make((x.shape[0], x.shape[2], x.shape[1], x.shape[3]), q.dtype).swapaxes(1, 2) for x in (q, k, v)]
    strides = tuple(map(strides_of, (q, k, v, *gradients)))
    padded, p = saved.mask.key_lengths is not None, saved.dropout if saved.key is not None else 0.0
    mask = saved.mask
    shape = Shape(True, q.dtype.name, q.shape, k.shape, strides, mask.causal, mask.window, padded, p)
    total = cupy.where(saved.total == 0, np.float32(1), saved.total)
    stats = cupy.ascontiguousarray((saved.highest + cupy.log(total)).astype(np.float32, copy=False))
    side = side_inputs(shape, mask, saved.key)
    arrays = {Q: q, K: k, V: v, Y: y, DY: dy16, STATS: stats, **dict(zip((DQ, DK, DV), gradients, strict=True)), **side}
    found.run(shape, {uid: address_of(array) for uid, array in arrays.items()})
    dq, dk, dv = (gradient.astype(dy.dtype, copy=False) for gradient in gradients)
    return dq, dk, dv


def _rows_first(array: Array) -> Array:
    """Return (B, H, T, D) whose memory is (B, T, H, D) without gaps."""
    if strides_of(array) == tuple(rows_first(array.shape)):
        return array
    return import_module("cupy").ascontiguousarray(array.swapaxes(1, 2)).swapaxes(1, 2)


# --- the kernels -----------------------------------------------------------------------------------------------------


def supports_forward(
    q: Array, k: Array, v: Array, mask: Mask = NO_MASK, dropout: float = 0.0, key: RandomKey | None = None
) -> bool:
    """Return whether cuDNN computes it, or it must be cut; the reference computes what fits into memory at once."""
    return q.size > 0 and (by_cudnn(q, k, mask) or in_pieces(q, k, mask))


@kernel_for(fused_attention_forward, supports=supports_forward, device="cuda")
def fused_attention_forward_kernel(
    q: Array, k: Array, v: Array, mask: Mask = NO_MASK, dropout: float = 0.0, key: RandomKey | None = None
) -> tuple[Array, FusedAttentionSaved]:
    """See `ops.attention.fused_attention_forward`."""
    found: tuple[Array, FusedAttentionSaved]
    if by_cudnn(q, k, mask):
        found = forward_by_cudnn(q, k, v, mask, dropout, key)
    else:
        found = forward_in_pieces(q, k, v, mask, dropout, key)
    return found


def by_cudnn_before(saved: FusedAttentionSaved) -> bool:
    """Return whether cuDNN computed the forward: its output is in its own dtype, and its graphs take it again."""
    narrow = saved.y.dtype.name in ("bfloat16", "float16")
    return narrow and fits_cudnn(saved.q, saved.k, saved.mask) and graphs() is not None


def supports_backward(dy: Array, saved: FusedAttentionSaved) -> bool:
    """Return whether a kernel computes the backward."""
    return by_cudnn_before(saved) or in_pieces(saved.q, saved.k, saved.mask)


@kernel_for(fused_attention_backward, supports=supports_backward, device="cuda")
def fused_attention_backward_kernel(dy: Array, saved: FusedAttentionSaved) -> tuple[Array, Array, Array]:
    """See `ops.attention.fused_attention_backward`."""
    if by_cudnn_before(saved):
        return backward_by_cudnn(dy, saved)
    return backward_in_pieces(dy, saved)
