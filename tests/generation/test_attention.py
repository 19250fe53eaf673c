"""Attention maps: the weights that the model used, from any implementation."""

from typing import Any, get_args

import numpy as np
import pytest

from compyute_transformer.data import BytePairTokenizer, CharacterTokenizer
from compyute_transformer.errors import RangeError, ShapeError
from compyute_transformer.generation import attention_maps, named_attention_maps
from compyute_transformer.generation.attention import token_labels
from compyute_transformer.models import Transformer, TransformerConfig, TransformerLM, TransformerLMConfig
from compyute_transformer.models.gpt import GPT, GPTConfig
from compyute_transformer.nn.attention import Implementation

IDS = np.random.default_rng(0).integers(0, 11, (2, 9))


def gpt(**options: Any) -> GPT:
    model = GPT(GPTConfig(11, 40, 24, 4, 3, dropout=0.5, **options), seed=1).to(dtype=np.float64)
    model.flat.data[...] = np.random.default_rng(1).normal(0, 0.3, model.flat.data.shape)
    return model


@pytest.mark.parametrize("implementation", get_args(Implementation))
@pytest.mark.parametrize("options", [{}, {"window": 3, "num_kv_heads": 2}], ids=str)
def test_maps_of_any_implementation_are_the_same(options: dict[str, Any], implementation: Implementation) -> None:
    maps = attention_maps(gpt(attn_implementation=implementation, **options), IDS)
    expected = attention_maps(gpt(attn_implementation="parallel", **options), IDS)
    assert [weights.shape for weights in maps] == [(2, 4, 9, 9)] * 3
    for ours, theirs in zip(maps, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10)
        np.testing.assert_allclose(ours.sum(-1), 1.0, rtol=1e-12)
        seen = np.tril(np.ones((9, 9), bool)) & ~np.tril(np.ones((9, 9), bool), -options.get("window", 9))
        np.testing.assert_array_equal(ours > 0, np.broadcast_to(seen, ours.shape))


def test_the_last_map_makes_the_last_output() -> None:
    model = gpt()
    weights = attention_maps(model, IDS)[0]
    model.eval()
    block = model.blocks[0]
    x = block.attention_norm(model.position(model.token_embedding(IDS)))
    v = (
        (x @ block.attention.in_weight.data[48:].T + block.attention.in_bias.data[48:])
        .reshape(2, 9, 4, 6)
        .swapaxes(1, 2)
    )
    merged = (weights @ v).swapaxes(1, 2).reshape(2, 9, 24)
    y = merged @ block.attention.out_weight.data.T + block.attention.out_bias.data
    np.testing.assert_allclose(y, block.attention(x, mask=model.mask), rtol=1e-10)


@pytest.mark.parametrize("implementation", get_args(Implementation))
def test_maps_of_a_post_norm_decoder_make_its_outputs(implementation: Implementation) -> None:
    config = TransformerLMConfig(11, 40, 24, 4, 2, dropout=0.5, window=4, attn_implementation=implementation)
    model = TransformerLM(config, seed=1).to(dtype=np.float64)
    first, last = attention_maps(model, IDS)
    assert first.shape == last.shape == (2, 4, 9, 9)
    model.eval()
    block, x = model.blocks[0], model.position(model.token_embedding(IDS) * np.sqrt(24))
    v = block.attention.project_memory(x).v
    y = (first @ v).swapaxes(1, 2).reshape(2, 9, 24) @ block.attention.out_weight.data.T
    np.testing.assert_allclose(y + block.attention.out_bias.data, block.attention(x, None, model.mask), rtol=1e-10)


@pytest.mark.parametrize("implementation", get_args(Implementation))
def test_maps_of_an_encoder_decoder_are_named_by_where_they_look(implementation: Implementation) -> None:
    model = Transformer(TransformerConfig(11, 9, 24, 4, 2, dropout=0.5, attn_implementation=implementation))
    lengths = np.array([9, 4])
    maps = named_attention_maps(model, IDS, IDS[:, :6], lengths)
    assert {path: weights.shape[2:] for path, weights in maps.items()} == {
        **{f"encoder.{n}.attention": (9, 9) for n in range(2)},
        **{f"decoder.{n}.attention": (6, 6) for n in range(2)},
        **{f"decoder.{n}.cross_attention": (6, 9) for n in range(2)},
    }
    for path, weights in maps.items():
        np.testing.assert_allclose(weights.sum(-1), 1.0, rtol=1e-5)
        seen = np.broadcast_to(np.arange(weights.shape[3]) < lengths[:, None, None, None], weights.shape)
        if path.startswith("decoder") and path.endswith(".attention"):
            seen = np.broadcast_to(np.tril(np.ones((6, 6), bool)), weights.shape)
        np.testing.assert_array_equal(weights > 0, seen)


def test_nothing_is_dropped_or_saved_and_the_mode_stays() -> None:
    model = gpt()
    attention_maps(model, IDS)
    assert model.training
    assert model.generator.offset == 0
    assert not any(module._saved for _, module in model.named_modules())


def test_ids_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"shape \(B, T\)"):
        attention_maps(gpt(), IDS[0])
    with pytest.raises(RangeError, match="the context length, got 41 positions"):
        attention_maps(gpt(), np.zeros((1, 41), int))


def test_labels_show_whitespace_and_are_short() -> None:
    letters = CharacterTokenizer("a \n\t")
    assert token_labels(letters, letters.encode("a \n\t").tolist()) == ["a", "␣", "⏎", "⇥"]
    words = BytePairTokenizer.train("extraordinarily " * 50, 300)
    assert token_labels(words, words.encode("extraordinarily").tolist()) == ["extraordina…"]
