"""`compyute verify`: choose what to verify, verify it, and report the results."""

import sys
from collections.abc import Sequence
from typing import IO

from ..arrays import Device, gpu_fault
from ..errors import BackendError, ConfigError
from ..training.run.checkpoint import Which
from .plan import Outcome, carry_out, choose, everything, spelled
from .result import Task
from .runs import is_run, tasks_of_run
from .table import TableReport, to_json

__all__ = ["verify"]

GPU_METHODS = ("device", "kernel")


def verify(
    what: Sequence[str] = (),
    methods: Sequence[str] = (),
    seed: int = 0,
    json: bool = False,
    which: Which = "best",
    device: Device = "cpu",
    stream: IO[str] | None = None,
) -> Outcome:
    """Verify what is named, and print the results.

    what: parts of names, or the folder of one run; without, everything of the library. json: print one JSON object
    instead of a table. which: the checkpoint of a run. device: "cuda" carries out the checks of a GPU alone: kernels
    and references there beside the references on a CPU.

    Raises:
        BackendError: there is no GPU to verify. ConfigError: nothing has such a name. What `load_run` raises about a
        run.
    """
    if seed < 0:
        raise ConfigError(f"verify: a seed is not negative, got {seed}.")
    if device == "cuda":
        if other := [method for method in methods if spelled(method) not in GPU_METHODS]:
            raise ConfigError(
                f"verify: on 'cuda' a method is one of {', '.join(GPU_METHODS)}, got {', '.join(other)}. Leave out "
                "--method or --device."
            )
        if fault := gpu_fault():
            raise BackendError(f"verify: nothing can be verified on 'cuda'. {fault}.")
        methods = methods or GPU_METHODS
    tasks = plan(what, methods, seed, which)
    stream = stream or sys.stdout
    if json:
        outcome = carry_out(tasks)
        print(to_json(outcome, seed=seed), file=stream)
        return outcome
    report = TableReport(tasks, stream)
    try:
        outcome = carry_out(tasks, report.report)
    finally:
        report.close()
    report.conclude(outcome)
    return outcome


def plan(what: Sequence[str], methods: Sequence[str], seed: int, which: Which) -> list[Task]:
    """Return the tasks that are asked for."""
    runs = [text for text in what if is_run(text)]
    if not runs:
        if which != "best":
            raise ConfigError(
                f"verify: --checkpoint chooses between those of a run, got {which} and no run. Leave it out, or give "
                "the folder of a run."
            )
        return choose(everything(seed), what, methods)
    if len(what) > 1:
        raise ConfigError(f"verify: a run is verified on its own, without filters, got {', '.join(what)}.")
    return choose(tasks_of_run(runs[0], which, seed), (), methods)
