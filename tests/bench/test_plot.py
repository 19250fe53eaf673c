"""The chart: a PNG with a bar for each number of the unit it is about, and an error that says what to install."""

import sys
from pathlib import Path

import pytest

from compyute_transformer.bench.candidates import Report, Result, Spread
from compyute_transformer.bench.plot import _panels, plot
from compyute_transformer.environment.conditions import Environment
from compyute_transformer.errors import MissingExtraError, RangeError

ENVIRONMENT = Environment("Linux, 2 cores", "A processor", 2, "openblas", "numpy 2.0", "2026-01-02")
RESULTS = [
    Result("step", "compyute", "auto", 100.0, "ms", "B 2", Spread(95.0, 100.0, 140.0, 5)),
    Result("step", "torch", "eager", 212.0, "ms", "B 2", Spread(210.0, 212.0, 215.0, 5)),
    Result("step", "torch", "eager", 2.17, "× compyute auto", "B 2", Spread(2.0, 2.17, 2.2, 5)),
    Result("step", "torch", "eager", 1503.0, "MB", "B 2"),
]
REPORT = Report("A benchmark", ENVIRONMENT, "ms", RESULTS)


def test_a_chart_is_a_png(tmp_path: Path) -> None:
    path = tmp_path / "new" / "bars.png"
    plot(REPORT, path)
    assert path.read_bytes().startswith(b"\x89PNG\r\n")
    assert path.stat().st_size > 5000


def test_a_panel_has_a_bar_for_each_candidate_and_the_ratio_of_the_rounds() -> None:
    (bars,) = _panels(REPORT).values()
    assert [(bar.label, bar.text) for bar in bars] == [("compyute auto", "100"), ("torch eager", "212   2.17 ×")]


def test_single_bars_share_a_panel() -> None:
    results = [Result(what, "compyute", "kernel", 80.0, "%", what) for what in ("norm", "linear")]
    (bars,) = _panels(Report("Shares", ENVIRONMENT, "%", results)).values()
    assert [bar.label for bar in bars] == ["norm", "linear"]


def test_a_report_without_numbers_has_no_chart(tmp_path: Path) -> None:
    with pytest.raises(RangeError, match="there is nothing to draw"):
        plot(Report("Nothing", ENVIRONMENT, "ms"), tmp_path / "bars.png")
    assert not (tmp_path / "bars.png").exists()


def test_without_matplotlib_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match="pip install 'compyute-transformer"):
        plot(REPORT, tmp_path / "bars.png")
