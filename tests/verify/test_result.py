"""What a check finds."""

from collections.abc import Iterator

import numpy as np
import pytest

from compyute_transformer.errors import MissingExtraError
from compyute_transformer.verify.result import (
    Label,
    Result,
    attempt,
    element_error,
    from_errors,
    outcome_errors,
    relative_error,
)

X = np.array([[1.0, -4.0], [0.0, 2.0]])


def test_the_error_is_the_largest_difference_over_the_largest_number() -> None:
    assert relative_error(X + np.array([[0.0, 0.0], [0.2, -0.1]]), X) == pytest.approx(0.05)
    assert relative_error(X, X) == 0.0
    assert relative_error(np.float32(3.0), np.array(2.0, np.float32)) == 0.5


def test_another_shape_is_an_infinite_error_and_no_broadcast() -> None:
    assert relative_error(X[:1], X) == relative_error(X[None], X) == np.inf
    assert relative_error(np.ones((2, 1)), np.ones((2, 2))) == np.inf


def test_another_dtype_is_an_infinite_error() -> None:
    assert relative_error(X.astype(np.float32), X) == relative_error(X, X.astype(np.float32)) == np.inf


def test_zeros_match_zeros_alone() -> None:
    assert relative_error(np.zeros(3), np.zeros(3)) == 0.0
    assert relative_error(np.full(3, 1e-30), np.zeros(3)) == np.inf
    assert relative_error(np.zeros((0, 3)), np.zeros((0, 3))) == 0.0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_keeps_no_limit(bad: float) -> None:
    spoilt = np.where(X == 2.0, bad, X)
    for ours, theirs in ((spoilt, X), (X, spoilt), (spoilt, spoilt)):
        assert not relative_error(ours, theirs) <= 1.0


def test_gradients_are_compared_by_name_and_a_missing_one_is_an_error() -> None:
    ours, theirs = {"dx": X, "dbias": None, "dweight": X}, {"dx": X, "dbias": None, "dweight": None}
    assert outcome_errors(ours, theirs) == {"dx": 0.0, "dweight": np.inf}
    with pytest.raises(ValueError, match=r"the names must be the same, got \['x'\] and \['y'\]"):
        outcome_errors({"x": X}, {"y": X})


def test_small_elements_are_compared_by_their_own_size() -> None:
    ours, theirs = np.array([1.0, 1e-9, 0.0]), np.array([1.0, 1.1e-9, 0.0])
    assert relative_error(ours, theirs) < 1e-9
    assert element_error(ours, theirs) == pytest.approx(0.1 / 1.1)
    assert element_error(theirs, theirs) == 0.0
    assert element_error(ours[:2], np.array([1.0, 0.0])) == np.inf
    assert np.isnan(element_error(np.array([np.nan]), np.ones(1)))
    assert element_error(ours, theirs[:2]) == np.inf
    assert outcome_errors({"y": ours, "dx": ours}, {"y": theirs, "dx": theirs}, ("y",)).keys() == {
        *("y", "y by element", "dx")
    }


LABEL = Label("ops.linear", "rows")


def found(error: float, limit: float = 1e-7) -> Result:
    return LABEL.result("differences", np.float64, "dx", error, limit)


def test_it_passes_at_its_limit_and_never_with_nan() -> None:
    assert found(1e-7).passed
    assert not found(1.1e-7).passed
    assert not found(float("nan")).passed
    assert not found(float("inf")).passed


def test_closeness_orders_what_is_not_a_number_first() -> None:
    assert found(5e-8).closeness == pytest.approx(0.5)
    assert found(float("nan")).closeness == found(float("inf")).closeness == float("inf")
    assert found(0.0, 0.0).closeness == 0.0
    assert found(1e-9, 0.0).closeness == float("inf")


def test_it_says_what_where_and_how_far() -> None:
    result = LABEL.result("torch", np.float32, "dweight", 3e-4, 1e-5, "of functional.linear")
    assert str(result) == (
        "ops.linear [rows] dweight, torch, float32: error 0.0003 EXCEEDS tolerance 1e-05 (of functional.linear)"
    )
    assert "within tolerance" in str(found(0.0))


def test_a_bound_holds_only_where_it_is_stricter() -> None:
    assert found(1e-9).held_to(1e-11).limit == 1e-11
    assert found(1e-9).held_to(1.0).limit == 1e-7
    assert not found(1e-9).held_to(1e-11).passed


def test_errors_become_results() -> None:
    (result,) = from_errors({"y": 1e-9}, LABEL, "torch", np.float64, "beside it")
    assert (result.argument, result.note, result.limit) == ("y", "beside it", 5e-13)


def test_what_raises_has_failed_and_what_was_found_before_stays() -> None:
    def run() -> Iterator[Result]:
        yield found(0.0)
        raise TypeError("cannot\n  multiply")

    first, second = attempt(LABEL, "differences", np.float64, run)
    assert first.passed
    assert not second.passed
    assert (second.argument, second.note) == ("call", "TypeError: cannot multiply")


def test_a_missing_extra_is_no_failure() -> None:
    def run() -> Iterator[Result]:
        raise MissingExtraError("install it")
        yield

    with pytest.raises(MissingExtraError):
        list(attempt(LABEL, "torch", np.float64, run))
