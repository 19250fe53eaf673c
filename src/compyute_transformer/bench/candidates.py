"""Candidates: check that they compute the same, time them in turns, and report medians, spreads and ratios.

    candidates -> check_parity -> alternate -> Spread of each -> Result, one line of the report, one row of the CSV

A single time is not reliable: the clock of a processor changes, and other programs use it. The candidates therefore
alternate (A B, B A, A B, ...), which cancels a drift. Each is warmed up. A ratio is the quotient of the medians, with
the spread of the ratios of the rounds. Nothing is timed before the results of all candidates agree.
"""

import csv
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import quantiles
from time import perf_counter, sleep
from typing import Any

import numpy as np

from ..arrays import Device, array_module, to_device, to_numpy
from ..environment.conditions import Environment
from ..errors import ParityError, RangeError
from ..verify.result import relative_error

__all__ = [
    "COLUMNS",
    "Candidate",
    "Report",
    "Result",
    "Spread",
    "alternate",
    "check_arrays",
    "check_parity",
    "clock_of",
    "ratio",
    "write_csv",
]

SPREAD_LIMIT = 0.2  # (p80 − p20) / p50 of a quiet machine stays below
TIMES = ("ms", "s")
COLUMNS = (
    *("what", "provider", "mode", "value", "unit", "p20", "p50", "p80", "runs", "shape"),
    *("machine", "cpu", "threads", "blas", "versions", "date"),
)


@dataclass(frozen=True)
class Candidate:
    """Code to be timed. provider: whose code, such as "torch". mode: which variant of it, such as "eager"."""

    provider: str
    mode: str
    run: Callable[[], object]

    @property
    def name(self) -> str:
        return f"{self.provider} {self.mode}"


