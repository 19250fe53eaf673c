"""The fused decoder equals the model's own forward, and is not built where it would not."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from compyute_transformer.arrays import Array
from compyute_transformer.dispatch import use_kernels
from compyute_transformer.errors import RangeError, ShapeError
from compyute_transformer.exchange import add_lora
from compyute_transformer.generation import KeyValueCache, prefill, step
from compyute_transformer.generation.decode import Reader
from compyute_transformer.generation.fused_decoder import FusedDecoder
from compyute_transformer.models import (
    GPT,
    GPTConfig,
    LanguageModel,
    Llama,
    LlamaConfig,
    TransformerLM,
    TransformerLMConfig,
)
from compyute_transformer.nn import FeedForward, LayerNorm, Linear, Module, Observer, observe
from compyute_transformer.verify.function import randomize

SIZES: dict[str, Any] = {"context_length": 12, "embed_dim": 24, "num_heads": 4, "num_layers": 3, "dropout": 0.3}
SMALL = GPTConfig(11, **SIZES)
LLAMA = LlamaConfig(11, **SIZES, mlp_dim=31, norm_eps=1e-2, rope_theta=50.0, tie_word_embeddings=False)
MODELS: dict[str, LanguageModel] = {
    "pre-norm": GPT(SMALL),
    "window": GPT(replace(SMALL, window=3)),
    "grouped heads, no biases": GPT(replace(SMALL, num_kv_heads=2, bias=False)),
    "llama": Llama(LLAMA),
    "llama, grouped heads, biases": Llama(
        replace(LLAMA, num_kv_heads=2, window=3, attn_bias=True, attn_out_bias=True, mlp_bias=True, head_dim=10)
    ),
    "llama, gelu, scaled": Llama(replace(LLAMA, gate_activation="gelu", rope_scaling="linear", rope_factor=2.0)),
    "post-norm": TransformerLM(TransformerLMConfig(11, **SIZES)),
}


def made(model: LanguageModel) -> LanguageModel:
    """With weights as after a training, so that every token counts."""
    randomize(model)
    model.flat.data *= 0.3
    return model.eval()


def gpt() -> LanguageModel:
    return made(GPT(SMALL))


def ids_of(*shape: int) -> Array:
    return np.random.default_rng(2).integers(0, 11, shape)


@pytest.mark.parametrize("padding", [None, np.array([0, 2])], ids=["", "padding"])
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("sizes", [(4, 1, 1, 2), (1, 7)], ids=str)
def test_it_equals_the_forward(model: LanguageModel, sizes: tuple[int, ...], padding: Array | None) -> None:
    model, ids, start = made(model), ids_of(2, 8), 0
    fused, cache, slow = FusedDecoder.from_model(model), KeyValueCache(model, 2), KeyValueCache(model, 2)
    assert fused is not None
    for held in (cache, slow):
        held.clear(padding)
    for size in sizes:
        part = ids[:, start : start + size]
        logits, expected = fused(part, cache, 3), model(part, slow)[:, -3:]
        assert logits is not None
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
        start += size
        assert cache.length == start


def test_many_rows_are_left_to_the_forward() -> None:
    model = gpt()
    fused, cache = FusedDecoder.from_model(model), KeyValueCache(model, 2)
    assert fused is not None
    assert fused(ids_of(2, 9), cache) is None  # 18 rows
    assert cache.length == 0
    assert fused(ids_of(2, 8), cache) is not None


@pytest.mark.parametrize("name", ["gpt", "llama"])
@pytest.mark.parametrize("rows", [1, 3])
def test_a_cache_of_another_batch_is_refused(name: str, rows: int) -> None:
    """It is no array of the op's arguments, so whoever calls a kernel without the op has to look."""
    model = gpt() if name == "gpt" else made(Llama(LLAMA))
    fused, cache = FusedDecoder.from_model(model), KeyValueCache(model, rows)
    assert fused is not None
    prefill(model, ids_of(rows, 2).tolist(), cache, fused)  # from now on it has noted where the weights lie
    assert fused(ids_of(2, 1), cache) is None
    with pytest.raises(ShapeError, match="keys and values have shape"):
        step(model, [1, 2], cache, fused)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"num_layers": 2}, "a cache has a part for each of the 3 blocks, got one of 2"),
        ({"num_layers": 5}, "a cache has a part for each of the 3 blocks, got one of 5"),
        ({"num_heads": 8}, "keys and values have shape"),
        ({"num_kv_heads": 1}, "keys and values have shape"),
        ({"embed_dim": 48}, "keys and values have shape"),
    ],
)
def test_a_cache_of_another_model_is_refused(other: dict[str, int], message: str) -> None:
    sizes = {"embed_dim": 24, "num_heads": 4, "num_layers": 3, "num_kv_heads": 4}
    model = made(GPT(GPTConfig(11, context_length=12, **sizes)))  # type: ignore[arg-type]
    fused, own = FusedDecoder.from_model(model), KeyValueCache(model)
    assert fused is not None
    prefill(model, [[1, 2]], own, fused)
    cache = KeyValueCache(GPT(GPTConfig(11, context_length=12, **(sizes | other))))  # type: ignore[arg-type]
    assert fused(ids_of(1, 1), cache) is None
    with pytest.raises(ShapeError, match=message):
        prefill(model, [[1, 2]], cache, fused)


