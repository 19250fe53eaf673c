"""The cache: room that is allocated once, views of what is filled, and only what the window reaches."""

from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest

from compyute_transformer.arrays import Array
from compyute_transformer.dispatch import use_kernels
from compyute_transformer.errors import DtypeError, RangeError, ShapeError
from compyute_transformer.generation import KeyValueCache, prefill, step
from compyute_transformer.models import Transformer, TransformerConfig, TransformerLM, TransformerLMConfig
from compyute_transformer.models.gpt import GPT, GPTConfig
from compyute_transformer.nn.attention import Implementation, MultiHeadAttention
from compyute_transformer.nn.init import normal
from compyute_transformer.ops import Mask
from compyute_transformer.ops.attention import NO_MASK, attention, fused_attention_forward
from compyute_transformer.ops.linear import linear
from compyute_transformer.ops.multi_head import merge_heads, project_forward
from compyute_transformer.verify.function import randomize


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
def test_the_fused_kernel_takes_the_views_as_they_lie(window: int | None, T: int) -> None:
    held, mask = cache(window), Mask(causal=True, window=window)
    held.blocks[0].append(draw(4, 1), draw(4, 2))
    held.advance(4)
    k, v = held.blocks[0].append(draw(T, 3), draw(T, 4))
    q = np.random.default_rng(5).normal(size=(2, 4, T, 3)).astype(np.float32)
    with use_kernels("cpu"):  # or an error
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


# --- rows that go on, and rows that do not ---------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [[1, 0], [1, 1], [0], [1, 0, 1, 1, 0]], ids=str)
@pytest.mark.parametrize("window", [None, 3])
def test_selected_rows_go_on_each_for_itself(rows: list[int], window: int | None) -> None:
    model = GPT(GPTConfig(5, context_length=8, embed_dim=12, num_heads=4, num_layers=2, window=window))
    model.to(dtype=np.float64)
    randomize(model)
    read, held = [[1, 2, 3], [4, 0, 2]], KeyValueCache(model, 2)
    prefill(model, read, held)
    held.select(rows)
    assert held.batch_size == len(rows)
    texts = [read[row] for row in rows]
    for t in range(3):
        texts = [[*text, (t + n) % 5] for n, text in enumerate(texts)]  # rows that were one part ways
        logits = step(model, [text[-1] for text in texts], held)
        np.testing.assert_allclose(logits, prefill(model, texts), rtol=1e-12, atol=1e-14)


