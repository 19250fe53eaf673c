"""Attention of heads that are projected already, by each of the algorithms of `ops.multi_head`.

The algorithms differ in how they take the heads: one after the other ("sequential", "semiparallel"), all at once
("parallel"), or all at once without keeping their weights ("fused").
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ..arrays import Array, array_module
from ..ops.attention import (
    AttentionSaved,
    FusedAttentionSaved,
    Mask,
    attention_backward,
    attention_forward,
    fused_attention_backward,
    fused_attention_forward,
    fused_attention_weights,
)
from ..random import RandomKey

__all__ = ["HEADS", "weights_of_heads"]

Forward = Callable[[Array, Array, Array, Mask, float, RandomKey | None], tuple[Array, Any]]
Backward = Callable[[Array, Any], tuple[Array, Array, Array]]


class HeadsSaved(NamedTuple):
    """heads: what the attention of each head saved. num_kv_heads: how many key/value heads they share."""

    heads: tuple[AttentionSaved, ...]
    num_kv_heads: int


def one_by_one(
    q: Array, k: Array, v: Array, mask: Mask, dropout: float, key: RandomKey | None
) -> tuple[Array, HeadsSaved]:
    """Return the outputs (B, H, T, D) of the heads, computed one after the other, and what each saved."""
    num_heads, num_kv_heads = q.shape[1], k.shape[1]
    outputs, heads = [], []
    for h in range(num_heads):
        g = h * num_kv_heads // num_heads
        head_key = None if key is None else key.for_head(h)
        y, saved = attention_forward(
            q[:, h : h + 1], k[:, g : g + 1], v[:, g : g + 1], mask.for_head(h), dropout, head_key
        )
        outputs.append(y)
        heads.append(saved)
    return array_module(q).concatenate(outputs, axis=1), HeadsSaved(tuple(heads), num_kv_heads)


def one_by_one_backward(dy: Array, saved: HeadsSaved) -> tuple[Array, Array, Array]:
    """Gradients of `one_by_one`: dq, dk, dv. Those of heads that share a key/value head are added."""
    heads, num_kv_heads = saved
    xp, num_heads = array_module(dy), len(heads)
    B, _, S, D = heads[0].k.shape
    dq = xp.empty_like(dy)
    dk, dv = xp.zeros((2, B, num_kv_heads, S, D), dtype=dy.dtype)
    for h in reversed(range(num_heads)):
        g = h * num_kv_heads // num_heads
        dq[:, h : h + 1], dk_head, dv_head = attention_backward(dy[:, h : h + 1], heads[h])
        dk[:, g : g + 1] += dk_head
        dv[:, g : g + 1] += dv_head
    return dq, dk, dv


HEADS: Mapping[str, tuple[Forward, Backward]] = {
    "sequential": (one_by_one, one_by_one_backward),
    "semiparallel": (one_by_one, one_by_one_backward),
    "parallel": (attention_forward, attention_backward),
    "fused": (fused_attention_forward, fused_attention_backward),
}


def weights_of_heads(saved: HeadsSaved | AttentionSaved | FusedAttentionSaved) -> Array:
    """Return the attention weights (B, H, T, S), before dropout, of what any of `HEADS` saved."""
    if isinstance(saved, FusedAttentionSaved):
        return fused_attention_weights(saved)
    if isinstance(saved, AttentionSaved):
        return saved.weights
    per_head = [head.weights for head in saved.heads]
    weights: Array = array_module(per_head[0]).concatenate(per_head, axis=1)
    return weights
