"""What the model is shown: prefill and step give, at every position, what reading everything anew gives."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest

from compyute_transformer.arrays import Array
from compyute_transformer.errors import ConfigError, RangeError, ShapeError
from compyute_transformer.generation import KeyValueCache, prefill, step
from compyute_transformer.generation.decode import Reader, evaluating, window_start
from compyute_transformer.models import Llama, LlamaConfig, TransformerLM, TransformerLMConfig
from compyute_transformer.models.gpt import GPT, GPTConfig
from compyute_transformer.models.language import LanguageModel
from compyute_transformer.nn.attention import Implementation

SMALL = GPTConfig(11, context_length=12, embed_dim=24, num_heads=4, num_layers=2, dropout=0.3)
MODELS: dict[str, dict[str, Any]] = {
    "learned positions": {},
    "window": {"window": 3},
    "window of one": {"window": 1},
    "grouped heads": {"num_kv_heads": 2},
    "one key/value head, window": {"num_kv_heads": 1, "window": 3},
    "untied": {"tie_word_embeddings": False},
    "no biases, relu": {"bias": False, "activation": "relu"},
    "untied, grouped, window": {"tie_word_embeddings": False, "num_kv_heads": 2, "window": 5},
}
SINUSOIDAL = TransformerLMConfig(11, context_length=12, embed_dim=24, num_heads=4, num_layers=2, dropout=0.3)
VASWANIS: dict[str, dict[str, Any]] = {
    "sinusoids": {},
    "sinusoids, window": {"window": 3},
    "sinusoids, grouped heads": {"num_kv_heads": 2},
    "sinusoids, no biases, window": {"bias": False, "window": 5, "activation": "gelu"},
}
ROTARY = LlamaConfig(11, context_length=12, embed_dim=24, num_heads=4, num_layers=2, dropout=0.3)
LIMITS = {np.float64: 1e-12, np.float32: 1e-5}


def gpt(dtype: type = np.float64, **options: Any) -> GPT:
    """With weights as after a training, so that every token counts."""
    model = GPT(replace(SMALL, **options), seed=3).to(dtype=dtype)
    model.flat.data[...] = np.random.default_rng(1).normal(0, 0.3, model.flat.data.shape)
    return model


def vaswani(dtype: type = np.float64, **options: Any) -> TransformerLM:
    """The same of the other language model; scales stay about 1, for a norm after each addition would shrink all."""
    model = TransformerLM(replace(SINUSOIDAL, **options), seed=3).to(dtype=dtype)
    model.flat.data[...] += np.random.default_rng(1).normal(0, 0.2, model.flat.data.shape)
    return model


def llama(dtype: type = np.float64, **options: Any) -> Llama:
    """A third, whose positions turn queries and keys."""
    model = Llama(replace(ROTARY, **options), seed=3).to(dtype=dtype)
    model.flat.data[...] += np.random.default_rng(1).normal(0, 0.3, model.flat.data.shape)
    return model


EVERY_MODEL = [
    pytest.param(llama, {"num_kv_heads": 2, "window": 5, "qk_norm": True}, id="rotary, grouped, window, norms"),
    *(pytest.param(gpt, options, id=name) for name, options in MODELS.items()),
    *(pytest.param(vaswani, options, id=name) for name, options in VASWANIS.items()),
]


def draw_ids(*shape: int) -> Array:
    return np.random.default_rng(2).integers(0, SMALL.vocab_size, shape)


def largest_difference(ours: Array, expected: Array) -> float:
    assert ours.dtype == expected.dtype
    assert ours.shape == expected.shape
    return float(np.abs(ours - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("implementation", get_args(Implementation))
@pytest.mark.parametrize(("build", "options"), EVERY_MODEL)
def test_cached_equals_uncached_at_every_position(
    build: Callable[..., LanguageModel], options: dict[str, Any], implementation: Implementation, dtype: type
) -> None:
    model, ids = build(dtype, attn_implementation=implementation, **options), draw_ids(2, 12)
    with evaluating():
        every = model(ids)
    for read_at_once in (1, 4):
        cache = KeyValueCache(model, batch_size=2)
        logits = prefill(model, ids[:, :read_at_once].tolist(), cache)
        assert largest_difference(logits, every[:, read_at_once - 1]) <= LIMITS[dtype]
        for t in range(read_at_once, 12):
            logits = step(model, ids[:, t].tolist(), cache)
            assert cache.length == t + 1
            assert largest_difference(logits, every[:, t]) <= LIMITS[dtype], t


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("implementation", get_args(Implementation))
@pytest.mark.parametrize(("build", "options"), EVERY_MODEL)
def test_rows_of_different_lengths_are_each_what_they_are_alone(
    build: Callable[..., LanguageModel], options: dict[str, Any], implementation: Implementation, dtype: type
) -> None:
    model, ids = build(dtype, attn_implementation=implementation, **options), draw_ids(3, 12)
    lengths = (5, 1, 8)
    contexts = [row[:length].tolist() for row, length in zip(ids, lengths, strict=True)]
    cache = KeyValueCache(model, batch_size=3)
    uncached, logits = prefill(model, contexts), prefill(model, contexts, cache)
    for more in range(5):
        alone = np.concatenate(
            [prefill(model, [row[: n + more].tolist()]) for row, n in zip(ids, lengths, strict=True)]
        )
        assert largest_difference(logits, alone) <= LIMITS[dtype], more
        if more == 0:
            assert largest_difference(uncached, alone) <= LIMITS[dtype]
        if more < 4:
            logits = step(model, [int(row[n + more]) for row, n in zip(ids, lengths, strict=True)], cache)


@pytest.mark.parametrize("stride", [1, 4, 12])
@pytest.mark.parametrize("build", [gpt, vaswani])
@pytest.mark.parametrize("options", [{}, {"window": 3, "num_kv_heads": 2}], ids=str)
def test_past_the_context_the_cached_logits_are_those_of_the_window(
    build: Callable[..., LanguageModel], options: dict[str, Any], stride: int
) -> None:
    model, ids = build(**options), draw_ids(2, 40).tolist()
    cached, uncached = Reader(model, stride), Reader(model, stride, cached=False)
    for more in range(30):
        texts = [ids[0][: 3 + more], ids[1][: 9 + more]]
        logits = cached.read(texts)
        assert largest_difference(logits, uncached.read(texts)) <= 1e-12
        windows = [text[window_start(len(text), 12, stride) :] for text in texts]
        alone = [model.eval()(np.array([window]))[0, -1] for window in windows]
        assert largest_difference(logits, np.stack(alone)) <= 1e-12


def test_a_reader_follows_texts_that_change_and_batches_that_shrink() -> None:
    model, reader, ids = gpt(), Reader(gpt()), draw_ids(3, 9).tolist()
    for texts in (ids, [ids[0], ids[2]], [[*ids[0], 4], [*ids[2], 5]], [ids[1][:4]], [ids[2][:5]], [[*ids[2][:5], 1]]):
        assert largest_difference(reader.read(texts), prefill(model, texts)) <= 1e-12


@pytest.mark.parametrize(("longest", "capacity"), [(None, 12), (7, 7), (12, 12), (40, 12)])
def test_the_cache_of_a_reader_is_as_long_as_its_texts_may_become(longest: int | None, capacity: int) -> None:
    model, ids = gpt(), draw_ids(7).tolist()
    reader = Reader(model, longest=longest)
    for end in (5, 6, 7):
        assert largest_difference(reader.read([ids[:end]]), prefill(model, [ids[:end]])) <= 1e-12
    assert reader._cache is not None
    assert reader._cache.capacity == capacity


@pytest.mark.parametrize("between", ["a step", "a prefill"])
def test_what_was_interrupted_can_be_repeated(between: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    model, ids = gpt(), draw_ids(1, 6)[0].tolist()
    reader = Reader(model)
    reader.read([ids[:5]])
    with monkeypatch.context() as interrupted:
        interrupted.setattr(model.blocks[1], "forward", interrupt)
        with pytest.raises(KeyboardInterrupt):
            reader.read([ids] if between == "a step" else [ids[1:4]])
    assert largest_difference(reader.read([ids]), prefill(model, [ids])) <= 1e-12


@pytest.mark.parametrize(
    ("length", "stride", "start"),
    [
        (0, 1, 0),
        (8, 1, 0),
        (9, 1, 1),
        (20, 1, 12),
        (8, 4, 0),
        (9, 4, 4),
        (12, 4, 4),
        (13, 4, 8),
        (9, 8, 8),
        (17, 8, 16),
    ],
)
def test_where_the_window_starts(length: int, stride: int, start: int) -> None:
    assert window_start(length, 8, stride) == start


@pytest.mark.parametrize("stride", [1, 2, 3, 5, 7])
def test_the_window_shows_as_much_as_the_stride_allows(stride: int) -> None:
    shown = [length - window_start(length, 7, stride) for length in range(1, 60)]
    assert shown[:7] == list(range(1, 8))
    assert set(shown[7:]) == set(range(7 - stride + 1, 8))


def test_the_last_token_of_a_full_context_counts() -> None:
    model, ids = gpt(), draw_ids(12).tolist()
    last = (ids[-1] + 1) % SMALL.vocab_size
    assert np.abs(prefill(model, [[*ids[:-1], last]]) - prefill(model, [ids])).max() > 1e-3


def test_nothing_is_saved_and_the_mode_of_every_module_is_as_it_was() -> None:
    model, cache = gpt(), KeyValueCache(gpt())
    model.blocks[1].eval()  # a part that is frozen stays frozen
    before = [module.training for _, module in model.named_modules()]
    prefill(model, [[1, 2]], cache)
    step(model, [3], cache)
    with pytest.raises(RangeError, match="ids lie in"):
        step(model, [999], cache)
    assert [module.training for _, module in model.named_modules()] == before
    assert not any(module._saved for _, module in model.named_modules())
    assert model.generator.offset == 0


@pytest.mark.parametrize("contexts", [[], [[]], [[1, 2], []]])
def test_contexts_without_tokens_are_refused(contexts: list[list[int]]) -> None:
    with pytest.raises(ShapeError, match="in each at least one token"):
        prefill(gpt(), contexts)


@pytest.mark.parametrize("others", [[], [[1, 2]]])
def test_contexts_longer_than_the_context_length_are_refused(others: list[list[int]]) -> None:
    with pytest.raises(RangeError, match="at most 12 tokens, the context length, got 13"):
        prefill(gpt(), [[1] * 13, *others])


def test_a_step_for_another_number_of_rows_is_refused() -> None:
    model = gpt()
    cache = KeyValueCache(model, 2)
    prefill(model, [[1], [2]], cache)
    with pytest.raises(ShapeError, match=r"Make a cache for this model and batch"):
        step(model, [1], cache)


def test_training_with_a_cache_is_refused() -> None:
    model, ids = gpt(), np.array([[1, 2]])
    cache = KeyValueCache(model)
    with pytest.raises(ConfigError, match=r"GPT: cache is supported in eval\(\) only"):
        model(ids, cache)
    with pytest.raises(ConfigError, match=r"a cache is for self-attention in eval\(\) only.*got a module in training"):
        model.blocks[0](np.zeros((1, 2, 24)), model.mask, cache.blocks[0])
