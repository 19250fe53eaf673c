"""The benchmark: turns alternate, percentiles are right, rows have every column, and nothing false is timed."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from compyute_transformer.bench.candidates import (
    COLUMNS,
    Candidate,
    Report,
    Result,
    Spread,
    alternate,
    check_arrays,
    check_parity,
    ratio,
    write_csv,
)
from compyute_transformer.environment.conditions import Environment
from compyute_transformer.errors import ParityError, RangeError

ENVIRONMENT = Environment("Linux, 2 cores", "A processor", 2, "openblas", "numpy 2.0", "2026-01-02")


class Track:
    """A clock that stands still but for what candidates take, and a list of who ran."""

    def __init__(self) -> None:
        self.now, self.ran, self.waits = 0.0, "", 0

    def candidate(self, name: str, seconds: float) -> Candidate:
        def run() -> None:
            self.now += seconds
            self.ran += name

        return Candidate("us", name, run)

    def run(self, *candidates: Candidate, rounds: int) -> dict[Candidate, list[float]]:
        def wait(seconds: float) -> None:
            self.waits += 1

        return alternate(candidates, rounds, warm_up=2, turn=0.05, clock=lambda: self.now, wait=wait)


def test_turns_alternate_and_the_order_is_reversed_from_round_to_round() -> None:
    track = Track()
    a, b, c = (track.candidate(name, 1.0) for name in "abc")
    seconds = track.run(a, b, c, rounds=3)
    assert track.ran == "aaabbbccc" + "abc" + "cba" + "abc"  # two warm up, one tells how long a turn is
    assert track.waits == 9
    assert list(seconds) == [a, b, c]
    assert all(times == [1.0] * 3 for times in seconds.values())


def test_what_is_quick_runs_several_times_a_turn_and_is_divided() -> None:
    track = Track()
    quick, slow = track.candidate("q", 0.01), track.candidate("s", 0.1)
    seconds = track.run(quick, slow, rounds=1)
    assert track.ran == "qqqsss" + "qqqqq" + "s"
    assert seconds[quick] == pytest.approx([0.01])
    assert seconds[slow] == pytest.approx([0.1])


def test_a_benchmark_has_a_round() -> None:
    with pytest.raises(RangeError, match="rounds must be at least 1, got 0"):
        Track().run(rounds=0)


@pytest.mark.parametrize("count", [2, 3, 10, 11])
def test_percentiles_are_numpys(count: int) -> None:
    values = np.random.default_rng(0).normal(size=count)
    spread = Spread.of(list(values))
    assert (spread.p20, spread.p50, spread.p80) == pytest.approx(tuple(np.percentile(values, [20, 50, 80])))
    assert spread.runs == count


def test_one_value_has_no_spread_and_none_is_refused() -> None:
    assert Spread.of([3.0]) == Spread(3.0, 3.0, 3.0, 1)
    with pytest.raises(RangeError, match="at least one value, got none"):
        Spread.of([])


def test_a_rate_has_its_percentiles_the_right_way_round() -> None:
    assert Spread(1.0, 2.0, 4.0, 5).map(lambda seconds: 8.0 / seconds) == Spread(2.0, 4.0, 8.0, 5)
    assert Spread(1.0, 2.0, 4.0, 5).relative == 1.5


def test_the_ratio_is_taken_within_a_round() -> None:
    assert ratio([2.0, 20.0, 200.0], [1.0, 10.0, 100.0]) == Spread(2.0, 2.0, 2.0, 3)


def test_the_ratio_is_the_quotient_of_the_medians_that_are_shown() -> None:
    times, of_first = [1.0, 2.0, 9.0, 4.0], [3.0, 1.0, 2.0, 8.0]
    found = ratio(times, of_first)
    assert found.p50 == Spread.of(times).p50 / Spread.of(of_first).p50 == 3.0 / 2.5
    rounds = Spread.of([theirs / ours for theirs, ours in zip(times, of_first, strict=True)])
    assert (found.p20, found.p80) == (rounds.p20, rounds.p80)
    assert found.p50 != rounds.p50


@pytest.mark.parametrize("theirs", [1.0002, 0.9998, float("nan"), float("inf")])
def test_numbers_that_differ_are_refused(theirs: float) -> None:
    check_parity("the loss", "torch", [1.00009], [1.0], 1e-4)
    with pytest.raises(ParityError, match=r"torch has the loss .* ours is 1, .* Nothing was timed"):
        check_parity("the loss", "torch", [theirs], [1.0], 1e-4)


def test_arrays_that_differ_are_refused() -> None:
    ours = np.ones(3, np.float32), None
    check_arrays("torch", (np.ones(3, np.float32) + np.float32(1e-5), None), ours, 1e-4)
    for theirs in (np.ones(3, np.float32) * np.float32(1.001), np.ones(1, np.float32), np.full(3, np.nan, np.float32)):
        with pytest.raises(ParityError, match="result 0 of torch"):
            check_arrays("torch", (theirs, None), ours, 1e-4)


def report_of(*times: list[float]) -> Report:
    report = Report("A benchmark", ENVIRONMENT, "ms")
    candidates = [Candidate("compyute", "auto", lambda: None), Candidate("torch", "eager", lambda: None)]
    times = dict(zip(candidates, times, strict=False))
    report.add_times("step", "B 2", times)
    report.add_rates("step", "B 2", times, 10, "tokens/s")
    return report


def test_a_report_has_times_ratios_and_rates() -> None:
    report = report_of([0.1, 0.1], [0.25, 0.25])
    assert [(r.name, r.unit, round(r.value, 6)) for r in report.results] == [
        ("compyute auto", "ms", 100.0),
        ("torch eager", "ms", 250.0),
        ("torch eager", "× compyute auto", 2.5),
        ("compyute auto", "tokens/s", 100.0),
        ("torch eager", "tokens/s", 40.0),
    ]


def test_times_that_are_spread_widely_are_said() -> None:
    assert report_of([1.0, 1.05], [2.0, 2.0]).noise is None
    noisy = report_of([1.0, 1.05], [2.0, 9.0])
    assert noisy.noise is not None
    assert noisy.noise.startswith(
        "1 of 2 times spread over more than 20% of their median, the worst over 76% (step, torch"
    )
    assert json.loads(json.dumps(noisy.to_dict()))["warnings"] == [noisy.noise]


def test_rows_have_every_column_and_are_added_below_one_header(tmp_path: Path) -> None:
    path = tmp_path / "new" / "results.csv"
    report = report_of([0.1, 0.2, 0.3], [0.4, 0.4, 0.4])
    report.results.append(Result("step", "torch", "eager", 512.5, "MB", "B 2"))
    write_csv(path, report)
    write_csv(path, report)
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    assert tuple(reader.fieldnames or ()) == COLUMNS
    assert len(rows) == 2 * len(report.results)
    assert rows[0] == {
        **{"what": "step", "provider": "compyute", "mode": "auto", "value": "200", "unit": "ms", "shape": "B 2"},
        **{"p20": "140", "p50": "200", "p80": "260", "runs": "3", "machine": "Linux, 2 cores", "cpu": "A processor"},
        **{"threads": "2", "blas": "openblas", "versions": "numpy 2.0", "date": "2026-01-02"},
    }
    assert (rows[5]["value"], rows[5]["p50"], rows[5]["runs"]) == ("512.5", "", "1")
