"""What tests of the command share: a text, the options of a tiny run, and the command in a shell."""

import os
import subprocess
import sys
from pathlib import Path

TEXT = "The owl and the pussycat went to sea in a beautiful pea green boat.\n" * 40
TINY_SETTINGS = {"context-length": 16, "embed-dim": 16, "num-heads": 2, "num-layers": 1, "batch-size": 4}
TINY = [f"--{name}={value}" for name, value in TINY_SETTINGS.items()]


def environment() -> dict[str, str]:
    """That of a pipe on a plain machine: some build servers ask every program for colors."""
    return {name: value for name, value in os.environ.items() if "COLOR" not in name and name != "GITHUB_ACTIONS"}


def shell(command: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a line of shell in which "$@" is the command."""
    arguments = ["bash", "-c", command, "bash", sys.executable, "-m", "compyute_transformer"]
    return subprocess.run(arguments, cwd=folder, capture_output=True, text=True, env=environment() | variables)


def without_notice(err: str) -> str:
    """Return a standard error without the line that says that kernels are compiled, as they are the first time."""
    return "".join(line for line in err.splitlines(keepends=True) if not line.startswith("Compiling kernels"))
