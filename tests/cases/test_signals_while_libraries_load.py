"""Ctrl-C while libraries load ends the command with one line and exit code 130.

From the first thing that `main` does: however slow the machine is, a signal finds a handler.
"""

import subprocess
import sys
from pathlib import Path

import pytest
from command_helpers import TEXT, TINY

RUN = f"main(['train', 'owl.txt', '--steps', '1000000', *{TINY}])"
CODE = """
import os, signal, sys, threading; from compyute_transformer.cli import main
class Watcher:  # of the imports from the first on that `main` makes
    imports = 0
    def find_spec(self, *_):
        self.imports += 1
        {watch}
def send():
    os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Watcher())
"""


def interrupted(watch: str, folder: Path) -> None:
    (folder / "owl.txt").write_text(TEXT)
    command = [sys.executable, "-c", CODE.format(watch=watch) + RUN]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 2


@pytest.mark.parametrize("delay", [0.02, 0.1, 0.3, 0.8])
def test_a_signal_while_libraries_load_ends_without_a_traceback(tmp_path: Path, delay: float) -> None:
    interrupted(f"if self.imports == 1: threading.Timer({delay}, send).start()", tmp_path)


@pytest.mark.parametrize("number", [1, 2, 5, 20, 100, 300])
def test_a_signal_at_any_import_from_the_first_on_ends_without_a_traceback(tmp_path: Path, number: int) -> None:
    interrupted(f"if self.imports == {number}: send()", tmp_path)


def test_hardly_anything_loads_before_the_command_can_be_interrupted() -> None:
    """What loads before `main` is entered is not under its protection."""
    code = "import sys; before = set(sys.modules); import compyute_transformer.cli; print(*set(sys.modules) - before)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert [name for name in loaded if not name.startswith("compyute_transformer")] == []
