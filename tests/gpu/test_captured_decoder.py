"""Tokens that a captured graph generates are those of the model's own forward, whatever changes from token to token."""

import gc
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from gpu.stand_in import installed
from gpu.stand_in.stream import Graph, StaleMemoryError
from tolerances import relative_error

from compyute_transformer import GPT, GPTConfig, Llama, LlamaConfig
from compyute_transformer.data.text.tokenizer import CharacterTokenizer
from compyute_transformer.dispatch import use_kernels
from compyute_transformer.errors import RangeError
from compyute_transformer.generation import (
    KeyValueCache,
    Sampling,
    generate,
    generate_batch,
    generate_ids,
    prefill,
    step,
)
from compyute_transformer.generation import captured_decoder as module
from compyute_transformer.generation.captured_decoder import CapturedDecoder, decode_fault
from compyute_transformer.models import TransformerLM, TransformerLMConfig
from compyute_transformer.nn import evaluating
from compyute_transformer.precision import use_precision

TOKENIZER = CharacterTokenizer.train("the cat sat on a mat")
V, L = TOKENIZER.vocab_size + 1, 16  # one row more than tokens
SIZES = {"context_length": L, "embed_dim": 16, "num_heads": 4, "num_layers": 2}
CONFIGS = {
    "gpt": GPTConfig(V, **SIZES),
    "gpt window": GPTConfig(V, **SIZES, window=5, num_kv_heads=2, bias=False, activation="gelu"),
    "llama": LlamaConfig(V, **SIZES, num_kv_heads=2, attn_bias=True, tie_word_embeddings=False),
    "llama window": LlamaConfig(V, **SIZES, num_kv_heads=1, window=7, gate_activation="gelu", rope_scaling="llama3"),
}