def test_it_is_not_built_without_a_kernel() -> None:
    model = gpt()
    with use_kernels("reference"):
        assert FusedDecoder.from_model(model) is None
    double = FusedDecoder.from_model(model.to(dtype=np.float64))
    assert double is None or double(ids_of(1, 1), KeyValueCache(model)) is None


class Shifted(LayerNorm):
    """A part that somebody made their own."""

    def forward(self, x: Array) -> Array:
        """Add one to what a norm returns."""
        return super().forward(x) + 1


class Twice(FeedForward):
    """Another."""

    def forward(self, x: Array) -> Array:
        """Double what a feed-forward returns."""
        return 2 * super().forward(x)


class Negative(Linear):
    """And a third."""

    def forward(self, x: Array) -> Array:
        """Negate what a linear map returns."""
        return -super().forward(x)


def replaced(name: str, build: Callable[[], Module]) -> Callable[[Any], None]:
    def change(blocks: Any) -> None:
        owner = blocks[1] if name != "down" else blocks[1].feed_forward
        setattr(owner, name, build().eval())

    return change


def other_algorithm(blocks: Any) -> None:
    blocks[2].attention.implementation = "sequential"


def other_activation(blocks: Any) -> None:
    blocks[1].feed_forward.activation = "relu"


def other_block(blocks: Any) -> None:
    setattr(blocks, "1", made(MODELS["post-norm"]).blocks[1])


def part_in_training(blocks: Any) -> None:
    blocks[1].attention_dropout.training = True


def other_forward(blocks: Any) -> None:
    own = blocks[1].feed_forward.forward
    blocks[1].feed_forward.forward = lambda x: 2 * own(x)


CHANGES: dict[str, Callable[[Any], None]] = {
    "a norm": replaced("feed_forward_norm", lambda: Shifted(24)),
    "a feed-forward": replaced("feed_forward", lambda: Twice(24, 96)),
    "a linear map": replaced("down", lambda: Negative(96, 24)),
    "an algorithm": other_algorithm,
    "an activation": other_activation,
    "a kind of block": other_block,
    "a mode": part_in_training,
    "a forward of its own": other_forward,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_model_that_is_something_else_runs_its_own_forward(change: Callable[[Any], None]) -> None:
    model, ids = gpt(), ids_of(1, 8)[0].tolist()
    assert FusedDecoder.from_model(model) is not None
    change(model.blocks)
    assert FusedDecoder.from_model(model) is None
    reader = Reader(model)
    for end in range(3, 8):
        np.testing.assert_allclose(reader.read([ids[:end]]), prefill(model, [ids[:end]]), rtol=1e-4, atol=1e-5)


def test_a_model_of_a_class_that_was_changed_runs_its_own_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    model, own = gpt(), Linear.forward
    assert FusedDecoder.from_model(model) is not None
    monkeypatch.setattr(Linear, "forward", lambda self, x: 2 * own(self, x))
    assert FusedDecoder.from_model(model) is None


@pytest.mark.parametrize("path", ["1", "1.attention", "2.feed_forward.down", "0.attention_dropout", ""])
def test_a_model_that_is_observed_runs_its_own_forward(path: str) -> None:
    model = gpt()
    with observe(dict(model.blocks.named_modules())[path], Observer()):
        assert FusedDecoder.from_model(model) is None
    assert FusedDecoder.from_model(model) is not None


def test_the_context_ends_for_it_too() -> None:
    model = gpt()
    fused, cache = FusedDecoder.from_model(model), KeyValueCache(model)
    prefill(model, ids_of(1, 12).tolist(), cache, fused)
    with pytest.raises(RangeError, match="the context length, got 1 positions from 12 on"):
        step(model, [1], cache, fused)
    assert cache.length == 12


@pytest.mark.parametrize(
    "options", [{"qk_norm": True}, {"rope_scaling": "dynamic", "rope_factor": 2.0}], ids=["norms", "dynamic"]
)
def test_a_llama_with_more_than_rotations_is_left_to_the_forward(options: dict[str, Any]) -> None:
    assert FusedDecoder.from_model(made(Llama(replace(LLAMA, **options)))) is None


def test_a_llama_with_lora_is_left_to_the_forward() -> None:
    model = made(Llama(LLAMA))
    assert FusedDecoder.from_model(add_lora(model, 2, targets=["o_proj"])) is None
