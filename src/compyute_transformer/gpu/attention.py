"""Attention on an NVIDIA GPU: cuDNN's graphs read the packed projection where it lies; no (T, S) matrix is built.

cuDNN's attention computes in bfloat16 and float16 only, so it runs for arrays of these, and for float32 where
`use_precision("bfloat16")` says that products are computed so. Queries, keys and values are views of the projection
(B, T, H + 2K, D), given by their strides; the output is written as (B, T, H, D), and so is each gradient. A graph is
built once for each shape and mask. Which weights are dropped is drawn by cuDNN, from a seed made of the key.

All else runs in pieces of the batch, so that the weights of a piece fit into memory: the reference's numbers.

Versions: 1. graphs of cuDNN's front end 1.27. Not yet timed on a GPU.
"""

import logging
from functools import cache
from importlib import import_module
from math import prod
from typing import Any, NamedTuple

import numpy as np

from ..arrays import Array
from ..dispatch import kernel_for
from ..errors import BackendError
from ..ops.attention import (
    NO_MASK,
    FusedAttentionSaved,
    Mask,
    fused_attention_backward,
    fused_attention_forward,
    masked_scores,
    repeat_heads,
    sum_heads,
    weighted_sum,
)
from ..precision import operands, precision
from ..random import RandomKey, dropout_threshold, random_bits
from ._kernel import ADVANCE, NULL, address_of
from ._rounded import narrowed

__all__ = ["fused_attention_backward_kernel", "fused_attention_forward_kernel"]

MOST_WEIGHTS = 1 << 28  # numbers of the attention weights of a piece: 1 GiB in float32
WIDEST, MULTIPLE = 256, 8  # of a head
OFFSET_STEP = 1 << 20  # more random numbers than a thread of cuDNN's draws in a call
Q, K, V, Y, STATS, DY, DQ, DK, DV, SEED, OFFSET, Q_LENGTHS, KV_LENGTHS = range(1, 14)


class Shape(NamedTuple):
    """What a graph is built for. strides: of q, k and v, and of the gradients, in elements."""

    backward: bool
    dtype: str
    q: tuple[int, ...]
    k: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]
    causal: bool
    window: int | None
    padded: bool
    dropout: float


# --- cuDNN -----------------------------------------------------------------------------------------------------------


