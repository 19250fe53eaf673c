"""Block: a few more positions through a stack of transformer blocks, behind the keys and values of what was read.

The reference composes `layer_norm`, `linear`, `attention` and an activation as `nn.block` does module by module. It is
an op of its own for generation, where a token costs so little that calling a dozen kernels a block takes a fifth of its
time: one kernel runs the whole stack. There is no backward, since nothing is learned while text is generated.
"""

from collections.abc import Sequence
from math import inf
from typing import Any, NamedTuple

from jaxtyping import Float

from ..arrays import Array
from ..dispatch import dispatched
from ..errors import InputError, RangeError, ShapeError
from ._checks import check_bool, check_floats, check_heads, check_integer, check_number, check_shape, shown
from .activation import ACTIVATIONS, Activation
from .attention import Mask, attention, check_mask
from .linear import linear
from .multi_head import merge_heads, project_forward
from .norm import layer_norm
from .quantized import arrays_of

__all__ = [
    "NAMES",
    "BlockWeights",
    "FixedWeights",
    "NormWeights",
    "blocks_step",
    "check_blocks_step",
    "each_shape",
    "each_weight",
    "is_bias",
]


class NormWeights(NamedTuple):
    """weight, bias: (C) each, the bias may be None. eps: see `layer_norm_forward`."""

    weight: Array
    bias: Array | None
    eps: float = 1e-5


class BlockWeights(NamedTuple):
    """What a block has learned; any bias may be None.

    in_weight, out_weight: of all heads, in the layout of `multi_head`. up_weight: (F, C). down_weight: (C, F).
    Matrices may be quantized.
    """

    attention_norm: NormWeights
    in_weight: Array
    in_bias: Array | None
    out_weight: Array
    out_bias: Array | None
    feed_forward_norm: NormWeights
    up_weight: Array
    up_bias: Array | None
    down_weight: Array
    down_bias: Array | None


class FixedWeights(list[Any]):
    """The weights of blocks, which stay as they are: a kernel notes once where they lie, in `noted`."""

    noted: Any = None


NAMES = (
    *("attention_norm.weight", "attention_norm.bias", "in_weight", "in_bias", "out_weight", "out_bias"),
    *("feed_forward_norm.weight", "feed_forward_norm.bias", "up_weight", "up_bias", "down_weight", "down_bias"),
)


def is_bias(name: str) -> bool:
    """Whether a weight of this name may be None."""
    return name.endswith("bias")


def each_weight(weights: BlockWeights) -> tuple[Any, ...]:
    """The twelve arrays, in the order of NAMES."""
    (norm_1, shift_1, _), *attention_weights, (norm_2, shift_2, _), up, up_bias, down, down_bias = weights
    return (norm_1, shift_1, *attention_weights, norm_2, shift_2, up, up_bias, down, down_bias)


def each_shape(C: int, num_heads: int, K: int, D: int, F: int) -> tuple[tuple[int, ...], ...]:
    """The shapes that the twelve arrays have, unless they are None."""
    rows, heads = (num_heads + 2 * K) * D, num_heads * D
    return (C,), (C,), (rows, C), (rows,), (C, heads), (C,), (C,), (C,), (F, C), (F,), (C, F), (C,)


def check_blocks_step(
    x: Any,
    weights: Any,
    keys: Any,
    values: Any,
    mask: Any,
    num_heads: Any,
    activation: Any = "gelu_tanh",
    norm_first: Any = True,
) -> None:
    """Raise unless x, the blocks and the mask fit each other."""
    op = "blocks_step"
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
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise RangeError(f"{op}: an activation is one of {', '.join(ACTIVATIONS)}, got {shown(activation)}.")
    check_bool(op, "norm_first", norm_first)
    for w, k, v in zip(weights, keys, values, strict=True):
        check_block(x, w, k, v, num_heads)
        check_mask(mask, (x.shape[0], num_heads, x.shape[1], k.shape[2]))


