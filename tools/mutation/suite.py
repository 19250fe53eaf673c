"""The checks a mutant must survive, and which lines of the mutated files each of them runs.

They are the checks of `compyute verify` and of the tests, cut into single cases, so that a mutant is evaluated by the
first that notices it. All run on the references: those are what is mutated.
"""

import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import Any, NamedTuple

import numpy as np

from compyute_transformer.dispatch import Dispatched, use_kernels
from compyute_transformer.verify import modules, ops
from compyute_transformer.verify.differences import check_case
from compyute_transformer.verify.implementations import FAMILIES, compare_implementations
from compyute_transformer.verify.kernels import compare_kernel
from compyute_transformer.verify.plan import everything
from compyute_transformer.verify.registry import REGISTRY
from compyute_transformer.verify.result import Label
from compyute_transformer.verify.slopes import compare_linearity, compare_slopes
from compyute_transformer.verify.torch_ops import compare

from .module_properties import module_properties
from .properties import op_properties
from .sources import poisoned

__all__ = ["Check", "Fault", "Lines", "lines_run", "make_suite"]

Lines = frozenset[tuple[str, int]]
DTYPES = (np.float64, np.float32)


class Fault(NamedTuple):
    """What is wrong, in words. raised: an error, rather than a number."""

    text: str
    raised: bool


@dataclass(frozen=True)
class Check:
    """One check on one case.

    call: yields what it measured, each of which can say `passed`. with_kernels: it runs kernels too, whose compiler
    must find NumPy as it is.
    """

    kind: str
    name: str
    call: Callable[[], Iterable[Any]]
    with_kernels: bool = False

    def fault(self) -> Fault | None:
        """The first thing that is wrong; None when the check holds. A warning is wrong, as it is in the tests."""
        try:
            memory = nullcontext() if self.with_kernels else poisoned()
            with memory, use_kernels("reference"), warnings.catch_warnings(action="error"):
                return next((Fault(str(found), _raised(found)) for found in self.call() if not found.passed), None)
        except Exception as error:  # a mutant may raise anything
            return Fault(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}", True)


def _raised(found: Any) -> bool:
    """Whether what was measured is an error that `attempt` caught."""
    return getattr(found, "argument", None) == "call"


def make_suite() -> Iterator[Check]:
    """All checks."""
    for op in REGISTRY.values():
        for case in op.cases:
            yield from _of_case(ops.Example(op, case, seed=0))
    for family, (first, *_) in FAMILIES.items():
        for case in REGISTRY[first].cases:
            for dtype in DTYPES:
                compared = partial(compare_implementations, Label(family, case.name), case, dtype, 0)
                yield Check("implementations", _name(family, case.name, dtype), compared)
    for example in modules.EXAMPLES:
        yield from _of_module(example)
    yield from _of_models()
    for name, hold in (*op_properties(), *module_properties()):
        yield Check("property", name, hold, with_kernels=name.startswith("implementation"))


def _name(name: str, case: str, dtype: Any) -> str:
    return f"{name} [{case}] {np.dtype(dtype).name}"


def _of_case(example: ops.Example) -> Iterator[Check]:
    op, case = example.op, example.case

    def bounded(check: Callable[..., Iterable[Any]], *arguments: Any) -> Iterator[Any]:
        return map(example.bounds.holding, check(*arguments))

    yield Check("differences", _name(op.name, case.name, np.float64), partial(check_case, op, case))
    slopes = partial(bounded, compare_slopes, example.function(), example.label)
    yield Check("slopes", _name(op.name, case.name, np.float64), slopes)
    for dtype in DTYPES:
        name = _name(op.name, case.name, dtype)
        yield Check("torch", name, partial(compare, op, case, dtype))
        yield Check("linearity", name, partial(compare_linearity, example.function(dtype), example.label, dtype))
        if isinstance(op.forward, Dispatched):
            yield Check("kernel", name, partial(compare_kernel, op, case, dtype, "cpu"), with_kernels=True)


def _of_module(example: modules.Example) -> Iterator[Check]:
    yield Check("slopes", str(example.label), partial(modules.by_slopes, example, 0))
    yield Check("linearity", str(example.label), partial(modules.by_linearity, example, 0))
    yield Check("torch", str(example.label), partial(modules.by_torch, example, 0))


def _of_models() -> Iterator[Check]:
    """Those of `compyute verify`, of every model, but for the kernels'."""
    for task in everything(seed=0, examples={}):
        if task.name.startswith("models.") and task.methods != ("kernel",):
            yield Check(task.methods[0], task.name, task.run)


def lines_run(call: Callable[[], Any], files: frozenset[str]) -> Lines:
    """The lines of these files that a call runs, as (path, line)."""
    seen: set[tuple[str, int]] = set()

    def enter(frame: FrameType, event: str, argument: Any) -> Any:
        return line if frame.f_code.co_filename in files else None

    def line(frame: FrameType, event: str, argument: Any) -> Any:
        seen.add((frame.f_code.co_filename, frame.f_lineno))
        return line

    before = sys.gettrace()
    sys.settrace(enter)
    try:
        call()
    finally:
        sys.settrace(before)
    return frozenset(seen)
