"""Composites: three small pairs made of the library's ops, for what goes wrong between ops.

residual         y = x + norm(x) Wᵀ                    a branch beside a residual connection
tied_embedding   logits = E[ids] Eᵀ                    one matrix with two uses
next_token       L = mean nll of ids[:, 1:] under logits[:, :-1]
"""

from typing import NamedTuple

from ..arrays import Array, array_module
from ..ops.embedding import EmbeddingSaved, embedding_backward, embedding_forward
from ..ops.linear import linear_backward, linear_forward
from ..ops.loss import CrossEntropySaved, cross_entropy_backward, cross_entropy_forward
from ..ops.norm import LayerNormSaved, layer_norm_backward, layer_norm_forward

__all__ = [
    "NextTokenSaved",
    "ResidualSaved",
    "TiedSaved",
    "gradient_of_lookup",
    "next_token_backward",
    "next_token_forward",
    "residual_backward",
    "residual_forward",
    "targets_of",
    "tied_embedding_backward",
    "tied_embedding_forward",
]


class ResidualSaved(NamedTuple):
    """norm: what the norm saved. xhat: its output. weight: of the branch."""

    norm: LayerNormSaved
    xhat: Array
    weight: Array


def residual_forward(x: Array, weight: Array) -> tuple[Array, ResidualSaved]:
    """Return y = x + norm(x) Wᵀ, as each half of a pre-norm block does. Shapes: x, y (B, T, C); weight (C, C)."""
    one = array_module(x).ones(x.shape[-1], dtype=x.dtype)
    xhat, norm_saved = layer_norm_forward(x, one)
    branch, _ = linear_forward(xhat, weight)
    return x + branch, ResidualSaved(norm_saved, xhat, weight)


def residual_backward(dy: Array, saved: ResidualSaved) -> tuple[Array, Array | None]:
    """Gradients of `residual_forward`: dx, dweight."""
    norm_saved, xhat, weight = saved
    _, linear_saved = linear_forward(xhat, weight)
    dbranch, dweight, _ = linear_backward(dy, linear_saved)
    dx, _, _ = layer_norm_backward(dbranch, norm_saved)
    return dy + dx, dweight


class TiedSaved(NamedTuple):
    """lookup: what the embedding saved. x: the embedded ids. weight: E."""

    lookup: EmbeddingSaved
    x: Array
    weight: Array


def tied_embedding_forward(ids: Array, weight: Array) -> tuple[Array, TiedSaved]:
    """Return logits = E[ids] Eᵀ. Shapes: ids (B, T) integers; weight E (V, C); logits (B, T, V)."""
    x, lookup = embedding_forward(ids, weight)
    logits, _ = linear_forward(x, weight)
    return logits, TiedSaved(lookup, x, weight)


def tied_embedding_backward(dy: Array, saved: TiedSaved) -> Array:
    """Gradient of `tied_embedding_forward`: dweight, the sum over both uses."""
    _, linear_saved = linear_forward(saved.x, saved.weight)
    _, dhead, _ = linear_backward(dy, linear_saved)
    return gradient_of_lookup(dy, saved) + dhead


def gradient_of_lookup(dy: Array, saved: TiedSaved) -> Array:
    """Return the part of dweight that comes through the look-up of the rows."""
    return embedding_backward(dy @ saved.weight, saved.lookup)


class NextTokenSaved(NamedTuple):
    """loss: what cross-entropy saved. shape: of the logits."""

    loss: CrossEntropySaved
    shape: tuple[int, ...]


def targets_of(ids: Array) -> Array:
    """Return the target of every position that has one: the token that follows."""
    return ids[:, 1:]


def next_token_forward(logits: Array, ids: Array) -> tuple[Array, NextTokenSaved]:
    """Return the mean nll of the token that follows each position. Shapes: logits (B, T, V); ids (B, T); a scalar."""
    loss, saved = cross_entropy_forward(logits[:, :-1], targets_of(ids))
    return loss, NextTokenSaved(saved, logits.shape)


def next_token_backward(dy: float, saved: NextTokenSaved) -> Array:
    """Gradient of `next_token_forward`: dlogits, zero at the last position, which has no target."""
    dlogits: Array = array_module(saved.loss.logits).zeros(saved.shape, dtype=saved.loss.logits.dtype)
    dlogits[:, :-1] = cross_entropy_backward(dy, saved.loss)
    return dlogits
