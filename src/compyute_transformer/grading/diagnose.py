"""Diagnose: name the term that is wrong in an output, by the zoo's mistakes, by factors, and by fitting terms.

An output is compared in all cases at once. In this order:

1. shapes: a transposed result, or a sum that was not taken
2. the mistakes of the zoo: one that gives the very numbers of the learner
3. a factor: learner = c · right, with a c that is a number of the case (B, √D, rows)
4. terms: learner = Σ c_i term_i by least squares; a right result has every c_i = 1, and 0 is a missing term
5. else the place of the largest error, and the cases that are right
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np

from .exercise import Case, Exercise
from .zoo import MISTAKES, Mistake, mistake

__all__ = ["TOLERANCE", "Finding", "diagnose", "differs", "mistaken_outputs"]

TOLERANCE = 1e-7  # of the largest error over the largest number, in float64
FITTED = 1e-6  # what a fit of terms may leave

Outputs = Sequence[dict[str, Any]]  # one for each case


@dataclass(frozen=True)
class Finding:
    """Something wrong. output: "y", "dx", …. problem: what was seen. term: the term of the formula that is wrong.

    mistake: its name in the zoo. hint: what leads to the remedy. answer: the remedy.
    """

    output: str
    problem: str
    term: str = ""
    hint: str = ""
    answer: str = ""
    mistake: str = ""


def differs(ours: Any, right: Any) -> bool:
    """Return whether an output differs from the right one by more than rounding."""
    ours, right = np.asarray(ours), np.asarray(right)
    if ours.shape != right.shape:
        return True
    scale = np.max(np.abs(right), initial=0.0)
    with np.errstate(invalid="ignore"):
        return not np.max(np.abs(ours - right), initial=0.0) <= TOLERANCE * max(scale, 1e-30)


def same(ours: Any, theirs: Any) -> bool:
    """Return whether two outputs are the same numbers, NaN included."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    if ours.shape != theirs.shape:
        return False
    wild = ~np.isfinite(ours)
    if not np.array_equal(wild, ~np.isfinite(theirs)):
        return False
    return not differs(np.where(wild, 0.0, ours), np.where(wild, 0.0, theirs))


def mistaken_outputs(exercise: Exercise, cases: Sequence[Case]) -> list[tuple[Mistake, Outputs]]:
    """Return what the exercise computes under each mistake that can be made there, those of its own op first."""
    found: list[tuple[Mistake, Outputs]] = []
    for name, made in sorted(MISTAKES.items(), key=lambda item: item[1].op != exercise.name):
        with mistake(name), np.errstate(all="ignore"):
            try:
                found.append((made, [exercise.right(case) for case in cases]))
            except ValueError:  # shapes that do not fit: the mistake cannot be made here
                continue
    return found


def diagnose(
    output: str,
    exercise: Exercise,
    cases: Sequence[Case],
    ours: Outputs,
    right: Outputs,
    mistakes: Iterable[tuple[Mistake, Outputs]],
) -> Finding:
    """Return what is wrong with an output that differs from the right one in some case."""
    mine, theirs = [found[output] for found in ours], [found[output] for found in right]
    problem = _seen(output, cases, mine, theirs)
    for made, wrong in mistakes:
        values = [found[output] for found in wrong]
        changed = any(not same(value, good) for value, good in zip(values, theirs, strict=True))
        if changed and all(same(a, b) for a, b in zip(mine, values, strict=True)):
            return Finding(output, problem, made.term, made.hint, made.answer, made.name)
    shape = _shape(output, mine, theirs)
    if shape is not None:
        return Finding(output, problem, *shape)
    if all(np.isfinite(array).all() for array in mine):
        term = _factor(output, cases, mine, theirs) or _terms(output, exercise, cases, mine)
        if term:
            hint = "Write the formula of this output down, and find each of its terms and factors in your code."
            return Finding(output, problem, term, hint, _formula(output, exercise, cases[0]))
    return Finding(output, problem, hint=_right_cases(cases, mine, theirs), answer=_formula(output, exercise, cases[0]))


