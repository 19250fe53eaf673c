"""BERT: what a position sees, texts of different lengths, and the model without a head."""

from typing import Any

import numpy as np
import pytest

from compyute_transformer.errors import ConfigError, DataError, RangeError, ShapeError
from compyute_transformer.exchange.embed import Pooling, embed_ids, pooled, pooling_of
from compyute_transformer.models import GPT, Bert, BertConfig, GPTConfig
from compyute_transformer.nn.module import evaluating
from compyute_transformer.verify import check_module
from compyute_transformer.verify.function import randomize

RNG = np.random.default_rng(0)
V, T, C = 11, 7, 12


def bert(**options: Any) -> Bert:
    model = Bert(BertConfig(V, T, C, 3, 2, **options))
    randomize(model)
    return model.eval()


def test_every_position_sees_both_sides_and_its_type() -> None:
    model, ids = bert(), RNG.integers(0, V, (1, T))
    plain = model(ids)
    for changed in (0, T - 1):
        other = ids.copy()
        other[0, changed] = (ids[0, changed] + 1) % V
        assert (np.abs(model(other) - plain).max(axis=-1) > 1e-6).all()
    assert np.array_equal(model(ids, None, np.zeros_like(ids)), plain)
    assert (np.abs(model(ids, None, np.eye(1, T, 3, dtype=int)) - plain).max(axis=-1) > 1e-6).all()


def test_padding_is_not_seen() -> None:
    model, ids = bert(), RNG.integers(0, V, (2, T))
    together = model(ids, np.array([4, T]))
    assert np.allclose(together[0, :4], model(ids[:1, :4])[0], atol=1e-5)
    assert np.allclose(together[1], model(ids[1:])[0], atol=1e-5)


def test_without_a_head_it_returns_vectors_and_has_their_gradient() -> None:
    model = Bert(BertConfig(V, T, C, 3, 1, masked_head=False)).to(dtype=np.float64)
    randomize(model)
    assert not any(name.startswith(("head", "transform")) for name, _ in model.named_parameters())
    check_module(model, RNG.integers(0, V, (2, 5)))
    model.eval()
    with_head = Bert(BertConfig(V, T, C, 3, 1)).to(dtype=np.float64).eval()
    for name, parameter in model.named_parameters():
        dict(with_head.named_parameters())[name].data[...] = parameter.data
    ids = RNG.integers(0, V, (2, 5))
    assert np.array_equal(model(ids), with_head.encode(ids))


@pytest.mark.parametrize(
    ("ids", "error"),
    [
        (np.zeros(3, int), ShapeError),
        (np.zeros((1, T + 1), int), RangeError),
        (np.full((1, 3), V), RangeError),
    ],
    ids=["axes", "length", "id"],
)
def test_wrong_ids_are_refused(ids: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        bert()(ids)
    with pytest.raises(RangeError):
        bert()(np.zeros((1, 3), int), None, np.full((1, 3), 2))


def test_wrong_configurations_are_refused() -> None:
    with pytest.raises(ConfigError, match="norm_eps lies in"):
        BertConfig(V, norm_eps=2.0)
    with pytest.raises(ConfigError, match="num_token_types is a whole number"):
        BertConfig(V, num_token_types=0)


# --- one vector for a text ---


@pytest.mark.parametrize("mode", ["mean", "first", "max"])
@pytest.mark.parametrize("normalize", [False, True])
def test_a_text_has_the_vector_that_it_has_alone(mode: Any, normalize: bool) -> None:
    model = bert()
    texts = [RNG.integers(0, V, n).tolist() for n in (5, 1, 7, 3)]
    found = embed_ids(model, texts, Pooling(mode, normalize))
    assert found.dtype == np.float32
    for text, vector in zip(texts, found, strict=True):
        with evaluating():
            hidden = model.encode(np.array([text]))[0].astype(np.float64)
        expected = {"mean": hidden.mean(0), "first": hidden[0], "max": hidden.max(0)}[mode]
        expected = expected / np.sqrt((expected**2).sum()) if normalize else expected
        assert np.allclose(vector, expected, atol=1e-5)


def test_padding_is_no_part_of_a_vector() -> None:
    hidden = RNG.normal(size=(1, 3, 2))
    hidden[0, 2] = 1e9
    for mode in ("mean", "max"):
        assert np.abs(pooled(hidden, np.array([2]), Pooling(mode, False))).max() < 10  # type: ignore[arg-type]


def test_pooling_is_what_the_files_say() -> None:
    modules = [{"type": f"sentence_transformers.models.{kind}"} for kind in ("Transformer", "Pooling", "Normalize")]
    assert pooling_of([], {}) == Pooling("mean", True)
    assert pooling_of(modules, {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}) == ("first", True)
    assert pooling_of(modules[:2], {"pooling_mode_mean_tokens": True}) == ("mean", False)
    for values in (
        {},
        {"pooling_mode_lasttoken": True},
        {"pooling_mode_max_tokens": True, "pooling_mode_cls_token": True},
    ):
        with pytest.raises(DataError, match="pooling is one of"):
            pooling_of(modules, values)
    with pytest.raises(DataError, match="names Dense"):
        pooling_of([*modules, {"type": "sentence_transformers.models.Dense"}], {"pooling_mode_cls_token": True})


def test_another_model_gives_no_vectors() -> None:
    with pytest.raises(ConfigError, match="a Bert gives vectors of texts, got a GPT"):
        embed_ids(GPT(GPTConfig(V, T, C, 3, 1)), [[1]])
