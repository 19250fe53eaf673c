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

`sequential` is written out as the formula reads. The other three share one forward and one backward, and differ only
in the attention between the two projections.

Source: Vaswani et al. 2017, section 3.2.2: D is their d_k = d_v, C their d_model.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias

from jaxtyping import Float

from ..arrays import Array, array_module
from ..dispatch import dispatched
from ..errors import InputError, ShapeError
from ..random import RandomKey
from ._checks import check_floats, check_gradient, check_heads, check_integer, check_shape
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
from .quantized import arrays_of

__all__ = [
    "IMPLEMENTATIONS",
    "Implementation",
    "MultiHeadOptions",
    "attention_weights",
    "fused_multi_head_backward",
    "fused_multi_head_forward",
    "parallel_multi_head_backward",
    "parallel_multi_head_forward",
    "project_backward",
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
Gradients: TypeAlias = tuple[X, Memory | None, InWeight | None, InBias | None, OutWeight | None, OutBias | None]


class Needs(NamedTuple):
    """Which gradients of parameters a backward computes; None is returned for the others, and for biases left out."""

    in_weight: bool = True
    in_bias: bool = True
    out_weight: bool = True
    out_bias: bool = True


ALL = Needs()


class MultiHeadOptions(NamedTuple):
    """num_heads: H. num_kv_heads: K, which divides H; None means H. mask, dropout, key: see `attention_forward`."""

    num_heads: int
    num_kv_heads: int | None = None
    mask: Mask = NO_MASK
    dropout: float = 0.0
    key: RandomKey | None = None

    @property
    def kv_heads(self) -> int:
        """K, also where it is left out."""
        return self.num_heads if self.num_kv_heads is None else self.num_kv_heads


# --- sequential: the formula, head after head ------------------------------------------------------------------------


class HeadSaved(NamedTuple):
    """What one head saved: its three projections and its attention. rows: its rows of in_weight, for q, k and v."""

    q: LinearSaved
    k: LinearSaved
    v: LinearSaved
    attention: AttentionSaved
    rows: tuple[slice, slice, slice]


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
    options: MultiHeadOptions,
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
    D = check_multi_head(x, memory, in_weight, in_bias, out_weight, out_bias, options)
    m = x if memory is None else memory
    outputs, heads = [], []
    for h in range(options.num_heads):
        rows = rows_of_head(h, options, D)
        q_weight, k_weight, v_weight = (in_weight[each] for each in rows)
        q_bias, k_bias, v_bias = (None if in_bias is None else in_bias[each] for each in rows)
        q, q_saved = linear_forward(x, q_weight, q_bias)
        k, k_saved = linear_forward(m, k_weight, k_bias)
        v, v_saved = linear_forward(m, v_weight, v_bias)
        y, attention_saved = attention_forward(q[:, None], k[:, None], v[:, None], *options_of_head(h, options))
        outputs.append(y[:, 0])
        heads.append(HeadSaved(q_saved, k_saved, v_saved, attention_saved, rows))
    y, out_saved = linear_forward(array_module(x).concatenate(outputs, axis=-1), out_weight, out_bias)
    return y, SequentialSaved(tuple(heads), out_saved, in_weight, memory is not None)


def sequential_multi_head_backward(dy: X, saved: SequentialSaved, needs: Needs = ALL) -> Gradients:
    """Return the gradients of `sequential_multi_head_forward`: dx, dmemory, and those of the four parameters in order.

    The gradients of all heads are added in dx and dmemory; each head has rows of din_weight and din_bias of its own, or
    shares those of k and v with its group.

    needs: which gradients of parameters to compute. dmemory is None in self-attention.

    Shapes:
        dy (B, T, C) as y; each gradient as its argument.
    Raises:
        ShapeError, DtypeError: dy has not the shape or the dtype of y. InputError: saved or needs are of another type.
    """
    check_multi_head_backward(dy, saved, SequentialSaved, needs)
    heads, out_saved, in_weight, has_memory = saved
    xp = array_module(dy)
    dheads, dout_weight, dout_bias = linear_backward(dy, out_saved, needs.out_weight, needs.out_bias)
    dx = xp.zeros_like(heads[0].q.x)
    dm = xp.zeros_like(heads[0].k.x) if has_memory else dx  # in self-attention one array gathers all three
    din_weight = xp.zeros_like(in_weight) if needs.in_weight else None
    din_bias = xp.zeros_like(in_weight[:, 0]) if needs.in_bias and heads[0].q.has_bias else None
    D = dheads.shape[-1] // len(heads)
    for h in reversed(range(len(heads))):
        head = heads[h]
        dq, dk, dv = attention_backward(dheads[:, None, :, h * D : (h + 1) * D], head.attention)
        for dprojected, projection, rows, dinput in zip(
            (dq, dk, dv), (head.q, head.k, head.v), head.rows, (dx, dm, dm), strict=True
        ):
            dpart, dweight, dbias = linear_backward(dprojected[:, 0], projection, needs.in_weight, needs.in_bias)
            dinput += dpart
            if din_weight is not None:
                din_weight[rows] += dweight
            if din_bias is not None:
                din_bias[rows] += dbias
    return dx, dm if has_memory else None, din_weight, din_bias, dout_weight, dout_bias


def rows_of_head(h: int, options: MultiHeadOptions, D: int) -> tuple[slice, slice, slice]:
    """Return the rows of in_weight that project q, k and v of head h; a group of heads shares those of k and v."""
    H, K = options.num_heads, options.kv_heads
    g = h * K // H
    q, k, v = (slice(start * D, (start + 1) * D) for start in (h, H + g, H + K + g))
    return q, k, v


def options_of_head(h: int, options: MultiHeadOptions) -> tuple[Mask, float, RandomKey | None]:
    """Return the mask, the dropout and the key of the attention of one head."""
    key = None if options.key is None else options.key.for_head(h)
    return options.mask.for_head(h), options.dropout, key


# --- the projections of the other three ------------------------------------------------------------------------------


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
    """Return queries (B, H, T, D), keys and values (B, K, S, D) of all heads, as views of one product, or of two."""
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


@dispatched
def project_backward(
    dq: Array, dk: Array, dv: Array, saved: ProjectionSaved, needs: Needs = ALL
) -> tuple[X, Memory | None, InWeight | None, InBias | None]:
    """Return the gradients of `project_forward`: dx, dmemory, din_weight, din_bias."""
    xp = array_module(dq)
    needs_in = needs.in_weight, needs.in_bias
    parts = merge_heads(dq), merge_heads(dk), merge_heads(dv)
    if saved.memory is None:
        dx, din_weight, din_bias = linear_backward(xp.concatenate(parts, axis=-1), saved.x, *needs_in)
        return dx, None, din_weight, din_bias
    dx, dq_weight, dq_bias = linear_backward(parts[0], saved.x, *needs_in)
    dkv = xp.concatenate(parts[1:], axis=-1)
    dmemory, dkv_weight, dkv_bias = linear_backward(dkv, saved.memory, *needs_in)
    din_weight = None if dq_weight is None else xp.concatenate([dq_weight, dkv_weight])
    din_bias = None if dq_bias is None else xp.concatenate([dq_bias, dkv_bias])
    return dx, dmemory, din_weight, din_bias


def split_heads(x: Float[Array, "B T HD"], D: int) -> Float[Array, "B H T D"]:
    """Cut the width into heads, a view."""
    B, T, width = x.shape
    return x.reshape(B, T, width // D, D).swapaxes(1, 2)


def merge_heads(x: Float[Array, "B H T D"]) -> Float[Array, "B T HD"]:
    """Lay the heads side by side again; undoes `split_heads`, and is its gradient."""
    B, H, T, D = x.shape
    return x.swapaxes(1, 2).reshape(B, T, H * D)


# --- one forward and one backward around any attention ---------------------------------------------------------------

Attend: TypeAlias = Callable[..., tuple[Array, Any]]  # (q, k, v, mask, dropout, key) -> heads (B, H, T, D), saved
AttendBackward: TypeAlias = Callable[[Array, Any], tuple[Array, Array, Array]]  # (dheads, saved) -> dq, dk, dv


class MultiHeadSaved(NamedTuple):
    """projection: of all heads at once. attention: what the attention in the middle saved. out: the output projection.

    D: the width of a head.
    """

    projection: ProjectionSaved
    attention: "AttentionSaved | FusedAttentionSaved | HeadByHeadSaved"
    out: LinearSaved
    D: int


def multi_head_forward(
    attend: Attend,
    x: X,
    memory: Memory | None,
    in_weight: InWeight,
    in_bias: InBias | None,
    out_weight: OutWeight,
    out_bias: OutBias | None,
    options: MultiHeadOptions,
) -> tuple[X, MultiHeadSaved]:
    """Project, attend, project: multi-head attention around an attention of all heads."""
    D = check_multi_head(x, memory, in_weight, in_bias, out_weight, out_bias, options)
    H, K = options.num_heads, options.kv_heads
    (q, k, v), projection = project_forward(x, memory, in_weight, in_bias, H, K, D)
    heads, attention_saved = attend(q, k, v, options.mask, options.dropout, options.key)
    y, out_saved = linear_forward(merge_heads(heads), out_weight, out_bias)
    return y, MultiHeadSaved(projection, attention_saved, out_saved, D)


def multi_head_backward(attend_backward: AttendBackward, dy: X, saved: MultiHeadSaved, needs: Needs) -> Gradients:
    """Return the gradients of `multi_head_forward`, its lines in reverse order."""
    check_multi_head_backward(dy, saved, MultiHeadSaved, needs)
    projection, attention_saved, out_saved, D = saved
    dmerged, dout_weight, dout_bias = linear_backward(dy, out_saved, needs.out_weight, needs.out_bias)
    dq, dk, dv = attend_backward(split_heads(dmerged, D), attention_saved)
    dx, dmemory, din_weight, din_bias = project_backward(dq, dk, dv, projection, needs)
    return dx, dmemory, din_weight, din_bias, dout_weight, dout_bias


# --- the three attentions --------------------------------------------------------------------------------------------


class HeadByHeadSaved(NamedTuple):
    """heads: what the attention of each head saved. num_kv_heads: K, to shape the gradients."""

    heads: tuple[AttentionSaved, ...]
    num_kv_heads: int


def head_by_head_forward(
    q: Array, k: Array, v: Array, mask: Mask, dropout: float, key: RandomKey | None
) -> tuple[Array, HeadByHeadSaved]:
    """Return what `attention_forward` returns, computed head after head."""
    H, K = q.shape[1], k.shape[1]
    options = MultiHeadOptions(H, K, mask, dropout, key)
    outputs, heads = [], []
    for h in range(H):
        g = h * K // H
        y, saved = attention_forward(q[:, h : h + 1], k[:, g : g + 1], v[:, g : g + 1], *options_of_head(h, options))
        outputs.append(y)
        heads.append(saved)
    return array_module(q).concatenate(outputs, axis=1), HeadByHeadSaved(tuple(heads), K)


def head_by_head_backward(dheads: Array, saved: HeadByHeadSaved) -> tuple[Array, Array, Array]:
    """Return the gradients of `head_by_head_forward`: dq, dk, dv; a group of heads adds to the dk and dv it shares."""
    heads, K = saved
    xp, H = array_module(dheads), len(heads)
    B, _, S, D = heads[0].k.shape
    dq = xp.empty_like(dheads)
    dk, dv = xp.zeros((2, B, K, S, D), dtype=dheads.dtype)
    for h in reversed(range(H)):
        g = h * K // H
        dq[:, h : h + 1], dk_head, dv_head = attention_backward(dheads[:, h : h + 1], heads[h])
        dk[:, g : g + 1] += dk_head
        dv[:, g : g + 1] += dv_head
    return dq, dk, dv


def semiparallel_multi_head_forward(
    x: X,
    memory: Memory | None,
    in_weight: InWeight,
    in_bias: InBias | None,
    out_weight: OutWeight,
    out_bias: OutBias | None,
    options: MultiHeadOptions,
) -> tuple[X, MultiHeadSaved]:
    """Multi-head attention, projected for all heads at once, then head after head.

    Shapes, Raises, Source:
        as `sequential_multi_head_forward`.
    Saves:
        x, memory and weights, no copies; q, k, v once; each head's attention weights.
    """
    return multi_head_forward(head_by_head_forward, x, memory, in_weight, in_bias, out_weight, out_bias, options)


def semiparallel_multi_head_backward(dy: X, saved: MultiHeadSaved, needs: Needs = ALL) -> Gradients:
    """Return the gradients of `semiparallel_multi_head_forward`; see `sequential_multi_head_backward`."""
    return multi_head_backward(head_by_head_backward, dy, saved, needs)


def parallel_multi_head_forward(
    x: X,
    memory: Memory | None,
    in_weight: InWeight,
    in_bias: InBias | None,
    out_weight: OutWeight,
    out_bias: OutBias | None,
    options: MultiHeadOptions,
) -> tuple[X, MultiHeadSaved]:
    """Multi-head attention, all heads at once throughout.

    Shapes, Raises, Source:
        as `sequential_multi_head_forward`.
    Saves:
        x, memory and weights, no copies; q, k, v once; the attention weights of all heads.
    """
    return multi_head_forward(attention_forward, x, memory, in_weight, in_bias, out_weight, out_bias, options)


def parallel_multi_head_backward(dy: X, saved: MultiHeadSaved, needs: Needs = ALL) -> Gradients:
    """Return the gradients of `parallel_multi_head_forward`; see `sequential_multi_head_backward`."""
    return multi_head_backward(attention_backward, dy, saved, needs)


def fused_multi_head_forward(
    x: X,
    memory: Memory | None,
    in_weight: InWeight,
    in_bias: InBias | None,
    out_weight: OutWeight,
    out_bias: OutBias | None,
    options: MultiHeadOptions,
) -> tuple[X, MultiHeadSaved]:
    """Multi-head attention, all heads at once, with `fused_attention_forward` in the middle.

    Shapes, Raises, Source:
        as `sequential_multi_head_forward`.
    Saves:
        x, memory and weights, no copies; q, k, v once; the heads' outputs; one number a query, no attention weights.
    """
    return multi_head_forward(fused_attention_forward, x, memory, in_weight, in_bias, out_weight, out_bias, options)


def fused_multi_head_backward(dy: X, saved: MultiHeadSaved, needs: Needs = ALL) -> Gradients:
    """Return the gradients of `fused_multi_head_forward`; see `sequential_multi_head_backward`."""
    return multi_head_backward(fused_attention_backward, dy, saved, needs)


IMPLEMENTATIONS: dict[str, tuple[Callable[..., tuple[Array, Any]], Callable[..., Gradients]]] = {
    "sequential": (sequential_multi_head_forward, sequential_multi_head_backward),
    "semiparallel": (semiparallel_multi_head_forward, semiparallel_multi_head_backward),
    "parallel": (parallel_multi_head_forward, parallel_multi_head_backward),
    "fused": (fused_multi_head_forward, fused_multi_head_backward),
}
ATTENTIONS: dict[str, tuple[Attend, AttendBackward]] = {  # what each of them does between its projections
    "sequential": (head_by_head_forward, head_by_head_backward),
    "semiparallel": (head_by_head_forward, head_by_head_backward),
    "parallel": (attention_forward, attention_backward),
    "fused": (fused_attention_forward, fused_attention_backward),
}


def attention_weights(saved: Any) -> Float[Array, "B H T S"]:
    """Return the attention weights of any of the four: before dropout, so the row of a query with a key sums to one.

    saved: what the forward saved, or anything whose `attention` is what an attention of `ATTENTIONS` saved.
    """
    if isinstance(saved, SequentialSaved):
        per_head = [head.attention.weights for head in saved.heads]
    elif isinstance(saved.attention, HeadByHeadSaved):
        per_head = [head.weights for head in saved.attention.heads]
    elif isinstance(saved.attention, FusedAttentionSaved):  # which kept none: they are rebuilt
        return fused_attention_weights(saved.attention)
    else:
        per_head = [saved.attention.weights]
    weights: Array = per_head[0] if len(per_head) == 1 else array_module(per_head[0]).concatenate(per_head, axis=1)
    return weights


# --- validation ------------------------------------------------------------------------------------------------------


def check_multi_head(
    x: Any, memory: Any, in_weight: Any, in_bias: Any, out_weight: Any, out_bias: Any, options: Any
) -> int:
    """Raise for what does not fit together. Return D, the width of a head.

    Raises:
        ShapeError: x or memory has not three axes, their batches or widths differ, the heads do not divide the width,
        a weight has another shape than they ask for, or the mask another than the scores. RangeError: fewer than one
        head; a window below 1. DtypeError: dtypes differ. InputError: options are no `MultiHeadOptions`.
    """
    op = "multi_head_attention"
    if not isinstance(options, MultiHeadOptions):
        raise InputError(
            f"{op}: options are MultiHeadOptions, got {type(options).__name__}. Give MultiHeadOptions(num_heads)."
        )
    optional = {"memory": memory, "in_bias": in_bias, "out_bias": out_bias}
    check_floats(op, optional, x=x, **arrays_of({"in_weight": in_weight, "out_weight": out_weight}))
    check_shape(op, "x", x, (None, None, None), "batch, time, width")
    B, T, C = x.shape
    if memory is not None:
        check_shape(op, "memory", memory, (B, None, C), "batch and width as in x")
    check_shape(op, "out_weight", out_weight, (C, None), "the width of x by all heads side by side")
    width, H = out_weight.shape[1], options.num_heads
    check_integer(op, "num_heads", H, 1)
    K = options.kv_heads
    check_heads(op, width, H, K)
    D = width // H
    rows = (H + 2 * K) * D
    check_shape(op, "in_weight", in_weight, (rows, C), f"{H} query, {K} key and {K} value heads of width {D}")
    if in_bias is not None:
        check_shape(op, "in_bias", in_bias, (rows,), "one number a row of in_weight")
    if out_bias is not None:
        check_shape(op, "out_bias", out_bias, (C,), "the width of x")
    if T == 0:
        raise ShapeError(f"{op}: there must be at least one query, got x of shape {tuple(x.shape)}.")
    check_dropout_of_weights(op, options.dropout, options.key)
    S = T if memory is None else memory.shape[1]
    check_mask(options.mask, (B, H, T, S))  # here, before each head takes its part of it
    return D


def check_multi_head_backward(dy: Any, saved: Any, kind: type[Any], needs: Any) -> None:
    """Raise unless dy, what the forward saved and needs fit."""
    op = "multi_head_backward"
    if not isinstance(saved, kind):
        raise InputError(
            f"{op}: saved is the {kind.__name__} that the forward returned beside y, got {type(saved).__name__}."
        )
    y = saved.out.x
    check_gradient(op, dy, y, (*y.shape[:-1], saved.out.weight.shape[0]))
    if not isinstance(needs, Needs):
        raise InputError(f"{op}: needs is a Needs, got {type(needs).__name__}. Leave it out to compute all gradients.")
