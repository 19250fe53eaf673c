"""Fused block: a whole `PreNormBlock` in training by kernels in place of its lines, in bfloat16 on a CPU.

The lines run where a part of the block is none of ours, is replaced or observed, or has a precision of its own.
"""

from math import inf
from typing import Any, NamedTuple

import numpy as np

from ..arrays import Array
from ..dispatch import is_intercepted, kernels_of
from ..errors import InputError
from ..ops._checks import check_number, check_probability
from ..ops.activation import gelu_forward
from ..ops.attention import Mask, fused_attention_forward
from ..ops.block import BlockWeights, NormWeights
from ..ops.dropout import DropoutSaved, dropout_forward
from ..ops.linear import linear_forward
from ..ops.multi_head import MultiHeadOptions, check_multi_head
from ..ops.norm import layer_norm_forward
from ..precision import precision
from .attention import MultiHeadAttention
from .dropout import Dropout
from .feed_forward import FeedForward
from .fused import Fused, definitions_of, has_backward_of_forward, runs_as_defined
from .linear import Linear
from .module import Module
from .norm import LayerNorm
from .parameter import Parameter, is_trained

__all__ = ["PARTS", "block_backward_at_once", "block_forward_at_once", "weights_of_block", "weights_of_norm"]

# The parts of a block that kernels compute at once; a block with a part of any other type runs its lines.
PARTS: dict[str, type[Module]] = {
    "attention_norm": LayerNorm,
    "attention": MultiHeadAttention,
    "attention_dropout": Dropout,
    "feed_forward_norm": LayerNorm,
    "feed_forward": FeedForward,
    "feed_forward_dropout": Dropout,
}
DEFINED = definitions_of(Linear, *PARTS.values())
OPS = layer_norm_forward, linear_forward, fused_attention_forward, dropout_forward, gelu_forward


def weights_of_block(block: Any) -> BlockWeights:
    """Return the arrays of a block of attention and `FeedForward`, each with its `LayerNorm`."""
    up, down = block.feed_forward.up, block.feed_forward.down
    in_weight, in_bias, out_weight, out_bias = block.attention._weights()
    return BlockWeights(
        weights_of_norm(block.attention_norm),
        in_weight,
        in_bias,
        out_weight,
        out_bias,
        weights_of_norm(block.feed_forward_norm),
        up.weight.data,
        up.bias.data if up.bias else None,
        down.weight.data,
        down.bias.data if down.bias else None,
    )


def weights_of_norm(norm: LayerNorm) -> NormWeights:
    return NormWeights(norm.weight.data, norm.bias.data if norm.bias else None, norm.eps)


def _parameters_of_block(block: Any) -> tuple[Parameter | None, ...]:
    """Return the parameters of a block, in the order of `ops.block.each_weight`."""
    norm, attention, feed_forward_norm = block.attention_norm, block.attention, block.feed_forward_norm
    up, down = block.feed_forward.up, block.feed_forward.down
    projections = attention.in_weight, attention.in_bias, attention.out_weight, attention.out_bias
    linears = up.weight, up.bias, down.weight, down.bias
    return (norm.weight, norm.bias, *projections, feed_forward_norm.weight, feed_forward_norm.bias, *linears)


def block_forward_at_once(block: Any, x: Array, mask: Any, cache: Any) -> Array | None:
    """Return the stream after a `PreNormBlock`, and save what its backward needs; None where its lines run."""
    if precision() != "bfloat16" or cache is not None or type(x) is not np.ndarray or not _is_plain(block, mask):
        return None
    attention, activation = block.attention, block.feed_forward.activation
    kernels, weights = kernels_of("cpu", "pre_norm_block"), weights_of_block(block)
    heads = MultiHeadOptions(attention.num_heads, attention.num_kv_heads, mask)
    if not (_is_valid(block, x, weights, heads) and kernels.supports(x, weights, heads, activation)):
        return None
    # keys are drawn in the order of the lines
    options = attention._options(mask)
    dropouts = tuple(_dropout(part, x) for part in (block.attention_dropout, block.feed_forward_dropout))
    y: Array
    y, saved = kernels.block_forward(x, weights, options, activation, dropouts)
    block.save_for_backward(Fused(kernels, Saved(_count_saved(block), saved)))
    return y


class Saved(NamedTuple):
    """forwards_of_lines: what forwards that ran the lines had saved before. own: what the kernels saved."""

    forwards_of_lines: int
    own: Any


def _count_saved(block: Any) -> int:
    """Return how many times a part of a block has saved something for a backward that is due."""
    return sum(len(part._saved) for part in _parts(block))


def _parts(block: Any) -> tuple[Module, ...]:
    return (*(getattr(block, name) for name in PARTS), block.feed_forward.up, block.feed_forward.down)


def _is_valid(block: Any, x: Array, weights: BlockWeights, heads: MultiHeadOptions) -> bool:
    """Return whether the lines, which say what is wrong, would raise nothing."""
    try:
        check_multi_head(x, None, *weights[1:5], heads)
        for probability in (block.attention.dropout, block.attention_dropout.p, block.feed_forward_dropout.p):
            check_probability("dropout", probability)
        for norm in (weights.attention_norm, weights.feed_forward_norm):
            check_number("layer_norm", "eps", norm.eps, 0.0, inf)
    except InputError:
        return False
    return True


def _dropout(part: Dropout, x: Array) -> DropoutSaved | None:
    return DropoutSaved(part.p, part.generator.next(), x.shape) if part.p else None


def _is_plain(block: Any, mask: Any) -> bool:
    """Return whether a block is made of the library's own parts, in training, and nobody watches what they do."""
    if is_intercepted() or not isinstance(mask, Mask) or any(op.runs("cpu") != "cpu" for op in OPS):
        return False
    if not has_backward_of_forward(block):
        return False
    if any(type(getattr(block, name)) is not kind for name, kind in PARTS.items()):
        return False
    if type(block.feed_forward.up) is not Linear or type(block.feed_forward.down) is not Linear:
        return False
    attention = block.attention
    if attention.implementation not in ("auto", "fused") or attention.prepares_heads:
        return False
    if block._observers or "forward" in block.__dict__ or "backward" in block.__dict__:
        return False
    chosen, parts = (None, precision()), _parts(block)
    as_chosen = all(part.training and part.precision in chosen for part in (block, *parts))
    return as_chosen and all(runs_as_defined(part, DEFINED) for part in parts)


def block_backward_at_once(block: Any, dy: Array) -> Array | None:
    """Return the gradient of the stream before a block, and add to those of its parameters; None after its lines."""
    if not block._saved or not isinstance(block._saved[-1], Fused):
        return None
    if block._saved[-1].saved.forwards_of_lines != _count_saved(block):
        return None  # the last forward ran its lines
    kernels, (_, saved) = block.pop_saved()
    parameters = _parameters_of_block(block)
    dx: Array
    dx, gradients = kernels.block_backward(dy, saved, tuple(map(is_trained, parameters)))
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if parameter is not None:
            parameter.accumulate(gradient)
    return dx
