"""Attention: each query gets the mean of the values, weighted by how well their keys match it."""

from math import sqrt
from typing import Any, NamedTuple

from jaxtyping import Bool, Float

from ..arrays import Array, array_module, is_captured
from ..dispatch import dispatched, output_of
from ..errors import DtypeError, InputError, RangeError, ShapeError
from ..precision import Precision, operands, precision
from ..random import RandomKey, keep_mask
from ._checks import (
    check_array,
    check_bool,
    check_floats,
    check_gradient,
    check_heads,
    check_integer,
    check_key,
    check_number,
    check_probability,
    check_saved,
    check_shape,
)
from .activation import SoftmaxSaved, softmax_backward, softmax_forward

__all__ = [
    "HIGHEST_CAP",
    "LOWEST_CAP",
    "NO_MASK",
    "AttentionSaved",
    "FusedAttentionSaved",
    "Mask",
    "attention",
    "attention_backward",
    "attention_forward",
    "fused_attention_backward",
    "fused_attention_forward",
    "fused_attention_weights",
    "visible_keys",
]

LOWEST_CAP, HIGHEST_CAP = 1e-3, 1e6


class Mask(NamedTuple):
    """Which keys a query may see: flags first, then an array for what flags cannot say. All that is given holds.

    The T queries are the last T of the S positions: query t stands at position S − T + t. So one query against many
    keys sees them all under a causal mask, as a cache needs, and with T = S query t stands at t.

    causal: keys up to the query's own position.
    window: with causal, the last `window` positions, the query's own included; without, fewer than `window` steps
        away on either side.
    key_lengths: (B) integers, the true length of each padded row of keys; keys from there on are hidden.
    array: (T, S) or (B or 1, H or 1, T or 1, S or 1); boolean, True where a key is seen (as in torch's
        scaled_dot_product_attention), or floats that are added to the scores, −inf where a key is hidden.
    soft_cap: c of Z ← c tanh(Z/c), which keeps scores within ±c before anything is added to them; None caps nothing.
    slopes: (H) floats, how much the scores of a head fall with each position between query and key, on either side; see
        `position.alibi_slopes`.
    """

    causal: bool = False
    window: int | None = None
    key_lengths: Array | None = None
    array: Array | None = None
    soft_cap: float | None = None
    slopes: Array | None = None

    def for_head(self, head: int) -> "Mask":
        """The mask of one head's part of the scores."""
        array, slopes = self.array, self.slopes
        if array is not None and array.ndim == 4 and array.shape[1] > 1:
            array = array[:, head : head + 1]
        return self._replace(array=array, slopes=None if slopes is None else slopes[head : head + 1])


NO_MASK = Mask()


def check_dropout_of_weights(op: str, dropout: Any, key: Any) -> None:
    """Raise unless dropout is a probability, with a key that says which weights are dropped where it is not 0."""
    check_probability(op, dropout)
    if key is not None:
        check_key(op, key)
    elif dropout:
        raise RangeError(f"{op}: dropout {dropout} needs a key. Pass key=Generator(seed).next().")


def check_mask(mask: Any, shape: tuple[int, ...]) -> None:
    """Raise unless the mask is one, and fits scores of this shape (B, H, T, S)."""
    op, (B, H, T, S) = "attention", shape
    if not isinstance(mask, Mask):
        raise InputError(
            f"{op}: mask is a Mask, got {type(mask).__name__}. "
            "Give Mask(array=...) for an array, Mask(causal=True) for a causal mask, Mask() for none."
        )
    check_bool(op, "mask.causal", mask.causal)
    if mask.window is not None:
        hint = " It counts the query's own position. Use None for no window."
        check_integer(op, "mask.window", mask.window, 1, hint=hint)
    if mask.key_lengths is not None:
        lengths = mask.key_lengths
        check_array(op, "mask.key_lengths", lengths)
        check_shape(op, "mask.key_lengths", lengths, (B,), "one length a batch row")
        if lengths.dtype.kind not in "iu":
            raise DtypeError(f"{op}: mask.key_lengths are integers, got {lengths.dtype}.")
        if not is_captured(lengths) and ((lengths < 0) | (lengths > S)).any():
            raise RangeError(f"{op}: mask.key_lengths lie in [0, {S}], the number of keys, got {lengths}.")
    if mask.array is not None:
        check_mask_array(mask.array, (B, H, T, S))
    if mask.soft_cap is not None:
        check_number(op, "mask.soft_cap", mask.soft_cap, LOWEST_CAP, HIGHEST_CAP, " Use None for no cap.")
    if mask.slopes is not None:
        check_array(op, "mask.slopes", mask.slopes)
        check_shape(op, "mask.slopes", mask.slopes, (H,), "one slope a head")
        if mask.slopes.dtype.kind != "f":
            raise DtypeError(f"{op}: mask.slopes are floats, got {mask.slopes.dtype}.")


