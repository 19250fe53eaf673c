"""Differences tell right gradients from wrong ones, and only those."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tolerances import limit

from compyute_transformer.verify.differences import derivative, directional_error
from compyute_transformer.verify.ops import check_case
from compyute_transformer.verify.registry import REGISTRY, Op

RNG = np.random.default_rng(0)
A, X = RNG.normal(size=(4, 6)) / 4, RNG.normal(size=6)


def curve(x: np.ndarray) -> float:
    """A scalar function of a vector, and below its gradient."""
    return float(np.sum(np.tanh(A @ x) ** 2))


def slope(x: np.ndarray) -> np.ndarray:
    t = np.tanh(A @ x)
    return A.T @ (2 * t * (1 - t * t))


def test_six_points_differentiate_polynomials_of_degree_six_exactly() -> None:
    for degree in range(1, 7):
        assert derivative(lambda t, degree=degree: (1.0 + t) ** degree, step=0.1) == pytest.approx(degree, rel=1e-13)
    assert derivative(lambda t: (1.0 + t) ** 7, step=0.1) != pytest.approx(7, rel=1e-13)


def test_the_error_falls_with_the_sixth_power_of_the_step() -> None:
    coarse, fine = (abs(derivative(lambda t: np.exp(3 * t), step) - 3.0) for step in (0.2, 0.1))
    assert 50 < coarse / fine < 80


def test_an_array_is_differentiated_by_element() -> None:
    assert np.allclose(derivative(lambda t: np.array([t, 2 * t, 3.0])), [1.0, 2.0, 0.0])


def test_a_right_gradient_has_an_error_of_rounding() -> None:
    for seed in range(20):
        assert directional_error(curve, [slope(X)], [X], seed=seed) < 1e-11


@pytest.mark.parametrize(
    "wrong",
    [
        lambda g: -g,
        lambda g: g * 1.001,
        lambda g: g * 0.0,
        lambda g: g + 1e-4,
        lambda g: g[::-1],
        lambda g: np.where(np.arange(6) == 2, 0.0, g),
        lambda g: g * 1e9,
        lambda g: np.where(np.arange(6) == 2, np.nan, g),
        lambda g: np.where(np.arange(6) == 2, np.inf, g),
    ],
    ids=["sign", "scale", "zero", "shift", "order", "one missing", "huge", "nan", "infinite"],
)
def test_a_wrong_gradient_breaks_the_limit_in_every_direction(wrong: Any) -> None:
    for seed in range(20):
        with np.errstate(invalid="ignore"):
            assert not directional_error(curve, [wrong(slope(X))], [X], seed=seed) <= 1e-7


def test_the_size_of_the_error_is_that_of_the_mistake() -> None:
    errors = [directional_error(curve, [slope(X) * 1.01], [X], seed=seed) for seed in range(50)]
    assert 0.002 < np.median(errors) < 0.011


def test_a_direction_along_which_nothing_changes_is_no_false_alarm() -> None:
    """Where <g, v> is nearly zero by chance, rounding must not be divided by it."""
    x = np.array([1.0, 1.0])
    worst = max(directional_error(lambda x: float(np.sum(x**2)), [2 * x], [x], seed=seed) for seed in range(2000))
    assert worst < 1e-11


def test_several_inputs_move_together_and_dy_weighs_an_array() -> None:
    B, dy = RNG.normal(size=(6, 3)), RNG.normal(size=(4, 3))
    gradients = [dy @ B.T, A.T @ dy]
    assert directional_error(np.matmul, gradients, [A, B], dy) < 1e-12
    assert directional_error(np.matmul, [gradients[0], -gradients[1]], [A, B], dy) > 0.01


def test_a_constant_with_gradient_zero_has_no_error() -> None:
    assert directional_error(lambda x: 3.0, [np.zeros(6)], [X]) == 0.0


def test_inputs_of_any_size_are_moved_by_their_own_size() -> None:
    tiny = X * 1e-6
    assert directional_error(lambda x: curve(x * 1e6), [slope(X) * 1e6], [tiny]) < 1e-9


def test_gradients_of_other_shapes_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"one gradient of the same shape for each input, got \[\(6, 1\)\] for \[\(6,\)\]"
    ):
        directional_error(curve, [slope(X)[:, None]], [X])


# --- on the registry -------------------------------------------------------------------------------------------------


def test_each_argument_is_checked_alone_and_all_together() -> None:
    op = REGISTRY["linear"]
    case = next(case for case in op.cases if case.name == "batch")
    assert [check.argument for check in check_case(op, case)] == ["dx, dweight, dbias", "dx", "dweight", "dbias"]
    assert all(check.limit == limit("differences", np.float64) for check in check_case(op, case))


def spoil(op: Op, name: str, how: Any) -> Op:
    """The op with one of its gradients made wrong."""
    index = op.differentiable.index(name)

    def backward(dy: Any, saved: Any) -> Any:
        gradients = op.backward(dy, saved)
        several = list(gradients) if isinstance(gradients, tuple) else [gradients]
        several[index] = None if several[index] is None else how(several[index])
        return tuple(several)

    return replace(op, backward=backward)


@pytest.mark.parametrize("op", REGISTRY.values(), ids=REGISTRY)
@pytest.mark.parametrize(
    "how",
    [lambda g: -g, lambda g: 1.0001 * g, lambda g: g + 1e-3 * np.abs(g).max(), lambda g: g * np.nan, lambda g: None],
    ids=["sign", "scale", "shift", "nan", "missing"],
)
def test_a_wrong_gradient_of_any_argument_of_any_op_is_found_and_named(op: Op, how: Any) -> None:
    case = max(op.cases, key=lambda case: sum(case.arguments()[name] is not None for name in op.differentiable))
    names = [name for name in op.differentiable if case.arguments()[name] is not None]
    for name in names:
        broken = {check.argument for check in check_case(spoil(op, name, how), case) if not check.passed}
        assert broken == {f"d{name}", ", ".join(f"d{n}" for n in names)}
