"""Processes that train together: how the command starts them, and which of them speaks.

`mpiexec -n 4 compyute train ...` and `compyute train --processes 4 ...` are the same.
"""

import io
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from ..environment.launcher import abort, find_mpiexec, rank, started_together
from ..errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    from ..training.settings.settings import TrainingSettings

__all__ = ["alone_or_first", "launch", "leaves_for"]

SHELL = 128  # a shell adds the number of a signal to it
SIGNALS = ("SIGKILL", "SIGSEGV", "SIGBUS", "SIGABRT", "SIGTERM")
KILLED = [getattr(signal, name) for name in SIGNALS if hasattr(signal, name)]
PATIENCE = 1.0  # seconds that process 0 has to say what all processes would say


@contextmanager
def alone_or_first() -> Iterator[None]:
    """Let process 0 alone print, and end all processes where one of them fails, within a `with` block.

    An error that all processes meet is said by process 0; one that only another process meets is said by that one.
    """
    number = rank() if started_together() > 1 else 0
    streams = sys.stdout, sys.stderr
    if number:
        sys.stdout, sys.stderr = open(os.devnull, "w", encoding="utf-8"), io.StringIO()  # noqa: SIM115
    try:
        yield
    except SystemExit as leave:
        if leave.code not in (0, None):
            _fail(number, streams[1])
        raise
    except BaseException:
        if started_together() > 1:  # the others are ended before Python would print it
            traceback.print_exc()
        _fail(number, streams[1])
        raise
    finally:
        sys.stdout, sys.stderr = streams


def _fail(number: int, stream: TextIO) -> None:
    """Say why a process other than 0 has failed, unless process 0 has ended all of them before."""
    if number:
        time.sleep(PATIENCE)
        text = sys.stderr.getvalue().strip() if isinstance(sys.stderr, io.StringIO) else ""
        print(f"Process {number}: {text or 'failed.'}", file=stream, flush=True)
    abort()


def launch(processes: int, run: Path) -> int:
    """Start this command again in several processes, wait for them, and return the exit code.

    run: the folder of the run. Where one of the processes was killed, which ends all, say how the run goes on.

    Raises:
        MissingExtraError: there is no mpiexec.
    """
    launcher = find_mpiexec()
    if launcher is None:
        raise MissingExtraError(
            "train: --processes needs mpiexec and mpi4py: pip install 'compyute-transformer[parallel]'"
        )
    command = [launcher, "-n", str(processes), sys.executable, "-m", "compyute_transformer", *_arguments()]
    code = subprocess.call(command)
    number = code - SHELL if code > SHELL else code
    if number in KILLED:
        name = signal.Signals(number).name
        print(
            f"train: one of {processes} processes was ended by {name}, which ended all. {_next(run, processes)}",
            file=sys.stderr,
        )
    return code


def _next(run: Path, processes: int) -> str:
    """Say how a run goes on that was ended from outside."""
    from ..training.run import checkpoint

    if not (steps := checkpoint.steps(run)):
        return f"There is no checkpoint in {run} yet: start it again."
    return f"Continue from step {steps[-1]:,}: {checkpoint.resume_command(run, f'--processes {processes}')}"


def _arguments() -> list[str]:
    """Return the arguments of this command without --processes."""
    kept, given = [], iter(sys.argv[1:])
    for argument in given:
        if argument == "--processes":
            next(given, None)
        elif not argument.startswith("--processes="):
            kept.append(argument)
    return kept


def leaves_for(settings: "TrainingSettings", processes: int) -> int:
    """Return the fewest leaves of a batch that some processes can share.

    Raises:
        ConfigError: no number of leaves divides the batch so.
    """
    for leaves in range(1, settings.batch_size + 1):
        each, rest = divmod(settings.accumulation * leaves, processes)
        if settings.batch_size % leaves == 0 and rest == 0 and each & (each - 1) == 0:
            return leaves
    raise ConfigError(
        f"train: {processes} processes share batch_size · accumulation examples, each 1, 2, 4, 8, ... equal parts of "
        f"them, got {settings.batch_size} · {settings.accumulation}. Choose a batch size of which {processes} is a "
        "factor."
    )
