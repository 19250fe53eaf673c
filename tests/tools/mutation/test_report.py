"""The committed run, `benchmarks/results/mutants.csv`, keeps what is asked, and is that of the present code."""

import csv
from collections import Counter
from pathlib import Path

import pytest

from mutation.make import Mutant
from mutation.reasons import REASONS
from mutation.report import COLUMNS, ENOUGH
from mutation.rules import RULES

TABLE = Path(__file__).resolve().parents[3] / "benchmarks" / "results" / "mutants.csv"
AGAIN = "run scripts/mutate --csv benchmarks/results/mutants.csv"


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    with TABLE.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_nearly_all_that_change_behavior_are_killed(rows: list[dict[str, str]]) -> None:
    words = Counter(row["status"] for row in rows)
    changing = words["killed"] + words["survived"]
    assert changing >= 300
    assert words["killed"] >= ENOUGH * changing
    assert set(words) <= {"killed", "survived", "equivalent"}


def test_whatever_no_check_kills_has_a_reason(rows: list[dict[str, str]]) -> None:
    for row in (row for row in rows if row["status"] != "killed"):
        said = any(row["why"].startswith(f"{words}; ") for words in REASONS)
        mutant = f"{row['file']} {row['function']}: {row['before']} -> {row['after']}"
        assert said, f"{mutant}: say why in tools/mutation/reasons.py, then {AGAIN}"


def test_the_run_is_that_of_the_present_code(rows: list[dict[str, str]], mutants: list[Mutant]) -> None:
    assert tuple(rows[0]) == COLUMNS, AGAIN
    assert {row["rule"] for row in rows} == set(RULES), AGAIN
    run = {(row["file"], row["function"]) for row in rows}
    present = {(mutant.target.file, mutant.target.name) for mutant in mutants}
    assert present - run == set(), f"never mutated: {AGAIN}"
    assert run - present == set(), f"mutated, but no longer there: {AGAIN}"
