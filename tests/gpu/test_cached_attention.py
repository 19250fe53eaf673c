"""Attention to a cache whose length is on the device equals the reference on the filled part, and fills one more."""

from importlib import import_module
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from cuda_helpers import cuda
from tolerances import relative_error

from compyute_transformer.dispatch import use_kernels
from compyute_transformer.gpu import cached_attention
from compyute_transformer.gpu.cached_attention import CacheState, attend_to_cache, cached_attention_fault
from compyute_transformer.ops.attention import Mask, attention
from compyute_transformer.ops.rotary import rotary_frequencies, rotary_position_forward, rotary_tables

__all__ = ["cuda"]

CAPACITY = 150
MOST = {np.float32: 2e-6, ml_dtypes.bfloat16: 4.5e-3}


def numbers(seed: int, *shape: int, dtype: Any) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def expected(
    packed: np.ndarray, keys: np.ndarray, values: np.ndarray, length: int, padding: np.ndarray, P: int, window: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the heads (B, H · D), and the key and the value of the new position, in float64."""
    B, K, _, D = keys.shape
    q, k, v = np.split(packed.reshape(B, -1, 1, D).astype(np.float64), [-2 * K, -K], axis=1)
    if P:
        cos, sin = rotary_tables(rotary_frequencies(2 * P, 10000.0), length, 1, np.float64)
        q, k = (rotary_position_forward.reference(x, cos, sin)[0] for x in (q, k))
    whole = [np.concatenate([old[:, :, :length].astype(np.float64), new], 2) for old, new in ((keys, k), (values, v))]
    hides = (np.arange(length + 1) >= padding[:, None])[:, None, None, :]
    with use_kernels("reference"):
        heads = attention(q, *whole, Mask(causal=True, window=window, array=hides))
    return heads.reshape(B, -1), k[:, :, 0], v[:, :, 0]


@pytest.mark.usefixtures("cuda")
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize(
    ("H", "K", "D", "P", "window", "parts"),
    [
        (2, 2, 5, 0, None, 1),  # narrower than a warp
        (4, 2, 64, 32, None, 1),
        (4, 1, 48, 16, 37, 3),  # columns past 2P stay
        (3, 3, 96, 48, 1, 2),  # a window of the token itself
        (2, 1, 160, 80, 149, 7),
        (2, 2, 32, 0, 200, None),
    ],
)
def test_attention_to_a_cache_equals_the_reference(
    H: int, K: int, D: int, P: int, window: int | None, parts: int | None, dtype: Any
) -> None:
    B, size = 3, {"dtype": dtype}
    tables = rotary_tables(rotary_frequencies(2 * P, 10000.0), 0, CAPACITY, np.float32) if P else None
    tables = None if tables is None else tuple(table.astype(dtype) for table in tables)
    for length in (0, 1, 33, CAPACITY - 1):
        packed = numbers(length, B, (H + 2 * K) * D, **size) * dtype(3)
        keys, values = (numbers(seed, B, K, CAPACITY, D, **size) for seed in (1, 2))
        for cache in (keys, values):
            cache[:, :, length:] = np.nan  # what was not filled is not read
        padding = np.minimum(np.array([0, 7, length]), length).astype(np.int32)
        wanted, key, value = expected(packed, keys, values, length, padding, P, window)
        before = [cache[:, :, :length].copy() for cache in (keys, values)]
        state = CacheState(np.array([length], np.int32), padding)
        found = attend_to_cache(packed, keys, values, state, tables, window, parts)
        assert found.dtype == dtype
        assert relative_error(found.astype(np.float64), wanted) <= 3 * MOST[dtype]
        for cache, old, new in zip((keys, values), before, (key, value), strict=True):
            np.testing.assert_array_equal(cache[:, :, :length], old)
            assert relative_error(cache[:, :, length].astype(np.float64), new) <= 3 * MOST[dtype]
            assert np.isnan(cache[:, :, length + 1 :].astype(np.float32)).all()


def test_a_gpu_attends_to_a_cache(any_gpu: Any) -> None:
    """The launches of a wide head, of several parts and of half a warp, on arrays of the device."""
    launcher = import_module("compyute_transformer.gpu.cached_attention")  # anew for each stand-in
    for H, K, D, P, window, parts in ((4, 2, 64, 32, None, 1), (4, 1, 128, 64, 37, 3), (2, 2, 16, 0, None, None)):
        packed = numbers(1, 2, (H + 2 * K) * D, dtype=np.float32)
        keys, values = (numbers(seed, 2, K, CAPACITY, D, dtype=np.float32) for seed in (2, 3))
        padding, length = np.array([0, 9], np.int32), 77
        wanted, key, _ = expected(packed, keys, values, length, padding, P, window)
        tables = rotary_tables(rotary_frequencies(2 * P, 10000.0), 0, CAPACITY, np.float32) if P else None
        state = launcher.CacheState(any_gpu.asarray(np.array([length], np.int32)), any_gpu.asarray(padding))
        given = [any_gpu.asarray(array) for array in (packed, keys, values)]
        on_device = None if tables is None else tuple(map(any_gpu.asarray, tables))
        found = launcher.attend_to_cache(*given, state, on_device, window, parts)
        assert relative_error(found.get().astype(np.float64), wanted) <= 1e-5
        assert relative_error(given[1].get()[:, :, length].astype(np.float64), key) <= 1e-5


@pytest.mark.usefixtures("cuda")
def test_long_caches_are_read_by_several_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A single text keeps many multiprocessors busy; a cache of few positions is not cut."""
    shapes = []
    recorded = lambda topic, name, dtype: lambda grid, block, args: shapes.append((name, grid))  # noqa: E731
    monkeypatch.setattr(cached_attention, "kernel", recorded)
    for B, capacity in ((1, 1024), (1, 60), (64, 1024)):
        packed, cache = np.empty((B, 3 * 12 * 64), np.float32), np.empty((B, 12, capacity, 64), np.float32)
        attend_to_cache(packed, cache, cache, CacheState(np.zeros(1, np.int32), np.zeros(B, np.int32)))
    merged = ("merge_parts", (12,))
    names = "attend_to_cache"
    assert shapes == [(names, (12, 1, 16)), merged, (names, (12, 1, 1)), (names, (12, 64, 1))]


def test_widths_that_lanes_cannot_share_are_refused() -> None:
    assert [D for D in range(1, 300) if cached_attention_fault(D) is None] == [
        *range(1, 33),
        *range(34, 65, 2),
        *range(68, 129, 4),
        *range(136, 257, 8),
    ]
    assert "got 33" in str(cached_attention_fault(33))