def test_padding_is_selected_too() -> None:
    model = TransformerLM(TransformerLMConfig(5, context_length=8, embed_dim=12, num_heads=4, num_layers=2))
    model.to(dtype=np.float64)
    randomize(model)
    held = KeyValueCache(model, 3)
    texts = [[1, 2, 3, 4], [2], [3, 1]]
    prefill(model, texts, held)
    held.select(np.array([2, 0]))
    logits = step(model, [4, 4], held)
    np.testing.assert_allclose(logits, prefill(model, [[3, 1, 4], [1, 2, 3, 4, 4]]), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("rows", [[], [[0]], [0.0], [True]])
def test_rows_that_are_no_integers_are_refused(rows: list[Any]) -> None:
    with pytest.raises(ShapeError, match="a sequence of at least one integer"):
        cache().select(rows)


@pytest.mark.parametrize("rows", [[2], [0, -1]])
def test_rows_that_are_not_there_are_refused(rows: list[int]) -> None:
    with pytest.raises(RangeError, match=r"rows lie in \[0, 2\)"):
        cache().select(rows)


# --- a decoder that looks at a memory --------------------------------------------------------------------------------

PAIRS = TransformerConfig(11, context_length=9, embed_dim=24, num_heads=4, num_layers=3, dropout=0.3)
SOURCE, TARGET = np.random.default_rng(0).integers(0, 11, (2, 3, 9))
LENGTHS = np.array([9, 4, 1])


def encoder_decoder(dtype: type = np.float64, **options: Any) -> Transformer:
    model = Transformer(replace(PAIRS, **options)).to(dtype=dtype).eval()
    randomize(model)
    return model


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("implementation", get_args(Implementation))
@pytest.mark.parametrize("options", [{}, {"num_kv_heads": 2, "bias": False}], ids=str)
@pytest.mark.parametrize("read_at_once", [1, 4])
def test_cached_equals_uncached_at_every_position_of_an_encoder_decoder(
    read_at_once: int, options: dict[str, Any], implementation: Implementation, dtype: type
) -> None:
    model = encoder_decoder(dtype, attn_implementation=implementation, **options)
    every, memory = model(SOURCE, TARGET, LENGTHS), model.encode(SOURCE, LENGTHS)
    held, start = KeyValueCache(model, 3), 0
    for end in range(read_at_once, 10):
        logits = model.decode(TARGET[:, start:end], memory, LENGTHS, cache=held, logits_to_keep=1)[:, 0]
        assert held.length == end
        start = end
        error = np.abs(logits - every[:, end - 1]).max() / np.abs(every[:, end - 1]).max()
        assert error <= (1e-12 if dtype is np.float64 else 1e-5), end
        assert logits.dtype == dtype


def test_the_memory_is_projected_once_and_not_read_again() -> None:
    model, held = encoder_decoder(), KeyValueCache(encoder_decoder(), 3)
    every, memory = model(SOURCE, TARGET, LENGTHS), model.encode(SOURCE, LENGTHS)
    model.decode(TARGET[:, :4], memory, LENGTHS, cache=held)
    kept = [block.memory for block in held.blocks]
    logits = model.decode(TARGET[:, 4:5], memory * np.nan, LENGTHS, cache=held)[:, 0]
    np.testing.assert_allclose(logits, every[:, 4], rtol=1e-11)
    assert all(block.memory is before for block, before in zip(held.blocks, kept, strict=True))
    held.clear()
    assert [block.memory for block in held.blocks] == [None] * 3


def test_the_memory_goes_with_the_rows() -> None:
    model, held, rows = encoder_decoder(), KeyValueCache(encoder_decoder(), 3), np.array([2, 0, 0, 1])
    memory = model.encode(SOURCE, LENGTHS)
    model.decode(TARGET[:, :4], memory, LENGTHS, cache=held)
    held.select(rows)
    last = np.array([[1], [2], [3], [4]])
    logits = model.decode(last, memory[rows], LENGTHS[rows], cache=held)[:, 0]
    every = model(SOURCE[rows], np.concatenate([TARGET[rows, :4], last], axis=1), LENGTHS[rows])
    np.testing.assert_allclose(logits, every[:, -1], rtol=1e-11)


class RotaryAttention(MultiHeadAttention):
    """Attention written by hand: queries and keys rotated by their positions, by the public contract of the cache."""

    def forward(self, x: Array, memory: Any = None, mask: Mask = NO_MASK, cache: Any = None) -> Array:
        H = self.num_heads
        D = self.out_weight.shape[1] // H
        start = 0 if cache is None else cache.length
        (q, k, v), _ = project_forward(x, None, self.in_weight.data, self.in_bias.data, H, H, D)
        angles = np.arange(start, start + x.shape[1])[:, None] / 10.0 ** np.arange(D // 2)
        q, k = rotated(q, angles), rotated(k, angles)
        if cache is not None:
            k, v = cache.append(k, v)
        return linear(merge_heads(attention(q, k, v, mask)), self.out_weight.data, self.out_bias.data)


def rotated(x: Array, angles: Array) -> Array:
    a, b = np.split(x, 2, axis=-1)
    cosine, sine = np.cos(angles), np.sin(angles)
    return np.concatenate([a * cosine - b * sine, a * sine + b * cosine], axis=-1)


@pytest.mark.parametrize("window", [None, 3])
def test_an_attention_written_by_hand_reads_the_same_positions_with_a_cache(window: int | None) -> None:
    model = GPT(GPTConfig(11, 16, 24, 4, 2, window=window)).to(dtype=np.float64)
    for block in model.blocks:
        block.attention = RotaryAttention(24, 4, weight_init=normal(0.3)).to(dtype=np.float64)
    model.eval()
    ids = np.random.default_rng(0).integers(0, 11, (2, 9))
    expected, cache = model(ids), KeyValueCache(model, 2)
    found = [model(part, cache) for part in (ids[:, :4], ids[:, 4:5], ids[:, 5:])]
    np.testing.assert_allclose(np.concatenate(found, axis=1), expected, rtol=1e-9, atol=1e-12)
