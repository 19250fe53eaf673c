"""Records of attention: the two ways to compute it on heads, and the masks that their cases use."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ...ops.attention import (
    NO_MASK,
    Mask,
    attention_backward,
    attention_forward,
    fused_attention_backward,
    fused_attention_forward,
)
from ...random import DROPOUT, RandomKey
from ..record import ELEMENTARY, Arguments, Benchmark, Op, Oracle, Rng, Sizes, Tensor, case
from ..torch.base import capped, dense_mask, functional
from .activation import torch_softmax
from .dropout import torch_dropout

__all__ = [
    "CASES",
    "OPS",
    "added",
    "attention_arguments",
    "attention_roundings",
    "everything",
    "falling",
    "lengths",
    "torch_attention",
    "visible",
]

MakeMask: TypeAlias = Callable[[Rng], Mask]


class Lengths(NamedTuple):
    """Batch B, heads H that share K key/value heads, T queries, S keys, head width D."""

    B: int = 2
    H: int = 3
    K: int | None = None
    T: int = 5
    S: int = 7
    D: int = 4


def attention_arguments(
    rng: Rng, mask: Mask | MakeMask = NO_MASK, dropout: float = 0.0, **given: int | None
) -> Arguments:
    """Draw queries, keys and values of these `Lengths`; the mask may be drawn too."""
    B, H, K, T, S, D = Lengths(**given)  # type: ignore[arg-type]
    K = H if K is None else K
    return {
        "q": rng.normal(size=(B, H, T, D)),
        "k": rng.normal(size=(B, K, S, D)),
        "v": rng.normal(size=(B, K, S, D)),
        "mask": mask if isinstance(mask, Mask) else mask(rng),
        "dropout": dropout,
        "key": RandomKey(2024, DROPOUT, 5) if dropout else None,
    }


# --- masks -----------------------------------------------------------------------------------------------------------


def visible(*shape: int) -> MakeMask:
    """Return a boolean mask in which every query sees its first key at least."""

    def make(rng: Rng) -> Mask:
        seen = rng.random(shape) < 0.6
        seen[..., 0] = True
        return Mask(array=seen)

    return make


def added(*shape: int) -> MakeMask:
    """Return a mask of floats to add, −inf at some keys and throughout the second query's row."""

    def make(rng: Rng) -> Mask:
        scores = rng.normal(size=shape)
        scores[rng.random(shape) < 0.3] = -np.inf
        scores[..., 0] = 0.5
        scores[..., 1, :] = -np.inf
        return Mask(array=scores)

    return make


def lengths(*each: int, causal: bool = False) -> MakeMask:
    """Return a mask of the true length of each row of keys."""
    return lambda rng: Mask(causal=causal, key_lengths=np.array(each))


def everything(rng: Rng) -> Mask:
    """Draw every kind of mask at once but a cap and slopes, for B = 2, T = 5, S = 7."""
    return added(2, 1, 5, 7)(rng)._replace(causal=True, window=4, key_lengths=np.array([6, 3]))


def falling(H: int, soft_cap: float | None = None, more: MakeMask = lambda rng: NO_MASK) -> MakeMask:
    """Return a mask with a slope for each of H heads, one of them rising, beside what another mask has."""
    return lambda rng: more(rng)._replace(slopes=rng.normal(size=H), soft_cap=soft_cap)


# --- PyTorch, roundings and work -------------------------------------------------------------------------------------


def torch_attention(q: Tensor, k: Tensor, v: Tensor, mask: Mask, dropout: float, key: RandomKey | None) -> Tensor:
    """Compute scores, add our mask made dense, and apply softmax, our dropout, and values."""
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    scores = capped(q @ k.transpose(2, 3) / q.shape[3] ** 0.5, mask.soft_cap)
    scores = scores + dense_mask(mask, q.shape[2], k.shape[2], q.dtype)
    return torch_dropout(torch_softmax(scores), dropout, key) @ v


def torch_own_attention(q: Tensor, k: Tensor, v: Tensor, mask: Mask, dropout: float, key: RandomKey | None) -> Tensor:
    """Call torch.nn.functional.scaled_dot_product_attention, which repeats grouped heads by itself."""
    added = dense_mask(mask, q.shape[2], k.shape[2], q.dtype)
    return functional().scaled_dot_product_attention(q, k, v, attn_mask=added, enable_gqa=q.shape[1] != k.shape[1])


