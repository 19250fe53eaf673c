"""Fused block: a whole `PreNormBlock` in training by kernels in place of its lines, in bfloat16 on a CPU.

The lines run where a part of the block is none of ours, is replaced or observed, or has a precision of its own.
"""

from typing import Any

from ..arrays import Array, device_of
from ..dispatch import is_intercepted, kernels_of
from ..ops.activation import gelu_forward
from ..ops.attention import Mask, fused_attention_forward
from ..ops.block import BlockWeights, NormWeights
from ..ops.dropout import DropoutSaved, dropout_forward
from ..ops.linear import linear_forward
from ..ops.multi_head import MultiHeadOptions
from ..ops.norm import layer_norm_forward
from ..precision import precision
from .attention import MultiHeadAttention
from .dropout import Dropout
from .feed_forward import FeedForward
from .fused import Fused
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
    if precision() != "bfloat16" or cache is not None or device_of(x) != "cpu" or not _is_plain(block, mask):
        return None
    attention, activation = block.attention, block.feed_forward.activation
    kernels, weights = kernels_of("cpu", "pre_norm_block"), weights_of_block(block)
    heads = MultiHeadOptions(attention.num_heads, attention.num_kv_heads)
    if not kernels.supports(x, weights, heads, activation):
        return None
    # keys are drawn in the order of the lines
    options = attention._options(mask)
    dropouts = tuple(_dropout(part, x) for part in (block.attention_dropout, block.feed_forward_dropout))
    y: Array
    y, saved = kernels.block_forward(x, weights, options, activation, dropouts)
    block.save_for_backward(Fused(kernels, saved))
    return y


def _dropout(part: Dropout, x: Array) -> DropoutSaved | None:
    return DropoutSaved(part.p, part.generator.next(), x.shape) if part.p else None


def _is_plain(block: Any, mask: Any) -> bool:
    """Return whether a block is made of the library's own parts, in training, and nobody watches what they do."""
    if is_intercepted() or not isinstance(mask, Mask) or any(op.runs("cpu") != "cpu" for op in OPS):
        return False
    if any(type(getattr(block, name)) is not kind for name, kind in PARTS.items()):
        return False
    attention, linears = block.attention, (block.feed_forward.up, block.feed_forward.down)
    if attention.implementation not in ("auto", "fused") or attention.prepares_heads:
        return False
    chosen = (None, precision())
    return all(
        part.training
        and not part._observers
        and part._precision in chosen
        and "forward" not in part.__dict__
        and "backward" not in part.__dict__
        for part in (block, *block._modules.values(), *linears)
    ) and all(type(linear) is Linear for linear in linears)


def block_backward_at_once(block: Any, dy: Array) -> Array | None:
    """Return the gradient of the stream before a block, and add to those of its parameters; None after its lines."""
    if not block._saved or not isinstance(block._saved[-1], Fused):
        return None
    kernels, saved = block.pop_saved()
    parameters = _parameters_of_block(block)
    dx: Array
    dx, gradients = kernels.block_backward(dy, saved, tuple(map(is_trained, parameters)))
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if parameter is not None:
            parameter.accumulate(gradient)
    return dx
