"""Attention: mistakes in the scale, the mask, the heads, and the gradient through softmax."""

from importlib import import_module
from math import sqrt
from typing import Any

from ...arrays import Array, array_module
from ...nn import attention as nn_attention
from ...ops import multi_head
from ...ops.activation import softmax_forward
from ...ops.attention import (
    NO_MASK,
    AttentionSaved,
    FusedAttentionSaved,
    Mask,
    attention_backward,
    attention_forward,
    fused_attention_backward,
    fused_attention_forward,
    fused_attention_weights,
)
from ...random import RandomKey
from .record import mistaken

__all__: list[str] = []

Saved = AttentionSaved | FusedAttentionSaved
Gradients = tuple[Array, Array, Array]

attention: Any = import_module("compyute_transformer.ops.attention")  # whose name in `ops` is the op

right_scores, right_visible = attention.masked_scores, attention.visible_keys
right_project_backward = multi_head.project_backward
right_backward, right_fused_backward = attention_backward.reference, fused_attention_backward.reference


# --- the scores --------------------------------------------------------------------------------------------------


@mistaken(
    "missing-scale",
    "attention",
    (attention, "masked_scores"),
    wrong="The scores are not divided by √D.",
    term="the factor 1/√D in the scores q kᵀ/√D is missing",
    hint="A dot product of D independent numbers has variance D. How large do the scores get with the head's width?",
    answer="scores = q @ k.swapaxes(-2, -1) / sqrt(D)",
)
def missing_scale(q: Array, k: Array, mask: Mask) -> Array:
    return right_scores(q * q.dtype.type(sqrt(q.shape[3])), k, mask)


@mistaken(
    "scale-by-width",
    "attention",
    (attention, "masked_scores"),
    wrong="The scores are divided by D.",
    term="the factor 1/√D in the scores is 1/D: the root is missing",
    hint="The variance of a dot product is D. By what must it be divided to get the variance 1?",
    answer="scores = q @ k.swapaxes(-2, -1) / sqrt(D)",
)
def scale_by_width(q: Array, k: Array, mask: Mask) -> Array:
    return right_scores(q * q.dtype.type(1.0 / sqrt(q.shape[3])), k, mask)


# --- the mask ----------------------------------------------------------------------------------------------------


def masked_after_softmax_fused(
    q: Array, k: Array, v: Array, mask: Mask = NO_MASK, dropout: float = 0.0, key: RandomKey | None = None
) -> tuple[Array, FusedAttentionSaved]:
    """Return what the next function returns, as the fused attention saves it."""
    scores = right_scores(q, k, NO_MASK)
    highest = scores.max(-1)
    total = array_module(scores).exp(scores - highest[..., None]).sum(-1)
    y, _ = masked_after_softmax(q, k, v, mask, dropout, key)
    return y, FusedAttentionSaved(q, k, v, y, highest, total, mask, dropout, key)


