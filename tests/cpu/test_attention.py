"""Fused attention past the edges of its tiles: more queries than one tile, more keys than one block."""

from typing import Any

import numpy as np
import pytest

from compyute_transformer.cpu import attention
from compyute_transformer.cpu._tiles import OPTIONS
from compyute_transformer.cpu.attention import (
    FEW,
    FEWEST,
    KEYS,
    LONG,
    QUERIES,
    QUERIES_OF_LONG,
    QUERIES_OF_OURS,
    QUERIES_OF_SHORT,
    SHORT,
    multiplies_by_ours,
    tile_of,
)
from compyute_transformer.dispatch import use_kernels
from compyute_transformer.ops.attention import Mask, fused_attention_backward, fused_attention_forward
from compyute_transformer.ops.multi_head import split_heads
from compyute_transformer.precision import use_precision
from compyute_transformer.random import RandomKey
from compyute_transformer.verify.record import cast
from compyute_transformer.verify.records.attention import attention_arguments
from compyute_transformer.verify.result import relative_error
from compyute_transformer.verify.tolerances import limit

SEEN = np.random.default_rng(1).random((2, 1, 2 * QUERIES + 3, 2 * KEYS + 5)) < 0.3
SEEN[0, 0, 5] = False  # a query that sees no key
ADDED = np.where(SEEN, np.random.default_rng(2).normal(size=SEEN.shape), -np.inf).astype(np.float32)
MASKS = {
    "none": Mask(),
    "causal": Mask(causal=True),
    "narrow window": Mask(causal=True, window=3),
    "window over a block's edge": Mask(window=KEYS + 1),
    "one sequence ends in the first block, one in the last": Mask(causal=True, key_lengths=np.array([7, 2 * KEYS + 1])),
    "boolean": Mask(array=SEEN),
    "added": Mask(causal=True, array=ADDED),
}


TILES = [
    (QUERIES, False),
    (QUERIES_OF_SHORT, False),
    (QUERIES_OF_LONG, False),
    (QUERIES, True),
    (QUERIES_OF_OURS, True),
]


@pytest.mark.parametrize(("queries", "ours"), TILES)
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_many_tiles_and_blocks_equal_the_reference(
    mask: Mask, dropout: float, queries: int, ours: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "tile_of", lambda T, _: (queries, KEYS, ours))
    check(2 * QUERIES + 3, 2 * KEYS + 5, mask, dropout)


@pytest.mark.parametrize("D", [16, 24, 64, 72])
@pytest.mark.parametrize("T", [QUERIES_OF_OURS, 3 * QUERIES_OF_OURS + 6])
def test_widths_of_whole_and_partial_panels(D: int, T: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "tile_of", lambda T, _: (QUERIES_OF_OURS, KEYS, True))
    check(T, T + KEYS, Mask(causal=True), 0.0, D)


@pytest.mark.parametrize("T", [1, FEW, FEW + 1, QUERIES, QUERIES + 1])
@pytest.mark.parametrize("S", [KEYS - 1, KEYS, KEYS + 1])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("ours", [False, True])
def test_at_the_edges(T: int, S: int, dropout: float, ours: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "tile_of", lambda T, _: (QUERIES, KEYS, ours))
    check(T, S, Mask(causal=True), dropout)


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_few_queries_of_many_keys_equal_the_reference(mask: Mask) -> None:
    given = None if mask.array is None else mask.array[:, :, :FEW]
    check(FEW, 2 * KEYS + 5, mask._replace(array=given), 0.0)


def test_many_more_queries_than_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "tile_of", lambda T, ours: (QUERIES_OF_LONG, KEYS, ours))
    check(3 * KEYS, KEYS + 9, Mask(causal=True), 0.0)


