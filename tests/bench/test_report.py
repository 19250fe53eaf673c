"""The table: a line a candidate, a column a unit, what it was measured on, and what spoils it."""

import io

import pytest
from rich.console import Console

from compyute_transformer.bench.candidates import Report, Result, Spread
from compyute_transformer.bench.report import number, show
from compyute_transformer.environment.conditions import Environment

ENVIRONMENT = Environment("Linux, 2 cores", "A processor", 2, "openblas SkylakeX", "numpy 2.0", "2026-01-02")
RESULTS = [
    Result("step", "compyute", "auto", 100.0, "ms", "B 2", Spread(95.0, 100.0, 140.0, 5)),
    Result("step", "torch", "eager", 212.0, "ms", "B 2", Spread(210.0, 212.0, 215.0, 5)),
    Result("step", "torch", "eager", 2.12, "× compyute auto", "B 2", Spread(2.0, 2.12, 2.2, 5)),
    Result("step", "torch", "eager", 1503.0, "MB", "B 2"),
]


def printed(report: Report) -> str:
    console = Console(file=io.StringIO(), width=100)
    show(report, console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_the_table_says_all_of_it() -> None:
    text = printed(Report("A benchmark", ENVIRONMENT, "ms", RESULTS, ["PyTorch was left out"], ["The machine is busy"]))
    lines = [line.rstrip() for line in text.splitlines()]
    assert lines[:6] == [
        "A benchmark",
        "",
        "step  B 2",
        "                              ms     ×     MB",
        "compyute auto  100 (95.0 to 140)",
        "torch eager     212 (210 to 215)  2.12  1,503",
    ]
    for fact in ("A processor, 2 threads", "openblas SkylakeX", "2026-01-02", "Note: PyTorch was left out"):
        assert fact in text
    assert "Warning: The machine is busy" in text
    assert "Warning: 1 of 2 times spread over more than 20%" in text
    assert "×: how many times as long as the first line" in text
    assert "\x1b" not in text


def test_a_report_without_results_is_its_notes() -> None:
    text = printed(Report("A benchmark", ENVIRONMENT, "ms", notes=["There is nothing to time"]))
    assert "Note: There is nothing to time" in text
    assert "Medians" not in text


@pytest.mark.parametrize(
    ("value", "text"), [(1234.5, "1,234"), (100.4, "100"), (12.34, "12.3"), (1.234, "1.23"), (0.01234, "0.0123")]
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert number(value) == text
