"""Startup: measure the import and the first training step, with and without a cache of compiled kernels.

Each run is a new process: the first with an empty cache, the others with the cache that it filled.
"""

import json
import os
import subprocess
import sys
from tempfile import TemporaryDirectory

from ..environment.conditions import survey
from ..errors import CompyuteError
from .candidates import Report, Result, Spread

__all__ = ["bench_startup"]

# Times are taken around the import, so this cannot be a module of the package.
CHILD = """
import json, sys
from time import perf_counter
began = perf_counter()
import compyute_transformer
imported = perf_counter()
from compyute_transformer.bench.workload import OurStep, workload
step = OurStep(workload(sys.argv[1]))
built = perf_counter()
step()
first = perf_counter()
step()
second = perf_counter()
print(json.dumps({"startup: import": imported - began, "startup: first step": first - built,
                  "startup: second step": second - first}))
"""


def bench_startup(size: str = "cpu", rounds: int = 5) -> Report:
    """Return the seconds of the import and of the first and second step, with an empty cache and with a full one."""
    environment, warnings = survey()
    report = Report(f"Startup: import and first step, {size}", environment, "s", warnings=warnings)
    with TemporaryDirectory() as cache:
        cold = _run(size, cache)
        warm = [_run(size, cache) for _ in range(rounds)]
    for what in cold:
        report.results.append(Result(what, "compyute", "empty cache", cold[what], "s", size))
        spread = Spread.of([times[what] for times in warm])
        report.results.append(Result(what, "compyute", "full cache", spread.p50, "s", size, spread))
    return report


def _run(size: str, cache: str | None) -> dict[str, float]:
    """Return the times of one process. cache: the folder of its compiled kernels; None for the default folder."""
    environment = os.environ | ({} if cache is None else {"NUMBA_CACHE_DIR": cache})
    done = subprocess.run([sys.executable, "-c", CHILD, size], env=environment, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise CompyuteError(f"bench startup: the process that takes the first step failed: {last}.")
    times: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return times
