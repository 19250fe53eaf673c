"""Subjects of the ops: every op of the registry on each of its cases, and the implementations of attention together."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any

import numpy as np

from ..dispatch import Dispatched, use_kernels
from ..ops.attention import AttentionSaved, FusedAttentionSaved, fused_attention_weights
from ..ops.multi_head import IMPLEMENTATIONS, attention_weights
from .function import Function, of_op
from .kernels import compare_devices, compare_kernel, packages
from .record import cotangent, map_arrays
from .registry import REGISTRY, Case, Op
from .result import Label, Outcome, Result, outcome_errors, outcome_of
from .rounding import Bounds
from .slopes import compare_slopes
from .subject import Check, Kernels, Subject
from .tolerances import Method, limit
from .torch.base import autograd

__all__ = ["FAMILIES", "FamilySubject", "OpSubject", "check_case", "compare", "families", "prepare", "subjects"]

MOST_SEEDS, SEED_STRIDE = 10, 1_000_003


class OpSubject(Subject):
    """One case of an op, with the numbers of a seed."""

    torch_runs: tuple[tuple[Any, Kernels], ...] = (
        (np.float64, "auto"),
        (np.float32, "auto"),
        (np.float32, "reference"),  # where a kernel has run
    )

    def __init__(self, op: Op, case: Case, seed: int = 0) -> None:
        self.op, self.case, self.seed = op, case, seed
        self.label, self.by_element = Label(f"ops.{op.name}", case.name), op.by_element
        self.torch_missing = None if op.oracles else "The record of this op names no PyTorch function."

    def function(self, dtype: Any = np.float64) -> Function:
        """Return the op at the case's arguments."""
        return of_op(self.op, self.case.arguments(self.seed, dtype))

    def outcome(self, dtype: Any) -> Outcome:
        """Return y and the gradient of every argument, None where the argument is None."""
        y, saved = self.op.forward(*self.case.arguments(self.seed, dtype).values())
        return outcome_of(y, self.op.gradients(cotangent(y, self.seed), saved))

    def oracles(self, dtype: Any) -> Iterator[tuple[str, Outcome]]:
        """Yield the outcome of every PyTorch function that can express the case."""
        arguments = self.case.arguments(self.seed, dtype)
        dy = cotangent(self.op.forward(*arguments.values())[0], self.seed)
        for oracle in self.op.oracles:
            if oracle.supports(arguments):
                yield oracle.name, outcome_of(*autograd(oracle.function, arguments, dy, self.op.differentiable))

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of y and of each gradient."""
        function = self.function()
        return {"y": function.run(function.inputs).shape} | {f"d{n}": x.shape for n, x in function.inputs.items()}

    @cached_property
    def bounds(self) -> Bounds | None:
        """The bounds of its errors by the number of roundings; None where the record does not count them."""
        if self.op.roundings is None:
            return None
        return Bounds(self.op, self.case.arguments(self.seed), self.function(), self.seed)

    def hold(self, result: Result) -> Result:
        """Return the result, held to its rounding bound where that is stricter than the table."""
        return result if self.bounds is None else self.bounds.holding(result)

    def checks(self) -> Mapping[tuple[Method, ...], Check]:
        """Return the checks that apply; the reference runs on a GPU where there is one."""
        on_gpu: dict[tuple[Method, ...], Check] = {("device",): self.by_devices} if "cuda" in packages() else {}
        return {**super().checks(), **on_gpu}

    def by_kernels(self) -> Iterator[Result]:
        """Compare kernels with references; an op composed of others is compared as a whole."""
        for package in packages():
            if isinstance(self.op.forward, Dispatched):
                for dtype in (np.float32, np.float64):
                    yield from compare_kernel(self.op, self.case, dtype, package, self.seed)
            elif package == "cpu":
                yield from super().by_kernels()

    def by_devices(self, dtypes: Sequence[Any] = (np.float32, np.float64)) -> Iterator[Result]:
        """Compare the reference on a GPU with itself on a CPU."""
        for dtype in dtypes:
            yield from compare_devices(self.op, self.case, dtype, self.seed)

    def cancels(self) -> bool:
        """Say whether the reference itself loses so many digits in float32 that nothing can be compared with it."""
        single, double = self.function(np.float32), self.function()
        rounded = {name: x.astype(np.float64) for name, x in single.inputs.items()}
        with (
            use_kernels("reference"),
            suppress(Exception),  # a damaged op is for the checks to find
            np.errstate(all="ignore"),
        ):
            dy = cotangent(single.run(single.inputs), self.seed)
            found = single.pull(single.inputs, [dy])
            exact = double.pull(rounded, [dy.astype(np.float64)])
            ours, theirs = (outcome_of(y, gradients) for y, (gradients,) in (found, exact))
            doubled = map_arrays(lambda array: array.astype(np.float64), ours)
            return max(outcome_errors(doubled, theirs).values()) > limit("torch", np.float32) / 4
        return False


def prepare(op: Op, case: Case, seed: int = 0) -> OpSubject:
    """Return a case with the first seed, from the given one on, whose numbers float32 can be asked about.

    It cannot where a gradient is what little is left of larger numbers that cancel, such as that of a softmax whose
    largest probability is nearly 1.
    """
    made = [OpSubject(op, case, each) for each in range(seed, seed + MOST_SEEDS * SEED_STRIDE, SEED_STRIDE)]
    return next((subject for subject in made if not subject.cancels()), made[-1])


def subjects(seed: int, ops: Iterable[Op] | None = None) -> Iterator[OpSubject]:
    """Yield the subjects of ops, or of all."""
    for op in REGISTRY.values() if ops is None else ops:
        for case in op.cases:
            yield prepare(op, case, seed)


# --- the implementations of attention --------------------------------------------------------------------------------

FAMILIES = {
    "attention.heads": ("attention", "fused_attention"),
    "attention.multi_head": tuple(f"{name}_multi_head" for name in IMPLEMENTATIONS),
}


class FamilySubject(Subject):
    """One case of ops that compute the same: outputs, attention weights and every gradient agree to rounding."""

    def __init__(self, family: str, case: Case, seed: int = 0) -> None:
        self.label, self.case, self.seed = Label(family, case.name), case, seed

    def checks(self) -> Mapping[tuple[Method, ...], Check]:
        """Return the one check that applies; the others are those of the single ops."""
        return {("implementations",): self.by_implementations}

    def variants(self, dtype: Any) -> Iterator[tuple[str, Outcome]]:
        """Yield the outcome of each op of the family, and its attention weights."""
        for name in FAMILIES[self.label.name]:
            op = REGISTRY[name]
            y, saved = op.forward(*self.case.arguments(self.seed, dtype).values())
            if isinstance(saved, AttentionSaved):
                weights = saved.weights
            elif isinstance(saved, FusedAttentionSaved):
                weights = fused_attention_weights(saved)
            else:
                weights = attention_weights(saved)
            yield name, {"weights": weights, **outcome_of(y, op.gradients(cotangent(y, self.seed), saved))}


def families(seed: int) -> Iterator[FamilySubject]:
    """Yield every family on each of its cases."""
    for family, (first, *_) in FAMILIES.items():
        for case in REGISTRY[first].cases:
            yield FamilySubject(family, case, seed)


# --- single checks, for tests and pages ------------------------------------------------------------------------------


def check_case(op: Op, case: Case, seed: int = 0) -> list[Result]:
    """Compare the gradients of one case with differences: of all arguments together, then of each alone."""
    subject = OpSubject(op, case, seed)
    function = subject.function()
    names = tuple(function.inputs)
    groups = [(name,) for name in names] if len(names) == 1 else [names, *((name,) for name in names)]
    return list(compare_slopes(function, subject.label, seed, groups, ("differences",)))


def compare(op: Op, case: Case, dtype: Any, seed: int = 0) -> list[Result]:
    """Compare one case with every PyTorch function that can express it: y, then each gradient.

    What runs is what `use_kernels` says: kernels where they support the case, or the references.

    Raises:
        MissingExtraError: PyTorch is not installed.
    """
    return list(OpSubject(op, case, seed).beside_torch(dtype))
