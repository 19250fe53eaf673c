"""What a proof found, in words and as a verdict."""

from collections.abc import Iterator

import numpy as np
import pytest

from compyute_transformer.errors import MissingExtraError
from compyute_transformer.verify.check import Check, Measured
from compyute_transformer.verify.finding import Finding, Label, attempt, from_checks, from_errors

LABEL = Label("ops.linear", "rows")


def found(error: float, limit: float = 1e-7) -> Finding:
    return LABEL.finding("differences", np.float64, "dx", error, limit)


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
    finding = LABEL.finding("torch", np.float32, "dweight", 3e-4, 1e-5, "of functional.linear")
    assert str(finding) == (
        "ops.linear [rows] dweight, torch, float32: error 0.0003 BREAKS the limit 1e-05 (of functional.linear)"
    )
    assert "keeps" in str(found(0.0))


def test_a_bound_holds_only_where_it_is_stricter() -> None:
    assert found(1e-9).held_to(1e-11).limit == 1e-11
    assert found(1e-9).held_to(1.0).limit == 1e-7
    assert not found(1e-9).held_to(1e-11).passed


def test_checks_and_errors_become_findings() -> None:
    (finding,) = from_checks(
        [Check("linear", "rows", "dx of PyTorch", Measured(1e-9), 1e-5)], LABEL, "torch", "float32"
    )
    assert (finding.argument, finding.note, finding.limit) == ("dx", "of PyTorch", 1e-5)
    (finding,) = from_errors({"y": 1e-9}, LABEL, "torch", np.float64, "beside it")
    assert (finding.argument, finding.note, finding.limit) == ("y", "beside it", 1e-10)


def test_what_raises_has_failed_and_what_was_found_before_stays() -> None:
    def prove() -> Iterator[Finding]:
        yield found(0.0)
        raise TypeError("cannot\n  multiply")

    first, second = attempt(LABEL, "differences", np.float64, prove)
    assert first.passed
    assert not second.passed
    assert (second.argument, second.note) == ("call", "TypeError: cannot multiply")


def test_a_missing_extra_is_no_failure() -> None:
    def prove() -> Iterator[Finding]:
        raise MissingExtraError("install it")
        yield

    with pytest.raises(MissingExtraError):
        attempt(LABEL, "torch", np.float64, prove)
