"""Gradients against slopes: right ones pass by every method, wrong ones by none."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from compyute_transformer.dispatch import use_kernels
from compyute_transformer.verify.function import Function, of_op
from compyute_transformer.verify.registry import REGISTRY
from compyute_transformer.verify.result import Label, Result
from compyute_transformer.verify.slopes import compare_linearity, compare_slopes, draw, line_of, other_cotangent

pytestmark = pytest.mark.usefixtures("validation_only")

LABEL = Label("ops.some", "case")
A = np.random.default_rng(0).normal(size=(4, 6)) / 3
X = np.random.default_rng(1).normal(size=6)


def curve(spoil: Callable[[np.ndarray], Any] = lambda g: g) -> Function:
    """y = tanh(A x), whose backward is right unless spoilt."""

    def run(values: Any) -> np.ndarray:
        return np.tanh(A @ values["x"])

    def pull(values: Any, dys: Any) -> Any:
        y = run(values)
        return y, [{"x": spoil(A.T @ (dy * (1 - y * y)))} for dy in dys]

    return Function({"x": X}, run, pull)


def by_method(results: Any) -> dict[str, Result]:
    return {result.method: result for result in results}


def test_a_right_gradient_passes_by_all_methods() -> None:
    results = by_method(compare_slopes(curve(), LABEL))
    assert set(results) == {"differences", "complex step", "adjoint"}
    assert all(result.passed and result.argument == "dx" for result in results.values())
    assert results["complex step"].error < 1e-15, "nothing is subtracted, so no digit is lost"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda g: -g,
        lambda g: g * (1 + 1e-6),
        lambda g: g + 1e-6,
        lambda g: np.where(np.arange(6) == 2, 0.0, g),
        lambda g: g * np.nan,
        lambda g: g[:, None],
        lambda g: None,
    ],
    ids=["sign", "scale", "shift", "dropped", "nan", "shape", "missing"],
)
def test_a_wrong_gradient_passes_by_none(spoil: Any) -> None:
    for seed in range(5):
        assert not any(result.passed for result in compare_slopes(curve(spoil), LABEL, seed))


def test_the_adjoint_is_of_another_dy() -> None:
    """A backward that is right for one dy only, because it has kept it, say."""
    kept: list[np.ndarray] = []

    def spoil(g: np.ndarray) -> np.ndarray:
        kept.append(g)
        return kept[0]

    results = by_method(compare_slopes(curve(spoil), LABEL))
    assert results["differences"].passed
    assert not results["adjoint"].passed


def test_the_numbers_of_an_error_are_remembered() -> None:
    error: Any = by_method(compare_slopes(curve(lambda g: 1.5 * g), LABEL))["complex step"].error
    assert error == pytest.approx(abs(error.ours - error.theirs) / error.scale)
    assert error.ours == pytest.approx(1.5 * error.theirs)


def test_the_other_dy_has_zeros_and_lies_in_columns() -> None:
    u = other_cotangent(np.zeros((30, 40), np.float32), seed=3)
    assert u.flags.f_contiguous
    assert u.dtype == np.float32
    assert 0.4 < np.mean(u == 0.0) < 0.6
    assert other_cotangent(np.array(1.0), 3).shape == ()


def test_draws_depend_on_seed_purpose_and_name_alone() -> None:
    one = draw(0, 2, "x", (3,))
    assert np.array_equal(one, draw(0, 2, "x", (3,)))
    for other in (draw(1, 2, "x", (3,)), draw(0, 3, "x", (3,)), draw(0, 2, "weight", (3,))):
        assert not np.any(one == other)


def test_every_op_of_the_registry_takes_a_complex_step() -> None:
    """ReLU too, away from its kink; see the module's docstring."""
    for op in REGISTRY.values():
        case = op.cases[0]
        function = of_op(op, case.arguments())
        with use_kernels("reference"):
            for name in function.inputs:
                line = line_of(function, [name], 0)
                assert np.abs(line.slope_by_complex_step - line.slope_by_differences).max() < 1e-9, op.name


# --- linearity -------------------------------------------------------------------------------------------------------


def test_a_backward_is_linear_in_dy() -> None:
    for dtype in (np.float64, np.float32):
        op = REGISTRY["layer_norm"]
        function = of_op(op, op.cases[1].arguments(dtype=dtype))
        results = list(compare_linearity(function, LABEL, dtype))
        assert [result.argument for result in results] == ["dx", "dweight", "dbias"]
        assert all(result.passed for result in results)


@pytest.mark.parametrize("spoil", [lambda g: g + 1e-3, lambda g: g * np.abs(g), lambda g: None])
def test_what_is_not_linear_is_found(spoil: Any) -> None:
    (result,) = compare_linearity(curve(spoil), LABEL, np.float64)
    assert not result.passed


def test_what_a_backward_spends_is_missed_the_second_time() -> None:
    """In-place work on what the forward saved: the first dy is right, the next are not."""
    op = REGISTRY["relu"]

    def backward(dy: np.ndarray, saved: Any) -> np.ndarray:
        dx = dy * saved.positive
        saved.positive[:] = True
        return dx

    function = of_op(replace(op, backward=backward), op.cases[1].arguments())
    (result,) = compare_linearity(function, LABEL, np.float64)
    assert not result.passed
