"""Fused decoder: a few further positions through all blocks of a language model as one op.

A few positions behind a cache, as in generation, cost little more than reading the weights, so what lies between the
ops is worth saving: `ops.block.blocks_step` is all blocks in one kernel. It computes the same function of the same
weights as the model's own forward, which runs wherever this one does not.
"""

from typing import Any, Self

from ..arrays import Array
from ..models.language import LanguageModel, mask_padding
from ..nn.attention import MultiHeadAttention
from ..nn.block import PostNormBlock, PreNormBlock
from ..nn.dropout import Dropout
from ..nn.feed_forward import FeedForward
from ..nn.linear import Linear
from ..nn.module import Module, ModuleList
from ..nn.norm import LayerNorm
from ..ops.block import BlockWeights, NormWeights, blocks_step
from .cache import KeyValueCache

__all__ = ["FusedDecoder"]

# The parts of a block that `blocks_step` computes; a block with a part of any other type is not fused.
PARTS = {
    "attention_norm": LayerNorm,
    "attention": MultiHeadAttention,
    "attention_dropout": Dropout,
    "feed_forward_norm": LayerNorm,
    "feed_forward": FeedForward,
    "feed_forward_dropout": Dropout,
}


class FusedDecoder:
    """The blocks of a model as one op, built once from a model whose weights stay as they are meanwhile."""

    def __init__(self, model: LanguageModel) -> None:
        self._model = model
        self._weights = [_weights(block) for block in model.blocks]
        self._options = _options(model.blocks[0])

    @classmethod
    def from_model(cls, model: LanguageModel) -> Self | None:
        """Return the fused decoder of a model in `eval()`; None where running its blocks would be something else.

        A model is supported if its blocks are alike and made of the library's own parts, their attention is "auto" or
        "fused", no observer watches one of them, and there is a kernel for the device.
        """
        if not blocks_step.has_kernel(model.token_embedding.weight.data) or not _are_one_op(model.blocks):
            return None
        return cls(model)

    def __call__(self, ids: Array, cache: KeyValueCache) -> Array | None:
        """Return the logits (B, V) that follow ids (B, T), which join the cache; None where no kernel supports them."""
        T, start = ids.shape[1], cache.length
        x = self._model.embed(ids, start, cache.padding)
        keys, values = zip(*(block.extend(T) for block in cache.blocks), strict=True)
        mask = mask_padding(self._model.mask, cache.padding, start + T)
        if mask.array is not None:  # with a window, a cache returns the last positions only
            mask = mask._replace(array=mask.array[..., -keys[0].shape[2] :])
        arguments = x, self._weights, keys, values, mask, *self._options
        kernel = blocks_step.kernel_of(*arguments)
        if kernel is None:
            return None
        x = kernel(*arguments)
        cache.advance(T)
        logits: Array = self._model.unembed(x[:, -1:])[:, 0]
        return logits


def _options(block: Any) -> tuple[Any, ...]:
    return block.attention.num_heads, block.feed_forward.activation, type(block) is PreNormBlock


def _are_one_op(blocks: ModuleList) -> bool:
    options = None
    for block in blocks:
        if type(block) not in (PreNormBlock, PostNormBlock) or not _has_plain_parts(block):
            return False
        options = options or _options(block)
        if _options(block) != options or block.attention.implementation not in ("auto", "fused"):
            return False
    return options is not None


def _has_plain_parts(block: Module) -> bool:
    for name, kind in PARTS.items():
        if type(getattr(block, name)) is not kind:
            return False
    up, down = block.feed_forward.up, block.feed_forward.down  # type: ignore[attr-defined]
    if type(up) is not Linear or type(down) is not Linear:
        return False
    if block.attention.prepares_heads:  # type: ignore[attr-defined]
        return False
    for part in (block, up, down, *block._modules.values()):
        # the last condition: the forward of this one module was replaced
        if part.training or part._observers or "forward" in part.__dict__:
            return False
    return True


def _weights(block: Any) -> BlockWeights:
    attention, up, down = block.attention, block.feed_forward.up, block.feed_forward.down
    return BlockWeights(
        _norm_weights(block.attention_norm),
        attention.in_weight.data,
        attention.in_bias.data if attention.in_bias else None,
        attention.out_weight.data,
        attention.out_bias.data if attention.out_bias else None,
        _norm_weights(block.feed_forward_norm),
        up.weight.data,
        up.bias.data if up.bias else None,
        down.weight.data,
        down.bias.data if down.bias else None,
    )


def _norm_weights(norm: LayerNorm) -> NormWeights:
    return NormWeights(norm.weight.data, norm.bias.data if norm.bias else None, norm.eps)
