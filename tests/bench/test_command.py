"""The command: options reach the benchmark; JSON, CSV and chart come out; errors are one message."""

import csv
import json
import re
from pathlib import Path
from typing import Any, get_args

import pytest

from compyute_transformer import cli
from compyute_transformer.bench.candidates import COLUMNS, Report, Result
from compyute_transformer.bench.generate import Texts
from compyute_transformer.bench.workload import SIZES, STEP_SIZES
from compyute_transformer.cli.bench import Size, StepSize
from compyute_transformer.environment.conditions import Environment

ENVIRONMENT = Environment("Linux, 2 cores", "A processor", 2, "openblas", "numpy 2.0", "2026-01-02")
TINY = ["--context-length=8", "--embed-dim=16", "--num-heads=2", "--num-layers=1"]


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        cli.main(["bench", *map(str, arguments)])
    captured = capsys.readouterr()
    return int(left.value.code or 0), captured.out, captured.err


def test_a_size_on_the_command_line_is_a_size() -> None:
    assert get_args(Size) == tuple(SIZES)
    assert get_args(StepSize) == tuple(STEP_SIZES)


@pytest.mark.parametrize("what", ["step", "attention", "products", "ops", "generate", "startup"])
def test_every_race_has_help(capsys: pytest.CaptureFixture[str], what: str) -> None:
    code, out, _ = run(capsys, what, "--help")
    assert code == 0
    for option in ("--csv", "--plot", "--json", "--rounds", "--preset"):
        assert option in out


def test_json_csv_and_chart_come_out(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compyute_transformer.bench.generate.has_transformers", lambda: False)  # it may be installed
    table, chart = tmp_path / "results.csv", tmp_path / "chart.png"
    given = ["--preset", "nano", *TINY, "--weights", "float32", "--rounds", 1, "--csv", table, "--plot", chart]
    code, out, err = run(capsys, "generate", *given, "--json")
    assert code == 0
    report = json.loads(out)
    assert report["results"][0]["what"] == "prompt"
    assert err == f"Written: {table}\nWritten: {chart}\n"
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["unit"] for row in rows] == [result["unit"] for result in report["results"]]
    assert tuple(rows[0]) == COLUMNS
    assert chart.read_bytes().startswith(b"\x89PNG")
    code, out, err = run(capsys, "generate", *given[:-4])
    assert "compyute anew" in out
    assert err == ""


@pytest.mark.parametrize(
    ("what", "given", "expected"),
    [
        ("step", [], ("shakespeare", {}, None, ["eager", "autocast"], False, 10, True, True)),
        (
            "step",
            [
                "--preset",
                "gpt2",
                "--dropout",
                0.2,
                "--no-autocast",
                "--compiled",
                "--reference",
                "--no-memory",
                "--no-bfloat16",
            ],
            ("gpt2", {"dropout": 0.2}, None, ["eager", "compiled"], True, 10, False, False),
        ),
        (
            "attention",
            ["fused", "parallel", "--lengths", "64,128", "--batch-size", 2, "--rounds", 3],
            (["fused", "parallel"], "seed", {"batch_size": 2}, [64, 128], 3, True, True),
        ),
        (
            "attention",
            ["--lengths", "none"],
            (("sequential", "semiparallel", "parallel", "fused"), "seed", {}, [], 10, True, True),
        ),
        ("products", ["--preset", "gpt2", "--batch-size", 2], ("gpt2", {"batch_size": 2}, 10)),
        (
            "generate",
            ["--preset", "gpt2", "--prompt-tokens", 7, "--batch-sizes", "1,16", "--weights", "int8", "--no-anew"],
            ("gpt2", {}, Texts(7, None, (1, 16), ("int8",), False), 5, None),
        ),
        ("generate", ["model.gguf", "--rounds", 2], (None, {}, Texts(), 2, "model.gguf")),
        ("ops", ["linear", "--preset", "cpu"], (["linear"], "cpu", {}, 10)),
        ("startup", ["--rounds", 2], ("cpu", 2)),
    ],
)
def test_options_reach_the_race(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, what: str, given: list[Any], expected: Any
) -> None:
    seen: list[Any] = []

    def bench(*arguments: Any) -> Report:
        seen.append(arguments)
        return Report("A benchmark", ENVIRONMENT, "ms", [Result("step", "compyute", "auto", 1.0, "ms", "B 2")])

    monkeypatch.setattr(f"compyute_transformer.bench.{what}.bench_{what}", bench)
    assert run(capsys, what, *given)[0] == 0
    assert seen == [expected]


@pytest.mark.parametrize(
    ("given", "code", "message"),
    [
        (["attention", "flash"], 1, "Error: bench attention: an algorithm is one of .* got 'flash'"),
        (["ops", "conv"], 1, "Error: bench ops: an op is one of .* got 'conv'"),
        (["step", "--num-heads", "7"], 1, "Error: num_heads must divide embed_dim"),
        (["step", "--preset", "huge"], 2, "'huge' is not one of 'nano'"),
        (["attention", "--lengths", "64,x"], 2, "whole numbers of at least 1"),
        (["attention", "--lengths", "0"], 2, "--lengths are whole numbers of at least 1"),
        (["generate", "--batch-sizes", "none"], 2, "--batch-sizes are whole numbers of at least 1"),
        (["generate", "--weights", "int4"], 1, "weights are some of float32, bfloat16, int8, got 'int4'"),
    ],
)
def test_what_goes_wrong_is_one_message(
    capsys: pytest.CaptureFixture[str], given: list[str], code: int, message: str
) -> None:
    left, out, err = run(capsys, *given)
    assert left == code
    assert re.search(message, " ".join(re.sub(r"[│╭╮╰╯─]", " ", err).split()))
    assert out == ""


def test_what_cannot_be_written_or_has_no_effect_is_refused_before_anything_is_timed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for option in ("--csv", "--plot"):
        code, out, err = run(
            capsys,
            "step",
            "--preset",
            "nano",
            *TINY,
            "--rounds",
            1,
            "--no-memory",
            option,
            tmp_path / "nowhere" / "file.png",
        )
        assert (code, out) == (2, "")
        assert "make its folder first" in " ".join(err.replace("│", " ").split())
    code, out, err = run(capsys, "step", "--preset", "vit", "--vocab-size", 5)
    assert (code, out) == (1, "")
    assert "vit reads images and has no vocabulary, got vocab_size 5. Leave it out." in err
