"""Every module by every method: all pass, and a damaged one is found, with its parameter."""

from typing import Any

import numpy as np
import pytest

import compyute_transformer.nn as nn
from compyute_transformer.arrays import Array
from compyute_transformer.nn import Dropout, LayerNorm, Linear, Module, MultiHeadAttention
from compyute_transformer.nn.attention import Implementation
from compyute_transformer.verify.modules import ModuleSubject, subjects
from compyute_transformer.verify.registry import MODULES
from compyute_transformer.verify.result import Result
from compyute_transformer.verify.subject import tasks

pytestmark = pytest.mark.usefixtures("validation_only")

# without a backward of their own
HOLDERS = {"Module", "ModuleList", "Block", "Observer", "Parameter", "evaluating", "observe", "share_generator"}
HOLDERS |= {"recompute_blocks", "quantize_weights"}  # of tests/nn/test_recompute.py and test_quantize.py
LOSSES = {"CrossEntropyLoss"}  # whose backward is that of an op, and takes no dy


def results_of(name: str) -> list[Result]:
    return [result for task in tasks(subjects(0)) if task.name == f"nn.{name}" for result in task.run()]


def red(results: list[Result]) -> set[tuple[str, str]]:
    return {(result.method, result.argument) for result in results if not result.passed}


def test_every_module_is_proven() -> None:
    assert {case.name for case in MODULES} == set(nn.__all__) - HOLDERS - LOSSES


def test_every_implementation_of_attention_is_proven() -> None:
    cases = {case.case for case in MODULES if case.name == "MultiHeadAttention"}
    for name in Implementation.__args__:  # type: ignore[attr-defined]
        assert any(case.startswith(name) for case in cases)


@pytest.mark.parametrize("name", dict.fromkeys(case.name for case in MODULES))
def test_a_module_passes_by_every_method(name: str) -> None:
    results = results_of(name)
    assert [str(result) for result in results if not result.passed] == []
    assert {f.method for f in results} == {"differences", "complex step", "adjoint", "linearity", "torch", "kernel"}
    module, _ = ModuleSubject(next(case for case in MODULES if case.name == name)).build(np.float64)
    parameters = {f"d{path}" for path, _ in module.named_parameters()}
    for method in ("differences", "torch", "kernel"):
        assert parameters <= {result.argument for result in results if result.method == method}


def damage(monkeypatch: pytest.MonkeyPatch, kind: type[Module], parameter: str) -> None:
    right: Any = kind.backward

    def wrong(self: Any, dy: Array) -> Any:
        dx = right(self, dy)
        getattr(self, parameter).grad *= 1.001
        return dx

    monkeypatch.setattr(kind, "backward", wrong)


@pytest.mark.parametrize(
    ("kind", "parameter"),
    [(Linear, "weight"), (Linear, "bias"), (LayerNorm, "weight"), (MultiHeadAttention, "out_weight")],
)
def test_a_damaged_module_is_found_with_its_parameter(
    kind: type[Module], parameter: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = [case for case in MODULES if case.name == kind.__name__ and "no_bias" not in case.case]
    monkeypatch.setattr("compyute_transformer.verify.modules.MODULES", tuple(cases))
    damage(monkeypatch, kind, parameter)
    methods = ("differences", "complex step", "adjoint", "torch")
    assert red(results_of(kind.__name__)) == {(method, f"d{parameter}") for method in methods}


def test_a_block_names_the_parameter_of_its_part(monkeypatch: pytest.MonkeyPatch) -> None:
    damage(monkeypatch, LayerNorm, "weight")
    names = {argument for _, argument in red(results_of("PreNormBlock"))}
    assert names == {"dattention_norm.weight", "dfeed_forward_norm.weight"}


def test_dropout_that_drops_others_in_its_backward_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(self: Dropout, dy: Array) -> Array:
        saved = self.pop_saved()
        return self.__class__(self.p, generator=self.generator)(dy) if saved is not None else dy

    monkeypatch.setattr(Dropout, "backward", wrong)
    assert {"differences", "torch"} <= {method for method, _ in red(results_of("Dropout"))}