@pytest.fixture
def launched(stand_in: Any, monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """One item for each launch of a graph."""
    found: list[None] = []
    launch = Graph.launch
    monkeypatch.setattr(Graph, "launch", lambda self, stream=None: found.append(launch(self, stream)))
    return found


def made(name: str = "gpt") -> Any:
    config = CONFIGS[name]
    model = (GPT if isinstance(config, GPTConfig) else Llama)(config, seed=3)
    rng = np.random.default_rng(5)
    for parameter in model.parameters():  # large enough for one token to differ from another
        parameter.data[...] += rng.normal(size=parameter.shape, scale=0.3)
    return model.eval().to("cuda")


def texts(model: Any) -> list[Any]:
    """Return texts with and without padding, sampled and greedy, past the context, with few and many refills."""
    warm = Sampling(temperature=0.9, top_k=9, seed=4, repetition_penalty=1.1)
    cold = Sampling(temperature=0.0)
    ids = np.array([[1, 2, 3], [3, 2, 1]])
    return [
        generate(model, TOKENIZER, "the", max_new_tokens=18, sampling=cold, stride=4),
        generate_batch(model, TOKENIZER, ["the cat", "a", "ma"], max_new_tokens=12, sampling=warm, stride=5),
        generate_batch(model, TOKENIZER, ["on", "m"], max_new_tokens=6, sampling=cold, stop=["t", "a"]),
        generate_ids(model, ids, max_new_tokens=5, sampling=warm).get().tolist(),
    ]


@pytest.mark.parametrize("name", ["gpt window", "llama"])
def test_texts_are_those_of_the_models_own_forward(any_gpu: Any, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    model, captured = made(name), []
    capture = CapturedDecoder._capture
    monkeypatch.setattr(CapturedDecoder, "_capture", lambda self: captured.append(name) or capture(self))
    found, count = texts(model), len(captured)
    monkeypatch.setattr(CapturedDecoder, "from_model", classmethod(lambda cls, model: None))
    assert found == texts(model)
    assert len(captured) == count >= 3  # one for each cache


def read(model: Any, run: Callable[..., Any], contexts: list[list[int]], tokens: list[list[int]]) -> list[np.ndarray]:
    """Return the logits after contexts and after further tokens."""
    cache = KeyValueCache(model, len(contexts))
    logits = [prefill(model, contexts, cache).get()]
    return logits + [run(model, row, cache).get() for row in tokens]


CONTEXTS = [[1, 2, 3, 4, 5], [6, 7]]
TOKENS = [[1, 2], [3, 4], [5, 6], [7, 8], [9, 1]]


def differences(model: Any, decoder: Any) -> float:
    with evaluating():
        found = read(model, lambda *given: step(*given, decoder), CONTEXTS, TOKENS)
        expected = read(model, step, CONTEXTS, TOKENS)
    # not `max`, which would pass over NaN
    return float(np.max([relative_error(one, other) for one, other in zip(found, expected, strict=True)]))


@pytest.mark.parametrize(("precision", "most"), [("float32", 2e-6), ("bfloat16", 2e-2)])
@pytest.mark.parametrize("name", CONFIGS)
def test_logits_are_those_of_the_models_own_forward(any_gpu: Any, name: str, precision: Any, most: float) -> None:
    model = made(name)
    model.precision = precision if name == "llama" else None
    with use_precision("tf32" if name == "llama" else precision), evaluating():
        decoder = CapturedDecoder(model)
        assert decoder._head.dtype.name == precision  # rounded once, not for each token
        assert differences(model, decoder) <= most


def test_a_graph_is_captured_once_and_holds_while_the_cache_is_refilled(launched: list[None]) -> None:
    model = made()
    with evaluating():
        decoder = CapturedDecoder(model)
        cache, other = KeyValueCache(model, 2), KeyValueCache(model, 2)
        plain = KeyValueCache(model, 2)
        graphs = []
        for contexts in (CONTEXTS, [[2, 1], [3]], [[4, 1, 2, 3, 7, 8], [1]]):
            prefill(model, contexts, cache, decoder)
            prefill(model, contexts, plain)
            for row in TOKENS:
                found, expected = step(model, row, cache, decoder), step(model, row, plain)
                assert np.allclose(found.get(), expected.get(), atol=1e-5)
                graphs.append(decoder._captured)
        assert len(launched) == len(graphs) - 1  # the first token of the cache plans and compiles
        assert graphs[0] is None
        assert len({id(graph) for graph in graphs[1:]}) == 1
        prefill(model, CONTEXTS, other, decoder)
        prefill(model, CONTEXTS, plain)
        for row in TOKENS:  # another cache is another graph
            assert np.allclose(step(model, row, other, decoder).get(), step(model, row, plain).get(), atol=1e-5)
        assert decoder._captured is not graphs[-1]


def test_rows_that_are_selected_go_on(any_gpu: Any) -> None:
    """A selection of as many rows keeps the arrays of the cache; another number makes new ones."""
    model = made("llama")
    with evaluating():
        decoder = CapturedDecoder(model)
        caches = [KeyValueCache(model, 2) for _ in range(2)]
        for cache in caches:
            prefill(model, CONTEXTS, cache)
        for rows in ([0, 1], [1, 0], [1, 1], [0]):
            for cache in caches:
                cache.select(rows)
            for token in (1, 2):
                given = [token, 5][: len(rows)]
                found, expected = step(model, given, caches[0], decoder), step(model, given, caches[1])
                assert np.allclose(found.get(), expected.get(), atol=1e-5)


def test_logits_that_someone_holds_stay(any_gpu: Any) -> None:
    model = made()
    with evaluating():
        decoder, cache = CapturedDecoder(model), KeyValueCache(model, 2)
        prefill(model, CONTEXTS, cache)
        held = [step(model, row, cache, decoder) for row in TOKENS]
        copies = [logits.get() for logits in held]
        step(model, [1, 1], cache, decoder)
        assert all(np.array_equal(logits.get(), copy) for logits, copy in zip(held, copies, strict=True))
        assert not np.array_equal(copies[-1], copies[-2])


def test_a_full_cache_and_an_unknown_id_are_refused(any_gpu: Any) -> None:
    model = made()
    with evaluating():
        decoder, cache = CapturedDecoder(model), KeyValueCache(model, 2, capacity=6)
        prefill(model, CONTEXTS, cache)
        with pytest.raises(RangeError, match=r"ids lie in \[0, "):
            step(model, [1, V], cache, decoder)
        step(model, [1, 2], cache, decoder)
        with pytest.raises(RangeError, match="room for 6 positions"):
            step(model, [1, 2], cache, decoder)
        assert cache.length == 6


# --- what must be noticed ---


def without(numbers: str) -> Callable[[Any, pytest.MonkeyPatch], None]:
    """Return a mistake: an array is not written again before a replay."""

    def plant(decoder: Any, patch: pytest.MonkeyPatch) -> None:
        call = CapturedDecoder.__call__

        def stale(self: Any, *given: Any) -> Any:
            if self._captured is not None:  # the graph goes on with a copy that nobody writes to
                cls = type(getattr(self, numbers))
                patch.setattr(cls, "set" if numbers == "_numbers" else "__setitem__", lambda *given: None)
            return call(self, *given)

        patch.setattr(CapturedDecoder, "__call__", stale)

    return plant


def off_by_one(decoder: Any, patch: pytest.MonkeyPatch) -> None:
    launch = CapturedDecoder._launch

    def late(self: Any) -> Any:
        self._numbers[:1] += 1
        return launch(self)

    patch.setattr(CapturedDecoder, "_launch", late)


def swapped(decoder: Any, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(KeyValueCache, "buffers", property(lambda self: (self._values, self._keys)))


def no_padding(decoder: Any, patch: pytest.MonkeyPatch) -> None:
    call = CapturedDecoder.__call__

    def unpadded(self: Any, ids: Any, cache: Any, count: int) -> Any:
        cache.padding, before = None, cache.padding
        found = call(self, ids, cache, count)
        cache.padding = before
        return found

    patch.setattr(CapturedDecoder, "__call__", unpadded)


@pytest.mark.parametrize("plant", [without("_numbers"), off_by_one, swapped, no_padding])
def test_planted_mistakes_are_noticed(stand_in: Any, plant: Any) -> None:
    model = made()
    with evaluating(), pytest.MonkeyPatch.context() as patch:
        decoder = CapturedDecoder(model)
        plant(decoder, patch)
        assert not differences(model, decoder) < 1e-3


def test_a_graph_whose_memory_was_given_away_is_noticed(stand_in: Any) -> None:
    model = made()
    with evaluating():
        decoder, cache = CapturedDecoder(model), KeyValueCache(model, 2)
        prefill(model, CONTEXTS, cache)
        for row in TOKENS[:2]:
            step(model, row, cache, decoder)
        decoder._captured = decoder._captured._replace(keeps=())
        gc.collect()
        with pytest.raises(StaleMemoryError):
            step(model, [1, 2], cache, decoder)


# --- where it is not captured ---


def test_what_cannot_be_captured_is_said_once(
    any_gpu: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_said", set())
    with evaluating(), caplog.at_level(logging.WARNING):
        assert decode_fault(made()) is None
        vaswani = TransformerLM(TransformerLMConfig(V, **SIZES)).to("cuda")
        for _ in range(2):
            assert CapturedDecoder.from_model(vaswani) is None
        assert [record.getMessage() for record in caplog.records] == [
            "Tokens are generated launch by launch, which is slower, and not as one CUDA graph: a TransformerLM is not "
            "among the models that are captured, GPT and Llama."
        ]
        odd = GPT(GPTConfig(V, context_length=8, embed_dim=66, num_heads=2, num_layers=1)).to("cuda")
        assert "got 33" in str(decode_fault(odd))
        assert "float64" in str(decode_fault(made().to(dtype=np.float64)))
        qwen = Llama(LlamaConfig(V, **SIZES, qk_norm=True)).to("cuda")
        assert "norms of queries and keys" in str(decode_fault(qwen))
        capped = made()
        for mask in (capped.mask._replace(soft_cap=2.0), capped.mask._replace(slopes=np.ones(2))):
            capped.mask = mask
            assert "a soft cap or slopes" in str(decode_fault(capped))
        precise = made()
        precise.head.precision = "bfloat16"
        assert "a precision of its own" in str(decode_fault(precise))
        watched = made()
        watched.norm.forward = watched.norm.forward
        assert "its forward was replaced" in str(decode_fault(watched))
        caplog.clear()
        with use_kernels("reference"):
            assert decode_fault(made()) == "kernels are off"
            assert CapturedDecoder.from_model(made()) is None
        assert caplog.records == []


def test_without_nvmath_tokens_are_launched_one_by_one() -> None:
    with installed(), evaluating():
        model = made()
        assert "pip install 'compyute-transformer[gpu]'" in str(decode_fault(model))
        assert generate(model, TOKENIZER, "a", max_new_tokens=3)