def attention_roundings(H: int, K: int, T: int, S: int, D: int) -> int:
    """Count scores, cap, slope, exp, its sum, weight, P v, dropout; dv, dP, Σ dP P, cap, dZ k, dZᵀ q, groups, δ."""
    forward = D + 2 + 2 * ELEMENTARY + 4 + S + 1 + S + 2
    backward = T + D + 2 + S + ELEMENTARY + 4 + S + T + H // K + D
    return forward + backward


def roundings(a: Arguments) -> int:
    """Count those of attention on heads."""
    _, H, T, D = a["q"].shape
    _, K, S, _ = a["k"].shape
    return attention_roundings(H, K, T, S, D)


def flops(s: Sizes) -> float:
    """Return 2·D operations for two products of each of the T (T + 1) / 2 scores that a causal mask leaves."""
    return 2.0 * s.D * s.B * s.H * s.T * (s.T + 1)


def benchmark(backward: float) -> Benchmark:
    """Return causal attention over the whole context."""
    return Benchmark(
        lambda rng, s: attention_arguments(rng, Mask(causal=True), s.dropout, B=s.B, H=s.H, T=s.T, S=s.T, D=s.D),
        lambda s: f"B {s.B}, {s.H} heads, T {s.T}, D {s.D}",
        flops,
        backward,
    )


# --- the records -----------------------------------------------------------------------------------------------------

CASES = (
    case("no_mask", attention_arguments),
    case("more_queries_than_keys", attention_arguments, T=7, S=5),
    case("causal", attention_arguments, T=6, S=6, mask=Mask(causal=True)),
    case("causal_after_a_past", attention_arguments, mask=Mask(causal=True)),
    case("causal_with_too_few_keys", attention_arguments, T=7, S=5, mask=Mask(causal=True)),
    case("causal_window", attention_arguments, mask=Mask(causal=True, window=3)),
    case("window", attention_arguments, T=6, S=6, mask=Mask(window=2)),
    case("key_lengths", attention_arguments, mask=lengths(5, 0)),
    case("causal_key_lengths", attention_arguments, B=3, H=2, mask=lengths(7, 4, 1, causal=True)),
    case("boolean_matrix", attention_arguments, mask=visible(5, 7)),
    case("boolean_of_each_row", attention_arguments, mask=visible(2, 1, 1, 7)),
    case("boolean_of_each_head", attention_arguments, mask=visible(2, 3, 5, 7)),
    case("added", attention_arguments, mask=added(1, 3, 5, 7)),
    case("dropout", attention_arguments, dropout=0.3),
    case("rare_dropout", attention_arguments, dropout=0.001),
    case("grouped", attention_arguments, H=6, K=3),
    case("multi_query_causal", attention_arguments, K=1, mask=Mask(causal=True)),
    case("one_query_causal", attention_arguments, T=1, mask=Mask(causal=True)),
    case("one_query_window", attention_arguments, T=1, mask=Mask(causal=True, window=3)),
    case("everything", attention_arguments, H=6, K=3, mask=everything, dropout=0.4),
    case("soft_cap", attention_arguments, mask=Mask(causal=True, soft_cap=1.5)),
    case("slopes", attention_arguments, mask=falling(3)),
    case("one_query_cap_and_slopes", attention_arguments, T=1, mask=falling(3, 0.9)),
    case("everything_cap_and_slopes", attention_arguments, H=6, K=3, mask=falling(6, 0.7, everything), dropout=0.3),
    case("large", attention_arguments, B=1, T=67, S=131, D=17, mask=Mask(causal=True)),
    case("large_cap_and_slopes", attention_arguments, B=1, T=67, S=131, D=17, mask=falling(3, 1.1)),
    case("large_window_dropout", attention_arguments, B=1, T=67, S=131, D=17, mask=Mask(window=65), dropout=0.2),
)
ORACLES = (
    Oracle("composition", torch_attention),
    Oracle(
        "functional.scaled_dot_product_attention",
        torch_own_attention,
        lambda a: not a["dropout"] and a["mask"].soft_cap is None,
    ),
)
DEFAULTS: dict[str, Any] = {"mask": NO_MASK, "dropout": 0.0, "key": None}

OPS = tuple(
    Op(name, forward, backward, ("q", "k", "v"), CASES, ORACLES, roundings, DEFAULTS, benchmark=benchmark(products))
    for name, forward, backward, products in (
        ("attention", attention_forward, attention_backward, 2.0),
        ("fused_attention", fused_attention_forward, fused_attention_backward, 2.5),  # five products instead of two
    )
)
