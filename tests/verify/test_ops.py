"""Every op by every method: all pass, and an op whose backward is damaged by hand is found, with its argument."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from verify_helpers import damage

from compyute_transformer.ops.activation import softmax_backward
from compyute_transformer.verify.ops import OpSubject, prepare, subjects
from compyute_transformer.verify.registry import REGISTRY
from compyute_transformer.verify.result import Result
from compyute_transformer.verify.subject import tasks
from compyute_transformer.verify.tolerances import limit

pytestmark = pytest.mark.usefixtures("validation_only")


def results_of(*names: str, seed: int = 0) -> list[Result]:
    """All results about some ops, on their small cases."""
    small = [prepare(REGISTRY[name], case, seed) for name in names for case in REGISTRY[name].cases[:4]]
    return [result for task in tasks(small) for result in task.run()]


def red(results: list[Result]) -> set[tuple[str, str]]:
    return {(result.method, result.argument) for result in results if not result.passed}


def test_every_case_of_the_registry_is_a_subject() -> None:
    assert [(subject.op, subject.case) for subject in subjects(0)] == [
        (op, case) for op in REGISTRY.values() for case in op.cases
    ]


def test_an_op_without_an_oracle_or_a_count_of_roundings_says_so() -> None:
    op = replace(REGISTRY["gelu"], oracles=(), roundings=None)
    found = {task.methods: task for task in tasks([OpSubject(op, op.cases[0])])}
    assert found["torch",].absent == "The record of this op names no PyTorch function."
    assert {result.limit for result in found["differences", "complex step", "adjoint"].run()} == {
        limit(method, np.float64) for method in ("differences", "complex step", "adjoint")
    }


@pytest.mark.parametrize("name", REGISTRY)
def test_an_op_passes_by_every_method(name: str) -> None:
    results = results_of(name)
    assert [str(result) for result in results if not result.passed] == []
    methods = {result.method for result in results}
    assert methods >= {"differences", "complex step", "adjoint", "linearity", "torch"}
    arguments = {result.argument for result in results}
    assert {f"d{argument}" for argument in REGISTRY[name].differentiable} - arguments <= {"dmemory"}  # in later cases
    assert {result.dtype for result in results if result.method == "torch"} == {"float32", "float64"}


SIGN = lambda g: -g  # noqa: E731
SCALE = lambda g: g * 1.0001  # noqa: E731


def drop_a_row(g: np.ndarray) -> np.ndarray:
    """The sum over rows without its last term, or one element not written."""
    g = g.copy()
    g[..., -1] = 0.0
    return g


@pytest.mark.parametrize(
    ("name", "argument"),
    [
        ("linear", "x"),
        ("linear", "weight"),
        ("linear", "bias"),
        ("layer_norm", "weight"),
        ("softmax", "x"),
        ("gelu", "x"),
        ("embedding", "weight"),
        ("attention", "k"),
        ("fused_attention", "v"),
        ("cross_entropy", "logits"),
    ],
)
@pytest.mark.parametrize("how", [SIGN, SCALE, drop_a_row], ids=["sign", "scale", "dropped"])
def test_a_damaged_backward_is_found_with_its_argument(
    name: str, argument: str, how: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    damage(monkeypatch, name, argument, how)
    found = red(results_of(name))
    assert {(method, f"d{argument}") for method in ("differences", "complex step", "adjoint", "torch")} <= found
    assert {what for _, what in found} == {f"d{argument}"}


def test_a_damaged_part_is_found_in_all_that_is_built_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    damage(monkeypatch, "attention", "q", SIGN)
    for name in ("sequential", "semiparallel", "parallel"):
        assert ("differences", "din_weight") in red(results_of(f"{name}_multi_head"))
    assert not red(results_of("fused_multi_head"))


def test_a_damaged_kernel_is_found_by_kernels_and_by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel: Any = softmax_backward.kernel("cpu")
    right = kernel.py_func if hasattr(kernel, "py_func") else kernel

    def wrong(dy: Any, saved: Any) -> Any:
        return right(dy, saved) * np.float32(1.01)

    wrong.supports = kernel.supports  # type: ignore[attr-defined]
    monkeypatch.setitem(softmax_backward._kernels, "cpu", wrong)
    found = red(results_of("softmax"))
    assert found == {("kernel", "dx"), ("torch", "dx")}


def test_a_backward_that_raises_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    def how(g: Any) -> Any:
        raise IndexError("no such row")

    damage(monkeypatch, "gelu", "x", how)
    results = [result for result in results_of("gelu") if not result.passed]
    assert {result.argument for result in results} == {"call"}
    assert all("IndexError: no such row" in result.note for result in results)


def test_numbers_that_float32_cannot_be_asked_about_are_drawn_again() -> None:
    case = next(case for case in REGISTRY["softmax"].cases if case.name == "one_row")
    seeds = [prepare(REGISTRY["softmax"], case, seed).seed for seed in range(23)]
    assert seeds[:22] == list(range(22))
    assert seeds[22] != 22, "there, one probability is nearly 1"
