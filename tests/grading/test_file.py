"""`compyute grade FILE`: whatever the file does, the command ends in time with a sentence and no traceback."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from compyute_transformer import cli
from compyute_transformer.errors import InputError
from compyute_transformer.grading import grade_file


class Done(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Done]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command in this process; the file it grades runs in another."""

    def call(*arguments: object) -> Done:
        with pytest.raises(SystemExit) as left:
            cli.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Done(int(left.value.code or 0), captured.out, captured.err)

    return call


def plain(text: str) -> str:
    return " ".join(text.replace("│", " ").split())


RIGHT = """
import numpy as np
def softmax_forward(x):
    y = np.exp(x - x.max(-1, keepdims=True))
    y = y / y.sum(-1, keepdims=True)
    return y, y
def softmax_backward(dy, y):
    return y * (dy - (dy * y).sum(-1, keepdims=True))
"""
WRONG = RIGHT.replace("(dy - (dy * y).sum(-1, keepdims=True))", "dy")


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "answer.py"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_right_file_passes(run: Run, tmp_path: Path) -> None:
    done = run("grade", written(tmp_path, RIGHT))
    assert done.code == 0
    assert done.out == "right   softmax_forward and softmax_backward: y, dx in 3 cases, and finite differences agree\n"


def test_a_hint_comes_first_and_the_answer_on_request(run: Run, tmp_path: Path) -> None:
    path = written(tmp_path, WRONG)
    done = run("grade", path)
    assert done.code == 1
    assert "term    dx: the sum over j of dy y, −y · Σ_j dy_j y_j, is missing" in done.out
    assert "hint    Raise one score" in done.out
    assert "keepdims=True))" not in done.out
    assert "add --answer" in plain(done.err)
    assert "answer  dx = y * (dy - (dy * y).sum(-1, keepdims=True))" in run("grade", path, "--answer").out


def test_json_holds_the_same_and_answers_on_request(run: Run, tmp_path: Path) -> None:
    path = written(tmp_path, "print('hello')\n" + WRONG)
    facts = json.loads(run("grade", path, "--json").out)
    assert facts["passed"] is False
    assert facts["printed"] == "hello\n"
    (grade,) = facts["grades"]
    assert grade["op"] == "softmax"
    assert grade["outputs"] == ["y"]
    assert grade["findings"][0]["mistake"] == "softmax-without-sum"
    assert "answer" not in grade["findings"][0]
    (grade,) = json.loads(run("grade", path, "--json", "--answer").out)["grades"]
    assert grade["findings"][0]["answer"].startswith("dx = y")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("def softmax_forward(x:\n", "answer.py cannot be imported: SyntaxError"),
        (
            "import nothing_of_this_name\n",
            "cannot be imported: ModuleNotFoundError: No module named 'nothing_of_this_name'",
        ),
        ("raise SystemExit\n", "cannot be imported: SystemExit"),
        ("import os; os._exit(7)\n", "the file itself ended the process (exit code 7)"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)\n", "the file itself ended the process"),
        ("x = 1\n", "answer.py defines no function named OP_forward or OP_backward. OP is one of: linear, relu"),
        ("softmax_forward = 3\n", "defines no function named"),
        ("", "defines no function named"),
        ("\0\xff", "cannot be imported"),
        (RIGHT.replace("    y = np", "    import os; os._exit(1)\n    y = np"), "softmax_backward ended the process"),
        ("def softmax_forward(x): return x[0, 0, 0, 0, 0]", "raised IndexError: too many indices"),
        ("def softmax_forward(x):\n    raise BaseException('\\x1b[31m' + 'long ' * 999)", "raised BaseException"),
        ("import numpy as np\ndef softmax_forward(x): return np.empty((1 << 40,)), 0", "MemoryError"),
        ("import random, numpy\ndef softmax_forward(x): return random.random(), 0", "y has shape (), and must have"),
    ],
)
def test_a_file_that_cannot_run_is_said_in_a_sentence(run: Run, tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "random.py").write_text("raise RuntimeError('shadows the standard library')", encoding="utf-8")
    done = run("grade", written(tmp_path, text))
    assert done.code == 1
    assert problem in done.out
    assert "Traceback" not in done.out + done.err
    assert "\x1b" not in done.out
    assert len(done.out) < 3000


@pytest.mark.parametrize(
    "text",
    [
        "while True: pass\n",
        "def softmax_forward(x):\n    while True: pass\n",
        "import subprocess as s, sys\ns.Popen([sys.executable, '-c', 'import time; time.sleep(99)'])\nwhile True: pass",
        "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: pass",
    ],
)
def test_a_file_that_does_not_end_is_ended(run: Run, tmp_path: Path, text: str) -> None:
    before = time.monotonic()
    done = run("grade", written(tmp_path, text), "--seconds", 4)
    assert time.monotonic() - before < 20
    assert done.code == 1
    assert "did not end within 4 seconds" in done.out


def test_what_the_file_prints_is_no_part_of_the_result(run: Run, tmp_path: Path) -> None:
    done = run("grade", written(tmp_path, "print('x' * 100_000)\n" + RIGHT))
    assert done.code == 0
    assert done.out.startswith("right   softmax_forward")
    assert 3000 < done.err.count("x") <= 4100


def test_threads_that_a_file_leaves_running_do_not_keep_it(run: Run, tmp_path: Path) -> None:
    text = "import threading, time\nthreading.Thread(target=time.sleep, args=(600,)).start()\n" + RIGHT
    assert run("grade", written(tmp_path, text), "--seconds", 30).code == 0


def test_one_op_of_several_is_graded(run: Run, tmp_path: Path) -> None:
    path = written(tmp_path, WRONG + "def relu_forward(x): return x * (x > 0)\n")
    assert run("grade", path, "--op", "relu").out == "right   relu_forward: y in 2 cases\n"
    assert "defines no function named gelu_forward" in run("grade", path, "--op", "gelu").out


def test_what_cannot_be_graded_is_refused(run: Run, tmp_path: Path) -> None:
    assert "which is a folder. Give a file in it." in plain(run("grade", tmp_path).err)
    assert "which is missing. Check the path." in plain(run("grade", tmp_path / "none.py").err)
    path = written(tmp_path, RIGHT)
    assert "an op is one of linear, relu" in plain(run("grade", path, "--op", "softmaks").err)
    for seconds in (0.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="seconds is a positive number"):
            grade_file(path, seconds=seconds)