def test_a_tile_is_larger_where_the_blas_has_no_kernel_for_small_products(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = (FEW + 1, LONG - 1, LONG)
    for core, expected in (("SkylakeX", (32, 32, 32)), (None, (32, 32, 32)), ("Haswell", (64, 64, 128))):
        monkeypatch.setattr(attention, "core_of_blas", lambda package, core=core: core)
        assert tuple(tile_of(T, False)[0] for T in lengths) == expected
        assert [tile_of(T, True) for T in (SHORT, SHORT + 1)] == [(QUERIES, KEYS, True), (QUERIES_OF_OURS, KEYS, True)]


@pytest.mark.parametrize("seconds", [{"BLAS": 1.0, "ours": 0.9}, {"BLAS": 0.9, "ours": 1.0}])
def test_the_products_that_were_measured_to_be_faster_are_taken(
    seconds: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    def seconds_of(file: object, products: dict[str, Any]) -> dict[str, float]:
        assert [products[name].args[0]["ours"].item() for name in seconds] == [0, 1]
        for product in products.values():
            product()
        return seconds

    monkeypatch.setattr(attention._measured, "seconds_of", seconds_of)
    assert multiplies_by_ours.__wrapped__() == (seconds["ours"] < seconds["BLAS"])
    monkeypatch.setenv("COMPYUTE_FLOAT32", "0")
    assert not multiplies_by_ours.__wrapped__()


def test_the_choice_reaches_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    q = np.zeros((1, 1, FEWEST + 1, 4), np.float32)
    for ours in (False, True):
        monkeypatch.setattr(attention, "multiplies_by_ours", lambda ours=ours: ours)
        assert attention.arguments(q, q, q, Mask(), 0.0, None)[0]["ours"] == ours
    monkeypatch.setattr(attention, "multiplies_by_ours", lambda: pytest.fail("measured for a few queries"))
    few = q[:, :, :FEWEST]
    assert attention.arguments(few, few, few, Mask(), 0.0, None)[0]["ours"] == 0


def check(T: int, S: int, mask: Mask, dropout: float, D: int = 5) -> None:
    rng = np.random.default_rng(T * S)
    arguments = cast(attention_arguments(rng, H=4, K=2, T=T, S=S, D=D, mask=mask, dropout=dropout), np.float32)
    dy = rng.standard_normal((2, 4, T, D), dtype=np.float32)
    results = []
    for which in ("reference", "cpu"):
        with use_kernels(which):
            y, saved = fused_attention_forward(**arguments)
            results.append((y, *fused_attention_backward(dy, saved)))
    for name, expected, got in zip(("y", "dq", "dk", "dv"), *results, strict=True):
        error = float(relative_error(got, expected))
        assert not error > limit("kernel", np.float32), f"{name}: {error:.2g}"
        assert np.isfinite(got).all()


def test_the_record_of_options_is_what_the_kernels_read() -> None:
    assert attention.RECORD.size == OPTIONS.itemsize
    rng = np.random.default_rng(3)
    packed, array = rng.normal(size=(2, 5, 20)).astype(np.float32), rng.normal(size=(2, 1, 5, 5)).astype(np.float32)
    q, k, v = (split_heads(packed[..., part], 4) for part in (slice(0, 12), slice(12, 16), slice(16, 20)))
    mask, key = Mask(window=3, soft_cap=2.5, array=array, slopes=np.arange(3.0)), RandomKey(5 << 32 | 7, 1, 9, 2)
    options, lengths, bias = attention.arguments(q, k, v, mask, 0.25, key, rounds=True)
    found = dict(zip(OPTIONS.names or (), options[0].tolist(), strict=True))
    assert [found[name] for name in ("q_at", "k_at", "v_at")] == [x.ctypes.data for x in (q, k, v)]
    assert [found[f"k_{name}"] for name in ("batch", "head", "time")] == [100, 4, 20]
    assert [found[name] for name in "BHKTSD"] == [2, 3, 1, 5, 5, 4]
    assert [found[f"bias_{name}"] for name in ("batch", "head", "time")] == [25, 0, 5]
    names = ("causal", "window", "changes", "slopes_from", "has_bias", "seed_low", "seed_high", "offset", "stream_head")
    assert [found[name] for name in names] == [0, 3, 1, 50, 1, 7, 5, 9, (1 << 16) + 2]
    names = ("threshold", "rounds", "scale", "keep_scale", "cap")
    assert [found[name] for name in names] == [1 << 30, 1, 0.5, np.float32(4 / 3), 2.5]
    assert lengths.tolist() == [5, 5]
    np.testing.assert_array_equal(bias, [*array.reshape(-1), 0, 1, 2])
    assert not bias.flags.writeable


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_query_that_sees_no_key_is_zero_whatever_lies_behind_the_hidden_ones(precision: Any) -> None:
    q, k = np.ones((1, 1, 40, 8), np.float32), np.ones((1, 1, 20, 8), np.float32)
    v = np.full((1, 1, 20, 8), np.nan, np.float32)
    with use_precision(precision):
        y, _ = fused_attention_forward(q, k, v, Mask(window=5, key_lengths=np.array([0])))
    assert not y.any()
