"""What a proof finds."""

import numpy as np
import pytest

from compyute_transformer.verify.check import Check, gradient_errors, relative_error

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


def test_a_check_passes_at_its_limit_and_never_with_nan() -> None:
    assert Check("linear", "rows", "dx", 1e-7, 1e-7).passed
    assert not Check("linear", "rows", "dx", 1.1e-7, 1e-7).passed
    assert not Check("linear", "rows", "dx", float("nan"), 1e-7).passed


def test_a_check_says_what_was_compared() -> None:
    assert str(Check("linear", "rows", "dx", 3e-9, 1e-7)) == "linear [rows] dx: error 3e-09 keeps the limit 1e-07"
    assert "error nan BREAKS the limit" in str(Check("linear", "rows", "dx", float("nan"), 1e-7))


def test_gradients_are_compared_by_name_and_a_missing_one_is_an_error() -> None:
    ours, theirs = {"x": X, "bias": None, "weight": X}, {"x": X, "bias": None, "weight": None}
    assert gradient_errors(ours, theirs) == {"dx": 0.0, "dweight": np.inf}
    with pytest.raises(ValueError, match=r"same names on both sides, got \['x'\] and \['y'\]"):
        gradient_errors({"x": X}, {"y": X})
