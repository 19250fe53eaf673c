"""File: grade a learner's file in a process of its own, with limits of time and memory."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from .diagnose import Finding
from .exercises import EXERCISES
from .report import Grade

__all__ = ["SECONDS", "FileGrades", "grade_file"]

SECONDS = 60.0
MOST_PRINTED = 4000  # characters of what a file prints that are shown


@dataclass(frozen=True)
class FileGrades:
    """The grades of a file. problem: why there are none, or not all. printed: what the file itself printed."""

    grades: tuple[Grade, ...]
    problem: str = ""
    printed: str = ""

    @property
    def passed(self) -> bool:
        """Whether there is something, and nothing is wrong with it."""
        return bool(self.grades) and not self.problem and all(grade.passed for grade in self.grades)


def grade_file(path: Path, ops: tuple[str, ...] = (), seconds: float = SECONDS) -> FileGrades:
    """Return the grades of the functions OP_forward and OP_backward of a Python file.

    ops: which to grade; all by default. The file runs in a process of its own, which is ended after `seconds`.

    Raises:
        InputError: no such file, an op that is no exercise, or a time that is not positive.
    """
    if not path.is_file():
        came = "which is a folder. Give a file in it" if path.is_dir() else "which is missing. Check the path"
        raise InputError(f"grade: FILE is a Python file, got {str(path)!r}, {came}.")
    for op in ops:
        if op not in EXERCISES:
            raise InputError(f"grade: an op is one of {', '.join(EXERCISES)}, got {op!r}.")
    if not 0 < seconds < float("inf"):
        raise InputError(f"grade: seconds is a positive number, got {seconds}.")
    with tempfile.TemporaryDirectory() as folder:
        results, printed = Path(folder) / "results.jsonl", Path(folder) / "printed.txt"
        code = _run(path, ops, seconds, results, printed)
        text = printed.read_text(encoding="utf-8", errors="replace")[:MOST_PRINTED]
        return _read(results, code, seconds, text)


def _run(path: Path, ops: tuple[str, ...], seconds: float, results: Path, printed: Path) -> int | None:
    """Run the child process. Return its exit code; None where its time ran out."""
    command = [
        sys.executable,
        "-P",
        "-m",
        "compyute_transformer.grading.child",
        str(path.resolve()),
        str(results),
        *ops,
    ]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    with printed.open("wb") as output:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        try:
            return child.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            _end(child)


def _end(child: subprocess.Popen[bytes]) -> None:
    """End the child and what it started."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)  # the child leads a group of its own
    elif child.poll() is None:
        child.kill()
    child.wait()


def _read(results: Path, code: int | None, seconds: float, printed: str) -> FileGrades:
    """Return what a child wrote, and why it wrote no more."""
    records = [json.loads(line) for line in _lines(results)]
    grades = tuple(_grade(record["grade"]) for record in records if "grade" in record)
    problem = next((record["problem"] for record in records if "problem" in record), "")
    if not problem and not (records and "done" in records[-1]):
        running = next((record["running"] for record in reversed(records) if "running" in record), "the file itself")
        ended = f"did not end within {seconds:g} seconds" if code is None else f"ended the process (exit code {code})"
        problem = f"{running} {ended}."
    return FileGrades(grades, problem, printed)


def _lines(results: Path) -> list[str]:
    text = results.read_text(encoding="utf-8") if results.exists() else ""
    return [line for line in text.splitlines() if line.endswith("}")]


def _grade(values: dict[str, Any]) -> Grade:
    findings = tuple(Finding(**finding) for finding in values["findings"])
    return Grade(
        values["op"],
        tuple(values["functions"]),
        values["cases"],
        tuple(values["outputs"]),
        findings,
        values["differences"],
    )
