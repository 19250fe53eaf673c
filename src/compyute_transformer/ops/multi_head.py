"""Multi-head attention built four ways on one set of weights.

    sequential      each head projects its own q, k, v and attends, head after head
    semiparallel    q, k, v are projected for all heads at once; then head after head attends
    parallel        projections and heads are batched matrix products
    fused           as parallel, but no attention weights are kept, and kernels never build them

All compute the same function of the same parameters, in the layout of torch.nn.MultiheadAttention:

    in_weight    ((H + 2K)·D, C): the rows of H query heads, then of K key heads, then of K value heads, D rows each
    out_weight   (C, H·D)
    head_h = attention(x Q_hᵀ, m K_gᵀ, m V_gᵀ), g = ⌊h K/H⌋;   y = [head_0, …, head_{H−1}] out_weightᵀ + out_bias

where m is x itself (self-attention) or a memory with a length of its own (cross-attention).

Source: Vaswani et al. 2017, section 3.2.2: D is their d_k = d_v, C their d_model.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias

from jaxtyping import Float

from ..arrays import Array, array_module
from ..dispatch import dispatched
from ..errors import ShapeError
from ..random import RandomKey
from ._checks import check_floats, check_gradient, check_heads, check_integer, check_saved, check_shape
from .attention import (
    NO_MASK,
    AttentionSaved,
    FusedAttentionSaved,
    Mask,
    attention_backward,
    attention_forward,
    check_dropout_of_weights,
    check_mask,
    fused_attention_backward,
    fused_attention_forward,
    fused_attention_weights,
)
from .linear import LinearSaved, linear_backward, linear_forward

__all__ = [
    "IMPLEMENTATIONS",
    "Implementation",
    "attention_weights",
    "fused_multi_head_backward",
    "fused_multi_head_forward",
    "parallel_multi_head_backward",
    "parallel_multi_head_forward",
    "semiparallel_multi_head_backward",
    "semiparallel_multi_head_forward",
    "sequential_multi_head_backward",
    "sequential_multi_head_forward",
]

Implementation = Literal["sequential", "semiparallel", "parallel", "fused"]

X: TypeAlias = Float[Array, "B T C"]
Memory: TypeAlias = Float[Array, "B S C"]
InWeight: TypeAlias = Float[Array, "W C"]
InBias: TypeAlias = Float[Array, "W"]
OutWeight: TypeAlias = Float[Array, "C HD"]
OutBias: TypeAlias = Float[Array, "C"]
Gradients: TypeAlias = tuple[X, Memory | None, InWeight, InBias | None, OutWeight, OutBias | None]

# --- sequential ----------------------------------------------------------------------------------------------------


class HeadSaved(NamedTuple):
    """What one head saved: its three projections and its attention. rows: its rows of in_weight, for q, k and v."""

    q: LinearSaved
    k: LinearSaved
    v: LinearSaved
    attention: AttentionSaved
    rows: tuple[slice, ...]


class SequentialSaved(NamedTuple):
    """heads: one after the other. out: the output projection. in_weight, has_memory: to shape the gradients."""

    heads: tuple[HeadSaved, ...]
    out: LinearSaved
    in_weight: Array
    has_memory: bool


def sequential_multi_head_forward(
    x: X,
    memory: Memory | None,
    in_weight: InWeight,
    in_bias: InBias | None,
    out_weight: OutWeight,
    out_bias: OutBias | None,
    num_heads: int,
    num_kv_heads: int | None = None,
    mask: Mask = NO_MASK,
    dropout: float = 0.0,
    key: RandomKey | None = None,
) -> tuple[X, SequentialSaved]:
    """Multi-head attention, each head on its own from projection to output (formula in the module's docstring).

    Shapes:
        x, y (B, T, C); memory (B, S, C) or None; weights as above; float, of one dtype.
    Saves:
        x, memory and weights, no copies; each head's q, k, v and attention weights.
    Raises:
        ShapeError, RangeError, DtypeError: as `check_multi_head` and `attention_forward` say.
    Source:
        Vaswani et al. 2017, section 3.2.2.
    """
    D, num_kv_heads = check_multi_head(
        x, memory, in_weight, in_bias, out_weight, out_bias, num_heads, num_kv_heads, mask, dropout, key
    )
    xp = array_module(x)
    m = x if memory is None else memory
    outputs, heads = [], []
    for h in range(num_heads):
        g = h * num_kv_heads // num_heads
        starts = h, num_heads + g, num_heads + num_kv_heads + g
        rows = q_rows, k_rows, v_rows = tuple(slice(start * D, (start + 1) * D) for start in starts)
        q, q_saved = linear_forward(x, in_weight[q_rows], None if in_bias is None else in_bias[q_rows])
        k, k_saved = linear_forward(m, in_weight[k_rows], None if in_bias is None else in_bias[k_rows])
        v, v_saved = linear_forward(m, in_weight[v_rows], None if in_bias is None else in_bias[v_rows])
        head_key = None if key is None else key.for_head(h)
        y, attention_saved = attention_forward(q[:, None], k[:, None], v[:, None], mask.for_head(h), dropout, head_key)
        outputs.append(y[:, 0])
        heads.append(HeadSaved(q_saved, k_saved, v_saved, attention_saved, rows))
    y, out_saved = linear_forward(xp.concatenate(outputs, axis=-1), out_weight, out_bias)
    return y, SequentialSaved(tuple(heads), out_saved, in_weight, memory is not None)


def sequential_multi_head_backward(dy: X, saved: SequentialSaved) -> Gradients:
    """Gradients of `sequential_multi_head_forward`: dx, dmemory, din_weight, din_bias, dout_weight, dout_bias."""
    heads, out_saved, in_weight, has_memory = saved
    xp = array_module(dy)
    has_bias = heads[0].q.has_bias
    dheads, dout_weight, dout_bias = linear_backward(dy, out_saved)
    dx = xp.zeros_like(heads[0].q.x)
    dm = xp.zeros_like(heads[0].k.x) if has_memory else dx  # in self-attention one array gathers all three
    din_weight = xp.zeros_like(in_weight)
    din_bias = xp.zeros_like(in_weight[:, 0]) if has_bias else None
    D = dheads.shape[-1] // len(heads)
    for h in reversed(range(len(heads))):
        head = heads[h]
        dq, dk, dv = attention_backward(dheads[:, None, :, h * D : (h + 1) * D], head.attention)
        for dprojected, projection, rows, dinput in zip(
            (dq, dk, dv), (head.q, head.k, head.v), head.rows, (dx, dm, dm), strict=True
        ):
            dpart, dweight, dbias = linear_backward(dprojected[:, 0], projection)
            dinput += dpart
            din_weight[rows] += dweight
            if din_bias is not None:
                din_bias[rows] += dbias
    return dx, dm if has_memory else None, din_weight, din_bias, dout_weight, dout_bias


# --- the projection that semiparallel and parallel share -----------------------------------------------------------


class ProjectionSaved(NamedTuple):
    """x: the product with x. memory: the product with the memory, None in self-attention, where x's holds all."""

    x: LinearSaved
    memory: LinearSaved | None


def project_forward(
    x: X,
    memory: Memory | None,
    in_weight: InWeight,
    in_bias: InBias | None,
    num_heads: int,
    num_kv_heads: int,
    D: int,
) -> tuple[tuple[Array, Array, Array], ProjectionSaved]:
    """Queries (B, H, T, D), keys and values (B, K, S, D) of all heads, as views of one product, or of two."""
    queries, keys = num_heads * D, num_kv_heads * D
    if memory is None:
        qkv, x_saved = linear_forward(x, in_weight, in_bias)
        q, kv, memory_saved = qkv[..., :queries], qkv[..., queries:], None
    else:
        q_bias, kv_bias = (None, None) if in_bias is None else (in_bias[:queries], in_bias[queries:])
        q, x_saved = linear_forward(x, in_weight[:queries], q_bias)
        kv, memory_saved = linear_forward(memory, in_weight[queries:], kv_bias)
    heads = split_heads(q, D), split_heads(kv[..., :keys], D), split_heads(kv[..., keys:], D)
    return heads, ProjectionSaved(x_saved, memory_saved)


def project_backward(
    dq: Array, dk: Array, dv: Array, saved: ProjectionSaved
) -> tuple[X, Memory | None, InWeight, InBias | None]:
    """Gradients of `project_forward`: dx, dmemory, din_weight, din_bias."""
    xp = array_module(dq)
    parts = merge_heads(dq), merge_heads(dk), merge_heads(dv)
    if saved.memory is None:
        dx, din_weight, din_bias = linear_backward(xp.concatenate(parts, axis=-1), saved.x)
        return dx, None, din_weight, din_bias
    dx, dq_weight, dq_bias = linear_backward(parts[0], saved.x)
    dmemory, dkv_weight, dkv_bias = linear_backward(xp.concatenate(parts[1:], axis=-1), saved.memory)
    din_bias = None if dq_bias is None else xp.concatenate([dq_bias, dkv_bias])
    return dx, dmemory, xp.concatenate([dq_weight, dkv_weight]), din_bias


def split_heads(x: Float[Array, "B T HD"], D: int) -> Float[Array, "B H T D"]:
    """Cut the width into heads, a view."""
    B, T, width = x.shape
    return x.reshape(B, T, width // D, D).swapaxes(1, 2)


def merge_heads(x: Float[Array, "B H T D"]) -> Float[Array, "B T HD"]:
    """Lay the heads side by side again; undoes `split_heads`, and is its gradient."""
    B, H, T, D = x.shape
    return x.swapaxes(1, 2).reshape(B, T, H * D)


# --- semiparallel --------------------------------------------------------------------------------------------------


class SemiparallelSaved(NamedTuple):
    """projection: of all heads at once. heads: one attention after the other. out: the output projection."""

    projection: ProjectionSaved
    heads: tuple[AttentionSaved, ...]
    out: LinearSaved
    num_kv_heads: int


def semiparallel_multi_head_forward(
    x: X,
    memory: Memory | None,
    in_weight: InWeight,
    in_bias: InBias | None,
    out_weight: OutWeight,
    out_bias: OutBias | None,
    num_heads: int,
    num_kv_heads: int | None = None,
    mask: Mask = NO_MASK,
    dropout: float = 0.0,
    key: RandomKey | None = None,
) -> tuple[X, SemiparallelSaved]:
    """Multi-head attention, projected for all heads at once, then head after head.

    Shapes, Raises, Source:
        as `sequential_multi_head_forward`.
    Saves:
        x, memory and weights, no copies; q, k, v once; each head's attention weights.
    """
    D, num_kv_heads = check_multi_head(
        x, memory, in_weight, in_bias, out_weight, out_bias, num_heads, num_kv_heads, mask, dropout, key
    )
    (q, k, v), projection = project_forward(x, memory, in_weight, in_bias, num_heads, num_kv_heads, D)
    outputs, heads = [], []
    for h in range(num_heads):
        g = h * num_kv_heads // num_heads
        head_key = None if key is None else key.for_head(h)
        y, attention_saved = attention_forward(
            q[:, h : h + 1], k[:, g : g + 1], v[:, g : g + 1], mask.for_head(h), dropout, head_key
        )
        outputs.append(y)
        heads.append(attention_saved)
    y, out_saved = linear_forward(merge_heads(array_module(x).concatenate(outputs, axis=1)), out_weight, out_bias)
    return y, SemiparallelSaved(projection, tuple(heads), out_saved, num_kv_heads)


def semiparallel_multi_head_backward(dy: X, saved: SemiparallelSaved) -> Gradients:
    """Gradients of `semiparallel_multi_head_forward`: dx, dmemory, din_weight, din_bias, dout_weight, dout_bias."""
    projection, heads, out_saved, num_kv_heads = saved
    xp = array_module(dy)
    dmerged, dout_weight, dout_bias = linear_backward(dy, out_saved)
    num_heads = len(heads)
    B, _, S, D = heads[0].k.shape
    dheads = split_heads(dmerged, D)
    dq = xp.empty_like(dheads)
    dk, dv = xp.zeros((2, B, num_kv_heads, S, D), dtype=dy.dtype)
    for h in reversed(range(num_heads)):
        g = h * num_kv_heads // num_heads
        dq[:, h : h + 1], dk_head, dv_head = attention_backward(dheads[:, h : h + 1], heads[h])
        dk[:, g : g + 1] += dk_head
        dv[:, g : g + 1] += dv_head
    dx, dmemory, din_weight, din_bias = project_backward(dq, dk, dv, projection)
    return dx, dmemory, din_weight, din_bias, dout_weight, dout_bias


# --- parallel ------------------------------------------------------------------------------------------------------


class ParallelSaved(NamedTuple):
    """projection: of all heads at once. attention: of all heads at once. out: the output projection."""

    projection: ProjectionSaved
    attention: AttentionSaved
    out: LinearSaved


def parallel_multi_head_forward(
    x: X,
    memory: Memory | None,
    in_weight: InWeight,
    in_bias: InBias | None,
    out_weight: OutWeight,
    out_bias: OutBias | None,
    num_heads: int,
    num_kv_heads: int | None = None,
    mask: Mask = NO_MASK,
    dropout: float = 0.0,
    key: RandomKey | None = None,
) -> tuple[X, ParallelSaved]:
    """Multi-head attention, all heads at once throughout.

    Shapes, Raises, Source:
        as `sequential_multi_head_forward`.
    Saves:
        x, memory and weights, no copies; q, k, v once; the attention weights of all heads.
    """
    D, num_kv_heads = check_multi_head(
        x, memory, in_weight, in_bias, out_weight, out_bias, num_heads, num_kv_heads, mask, dropout, key
    )
    (q, k, v), projection = project_forward(x, memory, in_weight, in_bias, num_heads, num_kv_heads, D)
    heads, attention_saved = attention_forward(q, k, v, mask, dropout, key)
    y, out_saved = linear_forward(merge_heads(heads), out_weight, out_bias)
    return y, ParallelSaved(projection, attention_saved, out_saved)


def parallel_multi_head_backward(dy: X, saved: ParallelSaved) -> Gradients:
    """Gradients of `parallel_multi_head_forward`: dx, dmemory, din_weight, din_bias, dout_weight, dout_bias."""
    projection, attention_saved, out_saved = saved
    dmerged, dout_weight, dout_bias = linear_backward(dy, out_saved)
    dheads = split_heads(dmerged, attention_saved.q.shape[3])
    dq, dk, dv = attention_backward(dheads, attention_saved)
    dx, dmemory, din_weight, din_bias = project_backward(dq, dk, dv, projection)
    return dx, dmemory, din_weight, din_bias, dout_weight, dout_bias


# --- fused ---------------------------------------------------------------------------------------------------------


class FusedSaved(NamedTuple):
    """projection: of all heads at once. attention: the same, without weights. out: the output projection."""

    projection: ProjectionSaved
    attention: FusedAttentionSaved
    out: LinearSaved


def fused_multi_head_forward(
    x: X,
    memory: Memory | None,
    in_weight: InWeight,
    in_bias: InBias | None,
    out_weight: OutWeight,
    out_bias: OutBias | None,
    num_heads: int,
    num_kv_heads: int | None = None,
    mask: Mask = NO_MASK,
    dropout: float = 0.0,
    key: RandomKey | None = None,
) -> tuple[X, FusedSaved]:
    """Multi-head attention, all heads at once, with `fused_attention_forward` in the middle.

    Shapes, Raises, Source:
        as `sequential_multi_head_forward`.
    Saves:
        x, memory and weights, no copies; q, k, v once; the heads' outputs; one number a query, no attention weights.
    """
    D, num_kv_heads = check_multi_head(
        x, memory, in_weight, in_bias, out_weight, out_bias, num_heads, num_kv_heads, mask, dropout, key
    )
    (q, k, v), projection = project_forward(x, memory, in_weight, in_bias, num_heads, num_kv_heads, D)
    heads, attention_saved = fused_attention_forward(q, k, v, mask, dropout, key)
    y, out_saved = linear_forward(merge_heads(heads), out_weight, out_bias)
    return y, FusedSaved(projection, attention_saved, out_saved)


def check_fused_multi_head_backward(dy: Any, saved: Any) -> None:
    check_saved("fused_multi_head_backward", saved, FusedSaved)
    x = saved.projection.x.x
    check_gradient("fused_multi_head_backward", dy, x, x.shape)


@dispatched(validate=check_fused_multi_head_backward)
def fused_multi_head_backward(dy: X, saved: FusedSaved) -> Gradients:
    """Gradients of `fused_multi_head_forward`: dx, dmemory, din_weight, din_bias, dout_weight, dout_bias."""
    projection, attention_saved, out_saved = saved
    dmerged, dout_weight, dout_bias = linear_backward(dy, out_saved)
    dheads = split_heads(dmerged, attention_saved.q.shape[3])
    dq, dk, dv = fused_attention_backward(dheads, attention_saved)
    dx, dmemory, din_weight, din_bias = project_backward(dq, dk, dv, projection)
    return dx, dmemory, din_weight, din_bias, dout_weight, dout_bias


# --- all four ------------------------------------------------------------------------------------------------------

IMPLEMENTATIONS: dict[str, tuple[Callable[..., tuple[Array, Any]], Callable[[Array, Any], Gradients]]] = {
    "sequential": (sequential_multi_head_forward, sequential_multi_head_backward),
    "semiparallel": (semiparallel_multi_head_forward, semiparallel_multi_head_backward),
    "parallel": (parallel_multi_head_forward, parallel_multi_head_backward),
    "fused": (fused_multi_head_forward, fused_multi_head_backward),
}


def attention_weights(
    saved: SequentialSaved | SemiparallelSaved | ParallelSaved | FusedSaved,
) -> Float[Array, "B H T S"]:
    """The attention weights of any of the four: before dropout, so the row of a query with a key sums to one."""
    if isinstance(saved, FusedSaved):  # which kept none: they are rebuilt
        return fused_attention_weights(saved.attention)
    if isinstance(saved, ParallelSaved):
        return saved.attention.weights
    if isinstance(saved, SemiparallelSaved):
        per_head = [head.weights for head in saved.heads]
    else:
        per_head = [head.attention.weights for head in saved.heads]
    weights: Array = array_module(per_head[0]).concatenate(per_head, axis=1)
    return weights


def check_multi_head(
    x: Any,
    memory: Any,
    in_weight: Any,
    in_bias: Any,
    out_weight: Any,
    out_bias: Any,
    num_heads: Any,
    num_kv_heads: Any,
    mask: Any,
    dropout: Any,
    key: Any,
) -> tuple[int, int]:
    """Refuse what does not fit together. Returns D, the width of a head, and K, the number of key/value heads.

    Raises:
        ShapeError: x or memory has not three axes, their batches or widths differ, the heads do not divide the width,
        a weight has another shape than they ask for, or the mask another than the scores. RangeError: fewer than one
        head; a window below 1. DtypeError: dtypes differ.
    """
    op = "multi_head_attention"
    optional = {"memory": memory, "in_bias": in_bias, "out_bias": out_bias}
    check_floats(op, optional, x=x, in_weight=in_weight, out_weight=out_weight)
    check_shape(op, "x", x, (None, None, None), "batch, time, width")
    B, _, C = x.shape
    if memory is not None:
        check_shape(op, "memory", memory, (B, None, C), "batch and width as in x")
    check_shape(op, "out_weight", out_weight, (C, None), "the width of x by all heads side by side")
    width = out_weight.shape[1]
    check_integer(op, "num_heads", num_heads, 1)
    K = num_heads if num_kv_heads is None else num_kv_heads
    check_heads(op, width, num_heads, K)
    D = width // num_heads
    rows = (num_heads + 2 * K) * D
    check_shape(op, "in_weight", in_weight, (rows, C), f"{num_heads} query, {K} key and {K} value heads of width {D}")
    if in_bias is not None:
        check_shape(op, "in_bias", in_bias, (rows,), "one number a row of in_weight")
    if out_bias is not None:
        check_shape(op, "out_bias", out_bias, (C,), "the width of x")
    if x.shape[1] == 0:
        raise ShapeError(f"{op}: there must be at least one query, got x of shape {tuple(x.shape)}.")
    check_dropout_of_weights(op, dropout, key)
    S = x.shape[1] if memory is None else memory.shape[1]
    check_mask(mask, (B, num_heads, x.shape[1], S))  # here, before each head takes its part of it
    return D, K
