"""The one type of a result: one error beside its tolerance, and all that names it."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from ..arrays import Array, to_numpy
from ..errors import MissingExtraError
from .tolerances import Method, limit

__all__ = [
    "Label",
    "Measured",
    "Outcome",
    "Result",
    "Task",
    "attempt",
    "element_error",
    "from_errors",
    "outcome_errors",
    "outcome_of",
    "relative_error",
]

LONGEST_NOTE = 300

Outcome: TypeAlias = Mapping[str, Array | None]  # what a run computed, by name: y, or logits and loss; gradients


class Measured(float):
    """An error, |ours − theirs| / scale, with the numbers it is computed from.

    ours, theirs: the two numbers furthest apart. where: the index at which they stand, () for scalars.
    """

    ours: float
    theirs: float
    scale: float
    where: tuple[int, ...]

    def __new__(
        cls,
        error: float,
        ours: float = float("nan"),
        theirs: float = float("nan"),
        scale: float = float("nan"),
        where: tuple[int, ...] = (),
    ) -> "Measured":
        """Make an error; without its numbers it is one that has none, such as that of a wrong shape."""
        measured = super().__new__(cls, error)
        measured.ours, measured.theirs, measured.scale, measured.where = ours, theirs, scale, where
        return measured


@dataclass(frozen=True)
class Result:
    """One comparison: its error and the largest error that passes.

    name: what was verified, such as "ops.layer_norm", "nn.Linear" or "models.GPT". case: which of its examples.
    argument: what was compared: "y", "dx", "dweight". note: with what it was compared, or what went wrong.
    """

    name: str
    case: str
    method: str
    dtype: str
    argument: str
    error: float
    limit: float
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether the error is within tolerance. An error that is not a number is not."""
        return self.error <= self.limit

    @property
    def closeness(self) -> float:
        """Error over limit: above 1 the error exceeds its tolerance."""
        if not np.isfinite(self.error):
            return float("inf")
        return self.error / self.limit if self.limit else float("inf" if self.error else 0.0)

    def held_to(self, bound: float) -> "Result":
        """Return the same result with a bound as its limit, where that is stricter."""
        return replace(self, limit=min(self.limit, bound))

    def __str__(self) -> str:
        relation = "within" if self.passed else "EXCEEDS"
        note = f" ({self.note})" if self.note else ""
        return (
            f"{self.name} [{self.case}] {self.argument}, {self.method}, {self.dtype}: "
            f"error {self.error:.2g} {relation} tolerance {self.limit:.2g}{note}"
        )


@dataclass(frozen=True)
class Label:
    """What is verified, and on which of its examples."""

    name: str
    case: str

    def result(self, method: Method, dtype: Any, argument: str, error: float, limit: float, note: str = "") -> Result:
        """Return a result about it."""
        return Result(self.name, self.case, method, np.dtype(dtype).name, argument, error, limit, note)


@dataclass(frozen=True)
class Task:
    """A check that can be run: what it verifies, by which methods, and how; absent says why it cannot be run."""

    name: str
    methods: tuple[Method, ...]
    run: Callable[[], Iterable[Result]]
    absent: str | None = None


def from_errors(errors: Mapping[str, float], label: Label, method: Method, dtype: Any, note: str = "") -> list[Result]:
    """Return errors by argument as results with the limits of the table of tolerances."""
    allowed = limit(method, dtype)
    return [label.result(method, dtype, argument, error, allowed, note) for argument, error in errors.items()]


def attempt(label: Label, method: Method, dtype: Any, run: Callable[[], Iterable[Result]]) -> Iterator[Result]:
    """Yield the results of a check, and a failed one for any error it raises. Only MissingExtraError is passed on."""
    try:
        yield from run()
    except MissingExtraError:
        raise
    except Exception as error:  # whatever a damaged op raises is a failed check, and the other checks go on
        message = " ".join(f"{type(error).__name__}: {error}".split())[:LONGEST_NOTE]
        yield label.result(method, dtype, "call", float("inf"), limit(method, dtype), message)


def relative_error(ours: Array, theirs: Array) -> Measured:
    """Return the largest |ours − theirs| over the largest |theirs|, in float64; 0 if both are zero throughout.

    Another shape or another dtype is an infinite error. A NaN on either side is an error of NaN, which passes no limit.
    """
    a, b = to_numpy(ours), to_numpy(theirs)
    if (a.shape, a.dtype) != (b.shape, b.dtype):
        return Measured(float("inf"))
    if a.size == 0:
        return Measured(0.0)
    a, b = a.astype(np.float64), b.astype(np.float64)
    with np.errstate(invalid="ignore"):  # ∞ − ∞ is NaN, as it should be
        distance = np.abs(a - b)
    where = tuple(int(i) for i in np.unravel_index(np.argmax(distance), distance.shape))  # that of a NaN, if any
    largest, scale = float(distance[where]), float(np.abs(b).max())
    error = largest / scale if scale else float("inf" if largest else largest)  # NaN stays NaN, 0 stays 0
    return Measured(error, float(a[where]), float(b[where]), scale, where)


def outcome_of(y: Array, gradients: Mapping[str, Array | None]) -> Outcome:
    """Return y and the gradients, by the names of the results: "y", "dx", "dweight"."""
    return {"y": y} | {f"d{name}": gradient for name, gradient in gradients.items()}


def element_error(ours: Array, theirs: Array) -> float:
    """Return the largest |ours − theirs| / |theirs| of all elements; infinite where theirs alone is zero.

    It is for results whose elements are computed each on its own, so that a small one is as exact as a large one.
    """
    a, b = to_numpy(ours), to_numpy(theirs)
    if a.shape != b.shape:
        return float("inf")
    a, b = a.astype(np.float64), b.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(np.where(a == b, 0.0, np.abs(a - b) / np.abs(b)).max(initial=0.0))  # NaN stays NaN


def outcome_errors(ours: Outcome, theirs: Outcome, by_element: Collection[str] = ()) -> dict[str, float]:
    """Return the relative error of each array by name; infinite where only one side has it.

    by_element: the names of those that are also compared element by element.

    Raises:
        ValueError: the two sides have different names.
    """
    if ours.keys() != theirs.keys():
        raise ValueError(f"outcome_errors: the names must be the same, got {sorted(ours)} and {sorted(theirs)}.")
    errors: dict[str, float] = {}
    for name, own in ours.items():
        other = theirs[name]
        if own is not None and other is not None:
            errors[name] = relative_error(own, other)
            if name in by_element:
                errors[f"{name} by element"] = element_error(own, other)
        elif own is not None or other is not None:
            errors[name] = float("inf")
    return errors
