"""All ways to build attention agree, and one that does not is found."""

from typing import Any

import pytest
from proof_helpers import damage

from compyute_transformer.verify.finding import Finding
from compyute_transformer.verify.implementations import FAMILIES, tasks
from compyute_transformer.verify.registry import REGISTRY

pytestmark = pytest.mark.usefixtures("validation_only")


def prove(name: str) -> list[Finding]:
    return [finding for task in tasks(0) if task.name == name for finding in task.prove()]


def test_all_agree_on_outputs_weights_and_gradients_in_every_case() -> None:
    for name, family in FAMILIES.items():
        findings = prove(name)
        assert [str(finding) for finding in findings if not finding.passed] == []
        assert {finding.case for finding in findings} == {case.name for case in REGISTRY[family[0]].cases}
        assert {finding.note for finding in findings} == {f"{other} beside {family[0]}" for other in family[1:]}
        assert {finding.dtype for finding in findings} == {"float32", "float64"}
        arguments = {f"d{argument}" for argument in REGISTRY[family[0]].differentiable}
        assert {finding.argument for finding in findings} == {"y", "weights"} | arguments


def test_every_op_of_attention_is_in_a_family() -> None:
    attentions = {name for name, op in REGISTRY.items() if "attention" in name or "multi_head" in name}
    assert {name for family in FAMILIES.values() for name in family} == attentions


def test_one_that_differs_is_found_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    damage(monkeypatch, "fused_attention", "k", lambda g: 2 * g)
    failed = [finding for finding in prove("attention.multi_head") if not finding.passed and finding.dtype == "float64"]
    assert {finding.note for finding in failed} == {"fused_multi_head beside sequential_multi_head"}
    assert {"din_weight", "dx"} <= {finding.argument for finding in failed}


def test_one_that_raises_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def how(g: Any) -> Any:
        raise ValueError("axes")

    damage(monkeypatch, "attention", "k", how)
    assert all(finding.argument == "call" for finding in prove("attention.heads") if finding.dtype == "float64")
