"""Rounding bounds: above the errors of right gradients, far below those of wrong ones."""

import numpy as np
import pytest

from compyute_transformer.verify.function import of_op
from compyute_transformer.verify.registry import REGISTRY, Case, Op
from compyute_transformer.verify.result import Label, Result
from compyute_transformer.verify.rounding import Bounds, gamma, roundings, unit_roundoff
from compyute_transformer.verify.slopes import compare_linearity, compare_slopes
from compyute_transformer.verify.tolerances import limit

pytestmark = pytest.mark.usefixtures("validation_only")


def bounds(op: Op, case: Case, seed: int = 0) -> Bounds:
    arguments = case.arguments(seed)
    return Bounds(op, arguments, of_op(op, arguments), seed)


def results(op: Op, case: Case, seed: int = 0) -> list[Result]:
    function, label = of_op(op, case.arguments(seed)), Label(f"ops.{op.name}", case.name)
    return [*compare_slopes(function, label, seed), *compare_linearity(function, label, np.float64, seed)]


def test_gamma_is_highams() -> None:
    assert unit_roundoff(np.float64) == 2.0**-53
    assert unit_roundoff(np.float32) == 2.0**-24
    assert gamma(1000, np.float64) == pytest.approx(1000 * 2.0**-53, rel=1e-12)
    assert gamma(10**6, np.float32) == pytest.approx(10**6 * 2.0**-24 / (1 - 10**6 * 2.0**-24))
    assert gamma(2**24, np.float32) == np.inf


def test_gamma_bounds_a_sum_of_its_length() -> None:
    rng = np.random.default_rng(0)
    for n in (10, 1000):
        x = rng.normal(size=n).astype(np.float32)
        total = np.float32(0.0)
        for number in x:
            total += number
        exact = float(np.sum(x.astype(np.float64)))
        assert abs(float(total) - exact) <= gamma(n, np.float32) * float(np.abs(x.astype(np.float64)).sum())


def test_every_op_has_a_chain_that_grows_with_its_sums() -> None:
    assert all(op.roundings is not None for op in REGISTRY.values())
    for name in ("linear", "layer_norm", "softmax", "attention", "parallel_multi_head", "cross_entropy", "embedding"):
        cases = {case.name: case.arguments() for case in REGISTRY[name].cases}
        first = next(iter(cases.values()))
        assert roundings(REGISTRY[name], cases["large"]) > roundings(REGISTRY[name], first) > 30


SMALL = [
    pytest.param(op, case, id=f"{op.name}-{case.name}")
    for op in REGISTRY.values()
    for case in op.cases
    if "large" not in case.name or op.name in ("linear", "layer_norm", "softmax", "embedding")
]


@pytest.mark.parametrize(("one", "example"), SMALL)
def test_right_gradients_keep_bounds_that_are_no_looser_than_the_table(one: Op, example: Case) -> None:
    found = bounds(one, example)
    held = [found.holding(result) for result in results(one, example)]
    assert all(0.0 < result.limit <= limit(result.method, np.float64) for result in held)
    assert max(result.closeness for result in held) < 0.1


def test_bounds_are_much_stricter_than_the_table_on_small_cases() -> None:
    op = REGISTRY["layer_norm"]
    found = bounds(op, op.cases[1])
    limits = {result.method: found.of(result) for result in results(op, op.cases[1])}
    assert 1e-12 < limits["differences"] < 1e-9
    assert 1e-15 < limits["complex step"] < 1e-11
    assert 1e-15 < limits["linearity"] < 1e-11


def test_a_gradient_off_by_a_billionth_breaks_its_bound() -> None:
    op = REGISTRY["softmax"]
    case = op.cases[1]
    found = bounds(op, case)
    for result in results(op, case):
        assert not found.holding(Result(**{**vars(result), "error": type(result.error)(1e-9, 1, 1, 1)})).passed


def test_what_is_no_rounded_number_keeps_its_limit() -> None:
    op = REGISTRY["relu"]
    result = Label("ops.relu", "vector").result("kernel", np.float32, "inputs", 0.0, 1e-5)
    assert bounds(op, op.cases[0]).holding(result) == result
