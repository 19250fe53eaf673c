"""Schedules at their corners, the cosine beside nanoGPT's formula, the inverse square root beside its paper's."""

from math import cos, pi
from typing import Any

import pytest

from compyute_transformer.errors import ConfigError
from compyute_transformer.optim import Schedule


def nanogpt(step: int, peak: float, minimum: float, warmup: int, steps: int) -> float:
    """Its learning rate: a line up, half a cosine down to `steps`, the minimum after."""
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    if step > steps:
        return minimum
    share = (step - warmup) / (steps - warmup)
    return minimum + 0.5 * (1.0 + cos(pi * share)) * (peak - minimum)


@pytest.mark.parametrize("warmup", [0, 1, 10])
@pytest.mark.parametrize("minimum", [0.0, 1e-4])
def test_the_cosine_is_that_of_nanogpt_at_every_step(warmup: int, minimum: float) -> None:
    schedule = Schedule(1e-3, steps=50, warmup=warmup, minimum=minimum)
    for step in range(70):
        assert schedule(step) == pytest.approx(nanogpt(step, 1e-3, minimum, warmup, 50), rel=1e-14, abs=1e-18)


@pytest.mark.parametrize("decay", ["constant", "linear", "cosine"])
def test_the_warm_up_is_a_straight_line_that_never_starts_at_zero(decay: Any) -> None:
    schedule = Schedule(2.0, steps=100, warmup=4, minimum=0.5, decay=decay)
    assert [schedule(step) for step in range(5)] == pytest.approx([0.4, 0.8, 1.2, 1.6, 2.0], rel=1e-15)
    assert Schedule(2.0, steps=100, decay=decay)(0) == 2.0


@pytest.mark.parametrize(
    ("decay", "expected"),
    [
        ("constant", {4: 2.0, 8: 2.0, 11: 2.0, 12: 2.0, 13: 2.0, 10**9: 2.0}),
        ("linear", {4: 2.0, 8: 1.25, 11: 0.6875, 12: 0.5, 13: 0.5, 10**9: 0.5}),
        ("cosine", {4: 2.0, 8: 1.25, 11: 0.5 + 0.75 * (1 + cos(pi * 7 / 8)), 12: 0.5, 13: 0.5, 10**9: 0.5}),
    ],
)
def test_the_end_of_warm_up_the_middle_the_last_step_and_beyond(decay: Any, expected: dict[int, float]) -> None:
    schedule = Schedule(2.0, steps=12, warmup=4, minimum=0.5, decay=decay)
    assert {step: schedule(step) for step in expected} == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize("decay", ["linear", "cosine"])
@pytest.mark.parametrize("warmup", [12, 20])
def test_a_warm_up_as_long_as_the_run_leaves_no_time_to_fall(decay: Any, warmup: int) -> None:
    schedule = Schedule(2.0, steps=12, warmup=warmup, minimum=0.5, decay=decay)
    assert [schedule(step) for step in range(12)] == [2.0 * (step + 1) / (warmup + 1) for step in range(12)]
    assert schedule(warmup) == 0.5


def test_one_step_is_a_schedule() -> None:
    assert Schedule(2.0, steps=1)(0) == 2.0
    assert Schedule(2.0, steps=1)(1) == 0.0


@pytest.mark.parametrize(
    "options",
    [
        {"steps": 0},
        {"warmup": -1},
        {"minimum": -0.1},
        {"minimum": 3.0},
        {"minimum": float("nan")},
        {"peak": float("nan")},
        {"peak": -1.0},
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"^Schedule: steps is at least 1, warmup at least 0, and 0 ≤ minimum ≤ peak"):
        Schedule(**({"peak": 2.0, "steps": 12} | options))


def test_a_decay_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigError, match="one of constant, linear, cosine, inverse_sqrt, got 'step'"):
        Schedule(1.0, 10, decay="step")  # type: ignore[arg-type]


# The inverse square root


def vaswani(n: int, width: int, warmup: int) -> float:
    """Equation 3 of the paper, as it is printed; n counts steps from 1."""
    return width**-0.5 * min(n**-0.5, n * warmup**-1.5)


@pytest.mark.parametrize(("width", "warmup"), [(512, 4000), (1024, 4000), (64, 1), (96, 250)])
def test_the_inverse_square_root_is_the_papers_at_every_step(width: int, warmup: int) -> None:
    schedule = Schedule((width * warmup) ** -0.5, steps=10, warmup=warmup, decay="inverse_sqrt")
    for n in (1, 2, 3, 100, warmup - 1, warmup, warmup + 1, 4 * warmup, 100_000):
        if n > 0:
            assert schedule(n - 1) == pytest.approx(vaswani(n, width, warmup), rel=1e-14)


def test_the_papers_base_model() -> None:
    schedule = Schedule((512 * 4000) ** -0.5, steps=100_000, warmup=4000, decay="inverse_sqrt")
    expected = {0: 1.746928e-07, 1999: 3.493856e-04, 3999: 6.987712e-04, 15_999: 3.493856e-04, 99_999: 1.397542e-04}
    assert {step: schedule(step) for step in expected} == pytest.approx(expected, rel=1e-6)


def test_the_inverse_square_root_has_a_floor_once_warm() -> None:
    schedule = Schedule(2.0, steps=100, warmup=4, minimum=1.0, decay="inverse_sqrt")
    assert [schedule(step) for step in (0, 3, 8, 15, 16, 10**9)] == [0.5, 2.0, 4 / 3, 1.0, 1.0, 1.0]


def test_the_inverse_square_root_needs_a_warm_up() -> None:
    with pytest.raises(ConfigError, match=r"warmup is at least 1, got 0\. Give some steps"):
        Schedule(1.0, 10, decay="inverse_sqrt")
