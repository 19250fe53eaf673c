"""What the tests of several modules share: differences through a whole module, and a block to build towers of."""

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import numpy as np

from compyute_transformer.arrays import Array
from compyute_transformer.nn import (
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
from compyute_transformer.random import DROPOUT, Generator
from compyute_transformer.verify.differences import STEP, directional_error
from compyute_transformer.verify.function import randomize
from compyute_transformer.verify.registry import cotangent

__all__ = ["block", "cross_block", "module_error", "post_norm_block"]


def module_error(
    module: Module,
    inputs: Sequence[Array],
    forward: Callable[..., Array] | None = None,
    seed: int = 0,
    step: float = STEP,
) -> float:
    """How far the gradients of a float64 module are from differences: parameters and inputs move together.

    forward: how to run it on the inputs, if not by calling it. Dropout drops the same elements each time.
    """
    forward = forward or module
    module.to(dtype=np.float64).zero_grad()
    randomize(module, seed)
    flat = module.flat
    generators = [m.generator for _, m in module.named_modules() if isinstance(m, Dropout | MultiHeadAttention)]
    offsets = [generator.offset for generator in generators]

    def run(weights: Array, *inputs: Array) -> Array:
        flat.data[...] = weights
        for generator, offset in zip(generators, offsets, strict=True):
            generator.offset = offset
        return forward(*inputs)

    start = flat.data.copy()
    y = run(start, *inputs)
    u = cotangent(y, seed)
    found: Any = module.backward(u)
    dinputs = [d for d in (found if isinstance(found, tuple) else (found,)) if d is not None]
    if not inputs:  # a model of ids returns the gradients of its embedded tokens, which test_output verifies
        dinputs = []
    error = directional_error(run, [flat.grad.copy(), *dinputs], [start, *inputs], u, seed, step)
    module.clear_saved()
    return error


def block(embed_dim: int = 6, num_heads: int = 2, dropout: float = 0.0, seed: int = 0) -> PreNormBlock:
    """A pre-norm block with weights of its own."""
    weights, drops = Generator(seed), Generator(seed, DROPOUT)
    built = PreNormBlock(
        LayerNorm(embed_dim),
        MultiHeadAttention(embed_dim, num_heads, dropout=dropout, generator=weights),
        Dropout(dropout),
        LayerNorm(embed_dim),
        FeedForward(embed_dim, 2 * embed_dim, generator=weights),
        Dropout(dropout),
    )
    return share_generator(built, drops)


def _sublayers(attentions: int, dropout: float, seed: int) -> list[Any]:
    weights = Generator(seed)
    heads = [MultiHeadAttention(6, 2, dropout=dropout, generator=weights) for _ in range(attentions)]
    layers = [*heads, FeedForward(6, 12, generator=weights)]
    return [(layer, Dropout(dropout), LayerNorm(6)) for layer in layers]


def post_norm_block(dropout: float = 0.0, seed: int = 0) -> PostNormBlock:
    """A post-norm block of width 6 and 2 heads with weights of its own."""
    return share_generator(PostNormBlock(*chain(*_sublayers(1, dropout, seed))), Generator(seed, DROPOUT))


def cross_block(dropout: float = 0.0, seed: int = 0) -> CrossBlock:
    """A block with cross-attention, of width 6 and 2 heads, with weights of its own."""
    return share_generator(CrossBlock(*_sublayers(2, dropout, seed)), Generator(seed, DROPOUT))
