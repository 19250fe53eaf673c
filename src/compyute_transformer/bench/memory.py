"""Memory: measure the peak memory of a piece of work, in a process that does nothing else.

    peak_memory("step:run_alone", size="cpu", mode="eager") -> bytes

This file is also the program of that process: it runs the function and prints the peak.
"""

import json
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from ..errors import CompyuteError

__all__ = ["NO_PEAK", "of_this_process", "peak_memory"]

NO_PEAK = "The peak of a process's memory says nothing of a GPU's, so it was left out."


def peak_memory(target: str, **arguments: Any) -> int | None:
    """Return the peak resident memory in bytes of "MODULE:FUNCTION" of this package, called with plain values.

    The whole process is counted, with Python and its libraries. Return None where the system does not tell.
    """
    command = [sys.executable, "-m", f"{__package__}.memory", target, json.dumps(arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise CompyuteError(
            f"peak_memory: the process that runs {target} failed: {last}. "
            "If it was killed, there is not enough memory: choose a smaller size, or --no-memory."
        )
    peak: int | None = json.loads(done.stdout.splitlines()[-1])
    return peak


def of_this_process() -> int | None:
    """Return the peak resident memory of this process so far, in bytes."""
    if sys.platform == "linux":  # getrusage would count what the process was before it became this program
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
        return int(found[1]) * 1024 if found else None
    if sys.platform == "darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return None


def main(target: str, arguments: str) -> None:
    """Run one function and print the peak memory."""
    module, function = target.split(":")
    getattr(import_module(f"{__package__}.{module}"), function)(**json.loads(arguments))
    print(json.dumps(of_this_process()))


if __name__ == "__main__":
    main(*sys.argv[1:])
