"""Block: a few more positions through a stack of transformer blocks, behind the keys and values of what was read.

Nothing new is computed here: the reference is the composition of `layer_norm`, `linear`, `attention` and an activation that
`nn.block` writes down module by module. It is an op of its own for the sake of generation, where a token costs so
little that calling a dozen kernels a block takes a fifth of its time: a kernel runs the whole stack as one. There is
no backward, since nothing is learned while text is written.
"""

from collections.abc import Sequence
from typing import NamedTuple

from jaxtyping import Float

from ..arrays import Array
from ..dispatch import dispatched
from ..errors import RangeError, ShapeError
from ._checks import check_floats, check_heads, check_shape
from .activation import ACTIVATIONS, Activation
from .attention import Mask, attention, check_mask
from .linear import linear
from .multi_head import merge_heads, project_forward
from .norm import layer_norm

__all__ = [
    "NAMES",
    "BlockWeights",
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


@dispatched
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

    In each block, where attention looks from the T positions to all S, and feed_forward(a) = down(activation(up(a))):

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
    check_blocks_step(x, weights, keys, values, mask, num_heads, activation)
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


NAMES = (
    *("attention_norm.weight", "attention_norm.bias", "in_weight", "in_bias", "out_weight", "out_bias"),
    *("feed_forward_norm.weight", "feed_forward_norm.bias", "up_weight", "up_bias", "down_weight", "down_bias"),
)


def is_bias(name: str) -> bool:
    """Whether a weight of this name may be None."""
    return name.endswith("bias")


def each_weight(weights: BlockWeights) -> tuple[Array | None, ...]:
    """The twelve arrays, in the order of NAMES."""
    (norm_1, shift_1, _), *attention_weights, (norm_2, shift_2, _), up, up_bias, down, down_bias = weights
    return (norm_1, shift_1, *attention_weights, norm_2, shift_2, up, up_bias, down, down_bias)


def each_shape(C: int, num_heads: int, K: int, D: int, F: int) -> tuple[tuple[int, ...], ...]:
    """The shapes that the twelve arrays have, unless they are None."""
    rows, heads = (num_heads + 2 * K) * D, num_heads * D
    return (C,), (C,), (rows, C), (rows,), (C, heads), (C,), (C,), (C,), (F, C), (F,), (C, F), (C,)


def check_blocks_step(
    x: Array,
    weights: Sequence[BlockWeights],
    keys: Sequence[Array],
    values: Sequence[Array],
    mask: Mask,
    num_heads: int,
    activation: str,
) -> None:
    """Refuse what `blocks_step` cannot transform."""
    op = "blocks_step"
    check_shape(op, "x", x, (None, None, None), "batch, time, width")
    B, T, C = x.shape
    if not 0 < len(weights) == len(keys) == len(values):
        raise ShapeError(
            f"{op}: each block has weights, keys and values, and there is at least one block, got {len(weights)} "
            f"weights, {len(keys)} keys and {len(values)} values."
        )
    for w, k, v in zip(weights, keys, values, strict=True):
        arrays = each_weight(w)
        check_floats(op, x=x, keys=k, values=v, **dict(zip(NAMES, arrays, strict=True)))
        check_shape(op, "keys", k, (B, None, None, None), "the batch of x, key/value heads, time, head width")
        check_shape(op, "values", v, k.shape, "the shape of the keys")
        K, S, D = k.shape[1:]
        check_heads(op, num_heads * D, num_heads, K)
        if not 1 <= T <= S:
            raise RangeError(f"{op}: x has at least one position, and keys have room for all, got {T} and {S}.")
        F = 0 if w.up_weight is None else len(w.up_weight)
        for name, array, shape in zip(NAMES, arrays, each_shape(C, num_heads, K, D, F), strict=True):
            if array is not None:
                check_shape(op, name, array, shape, "as `BlockWeights` says")
            elif not is_bias(name):
                raise ShapeError(f"{op}: only biases may be None, {name} must have shape {shape}, got None.")
        check_mask(mask, (B, num_heads, T, S))
    if activation not in ACTIVATIONS:
        raise RangeError(f"{op}: an activation is one of {', '.join(ACTIVATIONS)}, got {activation!r}.")
