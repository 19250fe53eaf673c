"""Records of the blocks: the modules."""

from itertools import chain
from typing import Any

import numpy as np

from ...nn import (
    CrossBlock,
    Dropout,
    FeedForward,
    LayerNorm,
    Module,
    MultiHeadAttention,
    PostNormBlock,
    PreNormBlock,
    share_generator,
)
from ...ops.attention import NO_MASK, Mask
from ...random import Generator
from ..record import B, C, Drop, ModuleCase, S, T, Tensor, Weights, beside
from ..torch.base import dense_mask
from ..torch.modules import torch_block
from ..torch.transformer import torch_cross_block, torch_post_norm_block

__all__ = ["MODULES"]


def sublayers(weights: Generator, dropout: float, attentions: int) -> list[tuple[Any, Dropout, LayerNorm]]:
    """Return attentions, then a feed-forward, each with its dropout and its norm: the parts of a post-norm block."""
    heads = [MultiHeadAttention(C, 3, dropout=dropout, generator=weights) for _ in range(attentions)]
    layers = (*heads, FeedForward(C, 17, generator=weights))
    return [(layer, Dropout(dropout), LayerNorm(C)) for layer in layers]


def pre_norm_block(case: str, mask: Mask, dropout: float) -> ModuleCase:
    def build(weights: Generator, drops: Generator) -> Module:
        (attention, drop, norm), (feed_forward, last_drop, last_norm) = sublayers(weights, dropout, 1)
        return share_generator(PreNormBlock(norm, attention, drop, last_norm, feed_forward, last_drop), drops)

    return ModuleCase(
        "PreNormBlock",
        case,
        build,
        lambda w, x, drop: torch_block(w, x[0], (3, 3), dense_mask(mask, T, T, x[0].dtype), drop, "gelu_tanh"),
        call=lambda module, x: module(x, beside(mask, module)),
    )


def post_norm_block(case: str, mask: Mask, dropout: float) -> ModuleCase:
    def torch(w: Weights, x: list[Tensor], drop: Drop) -> Tensor:
        return torch_post_norm_block(w, x[0], (3, 3), dense_mask(mask, T, T, x[0].dtype), drop, "gelu_tanh")

    return ModuleCase(
        "PostNormBlock",
        case,
        lambda weights, drops: share_generator(PostNormBlock(*chain(*sublayers(weights, dropout, 1))), drops),
        torch,
        call=lambda module, x: module(x, beside(mask, module)),
    )


def cross_block(case: str, mask: Mask, memory_mask: Mask, dropout: float) -> ModuleCase:
    def torch(w: Weights, inputs: list[Tensor], drop: Drop) -> Tensor:
        x, memory = inputs
        added = dense_mask(mask, T, T, x.dtype), dense_mask(memory_mask, T, S, x.dtype)
        return torch_cross_block(w, x, memory, (3, 3), added, drop, "gelu_tanh")

    return ModuleCase(
        "CrossBlock",
        case,
        lambda weights, drops: share_generator(CrossBlock(*sublayers(weights, dropout, 2)), drops),
        torch,
        {"x": (B, T, C), "memory": (B, S, C)},
        lambda module, x, memory: module(x, memory, beside(mask, module), beside(memory_mask, module)),
    )


LENGTHS = np.array([5, 3])
MODULES = (
    pre_norm_block("causal_window_dropout", Mask(causal=True, window=3), 0.3),
    pre_norm_block("causal", Mask(causal=True), 0.0),
    post_norm_block("causal_window_dropout", Mask(causal=True, window=3), 0.3),
    post_norm_block("key_lengths", Mask(key_lengths=LENGTHS), 0.0),
    cross_block("causal", Mask(causal=True), NO_MASK, 0.0),
    cross_block("key_lengths_dropout", Mask(causal=True, key_lengths=LENGTHS), Mask(key_lengths=np.array([4, 7])), 0.3),
)
