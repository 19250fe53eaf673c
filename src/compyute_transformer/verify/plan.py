"""What is verified, how some of it is chosen, and how it is carried out.

tasks = choose(everything(seed), ["attention"], ["torch"])
outcome = carry_out(tasks, report)
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from time import perf_counter
from typing import get_args

import numpy as np

from ..dispatch import package_fault
from ..errors import ConfigError, MissingExtraError
from . import models, modules, ops
from .result import Result, Task
from .subject import Subject, tasks
from .tolerances import Method

__all__ = ["METHODS", "NotRun", "Outcome", "carry_out", "choose", "everything", "spelled", "subjects"]


def spelled(method: str) -> str:
    """Return a method as it is written on the command line: one word."""
    return method.replace(" ", "-")


METHODS = tuple(spelled(method) for method in get_args(Method))


@dataclass(frozen=True)
class NotRun:
    """A check that could not begin, and why: it has not passed."""

    name: str
    method: Method
    reason: str


@dataclass
class Outcome:
    """The results of all tasks, and the checks that were not run."""

    results: list[Result] = field(default_factory=list)
    not_run: list[NotRun] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def failures(self) -> list[Result]:
        """Return the results that exceed their tolerance."""
        return [result for result in self.results if not result.passed]

    @property
    def passed(self) -> bool:
        """Say whether something was verified and nothing failed."""
        return bool(self.results) and not self.failures


Report = Callable[[Task, list[Result], list[NotRun]], None]


def subjects(seed: int) -> Iterator[Subject]:
    """Yield everything that is verified."""
    return chain(ops.subjects(seed), modules.subjects(seed), ops.families(seed), models.subjects(seed))


def everything(seed: int) -> list[Task]:
    """Return all checks."""
    return list(tasks(subjects(seed)))


def choose(given: Iterable[Task], filters: Sequence[str] = (), methods: Sequence[str] = ()) -> list[Task]:
    """Return the tasks whose name contains any of the filters, and that use any of the methods; without, all.

    Raises:
        ConfigError: nothing is called so.
    """
    given = list(given)
    wanted = [spelled(method) for method in methods]
    for method in wanted:
        if method not in METHODS:
            raise ConfigError(f"verify: a method is one of {', '.join(METHODS)}, got {method!r}.")
    for text in filters:
        if not any(text.lower() in task.name.lower() for task in given):
            names = ", ".join(dict.fromkeys(task.name for task in given))
            raise ConfigError(
                f"verify: a filter is a part of a name of what can be verified, or the folder of a run, got {text!r}. "
                f"There are: {names}."
            )
    chosen = [task for task in given if not filters or any(text.lower() in task.name.lower() for text in filters)]
    chosen = [task for task in chosen if not wanted or set(map(spelled, task.methods)) & set(wanted)]
    if not chosen:
        raise ConfigError(f"verify: {', '.join(filters)} has no check by {', '.join(wanted)}. Leave one of them out.")
    return chosen


def carry_out(chosen: Iterable[Task], report: Report = lambda task, results, not_run: None) -> Outcome:
    """Verify one task after the other, and report each."""
    began, outcome = perf_counter(), Outcome()
    for task in chosen:
        results, not_run = run_task(task)
        outcome.results += results
        outcome.not_run += not_run
        report(task, results, not_run)
    outcome.seconds = perf_counter() - began
    return outcome


def run_task(task: Task) -> tuple[list[Result], list[NotRun]]:
    """Return a task's results, or why it could not begin."""
    reason = task.absent or (package_fault("cpu") if task.methods == ("kernel",) else None)
    if reason is None:
        try:
            with np.errstate(all="ignore"):  # what a damaged op makes of its numbers is found out by their errors
                return list(task.run()), []
        except MissingExtraError as error:
            reason = str(error)
    return [], [NotRun(task.name, method, reason) for method in task.methods]
