"""Attention on a CPU: tiles of queries by keys that stay in the second-level cache, and no (T, S) matrix.

Optimization history:

1. NumPy: batched products over whole (T, S) matrices, masked, exponentiated and normalized in seven passes over them.
2. One (batch, head) a task, in the backward one (batch, key/value head), and for each tile of queries only the keys
   that some of them see: causal masks leave half the work. The tile's products are single-threaded BLAS calls on q, k
   and v as they lie in the packed projection (k and v until 6.). A running maximum and sum make the softmax (Milakov,
   Gimelshein 2018), the exponential vectorizes, and dropout draws its bits a row at a time.
3. The backward rebuilds each tile from each query's maximum and sum: five products instead of two, and no memory.
4. Every loop over a row of a tile over a slice (see `_kernel`): for 96 causal heads of (256, 64), one core of a Zen 4,
   2026-11-24, forward 24.1 -> 17.6 ms (with dropout 34.9 -> 20.2), backward 45.3 -> 35.9 (49.0 -> 37.3).
5. dq, dk and dv written into one array where there are as many keys as queries: see `multi_head`.
6. The keys, and in the backward the values, of a block transposed once: the BLAS has a kernel for small products, up to
   a million multiplications, which gives 113 GFLOP/s where the left matrix lies as it is, and 77 where it is asked to
   transpose it. Blocks of keys outside, tiles of queries inside, so that one transposed block serves all queries, and
   what the backward adds to dk and dv stays in cache. A maximum that vectorizes (see `_vector`): 0.43 -> 0.05 ns a
   score. Forward and backward of 16 heads of (1024, 64) on one core: 33.0 -> 28.5 and 76.1 -> 66.7 ms.
7. Rows of keys lie pages apart in the packed projection, and no processor foresees that: asking for them ahead of their
   use takes the transposition of 96 heads from 1.6 to 0.8 ms. Asking for queries and values gained nothing.
8. 32 queries instead of 48: less of a tile lies above the diagonal; 3% at T = 256, nothing at T = 4096. With 64, the
   products are too large for the small kernel: 20% slower.
9. For a few queries, as in generation, plain loops over keys and values: the time is that of reading them.
10. The arguments of a product on the stack once a kernel, not once a product: 16,000 positions took all of it before.
11. The maximum and the sum of a query apart, and heads whose result is not finite again by the reference, which leaves
    out the products of zero weights: a hidden key may hold NaN.
12. In bfloat16: rounded copies of q, k, v and dy, and weights rounded in the tile. The forward passes over the keys
    twice, since a weight is known, and can be rounded, only when the sum over all keys is.
13. In bfloat16 on a processor with instructions for it: `_bfloat16_attention`, on the squares of `_products`. The
    scores of 32 queries and all keys stay in cache, so that one pass does. A share of a step: docs/kernels.md.
14. The kernels that OpenBLAS has for processors without AVX-512 know no small products: each call packs its operands
    first, and 32 queries are too few for that. There a tile has 64, and 128 where there are many. Forward and backward
    of (4, 8, T, 64), causal, 2 cores of a Zen 3, 2026-11-28, in turns with PyTorch's: T = 512 77 -> 69 ms (PyTorch's
    101), T = 1024 286 -> 222 (260; with 64 queries 240), of (1, 8, 4096, 64) 1002 -> 748 (745). In another run T = 2048
    1101 -> 810 (864; with 64 queries 885).
15. What a product reads again and again is copied once for each block or tile, so that it lies side by side in the
    cache: values, and in the backward keys, queries and dy; dk and dv are summed up there. Then the products of
    `_float32`, where they were measured to be faster. Forward and backward, causal, same machine, 2026-11-29, in turns:
    with the BLAS, with ours, PyTorch's: (12, 4, 64, 32) 4.7, 3.0, 4.4 ms; (16, 6, 256, 64) 60, 42, 74; (4, 8, T, 64)
    T = 512 69, 50, 95, T = 1024 227, 176, 247; (2, 8, 2048, 64) 409, 324, 431; (1, 8, 4096, 64) 905, 757, 890.

16. In bfloat16, forward and backward of (16, 6, 256, 64), causal, two cores of a Zen 4, 2026-11-29: 6.7 and 16.4 ms, of
    which the products took 2 and 5 and the operands the rest. Packed by `_packing`, in vectors, with rows asked for
    ahead, dk and dv transposed in registers, rows written at an address, not into a view of a view, whose distances the
    compiler takes for unknown, softmax over whole squares: 5.4 and 11.1.

The 96 heads of 4. then take 14.3 and 30.7 ms, and with dropout 18.7 and 36.4 (2026-11-24).
"""

