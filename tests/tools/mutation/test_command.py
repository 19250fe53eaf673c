"""The command: its exit status says whether the checks are good enough. `scripts/mutate` runs it on all mutants."""

import csv
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from mutation import command
from mutation.evaluator import Status
from mutation.make import Mutant
from mutation.report import COLUMNS, Outcome
from mutation.rewrites import Rewrite


def outcome(mutants: list[Mutant], killed: int, survived: int, **others: Any) -> Outcome:
    words = ["killed"] * killed + ["survived"] * survived + ["equivalent"]
    statuses = [(mutant, Status(word, "torch: linear", "why")) for mutant, word in zip(mutants, words, strict=False)]
    return Outcome(statuses, **{"rewrites": 1, "refusals": [], "faults": []} | others)


def test_the_exit_status_tells_whether_the_checks_suffice(
    mutants: list[Mutant], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    rewrite = Rewrite("another way", mutants[0].target, mutants[0].code)
    for found, status in (
        (outcome(mutants, 99, 1), 0),
        (outcome(mutants, 98, 2), 1),
        (outcome(mutants, 100, 0, refusals=[(rewrite, "torch")]), 1),
        (outcome(mutants, 100, 0, faults=["torch: linear"]), 1),
    ):
        monkeypatch.setattr(command, "run", lambda *arguments, found=found: found)
        assert command.main(["--csv", str(tmp_path / "mutants.csv"), "--seed", "3"]) == status
        rate = f"{found.count('killed')} killed, {found.kill_rate:.2%}"
        assert rate in capsys.readouterr().out
    with (tmp_path / "mutants.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert Counter(row["status"] for row in rows) == {"killed": 100, "equivalent": 1}
    assert {row["seed"] for row in rows} == {"3"}


def test_a_run_that_would_evaluate_nothing_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        command.main(["--file", "ops/nowhere.py"])
    assert left.value.code == 2
    assert "got 'ops/nowhere.py'" in capsys.readouterr().err
