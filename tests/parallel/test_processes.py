"""`mpiexec -n 4 compyute train`: real processes give the same bits as one, whatever happens to them.

`COMPYUTE_KILLS=10` kills ten times, `COMPYUTE_SEED` at other moments.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest
from command_helpers import TEXT, TINY, environment

from compyute_transformer.cli.processes import launch, leaves_for
from compyute_transformer.environment.launcher import find_mpiexec
from compyute_transformer.errors import ConfigError
from compyute_transformer.training.settings.settings import TrainingSettings

MPIEXEC = find_mpiexec()
COMMAND = (sys.executable, "-m", "compyute_transformer", "train")
QUICK = ("--kernels=reference", "--steps=6", "--dropout=0.2", "--clip=0.5", "--threads=1")
CLOCK = ("seconds", "rate")
KILLS = int(os.environ.get("COMPYUTE_KILLS", "2"))

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="MPICH has no package for Windows")


def started(processes: int, *arguments: str) -> list[str]:
    assert MPIEXEC is not None, "pip install 'compyute-transformer[parallel]'"
    return [MPIEXEC, "-n", str(processes), *COMMAND, *arguments]


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment(), timeout=300)


def digest(run: Path) -> str:
    """Return that of the last weights, of the optimizer, and of the log without its clock."""
    last = max((run / "checkpoints").iterdir())
    arrays = b"".join((last / f"{name}.safetensors").read_bytes() for name in ("model", "optimizer"))
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    told = [{key: value for key, value in record.items() if key not in CLOCK} for record in log]
    return sha256(arrays + json.dumps(told).encode()).hexdigest()


@pytest.fixture
def text(tmp_path: Path) -> str:
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    return "text.txt"


OPTIONS = ("text.txt", *TINY, "--accumulation=2", "--leaves=2", "--eval-every=3")


def test_runs_killed_at_random_moments_resume_with_other_numbers_of_processes_to_the_same_bits(
    text: str, tmp_path: Path
) -> None:
    rng = random.Random(os.environ.get("COMPYUTE_SEED", "kill"))
    options = [*OPTIONS, *QUICK, "--steps=60", "--checkpoint-every=2"]
    done = run(started(1, *options, "--out=whole"), tmp_path)
    assert done.returncode == 0, done.stderr
    arguments, killed = [*options, "--out=killed"], 0
    for size in [rng.choice((4, 2)) for _ in range(KILLS)]:
        job = background(started(size, *arguments), tmp_path)
        after = rng.randint(1, 60 // (KILLS + 1)) + last_step(tmp_path / "killed")
        wait_until(lambda after=after: last_step(tmp_path / "killed") >= after, job)  # type: ignore[misc]
        time.sleep(rng.uniform(0.0, 0.05))
        victim = rng.randrange(size)
        pids = [pid for pid in children(job.pid) if environ(pid).get("PMI_RANK") == str(victim)]
        if pids and job.poll() is None:
            os.kill(pids[0], signal.SIGKILL)
            killed += 1
        job.communicate(timeout=60)
        arguments = ["--resume=killed", "--kernels=reference"]
    assert killed == KILLS
    assert last_step(tmp_path / "killed") < 60
    done = run(started(rng.choice((1, 2, 4)), *arguments), tmp_path)
    assert done.returncode == 0, done.stderr
    assert digest(tmp_path / "killed") == digest(tmp_path / "whole")


def last_step(run: Path) -> int:
    """Return the step of the last checkpoint."""
    folder = run / "checkpoints"
    names = [path.name for path in folder.iterdir()] if folder.exists() else []
    return max([int(name[5:]) for name in names if name.startswith("step-")], default=0)


def background(command: list[str], folder: Path) -> "subprocess.Popen[bytes]":
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, env=environment(), stdout=pipe, stderr=pipe)


def test_a_process_that_hangs_ends_the_job_after_the_timeout_with_the_command_that_resumes(
    text: str, tmp_path: Path
) -> None:
    options = [*OPTIONS, *QUICK, "--steps=100000", "--checkpoint-every=5", "--out=hung", "--timeout=2"]
    job = background(started(2, *options), tmp_path)
    wait_until(lambda: last_step(tmp_path / "hung") >= 5, job)
    victim = next(pid for pid in children(job.pid) if environ(pid).get("PMI_RANK") == "1")
    os.kill(victim, signal.SIGSTOP)
    _, err = job.communicate(timeout=60)
    assert job.returncode != 0
    assert "has not answered process 0 for 2 s" in " ".join(err.decode().split())
    assert "compyute train --resume" in err.decode()


def wait_until(ready: Callable[[], bool], job: "subprocess.Popen[bytes]") -> None:
    end = time.monotonic() + 120
    while not ready():
        assert job.poll() is None, job.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)


def children(process: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if parent == process:
                found += [int(entry.name), *children(int(entry.name))]
    return found


def environ(process: int) -> dict[str, str]:
    try:
        entries = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
    except OSError:
        return {}
    return dict(entry.decode(errors="replace").partition("=")[::2] for entry in entries)


def test_processes_that_differ_refuse_to_start(text: str, tmp_path: Path) -> None:
    assert MPIEXEC is not None
    common = [*COMMAND, *OPTIONS, *QUICK, "--out=run"]
    done = run([MPIEXEC, "-n", "1", *common, ":", "-n", "1", *common, "--seed=1"], tmp_path)
    assert done.returncode != 0
    assert "all processes must have the same settings" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_an_error_is_said_once_and_ends_all(text: str, tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "config.json").write_text("{}")
    done = run(started(4, *OPTIONS, *QUICK, "--out=run"), tmp_path)
    assert done.returncode != 0
    assert done.stderr.count("a new run needs a folder without one") == 1
    assert "Traceback" not in done.stderr


def test_a_killed_process_is_told_with_the_command_that_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, codes = tmp_path / "my run", {9: "SIGKILL", 139: "SIGSEGV", 1: "", 0: "", 2: "", 130: ""}
    for checkpoints in (False, True):
        if checkpoints:
            (folder / "checkpoints" / "step-00001234").mkdir(parents=True)
        for code, name in codes.items():
            monkeypatch.setattr(subprocess, "call", lambda command, code=code: code)
            assert launch(4, folder) == code
            told = capsys.readouterr().err
            assert (
                told.startswith(f"train: one of 4 processes was ended by {name}, which ended all. ")
                if name
                else not told
            )
            if name and checkpoints:
                assert told.endswith(f"Continue from step 1,234: compyute train --resume '{folder}' --processes 4\n")
            elif name:
                assert told.endswith("yet: start it again.\n")


def test_the_command_starts_processes_and_finds_the_leaves(text: str, tmp_path: Path) -> None:
    options = ["text.txt", *TINY, *QUICK, "--kernels=auto"]
    done = run([*COMMAND, *options, "--processes=2", "--out=two"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Next:") == 1, "only process 0 prints"
    assert run([*COMMAND, *options, "--leaves=2", "--out=one"], tmp_path).returncode == 0
    assert digest(tmp_path / "one") == digest(tmp_path / "two")


@pytest.mark.parametrize(
    ("batch", "accumulation", "processes", "leaves"),
    [(8, 1, 4, 4), (8, 2, 4, 2), (8, 4, 4, 1), (12, 1, 3, 3), (12, 3, 2, 4)],
)
def test_the_fewest_leaves_that_processes_can_share(batch: int, accumulation: int, processes: int, leaves: int) -> None:
    settings = TrainingSettings(batch_size=batch, accumulation=accumulation)
    if (batch, accumulation) == (12, 3):
        with pytest.raises(ConfigError, match="2 processes share"):
            leaves_for(settings, processes)
    else:
        assert leaves_for(settings, processes) == leaves
