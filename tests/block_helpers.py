"""What the tests of a stack of blocks share: arguments of `blocks_step`, drawn at random."""

from typing import Any

import numpy as np

from compyute_transformer.arrays import Array
from compyute_transformer.ops import Mask
from compyute_transformer.ops.block import BlockWeights, NormWeights

__all__ = ["drawn"]


def drawn(
    B: int = 2,
    T: int = 3,
    S: int = 7,
    H: int = 4,
    K: int = 2,
    D: int = 5,
    C: int = 12,
    F: int = 22,
    blocks: int = 3,
    mask: Mask = Mask(causal=True),  # noqa: B008  a tuple of constants
    bias: bool = True,
    dtype: Any = np.float64,
    seed: int = 0,
    **options: Any,
) -> dict[str, Any]:
    """Arguments by name. Keys and values are parts of a longer array, as a cache hands them out."""
    rng = np.random.default_rng(seed)

    def draw(*shape: int, scale: float = 0.5) -> Array:
        return (scale * rng.normal(size=shape)).astype(dtype)

    def vector(size: int) -> Array | None:
        return draw(size) if bias else None

    def norm(eps: float) -> NormWeights:
        return NormWeights(1 + draw(C), vector(C), eps)

    rows, heads = (H + 2 * K) * D, H * D
    weights = [
        BlockWeights(
            norm(1e-5 * 10**block),
            draw(rows, C),
            vector(rows),
            draw(C, heads),
            vector(C),
            norm(1e-2 / 10**block),
            draw(F, C),
            vector(F),
            draw(C, F),
            vector(C),
        )
        for block in range(blocks)
    ]
    held = draw(2, blocks, B, K, S + 2, D)
    keys, values = ([x[:, :, 1 : S + 1] for x in half] for half in held)
    return {
        "x": draw(B, T, C),
        "weights": weights,
        "keys": keys,
        "values": values,
        "mask": mask,
        "num_heads": H,
        **options,
    }
