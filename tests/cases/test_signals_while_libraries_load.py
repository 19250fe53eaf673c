"""Ctrl-C while libraries load ends the command with one line and exit code 130."""

import subprocess
import sys
from pathlib import Path

import pytest
from command_helpers import TEXT, TINY


@pytest.mark.parametrize("delay", [0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8])
def test_a_signal_while_libraries_load_ends_without_a_traceback(tmp_path: Path, delay: float) -> None:
    (tmp_path / "owl.txt").write_text(TEXT)
    code = (
        "import os, signal, threading; from compyute_transformer.cli import main;"
        f"threading.Timer({delay}, os.kill, (os.getpid(), signal.SIGINT)).start();"
        f"main(['train', 'owl.txt', '--steps', '1000000', *{TINY}])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 130
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 2
