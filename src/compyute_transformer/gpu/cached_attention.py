"""Attention of one further token of each row to a cache, whose length is on the GPU; see `cached_attention.cu`.

Optimization history:

1. One kernel turns queries and keys, adds to the cache and attends; long caches in parts. No time was measured yet,
since the first GPU is still to come.
"""

from typing import NamedTuple

import numpy as np

from ..arrays import Array, array_module
from ._kernel import NULL, kernel

__all__ = ["CacheState", "attend_to_cache", "cached_attention_fault"]

WARPS, WIDEST = 8, 256  # of a block, and of a head, as in `cached_attention.cu`
BLOCKS = 264  # at least, where the cache is long enough: two for each multiprocessor of an H100 or H200
POSITIONS = 64  # of a part, at least


class CacheState(NamedTuple):
    """What changes from token to token: how many positions are filled, and how many of each row hold no token.

    length: (1) int32. padding: (B) int32.
    """

    length: Array
    padding: Array


def cached_attention_fault(head_dim: int) -> str | None:
    """Return why heads of a width are not supported, in one sentence; None where they are."""
    columns = next((n for n in (1, 2, 4, 8) if head_dim <= 32 * n), None)  # of a lane, which it loads at once
    if columns is None or head_dim % columns:
        return (
            "heads have at most 32 columns, an even number up to 64, a multiple of 4 up to 128, or a multiple of 8 up "
            f"to {WIDEST}, got {head_dim}"
        )
    return None


def attend_to_cache(
    packed: Array,
    keys: Array,
    values: Array,
    state: CacheState,
    tables: tuple[Array, Array] | None = None,
    window: int | None = None,
    parts: int | None = None,
) -> Array:
    """Add one position to keys and values, and return the attention (B, H · D) of its queries to all of them.

    packed: (B, (H + 2K) · D), the queries, keys and values of the token. keys, values: (B, K, capacity, D). tables: the
    cosines and sines (capacity or more, P) by which queries and keys are turned. parts: of the positions, a block each.
    """
    B, K, capacity, D = keys.shape
    H = packed.shape[1] // D - 2 * K
    if parts is None:
        parts = max(1, min(-(-BLOCKS // (B * H)), capacity // POSITIONS))
    xp = array_module(packed)
    y = xp.empty((B, H * D), packed.dtype)
    partials = xp.empty((B * H * parts, D + 2), np.float32) if parts > 1 else NULL
    cos, sin = (packed, packed) if tables is None else tables
    P = 0 if tables is None else cos.shape[1]
    numbers = (np.int32(n) for n in (K, D, P, capacity, window or 0))
    kernel("cached_attention", "attend_to_cache", packed.dtype)(
        (H, B, parts),
        (32 * WARPS,),
        (packed, keys, values, *state, cos, sin, partials, y, *numbers, np.float32(D**-0.5)),
    )
    if parts > 1:
        kernel("cached_attention", "merge_parts", packed.dtype)(
            (B * H,), (min(32 * WARPS, -(-D // 32) * 32),), (partials, y, np.int32(parts), np.int32(D))
        )
    return y