def check_mask_array(array: Any, shape: tuple[int, ...]) -> None:
    """Raise unless the array of a mask fits scores of this shape, and says which keys it hides."""
    op, (B, H, T, S) = "attention", shape
    check_array(op, "mask.array", array)
    given = array.shape
    full = (T, S) if len(given) == 2 else shape
    once = (T, S) if len(given) == 2 else (1, 1, 1, 1)
    if len(given) not in (2, 4) or any(g not in (f, o) for g, f, o in zip(given, full, once, strict=True)):
        raise ShapeError(
            f"{op}: mask.array must have shape ({T}, {S}) or ({B} or 1, {H} or 1, {T} or 1, {S} or 1), "
            f"the shape of the scores, got {tuple(given)}."
        )
    if array.dtype.kind not in "bfV":
        raise DtypeError(
            f"{op}: mask.array is boolean (True where a key is seen) or floats added to the scores, "
            f"got {array.dtype}. Convert it with array.astype(bool)."
        )
    # A sum has entries other than 0 and 1 in its first row, but for rare exceptions: then one row is looked at.
    if array.dtype.kind != "f" or not _is_zeros_and_ones(array[(0,) * (len(given) - 1)]):
        return
    if _is_zeros_and_ones(array) and (array == 1).any():
        raise RangeError(
            f"{op}: floats in mask.array are added to the scores, and zeros and ones hide nothing. "
            "For a mask that is True where a key is seen, give array.astype(bool)."
        )


def _is_zeros_and_ones(array: Array) -> bool:
    return bool(((array == 0) | (array == 1)).all())


def check_attention(q: Any, k: Any, v: Any, mask: Any = NO_MASK, dropout: Any = 0.0, key: Any = None) -> None:
    op = "attention"
    check_floats(op, q=q, k=k, v=v)
    check_shape(op, "q", q, (None, None, None, None), "batch, heads, time, head width")
    check_shape(op, "k", k, (q.shape[0], None, None, q.shape[3]), "batch and head width as in q")
    check_shape(op, "v", v, k.shape, "the shape of k")
    check_heads(op, q.shape[1] * q.shape[3], q.shape[1], k.shape[1])
    check_dropout_of_weights(op, dropout, key)
    if k.shape[2] == 0:
        raise ShapeError(f"{op}: there must be at least one key, got none.")
    check_mask(mask, (*q.shape[:3], k.shape[2]))
    array_module(q, mask.key_lengths, mask.array)


class AttentionSaved(NamedTuple):
    """q, k, v: the inputs. weights: (B, H, T, S), before dropout. dropout, key: what was dropped.

    precision: of the products, those of the backward too.
    """

    q: Array
    k: Array
    v: Array
    weights: Array
    dropout: float
    key: RandomKey | None
    precision: Precision = "float32"
    soft_cap: float | None = None  # of the scores