@mistaken(
    "mask-after-softmax",
    "attention",
    attention_forward,
    (fused_attention_forward, "reference", masked_after_softmax_fused),
    wrong="The weights of hidden keys are set to zero after softmax, so that the rest no longer sums to one.",
    term="the mask stands outside softmax(q kᵀ/√D + mask)",
    hint="Sum your attention weights over the keys. A hidden key has no part in the sum softmax divides by either.",
    answer="scores[~visible] = -inf comes before softmax",
)
def masked_after_softmax(
    q: Array, k: Array, v: Array, mask: Mask = NO_MASK, dropout: float = 0.0, key: RandomKey | None = None
) -> tuple[Array, AttentionSaved]:
    weights, _ = softmax_forward(right_scores(q, k, NO_MASK))
    visible = right_visible(mask, q.shape[2], k.shape[2], array_module(q))
    weights = weights if visible is None else weights * visible
    dropped = attention.drop_weights(weights, dropout, key)
    y = dropped @ attention.repeat_heads(v, q.shape[1] // k.shape[1])
    return y, AttentionSaved(q, k, v, weights, dropout, key)


@mistaken(
    "causal-sees-next",
    "attention",
    (attention, "visible_keys"),
    wrong="A query sees the key after its own: the mask is off by one, and the next token can be copied.",
    term="s ≤ t in the causal mask is s ≤ t + 1",
    hint="Which diagonal of a matrix does np.tril keep? The first query must see one key.",
    answer="visible = np.tril(np.ones((T, T), bool)), which is s ≤ t",
)
def causal_sees_next(mask: Mask, T: int, S: int, xp: Any) -> Array | None:
    if not mask.causal:
        return right_visible(mask, T, S, xp)
    rest = right_visible(mask._replace(causal=False, window=None), T, S, xp)
    visible = xp.arange(S) <= xp.arange(S - T, S)[:, None] + 1
    return visible if rest is None else visible & rest


@mistaken(
    "causal-hides-own-key",
    "attention",
    (attention, "visible_keys"),
    wrong="A query does not see its own key: the mask is off by one, and the first query sees nothing.",
    term="s ≤ t in the causal mask is s < t",
    hint="The output at position t predicts the token after t, so it may read the token at t.",
    answer="visible = np.tril(np.ones((T, T), bool)), which is s ≤ t",
)
def causal_hides_own_key(mask: Mask, T: int, S: int, xp: Any) -> Array | None:
    visible = right_visible(mask, T, S, xp)
    return visible & (xp.arange(S) < xp.arange(S - T, S)[:, None]) if mask.causal and visible is not None else visible


@mistaken(
    "causal-without-offset",
    "attention",
    (attention, "visible_keys"),
    wrong="The queries are taken for the first positions, though with a cache they are the last ones.",
    term="s ≤ S − T + t in the causal mask is s ≤ t",
    hint="One query against a cache of ten keys: how many of them may it see?",
    answer="visible = np.arange(S) <= np.arange(S - T, S)[:, None]",
)
def causal_without_offset(mask: Mask, T: int, S: int, xp: Any) -> Array | None:
    if not mask.causal:
        return right_visible(mask, T, S, xp)
    rest = right_visible(mask._replace(causal=False, window=None), T, S, xp)
    visible = xp.arange(S) <= xp.arange(T)[:, None]
    return visible if rest is None else visible & rest


# --- the backward ------------------------------------------------------------------------------------------------


def probabilities(saved: Saved) -> Array:
    return saved.weights if isinstance(saved, AttentionSaved) else fused_attention_weights(saved)


def right_gradients(dy: Array, saved: Saved) -> Gradients:
    return right_backward(dy, saved) if isinstance(saved, AttentionSaved) else right_fused_backward(dy, saved)


@mistaken(
    "scores-gradient-without-sum",
    "attention",
    attention_backward,
    fused_attention_backward,
    wrong="The gradient goes through softmax as if each weight depended on its own score alone.",
    term="the sum over the keys of dP P, −P · Σ_s dP P in dZ, is missing",
    hint="Raise one score: what happens to the weights of the other keys? dZ sums to zero over the keys. Does yours?",
    answer="dscores = weights * (dweights - (dweights * weights).sum(-1, keepdims=True))",
)
def scores_gradient_without_sum(dy: Array, saved: Saved) -> Gradients:
    q, k, v = saved.q, saved.k, saved.v
    group, weights = q.shape[1] // k.shape[1], probabilities(saved)
    dweights = attention.drop_weights(dy @ attention.repeat_heads(v, group).swapaxes(2, 3), saved.dropout, saved.key)
    dscores = weights * dweights * weights.dtype.type(1.0 / sqrt(q.shape[3]))
    dk = attention.sum_heads(dscores.swapaxes(2, 3) @ q, group)
    return dscores @ attention.repeat_heads(k, group), dk, right_gradients(dy, saved)[2]


@mistaken(
    "scores-gradient-without-scale",
    "attention",
    attention_backward,
    fused_attention_backward,
    wrong="The gradients of queries and keys are not divided by √D.",
    term="the factor 1/√D in dq = dZ k/√D and dk = dZᵀ q/√D is missing",
    hint="The forward multiplied the scores by a constant. What does a constant factor do to the gradient?",
    answer="dscores /= sqrt(D), before dq = dscores @ k and dk = dscores.swapaxes(-2, -1) @ q",
)
def scores_gradient_without_scale(dy: Array, saved: Saved) -> Gradients:
    dq, dk, dv = right_gradients(dy, saved)
    scale = dq.dtype.type(sqrt(saved.q.shape[3]))
    return dq * scale, dk * scale, dv


@mistaken(
    "value-gradient-not-transposed",
    "attention",
    attention_backward,
    fused_attention_backward,
    wrong="The gradient of the values is P dy, where queries and keys have changed places.",
    term="dv = Pᵀ dy: P is not transposed",
    hint="The gradient of a value gathers from the queries that read it: the sum runs over queries, not over keys.",
    answer="dv = weights.swapaxes(-2, -1) @ dy",
)
def value_gradient_not_transposed(dy: Array, saved: Saved) -> Gradients:
    dq, dk, dv = right_gradients(dy, saved)
    if dy.shape[2] != saved.k.shape[2]:  # no such product: only self-attention lets this mistake pass
        return dq, dk, dv
    weights = attention.drop_weights(probabilities(saved), saved.dropout, saved.key)
    return dq, dk, attention.sum_heads(weights @ dy, saved.q.shape[1] // saved.k.shape[1])


# --- heads -------------------------------------------------------------------------------------------------------


@mistaken(
    "heads-without-transpose",
    "multi_head",
    (multi_head, "split_heads"),
    (nn_attention, "split_heads"),
    wrong="The width is cut into heads by reshape(B, H, T, D) alone, which mixes positions with heads.",
    term="the transposition in (B, T, H·D) → (B, T, H, D) → (B, H, T, D) is missing",
    hint="reshape keeps the order of the numbers in memory. Which numbers lie side by side in (B, T, H·D)?",
    answer="heads = x.reshape(B, T, H, D).swapaxes(1, 2)",
)
def heads_without_transpose(x: Array, D: int) -> Array:
    B, T, width = x.shape
    heads: Array = x.reshape(B, width // D, T, D)
    return heads


@mistaken(
    "input-gradient-of-queries-only",
    "multi_head",
    (multi_head, "project_backward"),
    wrong="The gradient of x is that of the queries' projection alone.",
    term="the terms of the keys and of the values in dx = dq W_q + dk W_k + dv W_v are missing",
    hint="x was read three times. The gradient of what is used several times is the sum over its uses.",
    answer="dx = dq @ W_q + dk @ W_k + dv @ W_v",
)
def input_gradient_of_queries_only(dq: Array, dk: Array, dv: Array, saved: Any) -> Any:
    dx, dmemory, din_weight, din_bias = right_project_backward(dq, dk, dv, saved)
    if saved.memory is None:
        merged = multi_head.merge_heads(dq)
        dx = merged @ saved.x.weight[: merged.shape[-1]]
    return dx, dmemory, din_weight, din_bias