def _seen(output: str, cases: Sequence[Case], mine: Sequence[Any], right: Sequence[Any]) -> str:
    """Return what is wrong with an output as numbers show it, in the first case where it is."""
    case, a, b = next(entry for entry in zip(cases, mine, right, strict=True) if differs(*entry[1:]))
    if a.shape != np.shape(b):
        return f"{output} has shape {a.shape}, and must have {np.shape(b)}"
    wild = ~np.isfinite(a)
    if wild.any():
        return f"{output} holds NaN or infinity in {wild.sum()} of {a.size} places (case: {case.name})"
    where = np.unravel_index(np.argmax(np.abs(a - b)), a.shape)
    at = f"[{', '.join(map(str, where))}]" if where else ""
    return f"{output}{at} is {float(a[where]):.6g}, and must be {float(np.asarray(b)[where]):.6g} (case: {case.name})"


def _shape(output: str, mine: Sequence[Any], right: Sequence[Any]) -> tuple[str, str, str] | None:
    """Return the term, the hint and the answer for an output of a wrong shape; None where shapes are right."""
    pairs = [(a, np.asarray(b)) for a, b in zip(mine, right, strict=True) if a.shape != np.shape(b)]
    if not pairs:
        return None
    hint = f"A gradient has the shape of what it belongs to: {output} that of {output.removeprefix('d')}."
    if all(a.T.shape == b.shape and not differs(a.T, b) for a, b in pairs):
        return f"{output} is transposed", hint, f"swap the factors of the product, or transpose {output}"
    if all(_summed(a, b) for a, b in pairs):
        rest = "the sum over the rows, or over the batch, is missing"
        return rest, f"{hint} It was used for every row.", f"sum {output} over all axes that it does not have"
    if all(a.size == b.size and not differs(a.reshape(b.shape), b) for a, b in pairs):
        return "only the shape is wrong", hint, f"reshape {output}"
    return "", hint if output != "y" else "Follow the shapes through your code, line by line.", ""


def _summed(a: Any, b: Any) -> bool:
    """Return whether summing the first axes of one array gives the other."""
    extra = a.ndim - b.ndim
    return extra > 0 and a.shape[extra:] == b.shape and not differs(a.sum(axis=tuple(range(extra))), b)


# --- factors -------------------------------------------------------------------------------------------------------


def quantities(case: Case) -> dict[str, float]:
    """Return the numbers of a case that a factor may be, by what the formulas call them."""
    arrays = [value for value in case.inputs.values() if isinstance(value, np.ndarray)]
    first = arrays[0]
    width = "D" if "q" in case.inputs else "C"
    found = {
        "B": float(first.shape[0]),
        width: float(first.shape[-1]),
        "the number of rows": first.size / first.shape[-1],
    }
    if first.ndim > 2:
        found["T"] = float(first.shape[-2])
    if "targets" in case.inputs:
        found["the number of rows scored"] = float((case.inputs["targets"] != -100).sum())
    if "probability" in case.inputs:
        found["(1 − p)"] = 1.0 - case.inputs["probability"]
    if "num_heads" in case.inputs:
        found["D"] = first.shape[-1] / case.inputs["num_heads"]
    return found | {f"√{name}": sqrt(value) for name, value in found.items() if name in ("C", "D")}