@dataclass(frozen=True)
class Spread:
    """The median of some measurements, and the 20th and 80th percentile."""

    p20: float
    p50: float
    p80: float
    runs: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Return the percentiles of the values, interpolated linearly as NumPy does."""
        if not values:
            raise RangeError("Spread.of: there must be at least one value, got none. Run at least one round.")
        if len(values) == 1:
            return cls(values[0], values[0], values[0], 1)
        cuts = quantiles(values, n=10, method="inclusive")
        return cls(cuts[1], cuts[4], cuts[7], len(values))

    def map(self, function: Callable[[float], float]) -> "Spread":
        """Return the spread of `function(value)`, for a function that is monotonic."""
        low, high = sorted((function(self.p20), function(self.p80)))
        return Spread(low, function(self.p50), high, self.runs)

    @property
    def relative(self) -> float:
        """The distance of the two outer percentiles, relative to the median."""
        return (self.p80 - self.p20) / self.p50


@dataclass(frozen=True)
class Result:
    """One number of a report. what: the work. value: the median where there is a spread. shape: the size."""

    what: str
    provider: str
    mode: str
    value: float
    unit: str
    shape: str
    spread: Spread | None = None

    @classmethod
    def median(cls, what: str, candidate: Candidate, spread: Spread, unit: str, shape: str) -> "Result":
        """Return the result whose value is the median of a spread."""
        return cls(what, candidate.provider, candidate.mode, spread.p50, unit, shape, spread)

    @property
    def name(self) -> str:
        return f"{self.provider} {self.mode}"


@dataclass
class Report:
    """The results of a benchmark.

    charted: the unit that the chart shows. notes: what was left out, and why. warnings: what makes the numbers
    unreliable, except `noise`.
    """

    title: str
    environment: Environment
    charted: str
    results: list[Result] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def add_times(self, what: str, shape: str, times: dict[Candidate, list[float]]) -> None:
        """Add the times in milliseconds, and their ratios to the time of the first candidate."""
        first, *others = times
        for candidate, seconds in times.items():
            spread = Spread.of(seconds).map(lambda second: second * 1e3)
            self.results.append(Result.median(what, candidate, spread, "ms", shape))
        for candidate in others:
            relative = ratio(times[candidate], times[first])
            self.results.append(Result.median(what, candidate, relative, f"× {first.name}", shape))

    def add_rates(self, what: str, shape: str, times: dict[Candidate, list[float]], amount: float, unit: str) -> None:
        """Add the rates: the amount of work divided by each time."""
        for candidate, seconds in times.items():
            rate = Spread.of(seconds).map(lambda second: amount / second)
            self.results.append(Result.median(what, candidate, rate, unit, shape))

    @property
    def noise(self) -> str | None:
        """A warning if the times vary too much to be reliable, else None."""
        times = [result for result in self.results if result.unit in TIMES and result.spread is not None]
        spoilt = {r: r.spread.relative for r in times if r.spread and r.spread.relative > SPREAD_LIMIT}
        if not spoilt:
            return None
        worst = max(spoilt, key=lambda result: spoilt[result])
        return (
            f"{len(spoilt)} of {len(times)} times spread over more than {SPREAD_LIMIT:.0%} of their median, the worst "
            f"over {spoilt[worst]:.0%} ({worst.what}, {worst.name}): something else used the machine. Run it again."
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {**asdict(self), "warnings": [*self.warnings, *filter(None, [self.noise])]}

    def rows(self) -> list[dict[str, object]]:
        """Return one dictionary for each result, with the columns of the CSV."""
        return [_row(result, self.environment) for result in self.results]


def alternate(
    candidates: Sequence[Candidate],
    rounds: int,
    warm_up: int = 2,
    turn: float = 0.05,
    pause: float = 0.1,
    clock: Callable[[], float] = perf_counter,
    wait: Callable[[float], object] = sleep,
) -> dict[Candidate, list[float]]:
    """Return the seconds of one call, for each candidate and round. The order is reversed from round to round.

    turn: the least duration of a turn in seconds; a candidate that is quicker is called several times. pause: seconds
    between turns. The threads of a candidate spin for a while after its work (those of OpenBLAS for about 20 ms) and
    would take cores from the next candidate.
    """
    if rounds < 1:
        raise RangeError(f"alternate: rounds must be at least 1, got {rounds}.")
    calls = {}
    for candidate in candidates:
        for _ in range(warm_up):
            candidate.run()
        began = clock()
        candidate.run()
        calls[candidate] = max(1, round(turn / max(clock() - began, 1e-9)))
    seconds: dict[Candidate, list[float]] = {candidate: [] for candidate in candidates}
    for index in range(rounds):
        for candidate in candidates if index % 2 == 0 else reversed(candidates):
            wait(pause)
            began = clock()
            for _ in range(calls[candidate]):
                candidate.run()
            seconds[candidate].append((clock() - began) / calls[candidate])
    return seconds


def clock_of(device: Device) -> Callable[[], float]:
    """Return a clock for `alternate` that waits until a device has done what it was asked for."""
    if device == "cpu":
        return perf_counter
    synchronize = array_module(to_device(np.zeros(1), device)).cuda.Device().synchronize

    def clock() -> float:
        synchronize()
        return perf_counter()

    return clock


def ratio(seconds: Sequence[float], of_first: Sequence[float]) -> Spread:
    """Return the quotient of the medians, which a reader can check, and the spread of the ratios, round by round."""
    spread = Spread.of([theirs / ours for theirs, ours in zip(seconds, of_first, strict=True)])
    return replace(spread, p50=Spread.of(seconds).p50 / Spread.of(of_first).p50)


def check_parity(what: str, name: str, numbers: Sequence[float], of_first: Sequence[float], tolerance: float) -> None:
    """Raise ParityError if numbers differ from those of the first candidate by more than a relative tolerance.

    NaN counts as a difference.
    """
    for theirs, ours in zip(numbers, of_first, strict=True):
        if not abs(theirs - ours) <= tolerance * max(abs(ours), 1e-12):
            raise ParityError(
                f"bench: candidates must compute the same before they are timed; {name} has {what} {theirs:.9g}, ours "
                f"is {ours:.9g}, which differs by more than {tolerance:g}. Nothing was timed: one of the two is wrong."
            )


def check_arrays(name: str, results: Any, of_first: Any, tolerance: float) -> None:
    """Raise ParityError if arrays (one or a tuple; None for none) differ from those of the first candidate."""
    pairs = zip(*(each if isinstance(each, tuple) else (each,) for each in (results, of_first)), strict=True)
    for index, (theirs, ours) in enumerate(pairs):
        if ours is None and theirs is None:
            continue
        error = float(relative_error(to_numpy(theirs), to_numpy(ours)))
        if not error <= tolerance:
            raise ParityError(
                f"bench: candidates must compute the same before they are timed; result {index} of {name} has a "
                f"relative error of {error:.2g}, more than {tolerance:g}. Nothing was timed: one of the two is wrong."
            )


def write_csv(path: Path, report: Report) -> None:
    """Append the rows of a report to a CSV file. A new file gets a header."""
    new = not path.exists() or path.stat().st_size == 0
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerows(report.rows())


def _row(result: Result, environment: Environment) -> dict[str, object]:
    spread = asdict(result.spread) if result.spread else {"p20": "", "p50": "", "p80": "", "runs": 1}
    values = {**asdict(result), **spread, **asdict(environment)}
    return {name: f"{values[name]:.6g}" if isinstance(values[name], float) else values[name] for name in COLUMNS}
