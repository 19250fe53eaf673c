"""The script for a machine with a GPU runs to its end here, in small, and leaves its results."""

import csv
from pathlib import Path

import pytest
from gpu.stand_in import cublaslt, cudnn, installed

import on_gpu


def test_every_line_of_the_script_runs_and_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, products = cublaslt.make()
    with installed(products | cudnn.make() | {"torch": None}):
        failed = on_gpu.main(["--small", "--out", str(tmp_path)])
    out = capsys.readouterr().out
    assert failed == 0, out
    with (tmp_path / "stand-in_h100/first_run.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["what"] for row in rows[:2]] == ["copy of 4 GB", "product 16 x 16 x 16, bfloat16"]
    found = {row["what"]: row["value"] for row in rows}
    assert float(found["its error beside float32"]) < 5e-3
    assert found["epilogues without an algorithm"] == "none"
    assert found["checks by device that fail"] == found["checks by kernel that fail"] == "0"
    errors = {what: float(value) for what, value in found.items() if "kv heads" in what}
    assert max(errors.values()) < 2e-2, errors
    assert "predicted 0.35" in out


def test_a_run_without_time_says_what_it_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with installed():
        assert on_gpu.main(["--seconds", "-1", "--out", str(tmp_path)]) == 0
    assert "No time was left for copies, squares, steps" in capsys.readouterr().out


def test_without_a_gpu_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert on_gpu.main(["--out", str(tmp_path)]) == 1
    assert capsys.readouterr().out.startswith("No GPU: CuPy is not installed")