from functools import cache, partial
from math import sqrt
from struct import Struct

import numpy as np

from ..arrays import Array
from ..dispatch import kernel_for
from ..ops.attention import NO_MASK, FusedAttentionSaved, Mask, fused_attention_backward, fused_attention_forward
from ..precision import Precision, precision
from ..random import RandomKey, dropout_threshold
from . import _bfloat16_attention, _float32, _measured, _products, _tiles
from ._amx import LAYOUT
from ._blas import sgemm_address, single_threaded
from ._buffers import empty
from ._kernel import is_float32, of_one_shape, pool_for
from ._products import Kernel
from ._rounding import operands
from ._threads import core_of_blas
from ._tiles import LOWEST, OPTIONS, ZERO

__all__ = [
    "arguments",
    "fused_attention_backward_kernel",
    "fused_attention_forward_kernel",
    "is_strided",
    "supports_mask",
]

KNOWN = Mask._fields.index("slopes") + 1  # fields of a mask
QUERIES, KEYS = 32, 256  # of a tile; its scores are 32 kB
QUERIES_OF_SHORT, QUERIES_OF_LONG, LONG = 64, 128, 1024  # of a tile where the BLAS has no kernel for small products
QUERIES_OF_OURS, SHORT = 64, 256  # of a tile of our own products, and up to which T it has fewer
FEWEST, PROBE, PROBE_MASK = 16, 512, Mask(causal=True)  # queries that are worth a measurement; what is measured
WITHOUT_SMALL_PRODUCTS = ("Haswell", "Zen")  # the kernels of OpenBLAS that were measured
FEW = 8  # queries, as in generation: plain loops, no tiles
LARGEST_MATRIX = 1 << 30  # bytes
NO_BIAS = np.zeros(1, np.float32)
RECORD = Struct("".join(OPTIONS[name].char for name in OPTIONS.names or ()))  # all options at once, not one by one
PRODUCTS = 8  # of q, k and D, in the time of one element of a sweep


def is_strided(x: Array) -> bool:
    """Rows of floats one after the other, at any distance: the BLAS takes them as they lie."""
    return (
        x.dtype == np.float32
        and x.flags.behaved
        and x.size > 0
        and x.strides[3] == 4
        and all(s % 4 == 0 for s in x.strides[:3])
        and (x.strides[2] >= 4 * x.shape[3])
    )


def tile_of(T: int, ours: bool) -> tuple[int, int, bool]:
    """Return how many queries and keys a tile has, as many as are multiplied fastest, and by whose products."""
    if ours:
        return QUERIES if T <= SHORT else QUERIES_OF_OURS, KEYS, True
    if core_of_blas("scipy") not in WITHOUT_SMALL_PRODUCTS:
        return QUERIES, KEYS, False
    return QUERIES_OF_LONG if T >= LONG else QUERIES_OF_SHORT, KEYS, False


@cache
def multiplies_by_ours() -> bool:
    """Return whether the products of tiles are those of `_float32`: where they were measured to be faster."""
    if _float32.fault() is not None:
        return False
    q, k, v = np.random.default_rng(0).standard_normal((3, 1, 2, PROBE, 64), np.float32)
    written = np.empty((1, PROBE, 2, 64), np.float32), *np.empty((2, 1, 2, PROBE), np.float32), np.zeros(2, np.bool_)
    seconds = _measured.seconds_of(
        _measured.file_beside(_tiles.forward, "attention"),
        {
            name: partial(_tiles.forward, *_arguments(q, k, v, PROBE_MASK, 0.0, None, False, ours), *written)
            for name, ours in (("BLAS", False), ("ours", True))
        },
    )
    return seconds["ours"] < seconds["BLAS"]


def arguments(
    q: Array, k: Array, v: Array, mask: Mask, dropout: float, key: RandomKey | None, rounds: bool = False
) -> tuple[Array, Array, Array]:
    """What the kernels of `_tiles` take first: options, lengths, bias. rounds: whether products are in bfloat16."""
    ours = q.shape[2] > FEWEST and multiplies_by_ours()
    return _arguments(q, k, v, mask, dropout, key, rounds, ours)


