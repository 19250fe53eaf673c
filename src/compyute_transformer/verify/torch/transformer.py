"""Vaswani's blocks and models in plain torch functions, from the paper, without a line of `ops`, `nn` or `models`."""

from collections.abc import Callable
from math import sqrt
from typing import Any

from ...models.transformer import TransformerConfig
from ...nn.feed_forward import Activation
from ...ops.attention import Mask
from ..record import Tensor, Weights
from ..records.position import torch_sinusoidal_position
from .base import dense_mask, import_torch
from .modules import part, torch_feed_forward, torch_multi_head, torch_norm

__all__ = ["logits", "torch_cross_block", "torch_post_norm_block"]

Drop = Callable[[Tensor], Tensor]
Heads = tuple[int, int]


def sublayer(weights: Weights, name: str, x: Tensor, y: Tensor, drop: Drop, eps: float = 1e-5) -> Tensor:
    """Return norm(x + dropout(y)), by the norm of the sublayer's name."""
    return torch_norm(part(weights, f"{name}_norm"), x + drop(y), eps)


def torch_post_norm_block(
    weights: Weights, x: Tensor, heads: Heads, added: Tensor, drop: Drop, activation: Activation, eps: float = 1e-5
) -> Tensor:
    """Compute a post-norm block."""
    y, _ = torch_multi_head(part(weights, "attention"), x, x, heads, added, drop)
    x = sublayer(weights, "attention", x, y, drop, eps)
    y = torch_feed_forward(part(weights, "feed_forward"), x, activation)
    return sublayer(weights, "feed_forward", x, y, drop, eps)


def torch_cross_block(
    weights: Weights,
    x: Tensor,
    memory: Tensor,
    heads: Heads,
    added: tuple[Tensor, Tensor],
    drop: Drop,
    activation: Activation,
) -> Tensor:
    """Compute a decoder block. added: to the scores of the self-attention, and to those of the cross-attention."""
    y, _ = torch_multi_head(part(weights, "attention"), x, x, heads, added[0], drop)
    x = sublayer(weights, "attention", x, y, drop)
    y, _ = torch_multi_head(part(weights, "cross_attention"), x, memory, heads, added[1], drop)
    x = sublayer(weights, "cross_attention", x, y, drop)
    return sublayer(weights, "feed_forward", x, torch_feed_forward(part(weights, "feed_forward"), x, activation), drop)


def embedded(weights: Weights, ids: Tensor, drop: Drop) -> Tensor:
    """Return √C · embedding + sinusoids, after dropout."""
    matrix = weights["token_embedding.weight"]
    x = import_torch().nn.functional.embedding(ids, matrix)
    return drop(torch_sinusoidal_position(x * sqrt(matrix.shape[1]), 0))


def heads_of(config: Any) -> Heads:
    """Return H and K."""
    return config.num_heads, config.num_kv_heads or config.num_heads


def logits(
    weights: Weights,
    config: TransformerConfig,
    source: Tensor,
    target: Tensor,
    source_lengths: Tensor,
    target_lengths: Tensor,
    drop: Drop,
) -> Tensor:
    """Return the logits (B, T, V) of a Transformer."""
    (S, T), heads = (source.shape[1], target.shape[1]), heads_of(config)
    memory, source_mask = embedded(weights, source, drop), Mask(key_lengths=source_lengths.numpy())
    added = dense_mask(source_mask, S, S, memory.dtype)
    for index in range(config.num_layers):
        block = part(weights, f"encoder.{index}")
        memory = torch_post_norm_block(block, memory, heads, added, drop, config.activation)
    x = embedded(weights, target, drop)
    target_mask = Mask(causal=True, key_lengths=target_lengths.numpy())
    both = dense_mask(target_mask, T, T, x.dtype), dense_mask(source_mask, T, S, x.dtype)
    for index in range(config.num_layers):
        block = part(weights, f"decoder.{index}")
        x = torch_cross_block(block, x, memory, heads, both, drop, config.activation)
    return x @ weights["token_embedding.weight"].T
