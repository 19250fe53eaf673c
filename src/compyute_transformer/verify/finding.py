"""What a proof found: one error beside the limit it is held to, with all that names it."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..errors import MissingExtraError
from .check import Check
from .tolerances import Proof, limit

__all__ = ["Finding", "Label", "Task", "attempt", "from_checks", "from_errors"]


LONGEST_NOTE = 300


@dataclass(frozen=True)
class Label:
    """What is proven. name: "ops.layer_norm", "nn.Linear", "models.GPT". case: which of its examples."""

    name: str
    case: str

    def finding(
        self, method: Proof, dtype: Any, argument: str, error: float, limit: float, note: str = ""
    ) -> "Finding":
        """A finding about it."""
        return Finding(self.name, self.case, method, np.dtype(dtype).name, argument, error, limit, note)


@dataclass(frozen=True)
class Finding:
    """One error beside its limit.

    argument: what was looked at: "y", "dx", "dweight". note: whom it was compared with, or what went wrong.
    """

    name: str
    case: str
    method: Proof
    dtype: str
    argument: str
    error: float
    limit: float
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether the error keeps the limit. An error that is not a number does not."""
        return self.error <= self.limit

    @property
    def closeness(self) -> float:
        """How near the error comes to its limit: above 1 it breaks it."""
        if not np.isfinite(self.error):
            return float("inf")
        return self.error / self.limit if self.limit else float("inf" if self.error else 0.0)

    def held_to(self, bound: float) -> "Finding":
        """The same, held to a bound where that is stricter than its limit."""
        return replace(self, limit=min(self.limit, bound))

    def __str__(self) -> str:
        relation = "keeps" if self.passed else "BREAKS"
        note = f" ({self.note})" if self.note else ""
        return (
            f"{self.name} [{self.case}] {self.argument}, {self.method}, {self.dtype}: "
            f"error {self.error:.2g} {relation} the limit {self.limit:.2g}{note}"
        )


def from_checks(checks: Iterable[Check], label: Label, method: Proof, dtype: Any) -> list[Finding]:
    """Checks as findings: the first word of a check's subject is the argument, the rest a note."""
    findings = []
    for check in checks:
        argument, _, note = check.subject.partition(" ")
        findings.append(label.finding(method, dtype, argument, check.error, check.limit, note))
    return findings


def from_errors(errors: Mapping[str, float], label: Label, method: Proof, dtype: Any, note: str = "") -> list[Finding]:
    """Errors by argument as findings, held to the table of tolerances."""
    return [
        label.finding(method, dtype, argument, error, limit(method, dtype), note) for argument, error in errors.items()
    ]


@dataclass(frozen=True)
class Task:
    """A proof to be carried out. name: of what. methods: by what. prove: all its findings. absent: why it cannot be."""

    name: str
    methods: tuple[Proof, ...]
    prove: Callable[[], Iterable[Finding]]
    absent: str | None = None


def attempt(label: Label, method: Proof, dtype: Any, prove: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """The findings of a proof; one that fails where what it ran raised. Only a missing extra is passed on."""
    found: list[Finding] = []
    try:
        for finding in prove():
            found.append(finding)  # one by one, so that what was found before an error stays
    except MissingExtraError:
        raise
    except Exception as error:  # whatever a damaged op raises is a proof that failed, not an end of all proofs
        message = " ".join(f"{type(error).__name__}: {error}".split())[:LONGEST_NOTE]
        found.append(label.finding(method, dtype, "call", float("inf"), limit(method, dtype), message))
    return found
