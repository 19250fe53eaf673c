"""Gated block: a few more positions through a stack of Llama's blocks, behind the keys and values of what was read.

As `ops.block`, for blocks with RMS norms, rotary positions and a gated feed-forward. There is no backward.
"""

from collections.abc import Sequence
from math import inf
from typing import Any, NamedTuple, get_args

from jaxtyping import Float

from ..arrays import Array
from ..dispatch import dispatched
from ..errors import InputError, RangeError, ShapeError
from ._checks import check_floats, check_heads, check_integer, check_number, check_shape, shown
from .activation import Gate, gated_activation
from .attention import Mask, attention, check_mask
from .linear import linear
from .multi_head import merge_heads, project_forward
from .norm import rms_norm
from .quantized import arrays_of
from .rotary import rotary_position

__all__ = ["GatedBlockWeights", "RotaryTables", "gated_blocks_step"]


class RotaryTables(NamedTuple):
    """cos, sin: (T, P) each, of the T positions; see `rotary_position_forward`. Pairs are halves."""

    cos: Array
    sin: Array


class GatedBlockWeights(NamedTuple):
    """What a block has learned; any bias may be None.

    attention_norm, feed_forward_norm: (C), the scales of the norms; eps: what they add, one for each. in_weight,
    out_weight: of all heads, in the layout of `multi_head`. gate_weight, up_weight: (F, C). down_weight: (C, F).
    Matrices may be quantized.
    """

    attention_norm: Array
    in_weight: Array
    in_bias: Array | None
    out_weight: Array
    out_bias: Array | None
    feed_forward_norm: Array
    gate_weight: Array
    gate_bias: Array | None
    up_weight: Array
    up_bias: Array | None
    down_weight: Array
    down_bias: Array | None
    eps: tuple[float, float] = (1e-5, 1e-5)


def gated_shapes(C: int, num_heads: int, K: int, D: int, F: int) -> tuple[tuple[int, ...], ...]:
    """Return the shapes of the twelve arrays, unless they are None."""
    rows, heads = (num_heads + 2 * K) * D, num_heads * D
    return (C,), (rows, C), (rows,), (C, heads), (C,), (C,), (F, C), (F,), (F, C), (F,), (C, F), (C,)


def check_gated_blocks_step(
    x: Any, weights: Any, keys: Any, values: Any, mask: Any, num_heads: Any, tables: Any, activation: Any = "silu"
) -> None:
    """Raise unless x, the blocks, the tables and the mask fit each other."""
    op = "gated_blocks_step"
    check_floats(op, x=x)
    check_shape(op, "x", x, (None, None, None), "batch, time, width")
    if not all(isinstance(several, (list, tuple)) for several in (weights, keys, values)):
        raise InputError(f"{op}: weights, keys and values are lists or tuples, one item a block.")
    if not 0 < len(weights) == len(keys) == len(values):
        raise ShapeError(
            f"{op}: each block has weights, keys and values, and there is at least one block, got {len(weights)} "
            f"weights, {len(keys)} keys and {len(values)} values."
        )
    check_integer(op, "num_heads", num_heads, 1)
    if activation not in get_args(Gate):
        raise RangeError(f"{op}: an activation is one of {', '.join(get_args(Gate))}, got {shown(activation)}.")
    if not isinstance(tables, RotaryTables):
        raise InputError(f"{op}: tables are RotaryTables, got {type(tables).__name__}.")
    for w, k, v in zip(weights, keys, values, strict=True):
        check_gated_block(x, w, k, v, num_heads, tables)
        check_mask(mask, (x.shape[0], num_heads, x.shape[1], k.shape[2]))


def check_gated_block(x: Any, w: Any, k: Any, v: Any, num_heads: int, tables: RotaryTables) -> None:
    """Raise unless the weights, keys and values of one block fit x and the tables."""
    op, (B, T, C) = "gated_blocks_step", x.shape
    if not isinstance(w, GatedBlockWeights):
        raise InputError(f"{op}: weights are GatedBlockWeights, one a block, got {type(w).__name__}.")
    arrays = dict(zip(w._fields[:-1], w[:-1], strict=True))
    for name, array in arrays.items():
        if array is None and not name.endswith("bias"):
            raise ShapeError(f"{op}: only biases may be None, got None as {name}.")
    check_floats(op, arrays_of(arrays), x=x, keys=k, values=v, cos=tables.cos, sin=tables.sin)
    check_shape(op, "keys", k, (B, None, None, None), "the batch of x, key/value heads, time, head width")
    check_shape(op, "values", v, k.shape, "the shape of the keys")
    K, S, D = k.shape[1:]
    check_heads(op, num_heads * D, num_heads, K)
    if not 1 <= T <= S:
        raise RangeError(f"{op}: x has at least one position, and keys have room for all, got {T} and {S}.")
    check_shape(op, "up_weight", w.up_weight, (None, C), "hidden width by the width of x")
    for (name, array), shape in zip(arrays.items(), gated_shapes(C, num_heads, K, D, len(w.up_weight)), strict=True):
        if array is not None:
            check_shape(op, name, array, shape, "as `GatedBlockWeights` says")
    for eps in w.eps:
        check_number(op, "eps", eps, 0.0, inf)


@dispatched(validate=check_gated_blocks_step)
def gated_blocks_step(
    x: Float[Array, "B T C"],
    weights: Sequence[GatedBlockWeights],
    keys: Sequence[Float[Array, "B K S D"]],
    values: Sequence[Float[Array, "B K S D"]],
    mask: Mask,
    num_heads: int,
    tables: RotaryTables,
    activation: Gate = "silu",
) -> Float[Array, "B T C"]:
    """Transform the T positions that follow S − T others, whose keys and values every block knows.

    In each block, where the T positions attend to all S, queries and keys are turned by their positions, and
    feed_forward(a) = down(activation(gate(a)) · up(a)):

        a = x + attention(norm(x)), y = a + feed_forward(norm(a))

    The keys and values of the T positions are written to the end of the block's keys and values.

    Shapes:
        x, y (B, T, C); one (B, K, S, D) of keys and of values a block, S at least T, of any content in their last T
        positions; tables (T, P); float, of one dtype.
    Saves:
        nothing: there is no backward.
    Raises:
        ShapeError: shapes do not fit each other or the mask; weights, keys and values of different numbers of blocks.
        RangeError: more positions than keys have room for; an activation that is none; numbers of heads, or of the
        mask, as `attention_forward` says. DtypeError: dtypes differ.
    Source:
        Touvron et al. 2023, "LLaMA: open and efficient foundation language models", section 2.2.
    """
    T = x.shape[1]
    for w, k, v in zip(weights, keys, values, strict=True):
        read = rms_norm(x, w.attention_norm, w.eps[0])
        own, _ = project_forward(read, None, w.in_weight, w.in_bias, num_heads, k.shape[1], k.shape[3])
        q, own_keys, v[:, :, -T:] = own
        k[:, :, -T:] = rotary_position(own_keys, *tables)
        heads = attention(rotary_position(q, *tables), k, v, mask)
        x = x + linear(merge_heads(heads), w.out_weight, w.out_bias)

        read = rms_norm(x, w.feed_forward_norm, w.eps[1])
        gate, up = linear(read, w.gate_weight, w.gate_bias), linear(read, w.up_weight, w.up_bias)
        x = x + linear(gated_activation(gate, up, activation), w.down_weight, w.down_bias)
    return x
