"""Subject: one example of an op, a module or a model, and the methods by which any of them is verified.

A subject gives what the methods need, and each method is written once, here:

    function(dtype)      the subject as a function with a hand-written backward     -> slopes, linearity
    outcome(dtype)       what it computes: y (or logits and loss) and all gradients -> torch, kernels
    oracles(dtype)       the same by PyTorch                                        -> torch
    variants(dtype)      the same by other implementations                          -> implementations
    hold(result)         a result with the tolerance that holds for it

`tasks` turns subjects into the tasks of a plan.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import Any, Literal, TypeAlias

import numpy as np

from ..dispatch import package_fault, use_kernels
from .differences import STEP
from .function import Function
from .record import SLOPES, cotangent
from .result import Label, Outcome, Result, Task, attempt, from_errors, outcome_errors, outcome_of
from .slopes import compare_linearity, compare_slopes
from .tolerances import Method
from .torch.base import one_thread

__all__ = ["Check", "Subject", "run_function", "tasks"]

Check: TypeAlias = Callable[[], Iterable[Result]]
Kernels = Literal["auto", "reference"]


class Subject:
    """One example of something that is verified.

    label: names it. seed: of all random numbers of its checks.
    slopes: the methods that hold for its function. step: of differences. linear_in: the dtypes of linearity.
    torch_runs: dtypes, and whether kernels run; variants_in: dtypes in which implementations are compared.
    by_element: the names of results that are also compared element by element.
    torch_missing: why there is no comparison with PyTorch; None where there is one.
    """

    label: Label
    seed: int = 0
    slopes: tuple[Method, ...] = SLOPES
    step: float = STEP
    linear_in: tuple[Any, ...] = (np.float64, np.float32)
    torch_runs: tuple[tuple[Any, Kernels], ...] = ((np.float64, "auto"), (np.float32, "auto"))
    variants_in: tuple[Any, ...] = (np.float64, np.float32)
    by_element: tuple[str, ...] = ()
    torch_missing: str | None = None

    # --- what a subject gives ---

    def function(self, dtype: Any) -> Function:
        """Return the subject as a function with a backward."""
        raise NotImplementedError

    def outcome(self, dtype: Any) -> Outcome:
        """Return what the subject computes, and all gradients for the cotangent of its seed."""
        return run_function(self.function(dtype), self.seed)

    def oracles(self, dtype: Any) -> Iterator[tuple[str, Outcome]]:
        """Yield the name of a PyTorch function and its outcome; the names of the outcome are those of `outcome`."""
        yield from ()

    def variants(self, dtype: Any) -> Iterator[tuple[str, Outcome]]:
        """Yield the name of an implementation and its outcome; the first is the one that others are compared with."""
        yield from ()

    def hold(self, result: Result) -> Result:
        """Return the result with the tolerance that holds for it."""
        return result

    # --- the methods ---

    def checks(self) -> Mapping[tuple[Method, ...], Check]:
        """Return the checks that apply, by the methods that each of them uses."""
        return {
            self.slopes: self.by_slopes,
            ("linearity",): self.by_linearity,
            ("torch",): self.by_torch,
            ("kernel",): self.by_kernels,
        }

    def by_slopes(self) -> Iterator[Result]:
        """Compare the gradient of each input with slopes, in float64."""
        return compare_slopes(self.function(np.float64), self.label, self.seed, methods=self.slopes, step=self.step)

    def by_linearity(self, dtypes: Sequence[Any] | None = None) -> Iterator[Result]:
        """Compare the backward of a sum with the sum of backwards."""
        for dtype in dtypes or self.linear_in:
            yield from compare_linearity(self.function(dtype), self.label, dtype, self.seed)

    def by_torch(self, dtypes: Sequence[Any] | None = None) -> Iterator[Result]:
        """Compare the outcome with that of each PyTorch function."""
        for dtype, kernels in self.torch_runs:
            if dtypes is None or dtype in dtypes:
                with one_thread(), use_kernels(kernels):
                    yield from self.beside_torch(dtype)

    def beside_torch(self, dtype: Any) -> Iterator[Result]:
        """Compare the outcome, as it is computed now, with that of each PyTorch function."""
        ours = self.outcome(dtype)
        for name, theirs in self.oracles(dtype):
            errors = outcome_errors(ours, theirs, self.by_element)
            yield from from_errors(errors, self.label, "torch", dtype, name)

    def by_kernels(self) -> Iterator[Result]:
        """Compare the outcome with kernels with that of references alone, in float32."""
        with use_kernels("reference"):
            expected = self.outcome(np.float32)
        errors = outcome_errors(self.outcome(np.float32), expected, self.by_element)
        yield from from_errors(errors, self.label, "kernel", np.float32)

    def outcome_on_gpu(self, dtype: Any) -> Outcome:
        """Return what the subject computes on a GPU, and all gradients."""
        raise NotImplementedError

    def on_gpu(self) -> Mapping[tuple[Method, ...], Check]:
        """Return the check of the whole subject on a GPU, where there is one."""
        return {("device",): self.by_devices} if package_fault("cuda") is None else {}

    def by_devices(self, dtypes: Sequence[Any] = (np.float32, np.float64)) -> Iterator[Result]:
        """Compare the outcome on a GPU, with its kernels, with that of the references on a CPU."""
        for dtype in dtypes:
            with use_kernels("reference"):
                expected = self.outcome(dtype)
            errors = outcome_errors(self.outcome_on_gpu(dtype), expected)
            yield from from_errors(errors, self.label, "device", dtype, "on a GPU")

    def by_implementations(self, dtypes: Sequence[Any] | None = None) -> Iterator[Result]:
        """Compare the outcomes of all implementations with that of the first."""
        for dtype in dtypes or self.variants_in:
            (first, expected), *others = self.variants(dtype)
            for name, found in others:
                errors = outcome_errors(found, expected)
                yield from from_errors(errors, self.label, "implementations", dtype, f"{name} beside {first}")


def run_function(function: Function, seed: int) -> Outcome:
    """Return y and the gradients of a function for the cotangent of a seed."""
    dy = cotangent(function.run(function.inputs), seed)
    y, (gradients,) = function.pull(function.inputs, [dy])
    return outcome_of(y, gradients)


def tasks(subjects: Iterable[Subject]) -> Iterator[Task]:
    """Yield one task for each name and check, which runs the check on all subjects of that name.

    Subjects of one name stand one after the other.
    """
    for name, group in groupby(subjects, lambda subject: subject.label.name):
        several = tuple(group)
        for methods in dict.fromkeys(methods for subject in several for methods in subject.checks()):
            absent = several[0].torch_missing if methods == ("torch",) else None
            yield Task(name, methods, partial(_check_all, several, methods), absent)


def _check_all(subjects: tuple[Subject, ...], methods: tuple[Method, ...]) -> Iterator[Result]:
    for subject in subjects:
        check = subject.checks().get(methods)
        if check is not None:
            yield from attempt(subject.label, methods[0], np.float64, partial(_held, subject, check))


def _held(subject: Subject, check: Check) -> Iterator[Result]:
    return map(subject.hold, check())
