"""The code and the commands of the README run as they stand, and its figures are those of the committed results."""

import csv
import re
import shlex
from pathlib import Path

import pytest

from compyute_transformer import cli
from compyute_transformer.data.text import corpus

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SMALL = ["--steps", "2", "--batch-size", "2", "--validation-fraction", "0.01", "--sample-tokens", "4"]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands() -> list[list[str]]:
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("compyute ")]


def run(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main(arguments)
    assert exit_.value.code in (0, None), arguments


def test_python_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first, *others = blocks("python")
    assert len(first.splitlines()) == 20, "a GPT in twenty lines"
    for block in (first, *others):
        exec(compile(block, "README.md", "exec"), {})


@pytest.mark.usefixtures("validation_only")  # as at run time: a check hands complex numbers to ops
def test_every_command_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # as they stand, but for a run of two steps, and for tinyshakespeare, which is not fetched here
    monkeypatch.chdir(tmp_path)
    (tmp_path / "README.md").write_text(README, encoding="utf-8")
    monkeypatch.setitem(corpus.NAMED, "shakespeare", lambda: "all the world is a stage\n" * 300)
    run(["train", *SMALL])
    given = commands()
    assert {arguments[0] for arguments in given} == {"train", "generate", "eval", "verify", "doctor"}
    for arguments in given:
        if "--resume" in arguments:
            arguments = [*arguments[:-1], "3"]  # 2000 steps would take too long here
        elif arguments[0] == "train":
            arguments = [*arguments, *(SMALL[:-2] if "digits" in arguments else SMALL)]  # images have no samples
        elif arguments[0] == "verify":
            arguments = [*arguments, "--method", "kernel"]  # tests/verify runs the rest
        run(arguments)
    assert (tmp_path / "runs" / "nano" / "config.json").exists()


def test_first_command_is_what_the_tests_install() -> None:
    first, test = blocks("sh")[:2]
    assert first == "python3 -m venv .venv && .venv/bin/pip install . && .venv/bin/compyute train\n"
    assert test == "scripts/test\n"


def test_the_rates_of_generation_are_those_that_were_measured() -> None:
    with open(ROOT / "benchmarks" / "results" / "amd-epyc-zen-4" / "generate.csv", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if (row["what"], row["unit"]) == ("decode", "tokens/s")]
    rows = [row for row in rows if row["shape"].startswith("64 tokens read, 64 written, B 1, C 768,")]
    found = re.search(r"writes (\d+) tokens a second instead of (\d+) .*\(Zen 4, ([\d-]+)\)", README)
    assert found
    assert {"int8": found[1], "float32": found[2]}.items() <= {
        row["mode"]: f"{float(row['value']):.0f}"
        for row in rows
        if (row["provider"], row["date"]) == ("compyute", found[3])
    }.items()
    page = (ROOT / "docs" / "kernels.md").read_text(encoding="utf-8").partition(f"Zen 4 (AVX-512; {found[3]})")[2]
    for mode in ("float32", "bfloat16", "int8"):
        rates = [f"{float(row['value']):.1f}" for row in rows if (row["mode"], row["date"]) == (mode, found[3])]
        cells = re.findall(rf"\| {mode} \| ([\d.]+) \| [\d.]+ \| ([\d.]*)", page)[0]
        assert list(filter(None, cells)) == rates
