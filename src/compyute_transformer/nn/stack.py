"""Stack: blocks one after the other, each with its cache if there is one; where a kernel can, all of them as one op.

A few positions behind a cache, as in generation, cost little more than reading the weights: what lies between the ops
is worth saving then, and `ops.block.blocks_step` is all blocks in one. It is the same function of the same weights.
"""

from collections.abc import Sequence
from itertools import repeat
from typing import Any

from ..arrays import Array
from ..ops.attention import Mask
from ..ops.block import BlockWeights, NormWeights, blocks_step
from .attention import AttentionCache, MultiHeadAttention
from .block import PostNormBlock, PreNormBlock
from .dropout import Dropout
from .feed_forward import FeedForward
from .linear import Linear
from .module import Module, ModuleList
from .norm import LayerNorm

__all__ = ["run_blocks"]

# what is in a block that `blocks_step` knows; a part of any other kind runs as it is
PARTS = {
    "attention_norm": LayerNorm,
    "attention": MultiHeadAttention,
    "attention_dropout": Dropout,
    "feed_forward_norm": LayerNorm,
    "feed_forward": FeedForward,
    "feed_forward_dropout": Dropout,
}


def run_blocks(blocks: ModuleList, x: Array, mask: Mask, caches: Sequence[AttentionCache] | None = None) -> Array:
    """Transform x (B, T, C) by blocks that attend to themselves, one after the other. caches: one for each block.

    As one op where a kernel supports, caches are given that have `extend`, as `generation.cache.BlockCache` does, and
    running the blocks would be nothing else: they are alike, of the library's own parts, in `eval()`, their attention
    is "auto" or "fused", and no observer watches one of them.
    """
    extends: list[Any] = [getattr(cache, "extend", None) for cache in caches or ()]
    if extends and all(extends) and blocks_step.has_kernel(x) and _are_one_op(blocks):
        keys, values = zip(*(extend(x.shape[1]) for extend in extends), strict=True)
        if mask.array is not None:  # it is about all positions; the cache may know that only the last are seen
            mask = mask._replace(array=mask.array[..., -keys[0].shape[2] :])
        given = x, [_weights(block) for block in blocks], keys, values, mask, *_options(blocks[0])
        if (kernel := blocks_step.kernel_of(*given)) is not None:
            return kernel(*given)
    for block, cache in zip(blocks, caches or repeat(None, len(blocks)), strict=True):
        x = block(x, mask, cache)
    return x


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
    for part in (block, up, down, *block._modules.values()):
        if (
            part.training or part._observers or "forward" in part.__dict__
        ):  # the last: somebody put another in its place
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