@dispatched(validate=check_attention)
def attention_forward(
    q: Float[Array, "B H T D"],
    k: Float[Array, "B K S D"],
    v: Float[Array, "B K S D"],
    mask: Mask = NO_MASK,
    dropout: float = 0.0,
    key: RandomKey | None = None,
) -> tuple[Float[Array, "B H T D"], AttentionSaved]:
    """Scaled dot-product attention.

    P = softmax(q kᵀ/√D + mask), P̃ = dropout(P), y = P̃ v
    dv = P̃ᵀ dy; dP = dropout′(dy vᵀ); dZ = P · (dP − Σ_s dP · P); dq = dZ k/√D; dk = dZᵀ q/√D

    With a soft cap c, c tanh(q kᵀ/√D/c) takes the place of q kᵀ/√D, and dZ is multiplied by 1 − tanh².
    With slopes m, m_h |s − t| is subtracted from the scores of head h, for a query at position t and a key at s.
    A key that is hidden has exactly zero weight and gradient. A query that sees no key gets zeros.
    In bfloat16 the operands of all products are rounded: q, k, v, P̃, dy and dZ; see `precision`.
    With fewer key/value heads than heads, head h reads key/value head ⌊h K/H⌋ (grouped-query attention).

    Shapes:
        q, y (B, H, T, D); k, v (B, K, S, D); float, of one dtype; K divides H; S at least 1.
    Saves:
        q, k, v, no copies; weights, B·H·T·S floats.
    Raises:
        ShapeError: shapes do not fit each other or the mask. RangeError: a window below 1, a probability outside
        [0, 1), a key length past S, dropout without a key. DtypeError: dtypes differ; a mask of integers.
    Source:
        Vaswani et al. 2017, section 3.2.1: D, the width of a head, is their d_k. Ainslie et al. 2023, "GQA". Soft cap:
        Gemma Team 2024, "Gemma 2", section 2. Slopes: Press, Smith, Lewis 2022, "Train short, test long" (ALiBi).
    """
    chosen, group = precision(), q.shape[1] // k.shape[1]
    queries, keys = operands(chosen, q, k)
    weights, _ = softmax_forward(masked_scores(queries, keys, mask))
    dropped, values = operands(chosen, drop_weights(weights, dropout, key), v)
    y = weighted_sum(dropped, repeat_heads(values, group))
    return y, AttentionSaved(q, k, v, weights, dropout, key, chosen, mask.soft_cap)


def check_attention_backward(dy: Any, saved: Any) -> None:
    check_saved("attention_backward", saved, AttentionSaved)
    check_gradient("attention_backward", dy, saved.q, saved.q.shape)


@dispatched(validate=check_attention_backward)
def attention_backward(
    dy: Float[Array, "B H T D"], saved: AttentionSaved
) -> tuple[Float[Array, "B H T D"], Float[Array, "B K S D"], Float[Array, "B K S D"]]:
    """Return the gradients of `attention_forward`: dq, dk, dv.

    dv = P̃ᵀ dy; dP = dropout′(dy vᵀ); dZ = P · (dP − Σ_s dP · P); dq = dZ k/√D; dk = dZᵀ q/√D

    Shapes:
        dy (B, H, T, D) as y; each gradient as its argument.
    Raises:
        ShapeError, DtypeError: dy has not the shape or the dtype of q. InputError: saved is of another op.
    """
    _, _, _, weights, dropout, key, chosen, soft_cap = saved
    q, k, v, dy = operands(chosen, *saved[:3], dy)
    group = q.shape[1] // k.shape[1]
    (dropped,) = operands(chosen, drop_weights(weights, dropout, key))
    dv = weighted_sum(dropped.swapaxes(2, 3), dy)
    dweights = drop_weights(dy @ repeat_heads(v, group).swapaxes(2, 3), dropout, key)
    dweights[weights == 0] = 0  # what a hidden value holds, even NaN, has no part in the sum below
    dscores = softmax_backward(dweights, SoftmaxSaved(weights))
    dscores = soft_cap_backward(dscores, q, k, soft_cap)
    dscores *= dscores.dtype.type(1.0 / sqrt(q.shape[3]))
    (dscores,) = operands(chosen, dscores)
    dq = weighted_sum(dscores, repeat_heads(k, group))
    dk = weighted_sum(dscores.swapaxes(2, 3), q)
    return dq, sum_heads(dk, group), sum_heads(dv, group)


attention = output_of("attention", attention_forward)


class FusedAttentionSaved(NamedTuple):
    """q, k, v: the inputs. y: the output. highest, total: (B, H, T). mask, dropout, key: as given.

    precision: of the products, those of the backward too.
    """

    q: Array
    k: Array
    v: Array
    y: Array
    highest: Array
    total: Array
    mask: Mask
    dropout: float
    key: RandomKey | None
    precision: Precision = "float32"


