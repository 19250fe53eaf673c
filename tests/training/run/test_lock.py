import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from compyute_transformer.errors import RunError
from compyute_transformer.training.run import lock

SCRIPT = """
import sys, time
from pathlib import Path
from compyute_transformer.training.run import lock
with lock.hold(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_another_process_is_kept_out_until_a_kill_frees_the_run(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with (
            pytest.raises(RunError, match=f"another process is training {tmp_path}. Wait for it, or choose"),
            lock.hold(tmp_path),
        ):
            pytest.fail("two hold it")
        other.kill()
    with lock.hold(tmp_path):
        pass
    assert os.listdir(tmp_path) == []


def test_an_error_frees_the_run(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), lock.hold(tmp_path):
        raise ZeroDivisionError
    with lock.hold(tmp_path), pytest.raises(RunError), lock.hold(tmp_path):
        pytest.fail("held twice")


def test_a_file_system_without_locks_supports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError("no locks here")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with lock.hold(tmp_path), lock.hold(tmp_path):
        pass
