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
from compyute_transformer.verify import models, modules, ops
from compyute_transformer.verify.kernels import compare_kernel
from compyute_transformer.verify.ops import check_case, compare
from compyute_transformer.verify.result import Label
from compyute_transformer.verify.torch.base import one_thread

from .attention_properties import attention_properties
from .model_properties import model_properties
from .module_properties import module_properties
from .part_properties import part_properties
from .properties import Property, op_properties
from .rotary_properties import rotary_properties
from .sources import poisoned

__all__ = ["Check", "Fault", "Lines", "all_properties", "lines_run", "make_suite"]

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
    """Yield all checks."""
    for op in ops.subjects(seed=0):
        yield from _of_op(op)
    for family in ops.families(seed=0):
        for dtype in DTYPES:
            compared = partial(family.by_implementations, (dtype,))
            yield Check("implementations", _name(family.label, dtype), compared)
    for module in modules.subjects(seed=0):
        yield Check("slopes", str(module.label), module.by_slopes)
        yield Check("linearity", str(module.label), module.by_linearity)
        yield Check("torch", str(module.label), partial(_beside_torch, module))
    for model in models.subjects(seed=0):
        yield from _of_model(model)
    for name, hold in all_properties():
        yield Check("property", name, hold, with_kernels=name.startswith("implementation"))


def all_properties() -> Iterator[Property]:
    """Yield what is kept beyond right gradients, with its name."""
    yield from op_properties()
    yield from rotary_properties()
    yield from attention_properties()
    yield from module_properties()
    yield from part_properties()
    yield from model_properties()


def _name(label: Label, dtype: Any) -> str:
    return f"{label.name.removeprefix('ops.')} [{label.case}] {np.dtype(dtype).name}"


def _of_op(subject: ops.OpSubject) -> Iterator[Check]:
    op, case, label = subject.op, subject.case, subject.label
    yield Check("differences", _name(label, np.float64), partial(check_case, op, case))
    yield Check("slopes", _name(label, np.float64), partial(_held, subject, subject.by_slopes))
    for dtype in DTYPES:
        name = _name(label, dtype)
        yield Check("torch", name, partial(compare, op, case, dtype))
        yield Check("linearity", name, partial(_held, subject, partial(subject.by_linearity, (dtype,))))
        if isinstance(op.forward, Dispatched):
            yield Check("kernel", name, partial(compare_kernel, op, case, dtype, "cpu"), with_kernels=True)


def _of_model(subject: models.ModelSubject) -> Iterator[Check]:
    """Yield the checks of a model in one configuration.

    Slopes are those of all parameters together, and PyTorch has each alone: by each alone they would take most of the
    time of a run. Ten steps of training tell nothing that the gradients and the properties of AdamW do not.
    """
    name, case = subject.label.name, subject.label.case
    yield Check("differences", f"{name} [{case}]", subject.by_whole_gradient)
    yield Check("adjoint", f"{name} [{case}]", subject.by_adjoint)
    yield Check("implementations", f"{name} [{case}]", subject.by_implementations)
    if subject.torch_missing is None:
        yield Check("torch", f"{name} [{case}]", partial(_beside_torch, subject))


def _beside_torch(subject: modules.ModuleSubject | models.ModelSubject) -> Iterator[Any]:
    """Compare the references in every dtype: `by_torch` runs kernels too, which nobody mutates."""
    for dtype, _ in subject.torch_runs:
        with one_thread():
            yield from subject.beside_torch(dtype)


def _held(subject: ops.OpSubject, check: Callable[[], Iterable[Any]]) -> Iterator[Any]:
    return map(subject.hold, check())


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
