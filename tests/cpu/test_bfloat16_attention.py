"""Fused attention in bfloat16 on squares: beside the reference in bfloat16, and beside PyTorch's own in bfloat16."""

from typing import Any

import numpy as np
import pytest

from compyute_transformer.arrays import Array
from compyute_transformer.cpu._bfloat16_attention import KEYS, QUERIES
from compyute_transformer.cpu.attention import FEW
from compyute_transformer.dispatch import use_kernels
from compyute_transformer.ops.attention import (
    NO_MASK,
    Mask,
    attention_backward,
    attention_forward,
    fused_attention_backward,
    fused_attention_forward,
)
from compyute_transformer.ops.multi_head import split_heads
from compyute_transformer.precision import use_precision
from compyute_transformer.random import DROPOUT, RandomKey
from compyute_transformer.threads import set_threads, threads

on_tiles = pytest.mark.parametrize("packed", ["tiles"], indirect=True)
NAMES = ("y", "highest", "total", "dq", "dk", "dv")


def draw(*shape: int) -> Array:
    return np.random.default_rng(sum(shape)).standard_normal(shape, dtype=np.float32)


def inputs(B: int, H: int, K: int, T: int, S: int, D: int) -> list[Array]:
    """Return q, k, v and dy, of different numbers."""
    rng = np.random.default_rng(T * S + D)
    return [
        rng.standard_normal(shape, dtype=np.float32)
        for shape in ((B, H, T, D), (B, K, S, D), (B, K, S, D), (B, H, T, D))
    ]


def run(arrays: list[Array], mask: Mask = NO_MASK, dropout: float = 0.0) -> list[Array]:
    *given, dy = arrays
    key = RandomKey(2024, DROPOUT, 5) if dropout else None
    y, saved = fused_attention_forward(*given, mask, dropout, key)
    return [y, saved.highest, saved.total, *fused_attention_backward(dy, saved)]


def check(arrays: list[Array], mask: Mask = NO_MASK, dropout: float = 0.0) -> None:
    """Nearly all numbers agree as sums in float32 do; a weight beside a tie may be rounded the other way.

    Such a weight differs by 2⁻⁸ of itself, and moves what it is a part of by as much of its part.
    """
    found = run(arrays, mask, dropout)
    with use_kernels("reference"):
        expected = run(arrays, mask, dropout)
    for name, one, two in zip(NAMES, found, expected, strict=True):
        assert one.shape == two.shape
        assert np.isfinite(one).all(), name
        error = np.abs(one - two)
        scale = max(1.0, float(np.abs(two).max()))
        assert not (error > 1e-5 * scale).mean() > 0.02, name
        assert not error.max() > 4e-3 * scale, name


SHAPES = {  # B, H, K, T, S, D
    "less than a square": (2, 3, 3, FEW + 1, 11, 8),
    "one square": (1, 1, 1, 32, 32, 32),
    "one more than a square": (1, 2, 1, 33, 65, 16),
    "a group of heads": (2, 6, 2, 40, 40, 24),
    "the last of many keys": (1, 2, 2, 20, KEYS + 3, 64),
    "more queries than keys": (1, 2, 1, 70, 45, 33),
    "an odd width": (1, 2, 2, 35, 37, 5),
    "wide heads": (1, 1, 1, 33, 34, 80),
    "wider heads": (1, 1, 1, 10, 33, 128),
}


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@on_tiles
def test_shapes(packed: Any, shape: tuple[int, ...], causal: bool) -> None:
    check(inputs(*shape), Mask(causal=causal))


def test_every_kernel_gives_the_numbers_of_the_reference(packed: Any) -> None:
    check(inputs(1, 2, 1, 37, 41, 16), Mask(causal=True), dropout=0.2)


