"""Multi-head attention as a module: one set of weights, read by any of the algorithms of `ops.multi_head`.

An attention of your own can stand in a block's place of this one. Its forward takes (x, memory, mask, cache), in
this order. It reads `cache.length`, the position of its first query, and calls `cache.append(k, v)` once, see
`AttentionCache`. For `return_attention` it defines `forward_with_weights` too, see `models.output`.
"""

from functools import partial
from typing import Any, Literal, NamedTuple, Protocol, TypedDict, Unpack, get_args

from ..arrays import Array
from ..errors import ConfigError
from ..ops._checks import check_heads, check_integer, check_probability, check_shape
from ..ops.attention import NO_MASK, Mask, fused_attention_forward
from ..ops.linear import linear
from ..ops.multi_head import (
    ATTENTIONS,
    IMPLEMENTATIONS,
    Attend,
    AttendBackward,
    MultiHeadOptions,
    Needs,
    attention_weights,
    merge_heads,
    multi_head_backward,
    multi_head_forward,
    project_forward,
    split_heads,
)
from ..random import DROPOUT, Generator, default_generator
from . import init
from .module import Module
from .norm import LayerNorm, RMSNorm
from .parameter import Parameter, is_trained
from .position import RotaryPosition

__all__ = ["AttentionCache", "AttentionOptions", "Implementation", "MultiHeadAttention", "ProjectedMemory"]

Implementation = Literal["auto", "sequential", "semiparallel", "parallel", "fused"]


class AttentionCache(Protocol):
    """The keys and values that an attention computed in earlier calls; `generation.cache` holds one for each block."""

    @property
    def length(self) -> int:
        """How many positions were read before the current call: the position of its first query."""
        ...

    def append(self, k: Array, v: Array) -> tuple[Array, Array]:
        """Append k and v (B, K, T, D). Return the keys and values (B, K, S, D) that their queries attend to.

        S is length + T, or less where a sliding window reaches fewer positions: the last of them are k and v.
        """
        ...

    def select(self, rows: Array, keys: Array, values: Array) -> None:
        """Keep the given rows of the batch, in this order; a row may occur twice. `KeyValueCache.select` calls it."""
        ...


class ProjectedMemory(NamedTuple):
    """The keys and values (B, K, S, D) of a memory, as `MultiHeadAttention.project_memory` returns them."""

    k: Array
    v: Array


class AttentionOptions(TypedDict, total=False):
    """Further arguments of `MultiHeadAttention`, by keyword; each may be left out."""

    head_dim: int | None
    out_bias: bool | None
    rotary: RotaryPosition | None
    q_norm: RMSNorm | LayerNorm | None
    k_norm: RMSNorm | LayerNorm | None
    weight_init: init.Inits | None