@dispatched(validate=check_attention)
def fused_attention_forward(
    q: Float[Array, "B H T D"],
    k: Float[Array, "B K S D"],
    v: Float[Array, "B K S D"],
    mask: Mask = NO_MASK,
    dropout: float = 0.0,
    key: RandomKey | None = None,
) -> tuple[Float[Array, "B H T D"], FusedAttentionSaved]:
    """`attention_forward` that keeps one number a query instead of its weights; kernels build no (T, S) matrix.

    P = exp(Z − m) / s, Z = q kᵀ/√D + mask, m = max Z, s = Σ exp(Z − m) over keys; y = dropout(P) v
    P is rebuilt; δ = Σ_d dy · y = Σ_s dP · P; dZ = P · (dP − δ); the rest as in `attention_forward`

    Shapes:
        as `attention_forward`.
    Saves:
        q, k, v, y, no copies; 2·B·H·T floats. m and s are kept apart: where a finite mask hides all keys of a query, m
        is so large that m + log s would round s away. Both are 0 for a query that sees no key.
    Raises:
        as `attention_forward`.
    Source:
        Dao et al. 2022, "FlashAttention": m + log s is their L, δ their D. Milakov, Gimelshein 2018: running softmax.
    """
    xp, chosen, group = array_module(q), precision(), q.shape[1] // k.shape[1]
    queries, keys = operands(chosen, q, k)
    scores = masked_scores(queries, keys, mask)
    highest = scores.max(-1, keepdims=True)
    sees = highest.real != -xp.inf
    highest = xp.where(sees, highest, scores.dtype.type(0))
    total = xp.exp(scores - highest).sum(-1, keepdims=True)
    weights = xp.exp(scores - highest) / xp.where(sees, total, 1)
    dropped, values = operands(chosen, drop_weights(weights, dropout, key), v)
    y = weighted_sum(dropped, repeat_heads(values, group))
    return y, FusedAttentionSaved(q, k, v, y, highest[..., 0], total[..., 0], mask, dropout, key, chosen)


def check_fused_attention_backward(dy: Any, saved: Any) -> None:
    check_saved("fused_attention_backward", saved, FusedAttentionSaved)
    check_gradient("fused_attention_backward", dy, saved.q, saved.q.shape)


@dispatched(validate=check_fused_attention_backward)
def fused_attention_backward(
    dy: Float[Array, "B H T D"], saved: FusedAttentionSaved
) -> tuple[Float[Array, "B H T D"], Float[Array, "B K S D"], Float[Array, "B K S D"]]:
    """Return the gradients of `fused_attention_forward`: dq, dk, dv.

    P is rebuilt; δ = Σ_d dy · y; dZ = P · (dP − δ); the rest as in `attention_backward`

    Shapes:
        dy (B, H, T, D) as y; each gradient as its argument.
    Raises:
        ShapeError, DtypeError: dy has not the shape or the dtype of q. InputError: saved is of another op.
    """
    _, _, _, y, _, _, mask, dropout, key, chosen = saved
    q, k, v, dy = operands(chosen, *saved[:3], dy)
    group = q.shape[1] // k.shape[1]
    weights = fused_attention_weights(saved)
    (dropped,) = operands(chosen, drop_weights(weights, dropout, key))
    dv = weighted_sum(dropped.swapaxes(2, 3), dy)
    dweights = drop_weights(dy @ repeat_heads(v, group).swapaxes(2, 3), dropout, key)
    dscores = weights * (dweights - (dy * y).sum(-1, keepdims=True))
    dscores[weights == 0] = 0  # what a hidden key or value holds, even NaN, has no part in any gradient
    dscores = soft_cap_backward(dscores, q, k, mask.soft_cap)
    dscores *= dscores.dtype.type(1.0 / sqrt(q.shape[3]))
    (dscores,) = operands(chosen, dscores)
    dq = weighted_sum(dscores, repeat_heads(k, group))
    dk = weighted_sum(dscores.swapaxes(2, 3), q)
    return dq, sum_heads(dk, group), sum_heads(dv, group)


def fused_attention_weights(saved: FusedAttentionSaved) -> Float[Array, "B H T S"]:
    """Return P = exp(Z − m) / s: the attention weights, before dropout, that the forward did not keep."""
    queries, keys = operands(saved.precision, saved.q, saved.k)
    scores = masked_scores(queries, keys, saved.mask)
    xp, total = array_module(scores), saved.total[..., None]
    weights: Array = xp.exp(scores - saved.highest[..., None]) / xp.where(total == 0, total.dtype.type(1), total)
    return weights


