"""One further token of each row through the blocks of a GPT or a Llama: launches that are alike at every position.

What changes from token to token is read on the device (see `cached_attention`), so that a graph of these launches
computes every further token. A residual sum is computed along with the norm that follows it: seven launches a block.

Versions: 1. kernels of our own around products planned for each shape. Not yet timed on a GPU.
"""

from collections.abc import Sequence
from importlib import import_module
from typing import Any, NamedTuple

from ..arrays import Array
from ..ops.activation import ACTIVATIONS, gated_activation
from ..ops.block import BlockWeights, NormWeights
from ..ops.gated_block import GatedBlockWeights
from ..precision import precision
from ._products import multiply
from ._rounded import narrowed
from .cached_attention import CacheState, attend_to_cache
from .norm import residual_layer_norm_forward, residual_rms_norm_forward

__all__ = [
    "CacheState",
    "Cached",
    "blocks_of_token",
    "gated_blocks_of_token",
    "project",
    "rounded",
]

MATRICES = ("in_weight", "out_weight", "gate_weight", "up_weight", "down_weight")


class Cached(NamedTuple):
    """keys, values: one (B, K, capacity, D) a block. state: their length, and the padding. window: see `Mask`.

    tables: by which queries and keys are turned; None where they are not.
    """

    keys: Sequence[Array]
    values: Sequence[Array]
    state: CacheState
    window: int | None
    tables: tuple[Array, Array] | None = None


def rounded(weights: Any) -> Any:
    """Return the weights of a block, or one matrix, as products take them: rounded once, not for each token."""
    if precision() != "bfloat16":
        return weights
    if not isinstance(weights, tuple):
        return narrowed(weights)
    fields: Any = weights
    matrices = {name: narrowed(getattr(fields, name)) for name in MATRICES if name in fields._fields}
    return fields._replace(**matrices)


def project(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """Return x Wᵀ + bias of rows x (B, C) for a weight that `rounded` returned."""
    y: Array = import_module("cupy").empty((len(x), len(weight)), x.dtype)
    x = x.astype(weight.dtype, copy=False)
    multiply(x, weight, y, transposed=(False, True), epilogue="none" if bias is None else "bias", vector=bias)
    return y


def blocks_of_token(
    x: Array, weights: Sequence[BlockWeights], cached: Cached, norm: NormWeights, activation: Any
) -> Array:
    """Return norm(x) of the stream x (B, C) after pre-norm blocks; each adds one position to its keys and values."""
    activate, branch = ACTIVATIONS[activation][0], None
    for w, keys, values in zip(weights, cached.keys, cached.values, strict=True):
        y, saved = residual_layer_norm_forward(x, branch, *w.attention_norm)
        packed = project(y, w.in_weight, w.in_bias)
        heads = attend_to_cache(packed, keys, values, cached.state, cached.tables, cached.window)
        branch = project(heads, w.out_weight, w.out_bias)
        y, saved = residual_layer_norm_forward(saved.x, branch, *w.feed_forward_norm)
        hidden, _ = activate(project(y, w.up_weight, w.up_bias))
        x, branch = saved.x, project(hidden, w.down_weight, w.down_bias)
    return residual_layer_norm_forward(x, branch, *norm)[0]


def gated_blocks_of_token(
    x: Array, weights: Sequence[GatedBlockWeights], cached: Cached, norm: tuple[Array, float], activation: Any
) -> Array:
    """As `blocks_of_token`, for the blocks of a Llama."""
    branch = None
    for w, keys, values in zip(weights, cached.keys, cached.values, strict=True):
        y, saved = residual_rms_norm_forward(x, branch, w.attention_norm, w.eps[0])
        packed = project(y, w.in_weight, w.in_bias)
        heads = attend_to_cache(packed, keys, values, cached.state, cached.tables, cached.window)
        branch = project(heads, w.out_weight, w.out_bias)
        y, saved = residual_rms_norm_forward(saved.x, branch, w.feed_forward_norm, w.eps[1])
        gate, up = project(y, w.gate_weight, w.gate_bias), project(y, w.up_weight, w.up_bias)
        x, branch = saved.x, project(gated_activation(gate, up, activation), w.down_weight, w.down_bias)
    return residual_rms_norm_forward(x, branch, *norm)[0]