def _arguments(
    q: Array, k: Array, v: Array, mask: Mask, dropout: float, key: RandomKey | None, rounds: bool, ours: bool
) -> tuple[Array, Array, Array]:
    """As `arguments`. ours: whether products are those of `_float32`."""
    B, H, T, D = q.shape
    _, K, S, _ = k.shape
    if mask.key_lengths is None:
        lengths = np.empty(B, np.int64)
        lengths.fill(S)
    else:  # the mask may have been changed since it was validated, in the forward
        lengths = np.clip(np.array(mask.key_lengths, np.int64), 0, S)
    bias, slopes_from = NO_BIAS, -1
    bias_steps: tuple[int, ...] = (0, 0, 0)
    if mask.array is not None:
        bias, bias_steps = _bias_of(mask.array, (B, H, T, S))
    if mask.slopes is not None:
        if mask.slopes.shape != (H,):
            raise ValueError(f"slopes {mask.slopes.shape} of {H} heads")
        bias, slopes_from = np.concatenate([bias, np.asarray(mask.slopes, np.float32)]), bias.size
    has_bias = mask.array is not None
    options = RECORD.pack(
        sgemm_address(),
        *(q.ctypes.data, k.ctypes.data, v.ctypes.data),
        *[stride // 4 for stride in q.strides[:3] + k.strides[:3] + v.strides[:3]],
        *(B, H, K, T, S, D),
        *(mask.causal, mask.window or 0),
        *(has_bias or mask.soft_cap is not None or slopes_from >= 0, slopes_from, has_bias, *bias_steps),
        *(dropout_threshold(dropout), *(key.words if key else (0, 0, 0, 0)), *tile_of(T, ours), rounds),
        1.0 / sqrt(D),
        1.0 / (1.0 - dropout),
        mask.soft_cap or 0.0,
    )
    bias.flags.writeable = False  # as a view of the caller's may be: it is part of what a kernel is compiled for
    return np.frombuffer(bytearray(options), OPTIONS), lengths, bias


def _bias_of(array: Array, shape: tuple[int, ...]) -> tuple[Array, tuple[int, ...]]:
    """Return what a mask's array adds to scores (B, H, T, S) as one row of floats, and the steps in it along B, H, T.

    One row, so that the kernel is compiled for nothing else.
    """
    bias = array if array.dtype.kind == "f" else np.where(array, ZERO, LOWEST)
    bias = bias if bias.ndim == 4 else bias[None, None]
    np.broadcast_to(bias, shape)  # a ValueError, unless it fits
    bias = np.ascontiguousarray(np.broadcast_to(bias, (*bias.shape[:3], shape[3])), np.float32)
    steps = tuple(s // 4 if n > 1 else 0 for n, s in zip(bias.shape[:3], bias.strides[:3], strict=True))
    return bias.reshape(-1), steps


def supports_mask(mask: Mask) -> bool:
    """Say whether the mask asks for nothing that these kernels do not know, such as a field that is added to it."""
    return mask[KNOWN:] == NO_MASK[KNOWN:]


def _forward_supports(
    q: Array, k: Array, v: Array, mask: Mask = NO_MASK, dropout: float = 0.0, key: RandomKey | None = None
) -> bool:
    return supports_mask(mask) and is_strided(q) and is_strided(k) and is_strided(v)


@kernel_for(fused_attention_forward, supports=_forward_supports)
def fused_attention_forward_kernel(
    q: Array, k: Array, v: Array, mask: Mask = NO_MASK, dropout: float = 0.0, key: RandomKey | None = None
) -> tuple[Array, FusedAttentionSaved]:
    B, H, T, D = q.shape
    y, highest, total = empty((B, T, H, D)), np.empty((B, H, T), np.float32), np.empty((B, H, T), np.float32)
    chosen, wild, work = precision(), np.zeros(B * H, np.bool_), B * H * T * k.shape[2] * D
    is_few = T <= FEW and dropout == 0.0
    if not is_few and (kernel := packed_kernel(chosen)) is not None:
        with pool_for(work // PRODUCTS):
            given = arguments(q, k, v, mask, dropout, key)  # its kernels round what they pack
            _bfloat16_attention.forward(kernel.number, LAYOUT.ctypes.data, *given, y, highest, total, wild)
    elif is_few:  # its loops round what they read
        with pool_for(2 * work):
            _tiles.few(*arguments(q, k, v, mask, dropout, key, chosen == "bfloat16"), y, highest, total)
    else:
        queries, keys, values = operands(chosen, q, k, v)  # whose memory lasts as long as these names
        given = arguments(queries, keys, values, mask, dropout, key, chosen == "bfloat16")
        with single_threaded, pool_for(work // PRODUCTS):
            _tiles.forward(*given, y, highest, total, wild)
    if wild.any() and fits_a_matrix(q, k):
        return fused_attention_forward.reference(q, k, v, mask, dropout, key)
    y = y.swapaxes(1, 2)  # as the output projection wants to read it: merging the heads is a view
    return y, FusedAttentionSaved(q, k, v, y, highest, total, mask, dropout, key, chosen)


def packed_kernel(chosen: Precision) -> Kernel | None:
    """Return the kernel of `_products` that `_bfloat16_attention` computes with; None where `_tiles` serves."""
    return _products.chosen() if chosen == "bfloat16" else None


def fits_a_matrix(q: Array, k: Array) -> bool:
    """Return whether the reference, with its (T, S) matrices, can take over: where a product met 0 · NaN.

    A product of tiles multiplies the zero weights of hidden keys too. The reference leaves them out.
    """
    return 4 * q.shape[0] * q.shape[1] * q.shape[2] * k.shape[2] <= LARGEST_MATRIX


def _backward_supports(dy: Array, saved: FusedAttentionSaved) -> bool:
    q, k, v, y, highest, total, *_ = saved
    if (
        not supports_mask(saved.mask)
        or not all(x.ndim == 4 and is_strided(x) for x in (dy, q, k, v, y))
        or not (is_float32(highest) and is_float32(total))
    ):
        return False
    fit = of_one_shape(q, y, dy) and of_one_shape(k, v) and of_one_shape(q[..., 0], highest, total)
    return fit and k.shape[::3] == q.shape[::3] and q.shape[1] % k.shape[1] == 0


@kernel_for(fused_attention_backward, supports=_backward_supports)
def fused_attention_backward_kernel(dy: Array, saved: FusedAttentionSaved) -> tuple[Array, Array, Array]:
    q, k, v, y, highest, total, mask, dropout, key, chosen = saved
    B, H, T, D = q.shape
    K, S = k.shape[1:3]
    # side by side in one array where the lengths let them, as the backward of the projection wants to read them
    widths = (H * D, K * D, K * D)
    starts = (0, H * D, H * D + K * D) if S == T else (0, 0, 0)
    whole = empty((B, T, sum(widths))) if S == T else None
    lengths = (T, S, S)
    dq, dk, dv = (empty((B, n, w)) if whole is None else whole for n, w in zip(lengths, widths, strict=True))
    # writable, as a kernel is compiled anew for arrays that are not
    statistics = (np.require(x, requirements=["C", "W"]) for x in (highest, total))
    written = dq, dk, dv, np.array(starts), np.zeros(B * K, np.bool_)
    by_time = np.ascontiguousarray(y.swapaxes(1, 2)), *statistics
    work = B * H * T * S * D // PRODUCTS
    if (kernel := packed_kernel(chosen)) is not None:
        with pool_for(work):
            given = arguments(q, k, v, mask, dropout, key)
            factor = np.require(dy.swapaxes(1, 2), requirements=["C", "W"])
            _bfloat16_attention.backward(kernel.number, LAYOUT.ctypes.data, *given, *by_time, factor, *written)
    else:
        queries, keys, values, factor = operands(chosen, q, k, v, dy)
        given = arguments(queries, keys, values, mask, dropout, key, chosen == "bfloat16")
        with single_threaded, pool_for(work):
            _tiles.backward(*given, *by_time, np.ascontiguousarray(factor.swapaxes(1, 2)), *written)
    if written[-1].any() and fits_a_matrix(q, k):
        return fused_attention_backward.reference(dy, saved)
    dq, dk, dv = (
        x[..., start : start + width].reshape(B, -1, width // D, D).swapaxes(1, 2)
        for x, start, width in zip((dq, dk, dv), starts, widths, strict=True)
    )
    return dq, dk, dv
