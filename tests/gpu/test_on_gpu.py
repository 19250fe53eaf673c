"""The script for a machine with a GPU runs to its end here, in small, and leaves its results."""

import csv
import re
import tomllib
from pathlib import Path

import pytest
from gpu.stand_in import cublaslt, cudnn, installed

import on_gpu

SAID = """
FAILED tests/gpu/test_captured.py::test_steps - assert 1 == 2
2 failed, 130 passed, 9 deselected, 1 error in 33.10s
"""


def test_every_line_of_the_script_runs_and_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_gpu, "run_pytest", lambda seconds: SAID)
    _, products = cublaslt.make()
    with installed(products | cudnn.make() | {"torch": None}):
        failed = on_gpu.main(["--small", "--out", str(tmp_path)])
    out = capsys.readouterr().out
    assert failed == 0, out
    with (tmp_path / "stand-in_h100/first_run.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["what"] for row in rows[:2]] == ["copy of 4 GB", "product 16 x 16 x 16, bfloat16"]
    found = {row["what"]: row["value"] for row in rows}
    assert (found["tests on the GPU that fail"], "FAILED tests/gpu/test_captured.py" in out) == ("3", True)
    assert found["tokens that are the same in both, float32"] == "1.0"
    assert float(found["its error beside float32"]) < 5e-3
    assert found["epilogues without an algorithm"] == "none"
    assert found["checks by device that fail"] == found["checks by kernel that fail"] == "0"
    errors = {what: float(value) for what, value in found.items() if "kv heads" in what}
    assert max(errors.values()) < 2e-2, errors
    assert "predicted 0.35" in out


def test_where_pytest_cannot_run_its_last_words_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_gpu, "run_pytest", lambda seconds: "python3: No module named pytest\n")
    [line] = on_gpu.tests(on_gpu.SMALL)
    assert line.value == "python3: No module named pytest"


def test_pytest_is_asked_for_the_tests_of_a_gpu_and_stopped_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def late(command: list[str], **options: object) -> None:
        asked.append(" ".join(command[1:7]))
        raise on_gpu.subprocess.TimeoutExpired(command, 7, b"....")

    monkeypatch.setattr(on_gpu.subprocess, "run", late)
    assert on_gpu.run_pytest(7.0) == "....\nnot done after 7 s"
    assert asked == ["-m pytest -m gpu or device -q -rfE"]


def test_a_run_without_time_says_what_it_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with installed():
        assert on_gpu.main(["--seconds", "-1", "--out", str(tmp_path)]) == 0
    assert "No time was left for copies, squares, tests, steps" in capsys.readouterr().out


def test_the_versions_of_all_packages_of_the_extra_are_written() -> None:
    with (on_gpu.ROOT / "pyproject.toml").open("rb") as file:
        extra = tomllib.load(file)["project"]["optional-dependencies"]["gpu"]
    assert {re.split(r"[=<>]", requirement)[0] for requirement in extra} <= set(on_gpu.PACKAGES)


def test_without_a_gpu_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert on_gpu.main(["--out", str(tmp_path)]) == 1
    assert capsys.readouterr().out.startswith("No GPU: CuPy is not installed")
