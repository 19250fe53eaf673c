import re

import numpy as np
import pytest
from training_helpers import task

from compyute_transformer.training.finite import all_finite, first_non_finite, non_finite_parameter


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_element_is_enough(value: float) -> None:
    array = np.zeros((2, 3), np.float32)
    assert all_finite(array)
    array[1, 2] = value
    assert not all_finite(array)


def test_a_parameter_is_named() -> None:
    language = task()
    assert non_finite_parameter(language.model) is None
    language.model.blocks[1].attention.in_weight.data[3, 4] = np.nan
    assert non_finite_parameter(language.model) == "blocks.1.attention.in_weight"
    assert first_non_finite(language, language.state()) == "the parameter blocks.1.attention.in_weight is not finite"


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning", "ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("feed_forward.up", r"blocks\.1\.feed_forward\.(up \(Linear\)|down \(Linear\))"),
        ("attention", r"blocks\.1\.attention \(MultiHeadAttention\)"),
        ("attention_norm", r"blocks\.1\.attention_norm \(LayerNorm\)|blocks\.1\.attention \(MultiHeadAttention\)"),
    ],
)
def test_a_module_whose_forward_overflows_is_named(path: str, named: str) -> None:
    language = task()
    module = dict(language.model.named_modules())[f"blocks.1.{path}"]
    weight = next(iter(module.parameters()))
    weight.data[...] = np.float32(3e38) * np.sign(weight.data)
    found = first_non_finite(language, language.state())
    assert re.fullmatch(rf"the first module with a non-finite result is ({named}), in its forward pass", found)


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning", "ignore:invalid value:RuntimeWarning")
def test_a_module_whose_gradient_alone_is_not_finite_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    language = task()
    up = language.model.blocks[2].feed_forward.up
    original = up.pop_saved

    def poisoned() -> object:
        saved = original()
        return saved._replace(x=np.full_like(saved.x, np.nan))

    monkeypatch.setattr(up, "pop_saved", poisoned)
    found = first_non_finite(language, language.state())
    assert (
        found == "the first module with a non-finite result is blocks.2.feed_forward.up (Linear), in its backward pass"
    )


def test_the_search_draws_the_same_dropout_and_batch() -> None:
    language = task()
    before = language.state()
    for _ in range(2):
        for pair, weight in language.batch():
            language.loss_and_gradient(pair, weight)
        language.model.zero_grad()
    after = language.state()
    found = first_non_finite(language, before)
    assert found.startswith("the results of all modules are finite")
    first_non_finite(language, {**before, "batch": 1, "dropout": language.state()["dropout"]})
    assert language.state() == after