def check_block(x: Any, w: Any, k: Any, v: Any, num_heads: int) -> None:
    """Raise unless the weights, keys and values of one block fit x."""
    op, (B, T, C) = "blocks_step", x.shape
    if not isinstance(w, BlockWeights):
        raise InputError(f"{op}: weights are BlockWeights, one a block, got {type(w).__name__}.")
    arrays = dict(zip(NAMES, each_weight(w), strict=True))
    for name, array in arrays.items():
        if array is None and not is_bias(name):
            raise ShapeError(f"{op}: only biases may be None, got None as {name}.")
    check_floats(op, arrays_of(arrays), x=x, keys=k, values=v)
    check_shape(op, "keys", k, (B, None, None, None), "the batch of x, key/value heads, time, head width")
    check_shape(op, "values", v, k.shape, "the shape of the keys")
    K, S, D = k.shape[1:]
    check_heads(op, num_heads * D, num_heads, K)
    if not 1 <= T <= S:
        raise RangeError(f"{op}: x has at least one position, and keys have room for all, got {T} and {S}.")
    check_shape(op, "up_weight", w.up_weight, (None, C), "hidden width by the width of x")
    for (name, array), shape in zip(arrays.items(), each_shape(C, num_heads, K, D, len(w.up_weight)), strict=True):
        if array is not None:
            check_shape(op, name, array, shape, "as `BlockWeights` says")
    for norm in (w.attention_norm, w.feed_forward_norm):
        check_number(op, "eps", norm.eps, 0.0, inf)


@dispatched(validate=check_blocks_step)
def blocks_step(
    x: Float[Array, "B T C"],
    weights: Sequence[BlockWeights],
    keys: Sequence[Float[Array, "B K S D"]],
    values: Sequence[Float[Array, "B K S D"]],
    mask: Mask,
    num_heads: int,
    activation: Activation = "gelu_tanh",
    norm_first: bool = True,
) -> Float[Array, "B T C"]:
    """Transform the T positions that follow S − T others, whose keys and values every block knows.

    In each block, where the T positions attend to all S, and feed_forward(a) = down(activation(up(a))):

        norm_first:  a = x + attention(norm(x)), y = a + feed_forward(norm(a))
        else:        a = norm(x + attention(x)), y = norm(a + feed_forward(a))

    The keys and values of the T positions are written to the end of the block's keys and values.

    Shapes:
        x, y (B, T, C); one (B, K, S, D) of keys and of values a block, S at least T, of any content in their last T
        positions; float, of one dtype.
    Saves:
        nothing: there is no backward.
    Raises:
        ShapeError: shapes do not fit each other or the mask; weights, keys and values of different numbers of blocks.
        RangeError: more positions than keys have room for; an activation that is none; numbers of heads, or of the
        mask, as `attention_forward` says. DtypeError: dtypes differ.
    Source:
        Radford et al. 2019, section 2.3, for the norm first; Vaswani et al. 2017, section 3.1, for the norm last.
    """
    T, (activation_forward, _) = x.shape[1], ACTIVATIONS[activation]
    for w, k, v in zip(weights, keys, values, strict=True):
        read = layer_norm(x, *w.attention_norm) if norm_first else x
        own, _ = project_forward(read, None, w.in_weight, w.in_bias, num_heads, k.shape[1], k.shape[3])
        q, k[:, :, -T:], v[:, :, -T:] = own
        heads = attention(q, k, v, mask)
        x = x + linear(merge_heads(heads), w.out_weight, w.out_bias)
        x = x if norm_first else layer_norm(x, *w.attention_norm)

        read = layer_norm(x, *w.feed_forward_norm) if norm_first else x
        hidden, _ = activation_forward(linear(read, w.up_weight, w.up_bias))
        x = x + linear(hidden, w.down_weight, w.down_bias)
        x = x if norm_first else layer_norm(x, *w.feed_forward_norm)
    return x
