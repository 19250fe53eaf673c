"""Ladder: what each kind of kernel gains in a step of training, rung by rung.

The first rung runs the references only. Each further one adds the kernels of some files to those below it, so that
the difference of two neighbors is what these kernels gain. All rungs take turns in one run.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from typing import Any

from ..dispatch import only_kernels_of
from ..environment.conditions import survey
from .candidates import Candidate, Report, Result, Spread, alternate, ratio
from .workload import OurStep, workload

__all__ = ["RUNGS", "bench_ladder"]

# What a rung adds to the one below, and the files whose kernels it brings. The last brings no kernel: large arrays are
# recycled instead of being mapped and zeroed anew.
RUNGS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("references", ()),
    ("linear", ("linear",)),
    ("attention", ("attention", "multi_head")),
    ("activation", ("activation",)),
    ("norm", ("norm",)),
    ("dropout", ("dropout",)),
    ("loss, embedding", ("loss", "embedding")),
    ("adamw", ("adamw",)),
    ("recycled memory", ()),
)
TOP = len(RUNGS) - 1


def bench_ladder(size: str = "shakespeare", overrides: Mapping[str, object] | None = None, rounds: int = 5) -> Report:
    """Time a step on each rung; "× faster": the time of the rung below divided by that of the rung, round by round."""
    work = workload(size, overrides)
    ground, warnings = survey()
    report = Report(f"The ladder, {size}", ground, "ms", warnings=warnings)
    step = OurStep(work)
    candidates = [
        Candidate("compyute", f"{rung}: {name}", partial(_on, rung, step)) for rung, (name, _) in enumerate(RUNGS)
    ]
    raced = alternate(candidates, rounds, warm_up=1)
    previous: list[float] | None = None
    for candidate, seconds in raced.items():
        spread = Spread.of(seconds).map(lambda second: second * 1e3)
        report.results.append(Result.median("ladder", candidate, spread, "ms", work.shape))
        if previous is not None:
            gain = ratio(previous, seconds)
            report.results.append(Result.median("ladder", candidate, gain, "× faster", work.shape))
        previous = seconds
    return report


def _on(rung: int, step: OurStep) -> float:
    """A step on a rung; its loss."""
    words = [word for _, added in RUNGS[: rung + 1] for word in added]
    with only_kernels_of(*words), _recycling(rung == TOP):
        return step()


@contextmanager
def _recycling(on: bool) -> Iterator[None]:
    """Within a `with` block, whether large arrays of kernels are recycled."""
    buffers: Any = import_module(".cpu._buffers", __package__.rpartition(".")[0])  # by name, as `backend` finds kernels
    smallest = buffers.SMALLEST
    buffers.SMALLEST = smallest if on else 1 << 62
    try:
        yield
    finally:
        buffers.SMALLEST = smallest
