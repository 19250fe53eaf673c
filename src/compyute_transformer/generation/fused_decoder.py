"""Fused decoder: a few further positions through all blocks of a language model as one op.

A few positions behind a cache, as in generation, cost little more than reading the weights, so what lies between the
ops is worth saving: `ops.block.blocks_step` is all blocks of a GPT in one kernel, `ops.gated_block.gated_blocks_step`
those of a Llama. They compute the same function of the same weights as the model's own forward, which runs wherever
they do not.
"""

from typing import Any, Self

from ..arrays import Array, array_module
from ..models.language import LanguageModel, mask_padding
from ..nn.attention import MultiHeadAttention
from ..nn.block import PostNormBlock, PreNormBlock
from ..nn.feed_forward import GatedFeedForward
from ..nn.fused import definitions_of, runs_as_defined
from ..nn.fused_block import PARTS, weights_of_block
from ..nn.linear import Linear
from ..nn.module import ModuleList
from ..nn.norm import RMSNorm
from ..nn.position import RotaryPosition
from ..ops.block import FixedWeights, blocks_step
from ..ops.gated_block import GatedBlockWeights, RotaryTables, gated_blocks_step
from ..precision import precision, use_precision
from .cache import KeyValueCache

__all__ = ["FusedDecoder", "are_one_op"]

# The parts of a Llama's block, which `gated_blocks_step` computes.
GATED_PARTS = PARTS | {"attention_norm": RMSNorm, "feed_forward_norm": RMSNorm, "feed_forward": GatedFeedForward}
DEFINED = definitions_of(PreNormBlock, PostNormBlock, Linear, RotaryPosition, *PARTS.values(), *GATED_PARTS.values())


class FusedDecoder:
    """The blocks of a model as one op, built once from a model whose weights stay as they are meanwhile.

    The products are those of the precision that was chosen when it was made.
    """

    def __init__(self, model: LanguageModel) -> None:
        self._model, self._precision = model, model.precision or precision()
        first = model.blocks[0]
        self._is_gated = type(first.feed_forward) is GatedFeedForward
        read = _gated_weights if self._is_gated else weights_of_block
        self._weights: FixedWeights = FixedWeights(read(block) for block in model.blocks)
        self._options = _options(first)

    @classmethod
    def from_model(cls, model: LanguageModel) -> Self | None:
        """Return the fused decoder of a model in `eval()`; None where running its blocks would be something else.

        A model is supported if its blocks are alike and made of the library's own parts, their attention is "auto" or
        "fused", no observer watches one of them, all have one precision, and there is a kernel for the device.
        """
        if not blocks_step.has_kernel(model.token_embedding.weight.data):
            return None
        if any(part.precision not in (None, model.precision) for part in model.modules()):
            return None
        if not are_one_op(model.blocks):
            return None
        return cls(model)

    def _call(self, x: Array, start: int, keys: Any, values: Any, mask: Any) -> tuple[Any, tuple[Any, ...]]:
        """Return the op that runs the blocks, and its arguments."""
        if not self._is_gated:
            return blocks_step, (x, self._weights, keys, values, mask, *self._options[:3])
        attention = self._model.blocks[0].attention
        xp = array_module(x)
        tables = RotaryTables(*(xp.array(table) for table in attention.rotary.tables(start, x.shape[1], x.dtype)))
        num_heads, activation, *_ = self._options
        return gated_blocks_step, (x, self._weights, keys, values, mask, num_heads, tables, activation)

    def __call__(self, ids: Array, cache: KeyValueCache, logits_to_keep: int = 1) -> Array | None:
        """Return the logits (B, logits_to_keep, V) after the last of the ids (B, T), which join the cache.

        None where no kernel supports the arguments; the cache is then as it was.
        """
        with use_precision(self._precision):
            return self._read(ids, cache, logits_to_keep)

    def _read(self, ids: Array, cache: KeyValueCache, logits_to_keep: int) -> Array | None:
        T, start = ids.shape[1], cache.length
        x = self._model.embed(ids, start, cache.padding)
        keys, values = zip(*(block.extend(T) for block in cache.blocks), strict=True)
        mask = mask_padding(self._model.mask, cache.padding, start + T)
        if mask.array is not None:  # with a window, a cache returns the last positions only
            mask = mask._replace(array=mask.array[..., -keys[0].shape[2] :])
        op, arguments = self._call(x, start, keys, values, mask)
        kernel = op.kernel_of(*arguments)
        if kernel is None:
            return None
        x = kernel(*arguments)
        cache.advance(T)
        logits: Array = self._model.unembed(x[:, -logits_to_keep:])
        return logits


def _options(block: Any) -> tuple[Any, ...]:
    rotary = block.attention.rotary
    turned = None if rotary is None else (rotary.dim, rotary.theta, rotary.scaling)
    return block.attention.num_heads, block.feed_forward.activation, type(block) is PreNormBlock, turned


def are_one_op(blocks: ModuleList) -> bool:
    """Return whether blocks are alike and made of the library's own parts, which nobody watches, in `eval()`."""
    options = None
    for block in blocks:
        if type(block) not in (PreNormBlock, PostNormBlock) or not _has_plain_parts(block):
            return False
        options = options or _options(block)
        if _options(block) != options or block.attention.implementation not in ("auto", "fused"):
            return False
    return options is not None


def _has_plain_parts(block: Any) -> bool:
    is_gated = type(getattr(block, "feed_forward", None)) is GatedFeedForward
    for name, kind in (GATED_PARTS if is_gated else PARTS).items():
        if type(getattr(block, name)) is not kind:
            return False
    if is_gated and not (type(block) is PreNormBlock and _turns_halves(block.attention)):
        return False
    if not is_gated and block.attention.prepares_heads:
        return False
    linears = block.feed_forward._modules.values()
    if any(type(linear) is not Linear for linear in linears):
        return False
    for part in (block, *linears, *block._modules.values()):
        if part.training or not runs_as_defined(part, DEFINED):
            return False
    return True


def _turns_halves(attention: MultiHeadAttention) -> bool:
    """Return whether queries and keys are turned as `gated_blocks_step` does, and nothing else happens to them."""
    rotary = attention.rotary
    if rotary is None or not runs_as_defined(rotary, DEFINED) or rotary.interleaved:
        return False
    is_dynamic = rotary.scaling is not None and rotary.scaling.kind == "dynamic"
    return attention.q_norm is None and attention.k_norm is None and not is_dynamic


def _gated_weights(block: Any) -> GatedBlockWeights:
    attention, feed_forward = block.attention, block.feed_forward
    linears = (feed_forward.gate, feed_forward.up, feed_forward.down)
    arrays: tuple[Any, ...] = (
        block.attention_norm.weight.data,
        *attention._weights(),
        block.feed_forward_norm.weight.data,
        *(array for linear in linears for array in (linear.weight.data, linear.bias.data if linear.bias else None)),
    )
    return GatedBlockWeights._make((*arrays, (block.attention_norm.eps, block.feed_forward_norm.eps)))