def _named(factors: Sequence[float | None], cases: Sequence[Case]) -> str | None:
    """Return what a factor is in all cases, such as "zero", "−1" or "1/√D"; None where it has no name."""

    def equal(values: Iterable[float]) -> bool:
        pairs = [(c, value) for c, value in zip(factors, values, strict=True) if c is not None]
        return bool(pairs) and all(abs(c - value) <= 1e-5 * max(1.0, abs(value)) for c, value in pairs)

    for text, value in {"1": 1.0, "0": 0.0, "−1": -1.0, "2": 2.0, "1/2": 0.5, "−2": -2.0, "4": 4.0}.items():
        if equal([value] * len(cases)):
            return text
    every = [quantities(case) for case in cases]
    for name in every[0]:
        values = [found.get(name, np.nan) for found in every]
        if len({round(value, 9) for value in values}) > 1 or len(cases) == 1 or name[0] in "√D(":
            if equal(values):
                return name
            if equal([1.0 / value for value in values]):
                return f"1/{name}"
    return None


def _factor(output: str, cases: Sequence[Case], mine: Sequence[Any], right: Sequence[Any]) -> str:
    """Return which factor is too much, where the output is the right one times a number; "" where it is not."""
    factors = []
    for a, b in zip(mine, right, strict=True):
        b = np.asarray(b)
        size = float((b * b).sum())
        c = float((a * b).sum()) / size if size else 0.0
        if differs(a, c * b) and (c != 0.0 or np.any(a)):
            return ""
        factors.append(c)
    name = _named(factors, cases)
    if name == "0":
        return f"{output} is zero"
    if name == "−1":
        return f"{output} has the wrong sign"
    return f"{output} is the right one times {name}: a factor is missing, or one too many" if name else ""


# --- terms ---------------------------------------------------------------------------------------------------------


def _terms(output: str, exercise: Exercise, cases: Sequence[Case], mine: Sequence[Any]) -> str:
    """Return which terms are missing or wrong, where the output is a sum of the right terms with other factors."""
    every = [list(exercise.terms(case).get(output, ())) for case in cases]
    if not every[0] or len({len(terms) for terms in every}) != 1:
        every, cases, mine = every[:1], cases[:1], mine[:1]  # one term for each element of a batch: one case
    fitted = [_fit(terms, array) for terms, array in zip(every, mine, strict=True)]
    if not all(fitted):
        return ""
    said = []
    for index, term in enumerate(every[0]):
        name = _named([factors[index] for factors in fitted if factors], cases)
        if name is None:
            return ""
        if name != "1":
            said.append(_wrong(term.text, name))
    return "; ".join(said)


def _fit(terms: Sequence[Any], array: Any) -> list[float | None] | None:
    """Return the factors by which terms add up to an array, None for a term that is zero; None where none do."""
    used = [term for term in terms if np.abs(term.value).max() > 1e-12]
    if not used:
        return None
    matrix = np.stack([np.broadcast_to(term.value, array.shape).ravel() for term in used], axis=1)
    if np.linalg.matrix_rank(matrix) < len(used):
        return None
    solution = np.linalg.lstsq(matrix, array.ravel(), rcond=None)[0]
    if not np.linalg.norm(matrix @ solution - array.ravel()) <= FITTED * max(float(np.linalg.norm(array)), 1e-30):
        return None
    factors = iter(float(value) for value in solution)
    kept = {id(term) for term in used}
    return [next(factors) if id(term) in kept else None for term in terms]


def _wrong(term: str, factor: str) -> str:
    if factor == "0":
        return f"the term {term} is missing"
    if factor == "−1":
        return f"the term {term} has the wrong sign"
    return f"the term {term} is there {factor} times"


def _formula(output: str, exercise: Exercise, case: Case) -> str:
    """Return the right value of an output, as the sum of its terms."""
    if output == "y":
        return exercise.formula
    parts = [term.text for term in exercise.terms(case).get(output, ())]
    return f"{output} is the sum of: {'; '.join(parts)}" if parts else ""


def _right_cases(cases: Sequence[Case], mine: Sequence[Any], right: Sequence[Any]) -> str:
    good = [case.name for case, a, b in zip(cases, mine, right, strict=True) if not differs(a, b)]
    return f"It is right in this case: {'; '.join(good)}. What is different in the others?" if good else ""
