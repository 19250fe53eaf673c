"""Race: candidates take turns in one process, and what comes out is medians, their spread, and the ratio.

    candidates -> check_parity -> alternate -> Spread of each -> Result, one line of the report, one row of the CSV

A single time says little, and two runs of one program less: processors change their clock, and others use them. So the
candidates alternate, A B, B A, A B …, which cancels what drifts; each is warmed up; and the ratio is the median of the
ratios within a round. Nothing is timed before it is known to compute the same.
"""

import csv
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import quantiles
from time import perf_counter, sleep
from typing import Any

import numpy as np

from ..environment.conditions import Ground
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
    """Something to be timed. provider: whose code, such as "torch". mode: which of theirs, such as "eager"."""

    provider: str
    mode: str
    run: Callable[[], object]

    @property
    def name(self) -> str:
        """Both in one."""
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
        """Percentiles, interpolated linearly between the values in order, as NumPy does."""
        if not values:
            raise RangeError("Spread.of: there must be at least one value, got none. Run at least one round.")
        if len(values) == 1:
            return cls(values[0], values[0], values[0], 1)
        cuts = quantiles(values, n=10, method="inclusive")
        return cls(cuts[1], cuts[4], cuts[7], len(values))

    def map(self, function: Callable[[float], float]) -> "Spread":
        """The spread of `function`, which rises or falls throughout, of the values."""
        low, high = sorted((function(self.p20), function(self.p80)))
        return Spread(low, function(self.p50), high, self.runs)

    @property
    def relative(self) -> float:
        """How far the percentiles lie apart, as a part of the median."""
        return (self.p80 - self.p20) / self.p50


@dataclass(frozen=True)
class Result:
    """One number of a report. what: the work. value: the median, where there is a spread. shape: of the work."""

    what: str
    provider: str
    mode: str
    value: float
    unit: str
    shape: str
    spread: Spread | None = None

    @classmethod
    def median(cls, what: str, candidate: Candidate, spread: Spread, unit: str, shape: str) -> "Result":
        """The result whose value is the median of a spread."""
        return cls(what, candidate.provider, candidate.mode, spread.p50, unit, shape, spread)

    @property
    def name(self) -> str:
        """Whose it is."""
        return f"{self.provider} {self.mode}"


@dataclass
class Report:
    """What a benchmark found. notes: what was left out, and why. warnings: what spoils the numbers, `noise` apart.

    charted: the unit that a chart shows.
    """

    title: str
    ground: Ground
    charted: str
    results: list[Result] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def add_times(self, what: str, shape: str, raced: dict[Candidate, list[float]]) -> None:
        """Times in milliseconds, and how many times as long as the first candidate each of the others took."""
        first, *others = raced
        for candidate, seconds in raced.items():
            spread = Spread.of(seconds).map(lambda second: second * 1e3)
            self.results.append(Result.median(what, candidate, spread, "ms", shape))
        for candidate in others:
            times = ratio(raced[candidate], raced[first])
            self.results.append(Result.median(what, candidate, times, f"× {first.name}", shape))

    def add_rates(self, what: str, shape: str, raced: dict[Candidate, list[float]], amount: float, unit: str) -> None:
        """How much of an amount of work is done a second."""
        for candidate, seconds in raced.items():
            rate = Spread.of(seconds).map(lambda second: amount / second)
            self.results.append(Result.median(what, candidate, rate, unit, shape))

    @property
    def noise(self) -> str | None:
        """A warning, if times are spread so widely that they say little."""
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
        """Plain values, for JSON."""
        return {**asdict(self), "warnings": [*self.warnings, *filter(None, [self.noise])]}

    def rows(self) -> list[dict[str, object]]:
        """One dictionary a result, with the columns of the CSV."""
        return [_row(result, self.ground) for result in self.results]


def alternate(
    candidates: Sequence[Candidate],
    rounds: int,
    warm_up: int = 2,
    turn: float = 0.05,
    pause: float = 0.1,
    clock: Callable[[], float] = perf_counter,
    wait: Callable[[float], object] = sleep,
) -> dict[Candidate, list[float]]:
    """Seconds of one call, for each candidate and round; the order is reversed from round to round.

    turn: seconds that a turn takes at least; what is quicker is called several times. pause: seconds between turns, in
    which the threads of one candidate, which wait in a loop for more work, go to sleep before the next begins: those
    of OpenBLAS wait some 20 ms, and in that time took a third of the cores from whoever came next.
    """
    if rounds < 1:
        raise RangeError(f"alternate: there is at least one round, got {rounds}.")
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


def ratio(seconds: Sequence[float], of_first: Sequence[float]) -> Spread:
    """How many times as long as the first one took, round by round."""
    return Spread.of([theirs / ours for theirs, ours in zip(seconds, of_first, strict=True)])


def check_parity(what: str, name: str, numbers: Sequence[float], of_first: Sequence[float], tolerance: float) -> None:
    """Refuse a candidate whose numbers differ from the first one's by more than a part of them.

    Raises ParityError, NaN included.
    """
    for theirs, ours in zip(numbers, of_first, strict=True):
        if not abs(theirs - ours) <= tolerance * max(abs(ours), 1e-12):
            raise ParityError(
                f"bench: candidates compute the same before they are timed; {name} has {what} {theirs:.9g}, ours is "
                f"{ours:.9g}, which differs by more than {tolerance:g}. Nothing was timed: one of the two is wrong."
            )


def check_arrays(name: str, results: Any, of_first: Any, tolerance: float) -> None:
    """Refuse a candidate whose arrays (one or a tuple, None for none) are not the first one's. Raises ParityError."""
    pairs = zip(*(each if isinstance(each, tuple) else (each,) for each in (results, of_first)), strict=True)
    for index, (theirs, ours) in enumerate(pairs):
        if ours is None and theirs is None:
            continue
        error = float(relative_error(np.asarray(theirs), np.asarray(ours)))
        if not error <= tolerance:
            raise ParityError(
                f"bench: candidates compute the same before they are timed; result {index} of {name} has a relative "
                f"error of {error:.2g}, more than {tolerance:g}. Nothing was timed: one of the two is wrong."
            )


def write_csv(path: Path, report: Report) -> None:
    """Add the report's rows to a CSV file, below its header; a file that is not there yet is made."""
    new = not path.exists() or path.stat().st_size == 0
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerows(report.rows())


def _row(result: Result, ground: Ground) -> dict[str, object]:
    spread = asdict(result.spread) if result.spread else {"p20": "", "p50": "", "p80": "", "runs": 1}
    values = {**asdict(result), **spread, **asdict(ground)}
    return {name: f"{values[name]:.6g}" if isinstance(values[name], float) else values[name] for name in COLUMNS}