class MultiHeadAttention(Module):
    """Self-attention, or cross-attention when given a memory.

    num_heads: H, divides embed_dim unless head_dim is given. num_kv_heads: K, divides H; with fewer than H, groups of
    heads share keys and values. head_dim: D, the width of a head; None means embed_dim / H. dropout: of the attention
    weights. implementation: the algorithm, which may be changed at any time; "auto" is the fastest. bias: of the
    projections. out_bias: of the output projection; None means bias.

    rotary: turns queries and keys by their position. q_norm, k_norm: norms of width D for queries and keys, before they
    are turned. With any of the three there is no memory, and "sequential" projects all heads at once.

    in_weight: ((H + 2K)·D, C), the query, key and value projections of all heads below each other. in_bias: its bias.
    out_weight: (C, H·D), out_bias: the output projection. Biases start at zero.

    weight_init: of both weights, or a pair: of in_weight and of out_weight.

    generator: of the random numbers of dropout; see `share_generator`. The argument of this name draws the weights.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        num_kv_heads: int | None = None,
        *,
        bias: bool = True,
        dropout: float = 0.0,
        implementation: Implementation = "auto",
        generator: Generator | None = None,
        **options: Unpack[AttentionOptions],
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        head_dim, out_bias = options.get("head_dim"), options.get("out_bias")
        if head_dim is not None:
            check_integer("MultiHeadAttention", "head_dim", head_dim, 1)
        check_heads(
            "MultiHeadAttention", embed_dim if head_dim is None else num_heads * head_dim, num_heads, self.num_kv_heads
        )
        check_probability("MultiHeadAttention", dropout)
        self.dropout = dropout
        self.implementation = implementation
        self.generator = default_generator(DROPOUT)
        generator = generator or default_generator()
        D = embed_dim // num_heads if head_dim is None else head_dim
        rows = D * (num_heads + 2 * self.num_kv_heads)
        in_init, out_init = init.both(options.get("weight_init"))
        self.in_weight = Parameter(in_init((rows, embed_dim), generator))
        self.in_bias = Parameter(init.zeros((rows,))) if bias else None
        self.out_weight = Parameter(out_init((embed_dim, num_heads * D), generator))
        has_out_bias = bias if out_bias is None else out_bias
        self.out_bias = Parameter(init.zeros((embed_dim,))) if has_out_bias else None
        self.q_norm, self.k_norm, self.rotary = options.get("q_norm"), options.get("k_norm"), options.get("rotary")

    @property
    def implementation(self) -> Implementation:
        """The algorithm that runs."""
        return self._implementation

    @implementation.setter
    def implementation(self, name: Implementation) -> None:
        if name not in get_args(Implementation):
            raise ConfigError(
                f"MultiHeadAttention: an implementation is one of {', '.join(get_args(Implementation))}, got {name!r}."
            )
        self._implementation = name

    @property
    def reads_rounded(self) -> bool:
        """Whether x may be bfloat16 beside weights of float32; see `precision`. Kernels alone take it."""
        fused = self.implementation in ("auto", "fused") and fused_attention_forward.runs("cuda") == "cuda"
        return type(self) is MultiHeadAttention and fused

    def forward(
        self,
        x: Array,
        memory: Array | ProjectedMemory | None = None,
        mask: Mask = NO_MASK,
        cache: AttentionCache | None = None,
    ) -> Array:
        """Return the attention (B, T, C) of x (B, T, C) to itself, or to a memory (B, S, C).

        mask: which keys each query attends to; an array goes into a `Mask(array=...)`.

        cache: holds the keys and values of the positions before x; those of x are appended, and x attends to all of
        them. memory: may also be the keys and values that `project_memory` returned. Both are for `eval()`: nothing is
        saved for a backward.

        Raises ConfigError for a cache or projected memory in training, and for a cache together with a memory;
        ShapeError, RangeError and DtypeError as the algorithms of `ops.multi_head`.
        """
        if not isinstance(mask, Mask):
            raise ConfigError(
                f"MultiHeadAttention: mask is a Mask, got {type(mask).__name__}. Give Mask(causal=True), or "
                "Mask(array=...) of booleans that are True where a query attends to a key (torch.nn.MultiheadAttention "
                "means the opposite), or of floats that are added to the scores."
            )
        if memory is not None and self.prepares_heads:
            raise ConfigError(
                "MultiHeadAttention: rotary positions and norms of queries and keys are for self-attention, got a "
                "memory. Build a cross-attention without them."
            )
        if cache is None and not isinstance(memory, ProjectedMemory):
            return self._run(x, memory, mask)[0]
        q, k, v = self._project(x, memory, cache)
        if mask.array is not None:  # the mask is of all positions, and a cache may return the last of them only
            mask = mask._replace(array=mask.array[..., -k.shape[2] :])
        attend, _ = ATTENTIONS[self._algorithm(x)]
        heads, _ = attend(q, k, v, mask, 0.0, None)
        return self._project_out(merge_heads(heads))

    def _project(
        self, x: Array, memory: Array | ProjectedMemory | None, cache: AttentionCache | None
    ) -> tuple[Array, Array, Array]:
        """Return the queries of x, and the keys and values of a cache extended by x or of a projected memory."""
        if self.training or (cache is not None and memory is not None):
            came = "a module in training" if self.training else "a memory"
            raise ConfigError(
                "MultiHeadAttention: a cache is for self-attention in eval() only, since no backward reaches what it "
                f"holds, got {came}. Call model.eval(), or leave the cache out."
            )
        D, queries = self._head_width, self._query_rows
        check_shape("MultiHeadAttention", "x", x, (None, None, self.in_weight.shape[1]), "batch, time, width")
        if isinstance(memory, ProjectedMemory):
            in_weight, in_bias, *_ = self._weights()
            q = split_heads(linear(x, in_weight[:queries], None if in_bias is None else in_bias[:queries]), D)
            return q, memory.k, memory.v
        assert cache is not None
        q, k, v = self._project_self(x)
        q, k = self._prepare(q, k, 0 if self.rotary is None else cache.length)
        return q, *cache.append(k, v)

    def _project_self(self, x: Array) -> tuple[Array, Array, Array]:
        """Return the queries, keys and values of x."""
        in_weight, in_bias, *_ = self._weights()
        return project_forward(x, None, in_weight, in_bias, self.num_heads, self.num_kv_heads, self._head_width)[0]

    def _project_out(self, merged: Array) -> Array:
        """Return the output projection of heads side by side."""
        _, _, out_weight, out_bias = self._weights()
        return linear(merged, out_weight, out_bias)

    def _weights(self) -> tuple[Array, Array | None, Array, Array | None]:
        """Return in_weight, in_bias, out_weight and out_bias."""
        return (
            self.in_weight.data,
            self.in_bias.data if self.in_bias else None,
            self.out_weight.data,
            self.out_bias.data if self.out_bias else None,
        )

    @property
    def prepares_heads(self) -> bool:
        """Whether queries and keys are normalized or turned before they meet."""
        return self.rotary is not None or self.q_norm is not None or self.k_norm is not None

    def _prepare(self, q: Array, k: Array, start: int = 0) -> tuple[Array, Array]:
        """Return the queries and keys, normalized, then turned by their positions from `start` on."""
        q = q if self.q_norm is None else self.q_norm(q)
        k = k if self.k_norm is None else self.k_norm(k)
        if self.rotary is None:
            return q, k
        return self.rotary(q, start), self.rotary(k, start)

    def _prepare_backward(self, dq: Array, dk: Array) -> tuple[Array, Array]:
        """Return the gradients of the queries and keys as they were projected."""
        if self.rotary is not None:
            dk = self.rotary.backward(dk)  # the keys were turned last
            dq = self.rotary.backward(dq)
        dk = dk if self.k_norm is None else self.k_norm.backward(dk)
        dq = dq if self.q_norm is None else self.q_norm.backward(dq)
        return dq, dk

    def project_memory(self, memory: Array) -> ProjectedMemory:
        """Return the keys and values of a memory (B, S, C), computed once for all queries that attend to it."""
        queries, D = self._query_rows, self._head_width
        check_shape("MultiHeadAttention", "memory", memory, (None, None, self.in_weight.shape[1]), "batch, time, width")
        kv = linear(memory, self.in_weight.data[queries:], self.in_bias.data[queries:] if self.in_bias else None)
        keys = self.num_kv_heads * D
        return ProjectedMemory(split_heads(kv[..., :keys], D), split_heads(kv[..., keys:], D))

    @property
    def _head_width(self) -> int:
        return self.in_weight.shape[0] // (self.num_heads + 2 * self.num_kv_heads)

    @property
    def _query_rows(self) -> int:
        return self.num_heads * self._head_width

    def forward_with_weights(self, x: Array, memory: Array | None = None, mask: Mask = NO_MASK) -> tuple[Array, Array]:
        """Return the result of `forward`, and the attention weights (B, H, T, S) before dropout; a row sums to one."""
        y, saved = self._run(x, memory, mask)
        return y, attention_weights(saved)

    def _algorithm(self, x: Array) -> Implementation:
        if self.implementation != "auto":
            return self.implementation
        # without a kernel, saving the weights is faster than computing them twice
        return "fused" if fused_attention_forward.has_kernel(x) else "parallel"

    def _run(self, x: Array, memory: Array | None, mask: Mask) -> tuple[Array, Any]:
        name = self._algorithm(x)
        forward = partial(multi_head_forward, self._attend(name)) if self.prepares_heads else IMPLEMENTATIONS[name][0]
        y, saved = forward(x, memory, *self._weights(), self._options(mask))
        self.save_for_backward((name, saved))
        return y, saved

    def _options(self, mask: Mask) -> MultiHeadOptions:
        """Return the options of an algorithm, with the key of the next dropout."""
        dropout = self.dropout if self.training else 0.0
        key = self.generator.next() if dropout else None
        return MultiHeadOptions(self.num_heads, self.num_kv_heads, mask, dropout, key)

    def _attend(self, name: Implementation) -> Attend:
        """Return an attention between normalized and turned queries and keys."""
        attend, _ = ATTENTIONS[name]
        return lambda q, k, v, *options: attend(*self._prepare(q, k), v, *options)

    def _attend_backward(self, name: Implementation) -> AttendBackward:
        """Return the backward of `_attend`, its steps in reverse order."""
        _, attend_backward = ATTENTIONS[name]

        def backward(dheads: Array, saved: Any) -> tuple[Array, Array, Array]:
            dq, dk, dv = attend_backward(dheads, saved)
            return *self._prepare_backward(dq, dk), dv

        return backward

    def backward(self, dy: Array) -> tuple[Array, Array | None]:
        """Return the gradients of x and of the memory, the latter None in self-attention.

        A frozen parameter costs nothing.
        """
        name, saved = self.pop_saved()
        prepares = self.prepares_heads
        backward = partial(multi_head_backward, self._attend_backward(name)) if prepares else IMPLEMENTATIONS[name][1]
        dx, dmemory, *gradients = backward(dy, saved, self._needs())
        self._accumulate(*gradients)
        return dx, dmemory

    def _needs(self) -> Needs:
        """Return which parameters are trained."""
        return Needs(*map(is_trained, (self.in_weight, self.in_bias, self.out_weight, self.out_bias)))

    def _accumulate(
        self, din_weight: Array | None, din_bias: Array | None, dout_weight: Array | None, dout_bias: Array | None
    ) -> None:
        """Add to the gradients of the parameters."""
        self.in_weight.accumulate(din_weight)
        self.out_weight.accumulate(dout_weight)
        if self.in_bias:
            self.in_bias.accumulate(din_bias)
        if self.out_bias:
            self.out_bias.accumulate(dout_bias)
