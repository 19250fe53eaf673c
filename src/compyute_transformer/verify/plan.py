"""What is verified, how some of it is chosen, and how it is carried out.

tasks = choose(everything(seed), ["attention"], ["torch"])
outcome = carry_out(tasks, report)
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from time import perf_counter
from typing import get_args

import numpy as np

from ..dispatch import package_fault
from ..errors import ConfigError, MissingExtraError
from . import implementations, models, modules, ops
from .result import Result, Task
from .tolerances import Method

__all__ = ["METHODS", "NotRun", "Outcome", "carry_out", "choose", "everything", "spelled"]


def spelled(method: str) -> str:
    """A method as it is written on the command line: one word."""
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
    """What was found."""

    results: list[Result] = field(default_factory=list)
    not_run: list[NotRun] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def failures(self) -> list[Result]:
        """What broke its limit."""
        return [result for result in self.results if not result.passed]

    @property
    def passed(self) -> bool:
        """Whether something was verified and nothing failed."""
        return bool(self.results) and not self.failures


Report = Callable[[Task, list[Result], list[NotRun]], None]


def everything(seed: int, examples: dict[str, list[ops.Example]] | None = None) -> list[Task]:
    """All checks. examples: those of the ops, if they were prepared already."""
    prepared = ops.prepare_ops(seed) if examples is None else examples
    return list(chain(ops.tasks(prepared), modules.tasks(seed), implementations.tasks(seed), models.tasks(seed)))


def choose(tasks: Iterable[Task], filters: Sequence[str] = (), methods: Sequence[str] = ()) -> list[Task]:
    """The tasks whose name contains any of the filters, and that use any of the methods; without, all.

    Raises:
        ConfigError: nothing is called so.
    """
    given = list(tasks)
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


def carry_out(tasks: Iterable[Task], report: Report = lambda task, results, not_run: None) -> Outcome:
    """Verify one task after the other, and tell of each."""
    began, outcome = perf_counter(), Outcome()
    for task in tasks:
        results, not_run = run_task(task)
        outcome.results += results
        outcome.not_run += not_run
        report(task, results, not_run)
    outcome.seconds = perf_counter() - began
    return outcome


def run_task(task: Task) -> tuple[list[Result], list[NotRun]]:
    """A task's results; or why it could not begin."""
    reason = task.absent or (package_fault("cpu") if task.methods == ("kernel",) else None)
    if reason is None:
        try:
            with np.errstate(all="ignore"):  # what a damaged op makes of its numbers is found out by their errors
                return list(task.run()), []
        except MissingExtraError as error:
            reason = str(error)
    return [], [NotRun(task.name, method, reason) for method in task.methods]
