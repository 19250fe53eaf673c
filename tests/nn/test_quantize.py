"""Models with weights in int8 and bfloat16: the same function of rounded weights, for inference alone."""

import copy
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from compyute_transformer import GPT, AdamW, Bert, BertConfig, GPTConfig, Llama, LlamaConfig
from compyute_transformer.errors import DtypeError, RangeError, StateError
from compyute_transformer.generation import KeyValueCache
from compyute_transformer.generation.fused_decoder import FusedDecoder
from compyute_transformer.nn.quantize import lay_together, matrices_of, quantize_weights, replace_data
from compyute_transformer.ops.quantized import QuantizedWeight, Weights, quantize

SIZES: dict[str, Any] = {"context_length": 12, "embed_dim": 32, "num_heads": 4, "num_layers": 2}
MODELS = {
    "gpt": lambda: GPT(GPTConfig(11, **SIZES), seed=1),
    "llama": lambda: Llama(LlamaConfig(11, **SIZES, num_kv_heads=2, mlp_dim=96, attn_bias=True), seed=1),
    "untied": lambda: Llama(LlamaConfig(11, **SIZES, mlp_dim=43, tie_word_embeddings=False), seed=1),
    "bert": lambda: Bert(BertConfig(11, **SIZES), seed=1),
}
IDS = np.random.default_rng(2).integers(0, 11, (2, 8))


def rounded(model: Any, kind: Any) -> Any:
    """Return a copy in float32 whose matrices have the values that quantized ones have."""
    same = copy.deepcopy(model).eval()
    for parameter in matrices_of(same):
        parameter.data[...] = np.asarray(quantize(parameter.data, kind))
    return same


@pytest.mark.parametrize("kind", ["int8", "bfloat16"])
@pytest.mark.parametrize("name", MODELS)
def test_it_is_the_model_with_rounded_weights(name: str, kind: Any) -> None:
    model: Any = MODELS[name]()
    expected = rounded(model, kind)
    size = model.num_parameters
    quantize_weights(model, kind)
    assert model.num_parameters == size
    held = [p for p in matrices_of(model) if isinstance(p.data, QuantizedWeight)]
    assert len(held) == sum(1 for p in matrices_of(model) if kind == "bfloat16" or p.shape[1] % 32 == 0)
    assert all(p.place is None for p in model.parameters())
    assert np.allclose(model(IDS), expected(IDS), rtol=1e-4, atol=1e-5)
    for one, other in ((model.state_dict(), expected.state_dict()), (copy.deepcopy(model).state_dict(), {})):
        assert all(np.array_equal(one[key], other[key]) for key in other)
    assert np.array_equal(copy.deepcopy(model)(IDS), model(IDS))
    if name == "bert":
        return
    fused, cache, slow = FusedDecoder.from_model(model), KeyValueCache(model, 2), KeyValueCache(expected, 2)
    assert fused is not None
    for part in (IDS[:, :5], IDS[:, 5:6], IDS[:, 6:8]):
        logits = fused(part, cache)
        assert logits is not None
        assert np.allclose(logits[:, -1], expected(part, slow)[:, -1], rtol=1e-4, atol=1e-5)


def test_it_is_not_trained_moved_or_converted() -> None:
    model = MODELS["gpt"]()
    quantize_weights(model, "bfloat16")
    assert model.to("cpu") is model
    with pytest.raises(StateError, match=r"GPT\.train: weights in bfloat16 are for inference"):
        model.train()
    for dtype in (np.float64, np.dtype(np.float64)):  # the latter equals None to NumPy
        with pytest.raises(DtypeError, match="weights in bfloat16 stay on the CPU as they are"):
            model.to(dtype=dtype)
    with pytest.raises(StateError, match="are for inference, and are not trained"):
        _ = model.flat
    with pytest.raises(StateError):
        model.load_state_dict(model.state_dict())
    with pytest.raises(StateError, match=r"head\.weight: weights in int8 or bfloat16 are for inference"):
        AdamW(model.parameters(), lr=1e-3)
    assert all(isinstance(p.data, QuantizedWeight) for p in matrices_of(model))


@pytest.mark.parametrize("weights", ["int8", "bfloat16"])
def test_matrices_lie_in_one_piece_of_memory(weights: Weights) -> None:
    model = MODELS["gpt"]()
    before = {name: p.data.copy() for name, p in model.named_parameters()}
    matrices = {id(parameter) for parameter in matrices_of(model)}
    quantize_weights(model, weights)
    places, memories = [], set()
    for name, parameter in model.named_parameters():
        if id(parameter) not in matrices:
            assert np.array_equal(parameter.data, before[name])
            continue
        weight: Any = parameter.data
        expected: Any = quantize(before[name], weights)
        assert np.array_equal(weight.values, expected.values)
        assert (weight.scales is None) == (expected.scales is None)
        for array, own in ((weight.values, expected.values), (weight.scales, expected.scales)):
            if array is not None:
                assert np.array_equal(array, own)
                assert (array.ctypes.data % 64, array.flags.c_contiguous) == (0, True)
                places.append((array.ctypes.data, array.nbytes))
                memories.add(id(array.base))
    assert len(memories) == 1
    places.sort()
    assert all(at + size <= after for (at, size), (after, _) in pairwise(places))


def test_what_is_quantized_already_stays_where_it_is() -> None:
    model = MODELS["gpt"]()
    quantize_weights(model, "int8")
    before = [parameter.data for parameter in matrices_of(model)]
    same = copy.deepcopy(model)
    for again in (model, same):
        quantize_weights(again, "int8")
    for other in (model, same):
        assert all(p.data is data for p, data in zip(matrices_of(other), before, strict=True))


def test_matrices_that_are_one_stay_one() -> None:
    model: Any = MODELS["untied"]()
    one, other, *_ = matrices_of(model)
    shared: Any = quantize(one.data, "int8")
    for parameter in (one, other):
        replace_data(parameter, shared)
    lay_together(model)
    assert one.data is other.data
    assert one.data is not shared
    assert np.array_equal(np.asarray(one.data), np.asarray(shared))


def test_what_is_not_float32_or_not_known_is_refused() -> None:
    model = MODELS["gpt"]()
    with pytest.raises(RangeError, match="got 'int4'"):
        quantize_weights(model, "int4")  # type: ignore[arg-type]
    with pytest.raises(DtypeError, match="a model in float32 on the CPU is quantized"):
        quantize_weights(model.to(np.float64), "int8")
