"""Attention weights, hidden states, and gradients of embedded tokens, on request."""

from typing import Any

import numpy as np
import pytest

from compyute_transformer.errors import ConfigError, DtypeError, ShapeError
from compyute_transformer.generation import KeyValueCache, attention_maps
from compyute_transformer.models import ModelOutput
from compyute_transformer.models.registry import MODELS, ModelRecord
from compyute_transformer.nn import MultiHeadAttention
from compyute_transformer.ops.attention import NO_MASK

RECORDS = list(MODELS.values())


def build(record: ModelRecord, variant: str = "plain") -> tuple[Any, Any]:
    config = record.small_configs()[variant]
    model = record.model(config, 1).to(dtype=np.float64)
    inputs, _ = record.batch(config, np.random.default_rng(3), 2)
    return model, tuple(x.astype(np.float64) if x.dtype.kind == "f" else x for x in inputs)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.name)
def test_outputs_are_recorded_and_change_nothing(record: ModelRecord, training: bool) -> None:
    model, inputs = build(record, "dropout")
    model.train() if training else model.eval()
    offset = model.generator.offset
    plain = model(*inputs)
    used, model.generator.offset = model.generator.offset, offset
    model.clear_saved()
    output = model(*inputs, return_attention=True, return_hidden_states=True)
    assert isinstance(output, ModelOutput)
    np.testing.assert_array_equal(output.logits, plain)
    assert model.generator.offset == used
    attentions = [m for m in model.modules() if isinstance(m, MultiHeadAttention)]
    stacks = 2 if record.task == "translation" else 1
    assert output.attentions is not None
    assert output.hidden_states is not None
    assert len(output.attentions) == len(attentions)
    assert len(output.hidden_states) == stacks * (model.config.num_layers + 1)
    for weights in output.attentions:
        np.testing.assert_allclose(weights.sum(-1), 1.0, rtol=1e-12)
    if training:
        model.backward(np.ones_like(plain))  # what was recorded left nothing behind
    assert not any(module._saved for module in model.modules())


@pytest.mark.parametrize("record", [r for r in RECORDS if r.task == "language"], ids=lambda record: record.name)
def test_hidden_states_are_the_stream_between_the_blocks(record: ModelRecord) -> None:
    model, (ids,) = build(record)
    model.eval()
    states = model(ids, return_hidden_states=True).hidden_states
    x = model.embed(ids)
    for block, state in zip(model.blocks, states, strict=False):
        np.testing.assert_array_equal(state, x)
        x = block(x, model.mask)
    np.testing.assert_array_equal(states[-1], x)
    np.testing.assert_array_equal(model.unembed(states[-1]), model(ids))


class Doubled(MultiHeadAttention):
    """An attention that changes the forward, and not what tells its weights."""

    def forward(self, *inputs: Any) -> Any:
        return 2 * super().forward(*inputs)


class Told(Doubled):
    """The same, with weights of its own."""

    def forward_with_weights(self, x: Any, memory: Any = None, mask: Any = NO_MASK) -> tuple[Any, Any]:
        y, weights = super().forward_with_weights(x, memory, mask)
        return 2 * y, weights / 2


def test_weights_of_a_replaced_attention_are_its_own_or_refused() -> None:
    model, (ids,) = build(MODELS["gpt"])
    right = attention_maps(model, ids)
    model.blocks[1].attention = Doubled(12, 3).to(dtype=np.float64)
    with pytest.raises(ConfigError, match=r"blocks\.1\.attention is a Doubled with a forward of its own"):
        attention_maps(model, ids)
    model.blocks[1].attention = Told(12, 3).to(dtype=np.float64)
    maps = attention_maps(model, ids)
    np.testing.assert_array_equal(maps[0], right[0])
    np.testing.assert_allclose(maps[1].sum(-1), 0.5, rtol=1e-12)
    model.blocks[1].attention = MultiHeadAttention(12, 3).to(dtype=np.float64)
    object.__setattr__(model.blocks[1].attention, "forward", lambda x, *_: x)
    with pytest.raises(ConfigError, match="a forward of its own"):
        attention_maps(model, ids)


def test_attention_weights_with_a_cache_are_refused() -> None:
    model, (ids,) = build(MODELS["gpt"])
    cache = KeyValueCache(model.eval(), 2)
    for call in (
        lambda: model(ids, cache, return_attention=True),
        lambda: model(ids, cache=cache, return_attention=True),
    ):
        with pytest.raises(ConfigError, match="return_attention is supported without a cache"):
            call()
    assert len(model(ids, cache, return_hidden_states=True).hidden_states) == 3


