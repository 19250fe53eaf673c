"""GPT by every method: it passes, and what is damaged anywhere in it is found, with the parameter."""

from typing import Any

import numpy as np
import pytest

from compyute_transformer.backend import Array
from compyute_transformer.models import GPT
from compyute_transformer.nn import LayerNorm, PreNormBlock
from compyute_transformer.verify.finding import Finding, Label
from compyute_transformer.verify.models import CONFIGS, by_flat_buffer, draw_model, flat_order, tasks

pytestmark = pytest.mark.usefixtures("door_only")


def prove(*methods: str) -> list[Finding]:
    return [f for task in tasks(0) if not methods or set(methods) & set(task.methods) for f in task.prove()]


def red(findings: list[Finding]) -> set[tuple[str, str]]:
    return {(finding.method, finding.argument) for finding in findings if not finding.passed}


def test_gpt_passes_by_every_method() -> None:
    findings = prove()
    assert [str(finding) for finding in findings if not finding.passed] == []
    by_case = {(f.case, f.method): set[str]() for f in findings}
    for finding in findings:
        by_case[finding.case, finding.method].add(finding.argument)
    for case, config in CONFIGS.items():
        parameters = {f"d{path}" for path, _ in GPT(config).named_parameters()}
        assert by_case[case, "differences"] == parameters | {"flat buffer"}
        assert by_case[case, "complex step"] == parameters | {"all parameters"}
        assert by_case[case, "adjoint"] == by_case[case, "linearity"] == parameters
        losses = {f"loss of step {step}" for step in range(1, 11)}
        assert by_case[case, "torch"] == parameters | {"logits", "loss"} | losses
        assert by_case[case, "twin"] == by_case[case, "implementations"] == parameters | {"logits", "loss"}


def test_dropout_is_on_in_most_configurations() -> None:
    assert sorted(config.dropout > 0 for config in CONFIGS.values()) == [False, True, True]


def test_a_damaged_gradient_is_found_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    right = LayerNorm.backward

    def wrong(self: LayerNorm, dy: Array) -> Array:
        dx = right(self, dy)
        if self.path == "norm":
            assert self.weight.grad is not None
            self.weight.grad[0] *= 1.01
        return dx

    monkeypatch.setattr(LayerNorm, "backward", wrong)
    found = red(prove("differences", "adjoint"))
    named = {("differences", "dnorm.weight"), ("complex step", "dnorm.weight"), ("adjoint", "dnorm.weight")}
    assert named <= found
    assert found - named <= {("differences", "flat buffer"), ("complex step", "all parameters")}
    assert ("torch", "dnorm.weight") in red(prove("torch"))


def test_a_residual_that_is_forgotten_in_the_backward_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(self: PreNormBlock, dx: Array) -> Array:
        dx = dx + self.feed_forward_norm.backward(self.feed_forward.backward(self.feed_forward_dropout.backward(dx)))
        return self.attention_norm.backward(self.attention.backward(self.attention_dropout.backward(dx))[0])

    monkeypatch.setattr(PreNormBlock, "backward", wrong)
    found = red(prove("differences"))
    assert ("differences", "flat buffer") in found
    assert ("differences", "dposition.weight") in found
    assert ("differences", "dblocks.1.feed_forward.down.weight") not in found


def test_the_flat_buffer_is_left_as_it_was() -> None:
    model, ids, targets = draw_model(CONFIGS["dropout"], np.float64, 0)
    before, offset = model.flat.data.copy(), model.generator.offset
    finding = by_flat_buffer(model, ids, targets, Label("models.GPT", "dropout"), 0)
    assert finding.passed
    assert np.array_equal(model.flat.data, before)
    assert model.flat.holds(model.parameters())
    model.generator.offset = offset
    assert flat_order(model)[-1].endswith("bias")


def test_a_flat_buffer_whose_gradient_lies_elsewhere_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids, targets = draw_model(CONFIGS["plain"], np.float64, 0)
    right: Any = flat_order(model)
    swapped = [right[1], right[0], *right[2:]]
    monkeypatch.setattr("compyute_transformer.verify.models.flat_order", lambda model: swapped)
    assert not by_flat_buffer(model, ids, targets, Label("models.GPT", "plain"), 0).passed
