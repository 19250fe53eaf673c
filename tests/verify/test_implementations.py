"""All ways to build attention agree, and one that does not is found."""

from typing import Any

import pytest
from verify_helpers import damage

from compyute_transformer.verify.ops import FAMILIES, families
from compyute_transformer.verify.registry import REGISTRY
from compyute_transformer.verify.result import Result
from compyute_transformer.verify.subject import tasks

pytestmark = pytest.mark.usefixtures("validation_only")


def results_of(name: str) -> list[Result]:
    return [result for task in tasks(families(0)) if task.name == name for result in task.run()]


def test_all_agree_on_outputs_weights_and_gradients_in_every_case() -> None:
    for name, family in FAMILIES.items():
        results = results_of(name)
        assert [str(result) for result in results if not result.passed] == []
        assert {result.case for result in results} == {case.name for case in REGISTRY[family[0]].cases}
        assert {result.note for result in results} == {f"{other} beside {family[0]}" for other in family[1:]}
        assert {result.dtype for result in results} == {"float32", "float64"}
        arguments = {f"d{argument}" for argument in REGISTRY[family[0]].differentiable}
        assert {result.argument for result in results} == {"y", "weights"} | arguments


def test_every_op_of_attention_is_in_a_family() -> None:
    attentions = {name for name, op in REGISTRY.items() if "attention" in name or "multi_head" in name}
    assert {name for family in FAMILIES.values() for name in family} == attentions


def test_one_that_differs_is_found_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    damage(monkeypatch, "fused_attention", "k", lambda g: 2 * g)
    failed = [
        result for result in results_of("attention.multi_head") if not result.passed and result.dtype == "float64"
    ]
    assert {result.note for result in failed} == {"fused_multi_head beside sequential_multi_head"}
    assert {"din_weight", "dx"} <= {result.argument for result in failed}


def test_one_that_raises_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def how(g: Any) -> Any:
        raise ValueError("axes")

    damage(monkeypatch, "attention", "k", how)
    assert all(result.argument == "call" for result in results_of("attention.heads") if result.dtype == "float64")