@pytest.mark.parametrize("record", [r for r in RECORDS if r.task != "images"], ids=lambda record: record.name)
def test_the_gradient_of_embedded_tokens_is_the_slope(record: ModelRecord) -> None:
    """A vector added to what the embedding returns changes the logits as backward says."""
    model, inputs = build(record)
    rng = np.random.default_rng(5)
    logits = model(*inputs)
    dlogits = rng.normal(size=logits.shape)
    found = model.backward(dlogits)
    gradients = found if isinstance(found, tuple) else (found,)
    assert [g.shape[:2] for g in gradients] == [inputs[at].shape for at in range(len(gradients))]
    lookup = type(model.token_embedding).forward
    for gradient, ids in zip(gradients, inputs, strict=False):
        direction = rng.normal(size=gradient.shape)
        slopes = []
        for step in (1e-6, -1e-6):
            model.clear_saved()
            moved = {id(ids): step * direction}
            object.__setattr__(
                model.token_embedding,
                "forward",
                lambda x, moved=moved: lookup(model.token_embedding, x) + moved.get(id(x), 0),
            )
            slopes.append((model(*inputs) * dlogits).sum())
        del model.token_embedding.__dict__["forward"]
        expected = (slopes[0] - slopes[1]) / 2e-6
        assert (gradient * direction).sum() == pytest.approx(expected, rel=1e-6)


LANGUAGE = [record for record in RECORDS if record.task == "language"]


@pytest.mark.parametrize("variant", ["plain", "everything"])
@pytest.mark.parametrize("record", LANGUAGE, ids=lambda record: record.name)
def test_vectors_in_place_of_ids_give_the_same_logits_and_gradients(record: ModelRecord, variant: str) -> None:
    model, (ids,) = build(record, variant)
    offset = model.generator.offset
    logits = model(ids)
    dlogits = np.random.default_rng(5).normal(size=logits.shape)
    dx = model.backward(dlogits)
    of_ids = {name: p.grad.copy() for name, p in model.named_parameters()}
    vectors = model.token_embedding.weight.data[ids]
    model.zero_grad()
    model.generator.offset = offset  # dropout drops the same elements
    assert np.array_equal(model(inputs_embeds=vectors), logits)
    assert np.array_equal(model.backward(dlogits), dx)
    assert not any(module._saved for module in model.modules())
    for name, parameter in model.named_parameters():
        if parameter is not model.token_embedding.weight:
            assert np.array_equal(parameter.grad, of_ids[name]), name
    embedding = model.token_embedding.weight
    if model.head.weight is embedding:
        looked_up = np.zeros_like(embedding.data)
        np.add.at(looked_up, ids, dx)
        assert np.allclose(embedding.grad + looked_up, of_ids["token_embedding.weight"], rtol=1e-12, atol=1e-14)
    else:
        assert embedding.grad is None


@pytest.mark.parametrize("record", LANGUAGE, ids=lambda record: record.name)
def test_the_gradient_of_vectors_in_place_of_ids_is_the_slope(record: ModelRecord) -> None:
    model, (ids,) = build(record)
    rng = np.random.default_rng(5)
    vectors, direction = rng.normal(size=(2, *ids.shape, model.config.embed_dim))
    logits = model(inputs_embeds=vectors)
    dlogits = rng.normal(size=logits.shape)
    slope = (model.backward(dlogits) * direction).sum()
    model.eval()
    above, below = (model(inputs_embeds=vectors + step * direction) for step in (1e-6, -1e-6))
    assert slope == pytest.approx(((above - below) * dlogits).sum() / 2e-6, rel=1e-6)


def test_vectors_in_place_of_ids_join_a_cache_and_are_checked() -> None:
    model, (ids,) = build(MODELS["gpt"])
    vectors = model.token_embedding.weight.data[ids]
    model.eval()
    cache = KeyValueCache(model, batch_size=2)
    parts = [model(inputs_embeds=vectors[:, :3], cache=cache), model(ids[:, 3:], cache)]
    np.testing.assert_allclose(np.concatenate(parts, axis=1), model(ids), rtol=1e-10)
    for wrong in (vectors[0], vectors[..., :3], vectors[:, :0], [[0.0]]):
        with pytest.raises(
            ShapeError, match=r"GPT: inputs_embeds are an array of shape \(B, T, 12\) with T at least 1"
        ):
            model(inputs_embeds=wrong)
    with pytest.raises(ConfigError, match=r"GPT: inputs_embeds take the place of ids, got both\. Give None as ids\."):
        model(ids, inputs_embeds=vectors)
    with pytest.raises(DtypeError, match="vectors: float32, weight: float64"):
        model(inputs_embeds=vectors.astype(np.float32))
    with pytest.raises(ShapeError, match="GPT: ids are an integer array"):
        model()
