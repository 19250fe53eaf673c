"""The outcome in words: on a terminal, in a pipe, and for a machine."""

import io
import json
from typing import Any

import numpy as np
import pytest

from compyute_transformer.verify.plan import NotRun, Outcome
from compyute_transformer.verify.registry import REGISTRY
from compyute_transformer.verify.result import Label, Measured, Result, Task
from compyute_transformer.verify.table import MOST_TOLD, TableReport, rows_of, summary, to_json

LINEAR, GELU = Label("ops.linear", "rows"), Label("ops.gelu", "tanh")


def found(label: Label, error: float, method: Any = "differences", argument: str = "dx") -> Result:
    return label.result(method, np.float64, argument, error, 1e-7)


NEAR, FAR = found(LINEAR, 2e-8), found(LINEAR, 3e-13)
BROKEN = found(GELU, 0.5, argument="dweight")
ABSENT = NotRun("ops.linear", "torch", "PyTorch is not installed.")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def tell(stream: io.StringIO, *results: Result) -> str:
    task = Task("ops.linear", ("differences",), lambda: results)
    report = TableReport([task], stream)
    outcome = Outcome(list(results), [ABSENT], 1.5)
    report.report(task, list(results), [ABSENT])
    report.close()
    report.conclude(outcome)
    return stream.getvalue()


def test_a_row_is_what_came_nearest_to_its_limit() -> None:
    first, second, third = rows_of([FAR, BROKEN, NEAR], [ABSENT])
    assert first.cells() == ("ops.linear", "differences", "2", "2.0e-08", "1.0e-07", "within")
    assert second.cells() == ("ops.linear", "torch", "0", "-", "-", "not run"), "beside what was run of it"
    assert third.cells() == ("ops.gelu", "differences", "1", "5.0e-01", "1.0e-07", "EXCEED")


def test_a_nan_is_the_worst() -> None:
    (row,) = rows_of([NEAR, found(LINEAR, float("nan")), found(LINEAR, 0.9)])
    assert row.cells()[2:] == ("3", "nan", "1.0e-07", "EXCEED")


def test_a_pipe_gets_plain_lines() -> None:
    lines = tell(io.StringIO(), NEAR, BROKEN).splitlines()
    assert lines[0].split() == ["what", "method", "checks", "worst", "limit", "result"]
    assert lines[1].split() == ["ops.linear", "differences", "1", "2.0e-08", "1.0e-07", "within"]
    assert lines[1].index("differences") == lines[0].index("method")
    assert "FAIL ops.gelu [tanh] dweight, differences, float64: error 0.5 EXCEEDS tolerance 1e-07" in lines
    assert "NOT RUN, so not passed: ops.linear (torch). PyTorch is not installed." in lines
    assert lines[-1] == "2 comparisons in 1.5 s: 1 FAIL; 1 check not run: PyTorch is not installed."
    assert "\x1b" not in "".join(lines)


def test_a_terminal_gets_a_table() -> None:
    text = tell(Terminal(), NEAR, BROKEN)
    assert "ops.linear" in text
    assert "EXCEEDS" in text
    assert "worst" in text
    assert "─" in text
    assert "2 comparisons in 1.5 s: 1 FAIL" in text


def test_the_last_line_is_the_summary() -> None:
    assert summary(Outcome([NEAR, FAR], [], 61.04)) == ["2 comparisons in 61.0 s: all within tolerance"]


def test_the_summary_says_what_was_not_run() -> None:
    other = NotRun("ops.gelu", "kernel", "Numba is not installed.")
    last = "2 comparisons in 0.0 s: all that ran are within tolerance; {}"
    absent = [ABSENT, ABSENT]
    assert summary(Outcome([NEAR, FAR], absent))[-1] == last.format("2 checks not run: PyTorch is not installed.")
    assert summary(Outcome([NEAR, FAR], [ABSENT, other]))[-1] == last.format("2 checks not run: see above")
    nothing = "0 comparisons in 0.0 s: NOTHING was verified"
    assert summary(Outcome([], [ABSENT]))[-1] == f"{nothing}; 1 check not run: PyTorch is not installed."
    assert summary(Outcome())[-1] == nothing


def test_a_method_is_called_as_on_the_command_line() -> None:
    (row,) = rows_of([found(LINEAR, 0.0, "complex step")])
    assert row.cells()[1] == "complex-step"


def test_what_is_no_check_at_a_point_is_said() -> None:
    relu = Label("ops.relu", "vector").result("complex step", np.float64, "dx", 0.0, 1e-10)
    assert summary(Outcome([relu]))[0].startswith("ReLU is not analytic at 0")
    assert len(summary(Outcome([NEAR]))) == 1


def test_many_failures_are_counted_not_listed() -> None:
    lines = summary(Outcome([found(GELU, error) for error in range(1, 30)]))
    assert len(lines) == MOST_TOLD + 2
    assert "error 29 " in lines[0], "the worst first"
    assert lines[-2] == f"FAIL ops.gelu, differences: and {29 - MOST_TOLD} more; --json tells of all"


def test_json_says_everything_and_what_it_has_no_number_for() -> None:
    results = [found(GELU, Measured(1e-9, 1.0, 2.0, 3.0)), found(GELU, float("nan")), found(GELU, float("inf"))]
    values = json.loads(to_json(Outcome(results, [ABSENT], 2.0), seed=3))
    assert (values["passed"], values["seed"], values["seconds"]) == (False, 3, 2.0)
    assert [result["error"] for result in values["results"]] == [1e-9, "nan", "inf"]
    assert [result["passed"] for result in values["results"]] == [True, False, False]
    assert values["results"][0]["name"] == "ops.gelu"
    assert values["not_run"] == [{"name": "ops.linear", "method": "torch", "reason": "PyTorch is not installed."}]


def test_a_stream_without_unicode_gets_marks() -> None:
    raw = io.BytesIO()
    stream: Any = io.TextIOWrapper(raw, encoding="ascii")
    task = Task("ops.gelu", ("differences",), lambda: [])
    report = TableReport([task], stream)
    report.conclude(Outcome([LINEAR.result("torch", np.float64, "dx", 1.0, 0.1, "∞ − ∞")]))
    stream.flush()
    assert b"FAIL ops.linear" in raw.getvalue()


def test_a_report_is_closed_twice_without_harm() -> None:
    report = TableReport([Task("ops.gelu", ("differences",), lambda: [])], Terminal())
    report.close()
    report.close()


@pytest.mark.parametrize("number", [0.0, 1.0])
def test_numbers_are_short(number: float) -> None:
    (row,) = rows_of([found(LINEAR, number)])
    assert row.cells()[3] == ("0" if number == 0.0 else "1.0e+00")


def test_eighty_columns_hold_the_longest_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    stream = Terminal()
    name = f"ops.{max(REGISTRY, key=len)}"
    result = Label(name, "everything").result("implementations", np.float64, "dx", 1e-9, 1e-12)
    report = TableReport([Task(name, ("implementations",), lambda: [])], stream)
    report.close()
    report.conclude(Outcome([result]))
    (row,) = [line for line in stream.getvalue().splitlines() if name in line and "FAIL" not in line]
    assert all(cell in row for cell in (name, "implementations", "1.0e-09", "1.0e-12", "EXCEED"))
