"""The cache: room that is allocated once, views of what is filled, and only what the window reaches."""

import numpy as np
import pytest

from compyute_transformer.backend import Array, use
from compyute_transformer.errors import DtypeError, RangeError, ShapeError
from compyute_transformer.generation import KeyValueCache, prefill, step
from compyute_transformer.models.gpt import GPT, GPTConfig
from compyute_transformer.ops import Mask
from compyute_transformer.ops.attention import attention, fused_attention_forward


def cache(window: int | None = None, batch_size: int = 2, capacity: int | None = None) -> KeyValueCache:
    config = GPTConfig(5, context_length=8, embed_dim=12, num_heads=4, num_layers=2, num_kv_heads=2, window=window)
    return KeyValueCache(GPT(config), batch_size, capacity)


def draw(T: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=(2, 2, T, 3)).astype(np.float32)


def test_what_comes_back_is_all_that_was_appended_in_order() -> None:
    held, parts = cache(), [draw(3, 1), draw(1, 2), draw(2, 3)]
    for part in parts:
        k, v = held.blocks[1].append(part, -part)
        held.advance(part.shape[2])
    np.testing.assert_array_equal(k, np.concatenate(parts, axis=2))
    np.testing.assert_array_equal(v, -k)
    assert held.length == 6


def test_views_are_handed_out_of_memory_that_stays_where_it_is() -> None:
    held = cache()
    first, _ = held.blocks[0].append(draw(3), draw(3))
    held.advance(3)
    second, _ = held.blocks[0].append(draw(1), draw(1))
    assert np.shares_memory(first, second)
    assert first.ctypes.data == second.ctypes.data


@pytest.mark.parametrize(("window", "T"), [(None, 1), (3, 1), (None, 4)])
def test_the_fused_twin_takes_the_views_as_they_lie(window: int | None, T: int) -> None:
    held, mask = cache(window), Mask(causal=True, window=window)
    held.blocks[0].append(draw(4, 1), draw(4, 2))
    held.advance(4)
    k, v = held.blocks[0].append(draw(T, 3), draw(T, 4))
    q = np.random.default_rng(5).normal(size=(2, 4, T, 3)).astype(np.float32)
    with use("cpu"):  # or an error
        y, _ = fused_attention_forward(q, k, v, mask)
    np.testing.assert_allclose(y, attention(q.astype(float), k.astype(float), v.astype(float), mask), atol=1e-6)


def test_blocks_share_nothing() -> None:
    held = cache()
    first, values = held.blocks[0].append(draw(3, 1), draw(3, 2))
    held.blocks[1].append(draw(3, 3), draw(3, 4))
    np.testing.assert_array_equal(first, draw(3, 1))
    np.testing.assert_array_equal(values, draw(3, 2))


@pytest.mark.parametrize(("window", "expected"), [(1, [3, 1, 2]), (2, [3, 2, 3]), (4, [3, 4, 5]), (8, [3, 4, 6])])
def test_a_window_brings_back_only_the_positions_it_reaches(window: int, expected: list[int]) -> None:
    held, lengths = cache(window), []
    for T in (3, 1, 2):
        k, _ = held.blocks[0].append(draw(T, T), draw(T))
        held.advance(T)
        lengths.append(k.shape[2])
        np.testing.assert_array_equal(k[:, :, -T:], draw(T, T))
    assert lengths == expected


def test_what_is_not_advanced_is_overwritten() -> None:
    held = cache()
    held.blocks[0].append(draw(2, 1), draw(2, 1))
    k, _ = held.blocks[0].append(draw(2, 2), draw(2, 2))
    np.testing.assert_array_equal(k, draw(2, 2))


def test_a_cleared_cache_starts_anew() -> None:
    held = cache()
    held.blocks[0].append(draw(8), draw(8))
    held.advance(8)
    held.clear()
    k, _ = held.blocks[0].append(draw(1, 5), draw(1))
    np.testing.assert_array_equal(k, draw(1, 5))
    assert held.padding is None


@pytest.mark.parametrize("capacity", [1, 3, None])
def test_more_than_there_is_room_for_is_refused(capacity: int | None) -> None:
    held = cache(capacity=capacity)
    room = capacity or 8
    held.blocks[0].append(draw(room), draw(room))
    held.advance(room)
    with pytest.raises(RangeError, match=f"room for {room} positions, got 1 after {room}"):
        held.blocks[0].append(draw(1), draw(1))


def test_a_step_past_the_context_is_refused_and_nothing_is_lost() -> None:
    model = GPT(GPTConfig(5, context_length=4, embed_dim=12, num_heads=4, num_layers=2))
    held = KeyValueCache(model)
    prefill(model, [[1, 2, 3]], held)
    step(model, [0], held)
    with pytest.raises(RangeError, match="the context length, got 1 positions from 4 on"):
        step(model, [0], held)
    assert held.length == 4


def test_keys_of_another_shape_or_dtype_are_refused() -> None:
    held = cache().blocks[0]
    for wrong in (draw(2)[:1], draw(2)[:, :1], draw(2)[..., :2]):
        with pytest.raises(ShapeError, match=r"shape \(2, 2, T, 3\), got"):
            held.append(wrong, wrong)
    with pytest.raises(ShapeError):
        held.append(draw(2), draw(1))
    with pytest.raises(DtypeError, match="are float32, got float64"):
        held.append(draw(2).astype(np.float64), draw(2).astype(np.float64))


@pytest.mark.parametrize(("rows", "capacity"), [(0, 8), (1, 0), (1, 9)])
def test_a_cache_without_room_or_past_the_context_is_refused(rows: int, capacity: int) -> None:
    with pytest.raises(RangeError, match=f"the context length 8, got {rows} rows and capacity {capacity}"):
        cache(batch_size=rows, capacity=capacity)
