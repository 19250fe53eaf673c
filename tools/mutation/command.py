"""The checks are verified: two thousand small mistakes are planted in the library, one at a time, and must be noticed.

    scripts/mutate                       some minutes on two cores
    scripts/mutate --file ops/norm.py    one file

    1. `sources` finds the functions: forwards, backwards, and all that they call.
    2. `make` applies every rule of `rules` wherever it applies, one place at a time: the mutants.
    3. `suite` holds the checks. A mutant is killed by the first that does not hold.
    4. `probes` decide about mutants that no check kills: equivalent, if outputs and gradients agree on inputs of
       every kind, none of which the checks use; else the mutant survived, and counts against the checks.
    5. `rewrites` plants functions that are written differently and compute the same: no check may refuse them.

The kill rate is killed / (killed + survived): an equivalent mutant changes nothing that anyone could see. The exit
status is 1 if the rate is below 99%, if a rewrite is refused, or if a check fails with no mutant about.
"""

import argparse
import os
import random
import sys
import time
from collections.abc import Iterator, Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

from .evaluator import Evaluator, Status
from .make import make_mutants
from .report import Outcome, print_report, write_csv
from .rewrites import make_rewrites
from .sources import find_targets

__all__ = ["Worker", "main", "run"]

R = TypeVar("R")

ONE_THREAD = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
RESULTS = Path("benchmarks/results/mutants.csv")


class Worker:
    """Mutants, rewrites and an evaluator. Each process makes its own, and they are the same in all."""

    def __init__(self, seed: int, file: str = "", held_back: bool = False) -> None:
        targets = [target for target in find_targets() if file in target.file]
        self.mutants = [mutant for target in targets for mutant in make_mutants(target, held_back)]
        self.rewrites = list(make_rewrites(targets))
        self.evaluator = Evaluator(seed)
        self.faults = self.evaluator.prepare(targets)

    def status(self, index: int) -> tuple[int, Status]:
        """Return the status of a mutant."""
        return index, self.evaluator.evaluate(self.mutants[index])

    def refusal(self, index: int) -> tuple[int, str | None]:
        """What the check says that refuses a rewrite; None when all accept it."""
        rewrite = self.rewrites[index]
        killer = self.evaluator.killer(rewrite.target, rewrite.code, rewrite.target.lines)
        return index, None if killer is None else f"{killer[0].kind}: {killer[0].name}: {killer[1].text}"


# --- processes -------------------------------------------------------------------------------------------------------

_worker: Worker  # of a process that evaluates


def _start(seed: int, file: str, held_back: bool) -> None:
    global _worker
    _worker = Worker(seed, file, held_back)


def _status(index: int) -> tuple[int, Status]:
    return _worker.status(index)


def _refusal(index: int) -> tuple[int, str | None]:
    return _worker.refusal(index)


def run(seed: int = 0, jobs: int = 1, file: str = "", sample: int | None = None, held_back: bool = False) -> Outcome:
    """Evaluate all mutants of the files whose name contains `file`, or a sample of so many, and all rewrites.

    held_back: the mutants of the rule that was held back, instead of those of all others.
    The same for the same seed, however many processes (jobs) share the work.
    """
    targets = [target for target in find_targets() if file in target.file]
    mutants = [mutant for target in targets for mutant in make_mutants(target, held_back)]
    rewrites = list(make_rewrites(targets))
    chosen = list(range(len(mutants)))
    if sample is not None and sample < len(chosen):
        chosen = sorted(random.Random(seed).sample(chosen, sample))
    os.environ.update(dict.fromkeys(ONE_THREAD, "1"))  # read by the processes we start: their arrays are small
    with get_context("spawn").Pool(jobs, _start, (seed, file, held_back)) as pool:
        faults = pool.apply(_faults)
        refusals = dict(_counted(pool.imap_unordered(_refusal, range(len(rewrites))), len(rewrites), "rewrites"))
        statuses = dict(_counted(pool.imap_unordered(_status, chosen, chunksize=4), len(chosen), "mutants"))
    return Outcome(
        [(mutants[index], statuses[index]) for index in chosen],
        len(rewrites),
        [(rewrites[index], why) for index, why in sorted(refusals.items()) if why is not None],
        faults,
    )


def _faults() -> list[str]:
    return _worker.faults


def _counted(results: Iterator[R], total: int, what: str) -> Iterator[R]:
    """Yield the results as they come; every few seconds one line says how far they are."""
    last = time.monotonic()
    for number, result in enumerate(results, start=1):
        yield result
        if time.monotonic() - last > 10.0:
            last = time.monotonic()
            print(f"{number} of {total} {what} evaluated", file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns its exit status."""
    parser = argparse.ArgumentParser(prog="scripts/mutate", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seed", type=int, default=0, help="of the probes, and of the sample (0)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (one a core)")
    parser.add_argument("--file", default="", help="only files whose name contains this, such as ops/norm.py")
    parser.add_argument("--sample", type=int, help="evaluate only so many mutants, drawn at random")
    parser.add_argument("--held-back", action="store_true", help="by the rule that was held back: one name for another")
    parser.add_argument("--csv", type=Path, help=f"write every status to this file ({RESULTS} is the committed one)")
    given = parser.parse_args(arguments)
    if not any(given.file in target.file for target in find_targets()):
        parser.error(f"--file is part of the name of a file whose functions are mutated, got {given.file!r}")
    started = time.monotonic()
    outcome = run(given.seed, given.jobs, given.file, given.sample, given.held_back)
    seconds = time.monotonic() - started
    print_report(outcome, seconds)
    if given.csv is not None:
        write_csv(given.csv, outcome, given.seed, seconds)
    return 0 if outcome.passed else 1


if __name__ == "__main__":
    sys.exit(main())
