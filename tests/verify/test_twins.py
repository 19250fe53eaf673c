"""Fast twins are held to the readable bodies; and a wrong twin would be found."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tolerances import assert_passed

from compyute_transformer.backend import Twin
from compyute_transformer.ops.contract import REGISTRY, Case, Op
from compyute_transformer.verify import twins
from compyute_transformer.verify.check import Check
from compyute_transformer.verify.twins import compare_devices, compare_twin, floors, twin_of

LINEAR = REGISTRY["linear"]
BATCH = next(case for case in LINEAR.cases if case.name == "batch")


# --- the twins there are ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_twins_on_a_cpu_equal_the_bodies(op: Op, case: Case, dtype: Any) -> None:
    """Nothing is compared where an op has no twin, or one that declines; the next test says that this is rare."""
    assert [str(check) for check in compare_twin(op, case, dtype, "cpu") if not check.passed] == []


@pytest.mark.parametrize("op", REGISTRY.values(), ids=REGISTRY)
def test_a_twin_on_a_cpu_serves_float32(op: Op) -> None:
    if any(twin_of(function, "cpu") is not None for function in (op.forward, op.backward)):
        served = [case.name for case in op.cases if compare_twin(op, case, np.float32, "cpu")]
        assert len(served) > len(op.cases) / 2, f"served: {served}"


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_twins_on_a_gpu_equal_the_bodies(op: Op, case: Case, dtype: Any) -> None:
    assert [str(check) for check in compare_twin(op, case, dtype, "gpu") if not check.passed] == []


# --- a wrong twin would be found -------------------------------------------------------------------------------------


@pytest.fixture
def linear_twin(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Check]]:
    """Puts twins of linear on the CPU floor, each the body followed by a mistake, and compares."""
    forward, backward = LINEAR.forward, LINEAR.backward
    assert isinstance(forward, Twin)
    assert isinstance(backward, Twin)

    def compare(
        spoil_forward: Callable[..., Any] | None = lambda y, saved: (y, saved),
        spoil_backward: Callable[..., Any] | None = lambda *gradients: gradients,
        serves: Callable[..., bool] = lambda *args: True,
    ) -> list[Check]:
        def fast_forward(*args: Any) -> Any:
            return spoil_forward(*forward.reference(*args))  # type: ignore[misc]

        def fast_backward(dy: Any, saved: Any) -> Any:
            return spoil_backward(*backward.reference(dy, saved))  # type: ignore[misc]

        fast_forward.serves = fast_backward.serves = serves  # type: ignore[attr-defined]
        monkeypatch.setitem(forward._found, "cpu", None if spoil_forward is None else fast_forward)
        monkeypatch.setitem(backward._found, "cpu", None if spoil_backward is None else fast_backward)
        return compare_twin(LINEAR, BATCH, np.float32, "cpu")

    return compare


def broken(checks: list[Check]) -> set[str]:
    return {check.subject.removesuffix(" on cpu") for check in checks if not check.passed}


def test_right_twins_pass_on_every_route(linear_twin: Callable[..., list[Check]]) -> None:
    checks = linear_twin()
    assert_passed(checks)
    assert len(checks) == 3 + 3 * 3  # y, the saved type, the inputs; three gradients by each of three routes


def test_a_wrong_y_is_found(linear_twin: Callable[..., list[Check]]) -> None:
    assert broken(linear_twin(lambda y, saved: (y * 1.001, saved))) == {"y"}
    assert broken(linear_twin(lambda y, saved: (y * np.nan, saved))) == {"y"}
    assert broken(linear_twin(lambda y, saved: (y[0], saved))) == {"y"}
    assert broken(linear_twin(lambda y, saved: (y.astype(np.float64), saved))) == {"y"}


def test_a_wrong_gradient_is_found_on_both_routes_to_it(linear_twin: Callable[..., list[Check]]) -> None:
    found = broken(linear_twin(spoil_backward=lambda dx, dweight, dbias: (dx, dweight, -dbias)))
    assert found == {"dbias (body's forward, twin's backward)", "dbias (twin's forward, twin's backward)"}
    found = broken(linear_twin(spoil_backward=lambda dx, dweight, dbias: (dx, dweight, None)))
    assert found == {"dbias (body's forward, twin's backward)", "dbias (twin's forward, twin's backward)"}


def test_wrongly_saved_values_are_found(linear_twin: Callable[..., list[Check]]) -> None:
    found = broken(linear_twin(lambda y, saved: (y, saved._replace(weight=saved.weight * 2))))
    assert found == {"dx (twin's forward, body's backward)", "dx (twin's forward, twin's backward)"}
    assert broken(linear_twin(lambda y, saved: (y, tuple(saved)), spoil_backward=None)) == {"type of saved"}


def test_a_twin_that_changes_its_inputs_is_found(linear_twin: Callable[..., list[Check]]) -> None:
    def spoil(y: Any, saved: Any) -> Any:
        saved.x[...] = np.float32(0.0)
        return y, saved

    assert "inputs left alone" in broken(linear_twin(spoil))


def test_one_of_the_two_functions_may_have_a_twin_alone(linear_twin: Callable[..., list[Check]]) -> None:
    assert_passed(linear_twin(spoil_backward=None))
    assert_passed(linear_twin(spoil_forward=None))
    assert linear_twin(spoil_forward=None, spoil_backward=None) == []


def test_a_twin_that_declines_is_not_compared(linear_twin: Callable[..., list[Check]]) -> None:
    assert linear_twin(lambda y, saved: (y * 2, saved), serves=lambda *args: False) == []


# --- floors and devices ----------------------------------------------------------------------------------------------


def test_floors_are_those_that_can_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(twins, "floor_fault", lambda floor: None if floor == "cpu" else "no GPU")
    assert floors() == ["cpu"]


def test_devices_are_compared_number_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a "GPU" that is the CPU again the errors are zero; one that rounds is found."""
    monkeypatch.setattr(twins, "to_device", lambda array, device: array)
    checks = compare_devices(LINEAR, BATCH, np.float64)
    assert_passed(checks)
    assert [check.subject for check in checks] == [f"{what} on a GPU" for what in ("y", "dx", "dweight", "dbias")]

    def rounding(array: Any, device: str) -> Any:
        return array.astype(np.float32).astype(array.dtype) if device == "cuda" else array

    monkeypatch.setattr(twins, "to_device", rounding)
    assert not any(check.passed for check in compare_devices(LINEAR, BATCH, np.float64))