class Graphs:
    """The handle of cuDNN, its graphs by what they are for, and the workspace that they share."""

    def __init__(self, library: Any) -> None:
        self.library, self.cupy = library, import_module("cupy")
        self.handle = library.create_handle()
        self.graphs: dict[Shape, Any] = {}
        self.workspace = self.cupy.empty(1, np.uint8)

    def run(self, shape: Shape, pointers: dict[int, int]) -> None:
        """Execute the graph of a shape on the current stream."""
        stream = self.cupy.cuda.get_current_stream()
        if shape not in self.graphs:
            if stream.is_capturing():
                raise BackendError(
                    "attention: a graph of cuDNN is built before it is captured, got a new shape. Run the step once "
                    "before."
                )
            self.graphs[shape] = self._build(shape)
        graph = self.graphs[shape]
        self.library.set_stream(handle=self.handle, stream=stream.ptr)
        graph.execute(pointers, address_of(self.workspace), handle=self.handle)

    def _build(self, shape: Shape) -> Any:
        library = self.library
        kinds = library.data_type
        kind = {"bfloat16": kinds.BFLOAT16, "float16": kinds.HALF}[shape.dtype]
        graph = library.pygraph(
            io_data_type=kind,
            intermediate_data_type=kinds.FLOAT,
            compute_data_type=kinds.FLOAT,
            handle=self.handle,
        )
        if shape.backward:
            self._describe_backward(graph, shape, kind)
        else:
            self._describe_forward(graph, shape, kind)
        graph.validate()
        graph.build_operation_graph()
        graph.create_execution_plans([library.heur_mode.A, library.heur_mode.FALLBACK])
        graph.check_support()
        graph.build_plans()
        size = graph.get_workspace_size()
        if size > self.workspace.size:
            self.workspace = self.cupy.empty(size, np.uint8)
        return graph

    def _inputs(self, graph: Any, shape: Shape, kind: Any) -> dict[str, Any]:
        sizes = (shape.q, shape.k, shape.k)
        return {
            name: graph.tensor(name=name, uid=uid, dim=list(size), stride=list(stride), data_type=kind)
            for name, uid, size, stride in zip("qkv", (Q, K, V), sizes, shape.strides, strict=False)
        }

    def _options(self, graph: Any, shape: Shape) -> dict[str, Any]:
        """Return the mask and the dropout of a graph."""
        kinds, alignment = self.library.data_type, self.library.diagonal_alignment
        B, _, T, D = shape.q
        options: dict[str, Any] = {"attn_scale": D**-0.5}
        if shape.causal or shape.window is not None:
            is_square = shape.k[2] == T
            options["diagonal_alignment"] = alignment.TOP_LEFT if is_square else alignment.BOTTOM_RIGHT
            options["diagonal_band_right_bound"] = 0 if shape.causal else (shape.window or 1) - 1
            if shape.window is not None:
                options["diagonal_band_left_bound"] = shape.window
        if shape.padded:
            column = {"dim": [B, 1, 1, 1], "stride": [1, 1, 1, 1], "data_type": kinds.INT32}
            options["use_padding_mask"] = True
            options["seq_len_q"] = graph.tensor(name="q_lengths", uid=Q_LENGTHS, **column)
            options["seq_len_kv"] = graph.tensor(name="kv_lengths", uid=KV_LENGTHS, **column)
        if shape.dropout:
            one = {"dim": [1] * 4, "stride": [1] * 4, "data_type": kinds.INT64}
            seed, offset = (graph.tensor(name=n, uid=u, **one) for n, u in (("seed", SEED), ("offset", OFFSET)))
            options["dropout"] = (shape.dropout, seed, offset)
        return options

    def _describe_forward(self, graph: Any, shape: Shape, kind: Any) -> None:
        inputs, options = self._inputs(graph, shape, kind), self._options(graph, shape)
        y, stats = graph.sdpa(**inputs, generate_stats=True, **options)
        y.set_output(True).set_uid(Y).set_dim(list(shape.q)).set_stride(rows_first(shape.q)).set_data_type(kind)
        stats.set_output(True).set_uid(STATS).set_data_type(self.library.data_type.FLOAT)

    def _describe_backward(self, graph: Any, shape: Shape, kind: Any) -> None:
        inputs, options = self._inputs(graph, shape, kind), self._options(graph, shape)
        B, H, T, _ = shape.q
        of_y = {"dim": list(shape.q), "stride": rows_first(shape.q), "data_type": kind}
        y, dy = (graph.tensor(name=name, uid=uid, **of_y) for name, uid in (("o", Y), ("dO", DY)))
        stats = graph.tensor(
            name="stats",
            uid=STATS,
            dim=[B, H, T, 1],
            stride=[H * T, T, 1, 1],
            data_type=self.library.data_type.FLOAT,
        )
        gradients = graph.sdpa_backward(**inputs, o=y, dO=dy, stats=stats, **options)
        sizes = (shape.q, shape.k, shape.k)
        for each, uid, size, stride in zip(gradients, (DQ, DK, DV), sizes, shape.strides[3:], strict=True):
            each.set_output(True).set_uid(uid).set_dim(list(size)).set_stride(list(stride)).set_data_type(kind)


def rows_first(size: tuple[int, ...]) -> list[int]:
    """Return the strides of (B, H, T, D) that lies in memory as (B, T, H, D)."""
    _, H, T, D = size
    return [T * H * D, D, H * D, 1]


@cache
def graphs() -> Graphs | None:
    """Return cuDNN's graphs; None where the front end or cuDNN cannot be loaded, which is said once."""
    try:
        load = import_module("cuda.pathfinder").load_nvidia_dynamic_lib
        for name in ("cudart", "nvrtc", "cublasLt"):  # cuDNN compiles with them, and does not find them itself
            load(name)
        return Graphs(import_module("cudnn"))
    except Exception as error:  # a library that is missing or too old surfaces as any of several errors
        logging.getLogger("compyute_transformer").warning(
            "Attention runs in pieces by CuPy, which is slower, and cannot be captured: cuDNN cannot be used (%s: %s). "
            "pip install 'compyute-transformer[gpu]'",
            type(error).__name__,
            error,
        )
        return None


def by_cudnn(q: Array, k: Array, mask: Mask) -> bool:
    """Return whether cuDNN computes attention of these arrays in the precision that is asked for."""
    narrow = q.dtype.name in ("bfloat16", "float16") or (q.dtype == np.float32 and precision() == "bfloat16")
    return narrow and fits_cudnn(q, k, mask) and graphs() is not None


def fits_cudnn(q: Array, k: Array, mask: Mask) -> bool:
    """Return whether cuDNN has a graph of these shapes and this mask, whatever the dtype."""
    T, S, D = q.shape[2], k.shape[2], q.shape[3]
    banded = mask.causal or mask.window is not None
    if mask.array is not None or D % MULTIPLE or D > WIDEST or T * S < 2:
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


# --- pieces ----------------------------------------------------------------------------------------------------------


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
        (dscores,) = operands(chosen, cupy.where(weights == 0, scale * 0, dscores * scale))
        dq[part] = weighted_sum(dscores, repeat_heads(k[part], group))
        dk[part] = sum_heads(weighted_sum(dscores.swapaxes(2, 3), q[part]), group)
    dq, dk, dv = (gradient.astype(dy.dtype, copy=False) for gradient in (dq, dk, dv))
    return dq, dk, dv


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
