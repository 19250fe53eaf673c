"""`compyute verify`: the exit status is the outcome."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from training_helpers import TEXT, tiny
from verify_helpers import damage

from compyute_transformer import cli
from compyute_transformer.training import start_run
from compyute_transformer.verify.plan import METHODS

pytestmark = pytest.mark.usefixtures("validation_only")

Verify = Callable[..., tuple[int, str, str]]


@pytest.fixture
def verify(capsys: pytest.CaptureFixture[str]) -> Verify:
    """Run the command in this process: exit code, standard output, standard error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            cli.main(["verify", *map(str, arguments)])
        captured = capsys.readouterr()
        code = left.value.code
        return 0 if code is None else int(code), captured.out, captured.err

    return call


def test_all_green_is_zero(verify: Verify) -> None:
    code, out, err = verify("ops.gelu", "nn.FeedForward")
    assert code == 0
    assert err == ""
    lines = out.splitlines()
    assert lines[-1].endswith("all within tolerance")
    assert {line.split()[0] for line in lines[1:-1]} == {"ops.gelu", "nn.FeedForward"}
    assert all(line.endswith("within") for line in lines[1:-1])


@pytest.mark.parametrize(
    "how", [lambda g: -g, lambda g: 1.001 * g, lambda g: g * (g != g.max())], ids=["sign", "scale", "dropped"]
)
def test_a_backward_damaged_by_hand_is_red_and_named(
    verify: Verify, how: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage(monkeypatch, "layer_norm", "weight", how)  # type: ignore[arg-type]
    code, out, _ = verify("layer_norm", "linear")
    assert code == 1
    failures = [line for line in out.splitlines() if line.startswith("FAIL ")]
    assert failures
    assert all(
        line.startswith("FAIL ops.layer_norm") and " dweight, " in line for line in failures if " more; " not in line
    )
    assert "EXCEED" in next(
        line for line in out.splitlines() if line.startswith("ops.layer_norm") and "adjoint" in line
    )
    assert all("EXCEED" not in line for line in out.splitlines() if line.startswith("ops.linear"))


def test_without_pytorch_the_table_says_so_and_the_rest_decides(
    verify: Verify, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    code, out, err = verify("ops.linear")
    assert (code, err) == (0, "")
    (row,) = (line for line in out.splitlines() if line.startswith("ops.linear ") and " torch " in line)
    assert row.endswith("not run")
    assert "NOT RUN, so not passed: ops.linear (torch)." in out
    last = out.splitlines()[-1]
    assert "all that ran are within tolerance; 1 check not run: " in last
    assert "pip install 'compyute-transformer[verify]'" in last
    code, out, _ = verify("ops.linear", "--method", "torch")
    assert code == 1
    assert "NOTHING was verified; 1 check not run: " in out.splitlines()[-1]
    damage(monkeypatch, "linear", "weight", lambda g: -g)
    code, out, _ = verify("ops.linear")
    assert code == 1
    assert any(line.startswith("FAIL ops.linear") and " dweight, " in line for line in out.splitlines())


def test_methods_and_seeds_can_be_chosen(verify: Verify) -> None:
    code, out, _ = verify("ops.linear", "--method", "complex-step", "--seed", "3")
    assert code == 0
    assert "complex-step" in {line.split()[1] for line in out.splitlines()[1:-1]}
    assert verify("ops.linear", "--seed", "3")[1] != verify("ops.linear", "--seed", "4")[1]


def test_the_help_lists_the_methods(verify: Verify) -> None:
    help = " ".join(verify("--help")[1].replace("│", " ").split())
    for method in METHODS:
        assert method in help


def test_json_is_one_object_and_nothing_else(verify: Verify, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, err = verify("ops.relu", "--json")
    values = json.loads(out)
    assert (code, err, values["passed"]) == (0, "", True)
    assert {result["name"] for result in values["results"]} == {"ops.relu"}
    damage(monkeypatch, "relu", "x", lambda g: g * float("nan"))
    code, out, _ = verify("ops.relu", "--json")
    values = json.loads(out)
    assert (code, values["passed"]) == (1, False)
    assert {"nan"} == {result["error"] for result in values["results"] if not result["passed"]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lineer"], "got 'lineer'. There are: ops.embedding"),
        (["ops.relu", "--method", "magic"], "a method is one of differences"),
        (["--seed", "-1"], "a seed is not negative"),
        (["runs/none"], "there is none in runs/none"),
        (["runs/none", "linear"], "a run is verified on its own"),
    ],
)
def test_what_cannot_be_is_one_message(
    verify: Verify, arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = verify(*arguments)
    assert code == 1
    assert message in " ".join(err.split())
    assert err.startswith("Error: ")


def test_a_run_is_proven(verify: Verify, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = tmp_path / "words.txt"
    text.write_text(TEXT)
    start_run([str(text)], tiny(steps=2, warmup=0, eval_every=0, sample_every=0), tmp_path / "words")
    code, out, _ = verify(tmp_path / "words", "--checkpoint", "last")
    assert code == 0
    assert "blocks.2.feed_forward.down.weight" in out
    assert out.splitlines()[1].startswith("run.words ")
    damage(monkeypatch, "gelu", "x", lambda g: -g)
    code, out, _ = verify(tmp_path / "words", "--method", "differences")
    assert code == 1
    assert "FAIL run.words [step 2, best] flat buffer, differences" in out
