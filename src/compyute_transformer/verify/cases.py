"""Example inputs for every op: what the cases of `contract.REGISTRY` draw.

They are made to be hard to pass by luck. No two axes have one length where the op allows it; weights and biases are
drawn, never 1 and 0, which would hide a missing factor and a missing sum. Small lengths tell most; each op also has a
case called `large`, just past the powers of two at which fast code goes from one block or vector to the next.

Each function takes a generator of random numbers and options, and returns the forward's arguments by name, in its
order, in float64.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from ..ops.attention import NO_MASK, Mask
from ..ops.loss import IGNORE_INDEX
from ..random import DROPOUT, RandomKey

__all__ = [
    "Arguments",
    "added",
    "attention",
    "class_token",
    "cross_entropy",
    "dropout",
    "embedding",
    "everything",
    "gated_activation",
    "gelu",
    "layer_norm",
    "learned_position",
    "lengths",
    "linear",
    "multi_head",
    "patch_embedding",
    "relu",
    "rms_norm",
    "rotary_position",
    "silu",
    "sinusoidal_position",
    "softmax",
    "visible",
]

Arguments: TypeAlias = dict[str, Any]
Rng: TypeAlias = np.random.Generator
MakeMask: TypeAlias = Callable[[Rng], Mask]


def embedding(rng: Rng, rows: tuple[int, ...], V: int = 6, C: int = 4) -> Arguments:
    """More positions than rows of the weight, so that ids repeat and their gradients must be added; one row unused."""
    return {"ids": rng.integers(0, V - 1, rows), "weight": rng.normal(size=(V, C))}


def patch_embedding(
    rng: Rng,
    grid: tuple[int, int] = (2, 3),
    P: int = 3,
    channels: int = 2,
    C: int = 5,
    B: int = 2,
    bias: bool = True,
) -> Arguments:
    """Images that are not square: `grid` patches high and wide, of P × P pixels."""
    pixels = P * P * channels
    return {
        "images": rng.normal(size=(B, grid[0] * P, grid[1] * P, channels)),
        "weight": rng.normal(size=(C, pixels)) * pixels**-0.5,
        "bias": rng.normal(size=C) if bias else None,
        "patch_size": P,
    }


def class_token(rng: Rng, B: int = 2, N: int = 3, C: int = 5) -> Arguments:
    """More images than one, so that the gradients of the vector must be added."""
    return {"x": rng.normal(size=(B, N, C)), "weight": rng.normal(size=C)}


def learned_position(rng: Rng, start: int) -> Arguments:
    """A context of 7 positions, of which 3 are taken from `start` on."""
    return {"x": rng.normal(size=(2, 3, 5)), "weight": rng.normal(size=(7, 5)), "start": start}


def sinusoidal_position(rng: Rng, width: int, start: int) -> Arguments:
    """Three positions from `start` on."""
    return {"x": rng.normal(size=(2, 3, width)), "start": start}


def linear(rng: Rng, rows: tuple[int, ...], inputs: int = 5, outputs: int = 4, bias: bool = True) -> Arguments:
    """Rows of one width become rows of another."""
    return {
        "x": rng.normal(size=(*rows, inputs)),
        "weight": rng.normal(size=(outputs, inputs)),
        "bias": rng.normal(size=outputs) if bias else None,
    }


def layer_norm(rng: Rng, rows: tuple[int, ...], C: int = 5, bias: bool = True, eps: float = 1e-5) -> Arguments:
    """Rows whose mean is not 0 and whose variance is not 1."""
    return {
        "x": rng.normal(size=(*rows, C)) * 2.0 + 1.0,
        "weight": rng.normal(size=C),
        "bias": rng.normal(size=C) if bias else None,
        "eps": eps,
    }


def rms_norm(rng: Rng, rows: tuple[int, ...], C: int = 5, eps: float = 1e-6) -> Arguments:
    """Rows whose mean square is not 1."""
    return {"x": rng.normal(size=(*rows, C)) * 2.0 + 1.0, "weight": rng.normal(size=C), "eps": eps}


def rotary_position(
    rng: Rng, T: int = 3, D: int = 8, pairs: int = 4, interleaved: bool = False, B: int = 2, H: int = 5
) -> Arguments:
    """Tables of any numbers: the gradient is that of a linear map, and may not lean on cos² + sin² = 1."""
    x = rng.normal(size=(B, H, T, D))
    return {
        "x": x,
        "cos": rng.normal(size=(T, pairs)),
        "sin": rng.normal(size=(T, pairs)),
        "interleaved": interleaved,
    }


def gated_activation(rng: Rng, activation: str, shape: tuple[int, ...] = (2, 3, 5)) -> Arguments:
    """Gates on both sides of the dip, and beyond."""
    return {"gate": rng.normal(size=shape) * 2.0, "up": rng.normal(size=shape), "activation": activation}


def silu(rng: Rng, shape: tuple[int, ...]) -> Arguments:
    """Points on both sides of the dip, and beyond."""
    return {"x": rng.normal(size=shape) * 2.0}


def relu(rng: Rng, shape: tuple[int, ...]) -> Arguments:
    """No point so near the kink at 0 that a difference would reach across it."""
    x = rng.normal(size=shape)
    return {"x": x + np.copysign(0.5, x)}


def gelu(rng: Rng, approximate: str, shape: tuple[int, ...] = (2, 3, 5)) -> Arguments:
    """Points on both sides of the dip, and beyond."""
    return {"x": rng.normal(size=shape) * 2.0, "approximate": approximate}


def softmax(rng: Rng, rows: tuple[int, ...], C: int = 5, hidden: bool = False, mean: float = 0.0) -> Arguments:
    """Scores. hidden: −inf in two columns, and throughout the first rows. mean: where exp alone would overflow."""
    x = rng.normal(size=(*rows, C)) * 2.0 + mean
    if hidden:  # moving −inf moves nothing, so differences hold there too, and demand a gradient of exactly zero
        x[..., [1, 4]] = -np.inf
        x[0] = -np.inf
    return {"x": x}


def dropout(rng: Rng, shape: tuple[int, ...], probability: float) -> Arguments:
    """A fixed draw: the same elements are dropped each time the forward runs."""
    return {"x": rng.normal(size=shape), "probability": probability, "key": RandomKey(2024, DROPOUT, 3)}


def cross_entropy(
    rng: Rng,
    rows: tuple[int, ...],
    V: int = 7,
    scale: float = 1.0,
    ignored: int = 0,
    ignore_index: int = IGNORE_INDEX,
    label_smoothing: float = 0.0,
) -> Arguments:
    """V classes; the first `ignored` rows are not scored."""
    targets = np.asarray(rng.integers(0, V, rows))
    targets.reshape(-1)[:ignored] = ignore_index
    logits = rng.normal(size=(*rows, V)) * scale
    return {
        "logits": logits,
        "targets": targets,
        "ignore_index": ignore_index,
        "label_smoothing": label_smoothing,
    }


def attention(
    rng: Rng,
    B: int = 2,
    H: int = 3,
    K: int | None = None,
    T: int = 5,
    S: int = 7,
    D: int = 4,
    mask: Mask | MakeMask = NO_MASK,
    dropout: float = 0.0,
) -> Arguments:
    """Batch B, heads H that share K key/value heads, T queries, S keys, head width D."""
    K = H if K is None else K
    return {
        "q": rng.normal(size=(B, H, T, D)),
        "k": rng.normal(size=(B, K, S, D)),
        "v": rng.normal(size=(B, K, S, D)),
        "mask": mask if isinstance(mask, Mask) else mask(rng),
        "dropout": dropout,
        "key": RandomKey(2024, DROPOUT, 5) if dropout else None,
    }


def multi_head(
    rng: Rng,
    B: int = 2,
    T: int = 5,
    S: int | None = None,
    C: int = 12,
    H: int = 3,
    K: int | None = None,
    D: int = 4,
    in_bias: bool = True,
    out_bias: bool = True,
    mask: Mask | MakeMask = NO_MASK,
    dropout: float = 0.0,
) -> Arguments:
    """As `attention`, with width C outside the heads; a memory of S positions, or none."""
    rows = (H + 2 * (K or H)) * D
    return {
        "x": rng.normal(size=(B, T, C)),
        "memory": None if S is None else rng.normal(size=(B, S, C)),
        "in_weight": rng.normal(size=(rows, C)) * C**-0.5,
        "in_bias": rng.normal(size=rows) if in_bias else None,
        "out_weight": rng.normal(size=(C, H * D)) * (H * D) ** -0.5,
        "out_bias": rng.normal(size=C) if out_bias else None,
        "num_heads": H,
        "num_kv_heads": K,
        "mask": mask if isinstance(mask, Mask) else mask(rng),
        "dropout": dropout,
        "key": RandomKey(2024, DROPOUT, 7) if dropout else None,
    }


def visible(*shape: int) -> MakeMask:
    """A boolean mask in which every query sees its first key at least."""

    def make(rng: Rng) -> Mask:
        seen = rng.random(shape) < 0.6
        seen[..., 0] = True
        return Mask(array=seen)

    return make


def added(*shape: int) -> MakeMask:
    """Floats to add, −inf at some keys and throughout the second query's row."""

    def make(rng: Rng) -> Mask:
        scores = rng.normal(size=shape)
        scores[rng.random(shape) < 0.3] = -np.inf
        scores[..., 0] = 0.5
        scores[..., 1, :] = -np.inf
        return Mask(array=scores)

    return make


def lengths(*each: int, causal: bool = False) -> MakeMask:
    """The true length of each row of keys."""
    return lambda rng: Mask(causal=causal, key_lengths=np.array(each))


def everything(rng: Rng) -> Mask:
    """Every kind of mask at once, for B = 2, T = 5, S = 7."""
    return added(2, 1, 5, 7)(rng)._replace(causal=True, window=4, key_lengths=np.array([6, 3]))