T, S = QUERIES + 39, KEYS + 70  # several squares in one tile, a second tile, and a second block of keys
SEEN = np.random.default_rng(1).random((2, 1, T, S)) < 0.3
SEEN[0, 0, 5] = False  # a query that sees no key
ADDED = np.where(SEEN, np.random.default_rng(2).normal(size=SEEN.shape), -np.inf).astype(np.float32)
MASKS = {
    "none": Mask(),
    "causal": Mask(causal=True),
    "narrow window": Mask(causal=True, window=3),
    "wide window": Mask(window=KEYS // 2),
    "one sequence ends early, one is empty": Mask(causal=True, key_lengths=np.array([7, 0])),
    "a window of what is padded": Mask(window=40, key_lengths=np.array([S - 150, S - 20])),
    "boolean": Mask(array=SEEN),
    "added": Mask(causal=True, array=ADDED),
}


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@on_tiles
def test_masks_and_dropout(packed: Any, mask: Mask, dropout: float) -> None:
    check(inputs(2, 2, 1, T, S, 7), mask, dropout)


@on_tiles
def test_a_prompt_reads_queries_keys_and_values_where_they_lie(packed: Any) -> None:
    """Queries are columns of a projection, keys and values the beginning of a cache for a longer text."""
    B, H, K, T, past, D = 2, 4, 2, 34, 19, 16
    q = split_heads(draw(B, T, (H + 2 * K) * D)[..., : H * D], D)
    k, v = (np.full((B, K, 100, D), np.nan, np.float32) for _ in range(2))
    for cache in (k, v):
        cache[:, :, : past + T] = np.random.default_rng(7).standard_normal((B, K, past + T, D))
    check([q, k[:, :, : past + T], v[:, :, : past + T], draw(B, H, T, D)], Mask(causal=True))


@on_tiles
def test_the_threads_change_no_bit(packed: Any) -> None:
    arrays, before, found = inputs(2, 4, 2, 50, 70, 16), threads(), []
    try:
        for count in (1, before):
            set_threads(count, override=True)
            found.append(run(arrays, Mask(causal=True), 0.1))
    finally:
        set_threads(before, override=True)
    for one, several in zip(*found, strict=True):
        np.testing.assert_array_equal(one, several)


@on_tiles
def test_what_is_hidden_has_no_part_even_where_it_is_not_finite(packed: Any) -> None:
    q, k, v, dy = inputs(1, 2, 2, 40, 40, 8)
    v[:, :, -1], k[:, :, -1] = np.nan, np.inf
    with np.errstate(invalid="ignore"):
        check([q, k, v, dy], Mask(key_lengths=np.array([39])))


@on_tiles
def test_what_is_seen_and_not_a_number_is_found_where_the_reference_finds_it(packed: Any) -> None:
    arrays, found = inputs(1, 2, 2, 40, 40, 8), []
    arrays[1][0, 1, 20, 3] = np.nan
    for kernels in ("cpu", "reference"):
        with use_kernels(kernels), np.errstate(invalid="ignore"):
            found.append(run(arrays, Mask(causal=True)))
    for name, one, two in zip(NAMES, *found, strict=True):
        assert np.isnan(two).any() or name in ("highest", "total")
        np.testing.assert_array_equal(np.isnan(one), np.isnan(two))


@on_tiles
def test_it_is_as_near_to_float64_as_attention_of_pytorch_in_bfloat16(packed: Any) -> None:
    import torch

    arrays = inputs(2, 3, 3, 45, 45, 24)
    exact = [x.astype(np.float64) for x in arrays]
    with use_precision("float32"), use_kernels("reference"):
        y, saved = attention_forward(*exact[:3], Mask(causal=True))
        right = [y, *attention_backward(exact[3], saved)]
    ours = run(arrays, Mask(causal=True))
    q, k, v, dy = (torch.from_numpy(x).bfloat16() for x in arrays)
    leaves = [x.requires_grad_() for x in (q, k, v)]
    output = torch.nn.functional.scaled_dot_product_attention(*leaves, is_causal=True)
    output.backward(dy)
    theirs = [x.detach().float().numpy() for x in (output, *(leaf.grad for leaf in leaves))]
    for name, one, two, three in zip(("y", "dq", "dk", "dv"), [ours[0], *ours[3:]], theirs, right, strict=True):
        errors = [np.linalg.norm(found - three) / np.linalg.norm(three) for found in (one, two)]
        assert 1e-4 < errors[0] <= 1.33 * errors[1], (name, errors)
