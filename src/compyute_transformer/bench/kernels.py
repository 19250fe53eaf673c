"""Kernels: measure what each kind of kernel gains in a training step.

The first version of the step runs the references only. Each further version adds the kernels of some files, so that the
difference of two neighbors is what these kernels gain. All versions take turns in one run.
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

__all__ = ["VERSIONS", "bench_kernels"]

# What each version adds to the one before, and the files of these kernels. The last version adds no kernel: it recycles
# large arrays instead of mapping and zeroing them anew.
VERSIONS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("references", ()),
    ("linear, addition", ("linear", "addition")),
    ("attention", ("attention", "multi_head")),
    ("activation", ("activation",)),
    ("norm", ("norm",)),
    ("dropout", ("dropout",)),
    ("loss, embedding", ("loss", "embedding")),
    ("adamw", ("adamw",)),
    ("recycled memory", ()),
)
LAST = len(VERSIONS) - 1


def bench_kernels(size: str = "shakespeare", overrides: Mapping[str, object] | None = None, rounds: int = 5) -> Report:
    """Time each version of the step. "× faster" is the time of the version before, divided by that of the version."""
    work = workload(size, overrides)
    environment, warnings = survey()
    report = Report(f"What the kernels gain in a training step, {size}", environment, "ms", warnings=warnings)
    step = OurStep(work)
    candidates = [
        Candidate("compyute", f"{version}: {name}", partial(_run, version, step))
        for version, (name, _) in enumerate(VERSIONS)
    ]
    times = alternate(candidates, rounds, warm_up=1)
    previous: list[float] | None = None
    for candidate, seconds in times.items():
        spread = Spread.of(seconds).map(lambda second: second * 1e3)
        report.results.append(Result.median("kernels", candidate, spread, "ms", work.shape))
        if previous is not None:
            gain = ratio(previous, seconds)
            report.results.append(Result.median("kernels", candidate, gain, "× faster", work.shape))
        previous = seconds
    return report


def _run(version: int, step: OurStep) -> float:
    """Take a step with the kernels of a version and return its loss."""
    files = [file for _, added in VERSIONS[: version + 1] for file in added]
    with only_kernels_of(*files), _recycling(version == LAST):
        return step()


@contextmanager
def _recycling(on: bool) -> Iterator[None]:
    """Within a `with` block, recycle the large arrays of kernels or do not."""
    buffers: Any = import_module(".cpu._buffers", __package__.rpartition(".")[0])  # by name, as `dispatch` does
    smallest = buffers.SMALLEST
    buffers.SMALLEST = smallest if on else 1 << 62
    try:
        yield
    finally:
        buffers.SMALLEST = smallest
