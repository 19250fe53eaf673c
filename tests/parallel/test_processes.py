"""`mpiexec -n 4 compyute train`: real processes give the same bits as one, whatever happens to them."""

import json
import os
import signal
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path

import pytest
from command_helpers import TEXT, TINY, environment

from compyute_transformer.cli.processes import leaves_for
from compyute_transformer.environment.launcher import find_mpiexec
from compyute_transformer.errors import ConfigError
from compyute_transformer.training.settings.settings import TrainingSettings

MPIEXEC = find_mpiexec()
COMMAND = (sys.executable, "-m", "compyute_transformer", "train")
QUICK = ("--kernels=reference", "--steps=6", "--dropout=0.2", "--clip=0.5", "--threads=1")
CLOCK = ("seconds", "rate")

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


SMALL = ("--batch-size=8", "--leaves=4", "--embed-dim=16", "--num-heads=2", "--num-layers=1", "--eval-every=6")
TASKS = {
    "text": ("text.txt", *TINY, "--accumulation=2", "--leaves=2", "--eval-every=3"),
    "pairs": ("--task=dates", *SMALL),
    "images": ("--task=digits", *SMALL),
}


@pytest.mark.parametrize("task", TASKS)
def test_one_two_and_four_processes_give_the_same_bits(task: str, text: str, tmp_path: Path) -> None:
    counts = (1, 2, 4) if task == "text" else (1, 4)
    for processes in counts:
        done = run(started(processes, *TASKS[task], *QUICK, f"--out=run{processes}"), tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("Next:") == 1, "only process 0 prints"
    digests = {digest(tmp_path / f"run{processes}") for processes in counts}
    assert len(digests) == 1


def test_kernels_give_the_same_bits_too(text: str, tmp_path: Path) -> None:
    options = [*TASKS["text"], *QUICK, "--kernels=auto"]
    for processes in (1, 2):
        assert run(started(processes, *options, f"--out=run{processes}"), tmp_path).returncode == 0
    assert digest(tmp_path / "run1") == digest(tmp_path / "run2")


def test_a_killed_run_resumes_with_another_number_of_processes_to_the_same_bits(text: str, tmp_path: Path) -> None:
    options = [*TASKS["text"], *QUICK, "--steps=60", "--checkpoint-every=5"]
    assert run(started(1, *options, "--out=whole"), tmp_path).returncode == 0
    job = subprocess.Popen(
        started(4, *options, "--out=killed"),
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    wait_for(tmp_path / "killed" / "checkpoints" / "step-00000005", job)
    victim = next(pid for pid in children(job.pid) if environ(pid).get("PMI_RANK") == "2")
    os.kill(victim, signal.SIGKILL)
    assert job.wait(timeout=60) != 0
    job.communicate()
    steps = max(path.name for path in (tmp_path / "killed" / "checkpoints").iterdir() if path.name.startswith("step"))
    assert steps < "step-00000060"
    done = run(started(2, "--resume=killed", "--kernels=reference"), tmp_path)
    assert done.returncode == 0, done.stderr
    assert digest(tmp_path / "killed") == digest(tmp_path / "whole")


def test_a_process_that_hangs_ends_the_job_after_the_timeout_with_the_command_that_resumes(
    text: str, tmp_path: Path
) -> None:
    options = [*TASKS["text"], *QUICK, "--steps=100000", "--checkpoint-every=5", "--out=hung", "--timeout=2"]
    command, pipe = started(2, *options), subprocess.PIPE
    job = subprocess.Popen(command, cwd=tmp_path, env=environment(), stdout=pipe, stderr=pipe)
    wait_for(tmp_path / "hung" / "checkpoints" / "step-00000005", job)
    victim = next(pid for pid in children(job.pid) if environ(pid).get("PMI_RANK") == "1")
    os.kill(victim, signal.SIGSTOP)
    _, err = job.communicate(timeout=60)
    assert job.returncode != 0
    assert "has not answered process 0 for 2 s" in " ".join(err.decode().split())
    assert "compyute train --resume" in err.decode()


def wait_for(path: Path, job: "subprocess.Popen[bytes]") -> None:
    end = time.monotonic() + 120
    while not path.exists():
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
    common = [*COMMAND, *TASKS["text"], *QUICK, "--out=run"]
    done = run([MPIEXEC, "-n", "1", *common, ":", "-n", "1", *common, "--seed=1"], tmp_path)
    assert done.returncode != 0
    assert "all processes must have the same settings" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_an_error_is_said_once_and_ends_all(text: str, tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "config.json").write_text("{}")
    done = run(started(4, *TASKS["text"], *QUICK, "--out=run"), tmp_path)
    assert done.returncode != 0
    assert done.stderr.count("a new run needs a folder without one") == 1
    assert "Traceback" not in done.stderr


def test_the_command_starts_processes_and_finds_the_leaves(text: str, tmp_path: Path) -> None:
    options = ["text.txt", *TINY, *QUICK]
    done = run([*COMMAND, *options, "--processes=2", "--out=two"], tmp_path)
    assert done.returncode == 0, done.stderr
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
