"""Kernels are compared with the references, and a wrong kernel is found."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tolerances import assert_passed

from compyute_transformer.dispatch import Dispatched, use_kernels
from compyute_transformer.verify import kernels
from compyute_transformer.verify.kernels import compare_devices, compare_kernel, kernel_of, packages
from compyute_transformer.verify.registry import REGISTRY, Case, Op, cotangent
from compyute_transformer.verify.result import Result

LINEAR = REGISTRY["linear"]
BATCH = next(case for case in LINEAR.cases if case.name == "batch")


# --- the kernels there are -------------------------------------------------------------------------------------------


def supported(op: Op, case: Case, dtype: Any) -> bool:
    """Whether the op has a kernel on the CPU, forward or backward, that supports the case in this dtype."""
    forward, backward = kernel_of(op.forward, "cpu"), kernel_of(op.backward, "cpu")
    values = tuple(case.arguments(0, dtype).values())
    if forward is not None and forward.supports(*values):
        return True
    if backward is None:
        return False
    with use_kernels("reference"):
        y, saved = op.forward(*values)
    return bool(backward.supports(cotangent(y), saved))


COMPARED = [
    pytest.param(op, case, dtype, id=f"{op.name}-{case.name}-{np.dtype(dtype).name}")
    for op in REGISTRY.values()
    for case in op.cases
    for dtype in (np.float32, np.float64)
    if supported(op, case, dtype)
]


@pytest.mark.parametrize(("kernel", "example", "dtype"), COMPARED)
def test_kernels_on_a_cpu_equal_the_references(kernel: Op, example: Case, dtype: Any) -> None:
    """Only the cases that a kernel supports are here, and each compares something."""
    assert_passed(compare_kernel(kernel, example, dtype, "cpu"))


@pytest.mark.parametrize("op", REGISTRY.values(), ids=REGISTRY)
def test_a_kernel_on_a_cpu_supports_most_float32_cases(op: Op) -> None:
    if any(kernel_of(function, "cpu") is not None for function in (op.forward, op.backward)):
        supported_cases = [case.name for case in op.cases if compare_kernel(op, case, np.float32, "cpu")]
        assert len(supported_cases) > len(op.cases) / 2, f"supported: {supported_cases}"


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_kernels_on_a_gpu_equal_the_references(op: Op, case: Case, dtype: Any) -> None:
    assert [str(check) for check in compare_kernel(op, case, dtype, "cuda") if not check.passed] == []


# --- a wrong kernel would be found -----------------------------------------------------------------------------------


@pytest.fixture
def linear_kernel(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Result]]:
    """Puts kernels of linear on the CPU package, each the reference followed by a mistake, and compares."""
    forward, backward = LINEAR.forward, LINEAR.backward
    assert isinstance(forward, Dispatched)
    assert isinstance(backward, Dispatched)

    def compare(
        spoil_forward: Callable[..., Any] | None = lambda y, saved: (y, saved),
        spoil_backward: Callable[..., Any] | None = lambda *gradients: gradients,
        supports: Callable[..., bool] = lambda *args: True,
    ) -> list[Result]:
        def fast_forward(*args: Any) -> Any:
            return spoil_forward(*forward.reference(*args))  # type: ignore[misc]

        def fast_backward(dy: Any, saved: Any) -> Any:
            return spoil_backward(*backward.reference(dy, saved))  # type: ignore[misc]

        fast_forward.supports = fast_backward.supports = supports  # type: ignore[attr-defined]
        monkeypatch.setitem(forward._kernels, "cpu", None if spoil_forward is None else fast_forward)
        monkeypatch.setitem(backward._kernels, "cpu", None if spoil_backward is None else fast_backward)
        return compare_kernel(LINEAR, BATCH, np.float32, "cpu")

    return compare


def broken(checks: list[Result]) -> set[str]:
    return {f"{check.argument} {check.note}".removesuffix("on cpu").strip() for check in checks if not check.passed}


def test_right_kernels_pass_on_every_route(linear_kernel: Callable[..., list[Result]]) -> None:
    checks = linear_kernel()
    assert_passed(checks)
    assert len(checks) == 3 + 3 * 3  # y, the saved type, the inputs; three gradients by each of three routes


def test_a_wrong_y_is_found(linear_kernel: Callable[..., list[Result]]) -> None:
    assert broken(linear_kernel(lambda y, saved: (y * 1.001, saved))) == {"y"}
    assert broken(linear_kernel(lambda y, saved: (y * np.nan, saved))) == {"y"}
    assert broken(linear_kernel(lambda y, saved: (y[0], saved))) == {"y"}
    assert broken(linear_kernel(lambda y, saved: (y.astype(np.float64), saved))) == {"y"}


def test_a_wrong_gradient_is_found_on_both_routes_to_it(linear_kernel: Callable[..., list[Result]]) -> None:
    found = broken(linear_kernel(spoil_backward=lambda dx, dweight, dbias: (dx, dweight, -dbias)))
    assert found == {"dbias (reference's forward, kernel's backward)", "dbias (kernel's forward, kernel's backward)"}
    found = broken(linear_kernel(spoil_backward=lambda dx, dweight, dbias: (dx, dweight, None)))
    assert found == {"dbias (reference's forward, kernel's backward)", "dbias (kernel's forward, kernel's backward)"}


def test_wrongly_saved_values_are_found(linear_kernel: Callable[..., list[Result]]) -> None:
    found = broken(linear_kernel(lambda y, saved: (y, saved._replace(weight=saved.weight * 2))))
    assert found == {"dx (kernel's forward, reference's backward)", "dx (kernel's forward, kernel's backward)"}
    assert broken(linear_kernel(lambda y, saved: (y, tuple(saved)), spoil_backward=None)) == {"type of saved"}


def test_a_kernel_that_changes_its_inputs_is_found(linear_kernel: Callable[..., list[Result]]) -> None:
    def spoil(y: Any, saved: Any) -> Any:
        saved.x[...] = np.float32(0.0)
        return y, saved

    assert "inputs left alone" in broken(linear_kernel(spoil))


def test_one_of_the_two_functions_may_have_a_kernel_alone(linear_kernel: Callable[..., list[Result]]) -> None:
    assert_passed(linear_kernel(spoil_backward=None))
    assert_passed(linear_kernel(spoil_forward=None))
    assert linear_kernel(spoil_forward=None, spoil_backward=None) == []


def test_a_kernel_that_declines_is_not_compared(linear_kernel: Callable[..., list[Result]]) -> None:
    assert linear_kernel(lambda y, saved: (y * 2, saved), supports=lambda *args: False) == []


# --- packages and devices --------------------------------------------------------------------------------------------


def test_packages_are_those_that_can_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "package_fault", lambda package: None if package == "cpu" else "no GPU")
    assert packages() == ["cpu"]


def test_devices_are_compared_number_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a "GPU" that is the CPU again the errors are zero; one that rounds is found."""
    monkeypatch.setattr(kernels, "to_device", lambda array, device: array)
    checks = compare_devices(LINEAR, BATCH, np.float64)
    assert_passed(checks)
    assert [check.argument for check in checks] == ["y", "dx", "dweight", "dbias"]

    def rounding(array: Any, device: str) -> Any:
        return array.astype(np.float32).astype(array.dtype) if device == "cuda" else array

    monkeypatch.setattr(kernels, "to_device", rounding)
    assert not any(check.passed for check in compare_devices(LINEAR, BATCH, np.float64))