def masked_scores(q: Array, k: Array, mask: Mask) -> Float[Array, "B H T S"]:
    """Z = q kᵀ/√D, capped, + mask."""
    scores = scaled_scores(q, k)
    if mask.soft_cap is not None:
        cap = scores.dtype.type(mask.soft_cap)
        scores = cap * array_module(scores).tanh(scores / cap)
    apply_mask(scores, mask)
    return scores


def scaled_scores(q: Array, k: Array) -> Float[Array, "B H T S"]:
    """Return q kᵀ/√D."""
    scores: Array = q @ repeat_heads(k, q.shape[1] // k.shape[1]).swapaxes(2, 3)
    scores *= scores.dtype.type(1.0 / sqrt(q.shape[3]))
    return scores


def soft_cap_backward(dscores: Array, q: Array, k: Array, soft_cap: float | None) -> Float[Array, "B H T S"]:
    """Return the gradient of the scores before they were capped; a hidden key has none, whatever it holds."""
    if soft_cap is None:
        return dscores
    xp = array_module(dscores)
    t = xp.tanh(scaled_scores(q, k) / dscores.dtype.type(soft_cap))
    return xp.where(dscores == 0, dscores, dscores * (1 - t * t))


def repeat_heads(x: Array, group: int) -> Array:
    """Give each head of a group its own copy of the key/value head they share: (B, K, S, D) to (B, H, S, D)."""
    return x if group == 1 else x.repeat(group, axis=1)


def sum_heads(dx: Array, group: int) -> Array:
    """The gradient of `repeat_heads`: (B, H, S, D) to (B, K, S, D)."""
    if group == 1:
        return dx
    B, H, S, D = dx.shape
    summed: Array = dx.reshape(B, H // group, group, S, D).sum(2)
    return summed


def weighted_sum(weights: Array, values: Array) -> Array:
    """Return weights @ values, where a weight of zero leaves its value out, even if that is infinite or NaN."""
    xp = array_module(weights, values)
    product: Array = weights @ values
    if xp.isfinite(product).all():
        return product
    wild = ~xp.isfinite(values)
    reached = (weights != 0).astype(weights.dtype) @ wild.astype(weights.dtype)
    return xp.where(reached == 0, weights @ xp.where(wild, values.dtype.type(0), values), product)


def drop_weights(weights: Array, probability: float, key: RandomKey | None) -> Array:
    """Dropout on attention weights, or on their gradient: the same elements are dropped, the rest scaled up."""
    if probability == 0.0 or key is None:
        return weights
    keep = keep_mask(key, probability, weights.shape, array_module(weights))
    dropped: Array = weights * keep * weights.dtype.type(1.0 / (1.0 - probability))
    return dropped


def apply_mask(scores: Float[Array, "B H T S"], mask: Mask) -> None:
    """Mask scores in place: −inf where a key is hidden, else what the mask adds."""
    xp = array_module(scores, mask.key_lengths, mask.array)
    if mask.array is not None and mask.array.dtype.kind != "b":
        scores += mask.array
    T, S = scores.shape[2:]
    if mask.slopes is not None:
        distances = xp.abs(xp.arange(S - T, S)[:, None] - xp.arange(S))
        scores -= xp.asarray(mask.slopes, scores.dtype)[:, None, None] * distances
    visible = visible_keys(mask, T, S, xp)
    if visible is not None:
        xp.copyto(scores, scores.dtype.type(-xp.inf), where=~visible)


def visible_keys(mask: Mask, T: int, S: int, xp: Any) -> Bool[Array, "*broadcast T S"] | None:
    """Return where the flags and the array of a mask let a query see a key; None where they hide nothing."""
    positions, keys = xp.arange(S - T, S)[:, None], xp.arange(S)[None, :]
    conditions = []
    if mask.causal:
        conditions.append(keys <= positions)
    if mask.window is not None:
        conditions.append(keys > positions - mask.window)
        if not mask.causal:
            conditions.append(keys < positions + mask.window)
    if mask.key_lengths is not None:
        conditions.append(keys < mask.key_lengths[:, None, None, None])
    if mask.array is not None:
        conditions.append(mask.array if mask.array.dtype.kind == "b" else mask.array != -xp.inf)
    if not conditions:
        return None
    visible = conditions[0]
    for condition in conditions[1:]:
        visible = visible & condition
    return visible
