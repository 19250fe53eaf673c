"""Models by every method: they pass, and what is damaged anywhere in one is found, with the parameter."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from compyute_transformer.arrays import Array
from compyute_transformer.errors import ConfigError
from compyute_transformer.models.language import LanguageModel
from compyute_transformer.models.registry import MODELS, ModelRecord
from compyute_transformer.nn import CrossBlock, LayerNorm, MultiHeadAttention, PreNormBlock
from compyute_transformer.verify.models import by_flat_buffer, draw_model, flat_order, subjects
from compyute_transformer.verify.result import Label, Result
from compyute_transformer.verify.subject import tasks

pytestmark = pytest.mark.usefixtures("validation_only")


CONFIGS = MODELS["gpt"].small_configs()
RECORDS = pytest.mark.parametrize("record", MODELS.values(), ids=MODELS)


def results_of(*methods: str, model: str = "models.GPT") -> list[Result]:
    every = tasks(subjects(0))
    chosen = [task for task in every if task.name == model and (not methods or set(methods) & set(task.methods))]
    return [result for task in chosen for result in task.run()]


def red(results: list[Result]) -> set[tuple[str, str]]:
    return {(result.method, result.argument) for result in results if not result.passed}


@RECORDS
def test_every_model_passes_by_every_method(record: ModelRecord) -> None:
    results = results_of(model=f"models.{record.model.__name__}")
    assert [str(result) for result in results if not result.passed] == []
    by_case = {(f.case, f.method): set[str]() for f in results}
    for result in results:
        by_case[result.case, result.method].add(result.argument)
    for case, config in record.small_configs().items():
        parameters = {f"d{path}" for path, _ in record.model(config).named_parameters()}
        inputs = by_case[case, "complex step"] - parameters - {"all parameters"}
        assert inputs <= {"dimages"}
        if getattr(config, "activation", "") != "relu":  # whose kinks no difference may step over
            assert by_case[case, "differences"] == parameters | inputs | {"flat buffer"}
        assert by_case[case, "complex step"] == parameters | inputs | {"all parameters"}
        assert by_case[case, "adjoint"] >= parameters
        for method in ("torch", "kernel", "implementations"):
            assert by_case[case, method] == parameters | inputs | {"logits", "loss"}
        weights = {f"{path.removeprefix('d')} after 10 steps" for path in parameters}
        assert by_case[case, "training"] == weights | {f"loss of step {step}" for step in range(1, 11)}
    notes = {f.note for f in results if f.method == "kernel"}
    assert notes == ({"", "token by token"} if issubclass(record.model, LanguageModel) else {""})


@RECORDS
def test_dropout_is_on_in_most_configurations(record: ModelRecord) -> None:
    assert sum(config.dropout > 0 for config in record.small_configs().values()) >= 1


def test_a_model_without_a_record_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"a configuration is one of GPTConfig, .* got int\."):
        draw_model(3, np.float64)


def test_a_model_without_a_pytorch_version_is_not_compared_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, "gpt", replace(MODELS["gpt"], name="gpt_of_mine"))
    (task,) = [task for task in tasks(subjects(0)) if task.name == "models.GPT" and task.methods == ("torch",)]
    assert task.absent == "There is no PyTorch version of this model, verify/torch/gpt_of_mine.py."


def test_a_damaged_gradient_is_found_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    right = LayerNorm.backward

    def wrong(self: LayerNorm, dy: Array) -> Array:
        dx = right(self, dy)
        if self.path == "norm":
            assert self.weight.grad is not None
            self.weight.grad[0] *= 1.01
        return dx

    monkeypatch.setattr(LayerNorm, "backward", wrong)
    found = red(results_of("differences", "adjoint"))
    named = {("differences", "dnorm.weight"), ("complex step", "dnorm.weight"), ("adjoint", "dnorm.weight")}
    assert named <= found
    assert found - named <= {("differences", "flat buffer"), ("complex step", "all parameters")}
    assert ("torch", "dnorm.weight") in red(results_of("torch"))


def test_a_residual_that_is_forgotten_in_the_backward_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(self: PreNormBlock, dx: Array) -> Array:
        dx = dx + self.feed_forward_norm.backward(self.feed_forward.backward(self.feed_forward_dropout.backward(dx)))
        return self.attention_norm.backward(self.attention.backward(self.attention_dropout.backward(dx))[0])

    monkeypatch.setattr(PreNormBlock, "backward", wrong)
    found = red(results_of("differences"))
    assert ("differences", "flat buffer") in found
    assert ("differences", "dposition.weight") in found
    assert ("differences", "dblocks.1.feed_forward.down.weight") not in found


def test_the_flat_buffer_is_left_as_it_was() -> None:
    model, ids, targets = draw_model(CONFIGS["dropout"], np.float64, 0)
    before, offset = model.flat.data.copy(), model.generator.offset
    result = by_flat_buffer(model, ids, targets, Label("models.GPT", "dropout"), 0)
    assert result.passed
    assert np.array_equal(model.flat.data, before)
    assert model.flat.holds_exactly(list(model.parameters()))
    model.generator.offset = offset
    assert flat_order(model)[-1].endswith("bias")


def test_a_flat_buffer_whose_gradient_lies_elsewhere_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids, targets = draw_model(CONFIGS["plain"], np.float64, 0)
    right: Any = flat_order(model)
    swapped = [right[1], right[0], *right[2:]]
    monkeypatch.setattr("compyute_transformer.verify.models.flat_order", lambda model: swapped)
    assert not by_flat_buffer(model, ids, targets, Label("models.GPT", "plain"), 0).passed


def test_a_memory_whose_gradient_is_forgotten_is_found_in_the_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    right = CrossBlock.backward

    def wrong(self: CrossBlock, dx: Array) -> tuple[Array, Array]:
        dx, dmemory = right(self, dx)
        return dx, dmemory * (self.path != "decoder.0")

    monkeypatch.setattr(CrossBlock, "backward", wrong)
    found = {name for _, name in red(results_of("torch", model="models.Transformer"))}
    assert "dencoder.0.attention.in_weight" in found
    assert "ddecoder.0.attention.in_weight" not in found


def test_seed_bug_3_attention_that_drops_nothing_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = MultiHeadAttention._run

    def wrong(self: MultiHeadAttention, *arguments: Any) -> Any:
        probability, self.dropout = self.dropout, 0.0
        try:
            return right(self, *arguments)
        finally:
            self.dropout = probability

    monkeypatch.setattr(MultiHeadAttention, "_run", wrong)
    for model in ("models.TransformerLM", "models.Transformer"):
        results = results_of("torch", model=model)
        assert {f.case for f in results if not f.passed and f.argument == "logits"} == {"dropout", "everything"}
