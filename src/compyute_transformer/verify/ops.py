"""Every op of the registry, on every one of its cases, by every method, each error held to its rounding bound."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cached_property, partial
from typing import Any

import numpy as np

from ..dispatch import Dispatched, use_kernels
from .function import Function, of_op
from .kernels import compare_devices, compare_kernel, packages
from .recipes import case_of
from .registry import REGISTRY, Case, Op, cotangent, map_arrays
from .result import Label, Result, Task, attempt, from_errors, gradient_errors, relative_error
from .rounding import Bounds
from .slopes import compare_linearity, compare_slopes
from .tolerances import Method, limit
from .torch_models import one_thread
from .torch_ops import compare

__all__ = ["Example", "prepare_ops", "tasks"]

Check = Callable[["Example"], Iterable[Result]]
MOST_SEEDS, SEED_STRIDE = 10, 1_000_003
SLOPES: tuple[Method, ...] = ("differences", "complex step", "adjoint")


class Example:
    """One case of an op as it is verified: drawn by its recipe, which a certificate can state.

    seed: that of its numbers; the first from the given one on that float32 can be asked about. It cannot where a
    gradient is what little is left of larger numbers that cancel, such as that of a share of nearly 1.
    """

    def __init__(self, op: Op, case: Case, seed: int) -> None:
        self.op, self.seed = op, seed
        self.label = Label(f"ops.{op.name}", case.name)
        self.recipe, self.case = case_of(case, seed)
        for self.seed in range(seed, seed + MOST_SEEDS * SEED_STRIDE, SEED_STRIDE):
            self.recipe, self.case = case_of(case, self.seed)
            if not self._cancels():
                break

    def function(self, dtype: Any = np.float64) -> Function:
        """The op at the case's arguments."""
        return of_op(self.op, self.case.arguments(self.seed, dtype))

    def _cancels(self) -> bool:
        """Whether the reference itself is as far from float64, in float32, as nothing may be from it."""
        single, double = self.function(np.float32), self.function()
        rounded = {name: x.astype(np.float64) for name, x in single.inputs.items()}
        with (
            use_kernels("reference"),
            suppress(Exception),
            np.errstate(all="ignore"),
        ):  # a damaged op is for the checks to find
            dy = cotangent(single.run(single.inputs), self.seed)
            y, (gradients,) = single.pull(single.inputs, [dy])
            exact_y, (exact,) = double.pull(rounded, [dy.astype(np.float64)])
            doubled = map_arrays(lambda array: array.astype(np.float64), {"y": y, **gradients})
            errors = gradient_errors(doubled, {"y": exact_y, **exact})
            return max(errors.values()) > limit("torch", np.float32) / 4
        return False

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of y and of each gradient."""
        function = self.function()
        return {"y": function.run(function.inputs).shape} | {f"d{n}": x.shape for n, x in function.inputs.items()}

    @cached_property
    def bounds(self) -> Bounds:
        """What its errors are held to."""
        return Bounds(self.op.name, self.case.arguments(self.seed), self.function(), self.seed)


def prepare_ops(seed: int) -> dict[str, list[Example]]:
    """The examples of every op, by its name."""
    return {op.name: [Example(op, case, seed) for case in op.cases] for op in REGISTRY.values()}


def tasks(examples: dict[str, list[Example]]) -> Iterator[Task]:
    """The checks of every op."""
    for name, cases in examples.items():
        yield Task(f"ops.{name}", SLOPES, partial(each, cases, "differences", np.float64, by_slopes))
        checks: dict[Method, Check] = {"linearity": by_linearity, "torch": by_torch, "kernel": by_kernels}
        for method, check in (checks | ({"device": by_devices} if "cuda" in packages() else {})).items():
            yield Task(f"ops.{name}", (method,), partial(each, cases, method, np.float32, check))


def each(cases: Sequence[Example], method: Method, dtype: Any, check: Check) -> Iterator[Result]:
    """What a check finds on each of the cases."""
    for case in cases:
        yield from attempt(case.label, method, dtype, partial(within_bounds, check, case))


def within_bounds(check: Check, case: Example) -> Iterator[Result]:
    """What a check finds on a case, held to its bounds."""
    return (case.bounds.holding(result) for result in check(case))


def by_slopes(case: Example) -> Iterator[Result]:
    """Differences, complex steps and the adjoint identity."""
    return compare_slopes(case.function(), case.label, case.seed)


def by_linearity(case: Example) -> Iterator[Result]:
    """In float64, and of what runs by default in float32."""
    for dtype in (np.float64, np.float32):
        yield from compare_linearity(case.function(dtype), case.label, dtype, case.seed)


def by_torch(case: Example) -> Iterator[Result]:
    """What runs by default in both dtypes, and the reference in float32, where a kernel may have run."""
    for dtype, path in ((np.float64, "auto"), (np.float32, "auto"), (np.float32, "reference")):
        with one_thread(), use_kernels(path):  # type: ignore[arg-type]
            yield from compare(case.op, case.case, dtype, case.seed)


def by_kernels(case: Example) -> Iterator[Result]:
    """Compare kernels with references; an op composed of others is compared as a whole, with kernels and without."""
    for package in packages():
        if isinstance(case.op.forward, Dispatched):
            for dtype in (np.float32, np.float64):
                yield from compare_kernel(case.op, case.case, dtype, package, case.seed)
        elif package == "cpu":
            yield from from_errors(
                with_and_without_kernels(case.function(np.float32), case.seed), case.label, "kernel", np.float32
            )


def by_devices(case: Example) -> Iterator[Result]:
    """The reference on a GPU beside itself on a CPU."""
    for dtype in (np.float32, np.float64):
        yield from compare_devices(case.op, case.case, dtype, case.seed)


def with_and_without_kernels(function: Function, seed: int) -> dict[str, float]:
    """The errors of y and of each gradient, as they come by default beside those of the references."""
    dy = cotangent(function.run(function.inputs), seed)
    y, (gradients,) = function.pull(function.inputs, [dy])
    with use_kernels("reference"):
        expected_y, (expected,) = function.pull(function.inputs, [dy])
    return {"y": relative_error(y, expected_y)} | dict(gradient_errors(gradients, expected))
