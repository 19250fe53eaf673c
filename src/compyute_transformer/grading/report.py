"""Report: grade functions in this process, and print what was found."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..errors import RangeError
from ..verify.differences import derivative
from .diagnose import TOLERANCE, Finding, diagnose, differs, mistaken_outputs
from .exercise import Case, Exercise
from .exercises import EXERCISES
from .learner import Fault, answers

__all__ = ["Grade", "check", "exercises_of", "grade_functions", "written"]

SEED = 0
FUNCTIONS = ("forward", "backward")


@dataclass(frozen=True)
class Grade:
    """What was found about one op. functions: those that were there. cases: how many were computed.

    outputs: the names of those that are right. findings: what is wrong; none if all is right. differences: whether the
    backward is the gradient of the learner's own forward by finite differences; None where one of the two is missing.
    """

    op: str
    functions: tuple[str, ...]
    cases: int
    outputs: tuple[str, ...]
    findings: tuple[Finding, ...]
    differences: bool | None = None

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings

    def to_dict(self, answer: bool = False) -> dict[str, Any]:
        """Return the grade as plain values; the answers only on request."""
        values = asdict(self) | {"passed": self.passed}
        if not answer:
            for finding in values["findings"]:
                del finding["answer"]
        return values


def exercises_of(names: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the forward and backward (or None) of each exercise that has at least one among the names."""
    found = {}
    for op in EXERCISES:
        forward, backward = (names.get(f"{op}_{function}") for function in FUNCTIONS)
        if callable(forward) or callable(backward):
            found[op] = (forward if callable(forward) else None, backward if callable(backward) else None)
    return found


def grade_functions(op: str, forward: Any = None, backward: Any = None) -> Grade:
    """Return the grade of a forward, a backward, or both, of an op of `EXERCISES`.

    A forward alone may return y; with a backward it returns y and what the backward needs. A backward alone is given
    what the library's forward saved. Whatever the functions raise or return becomes a finding.
    """
    exercise = EXERCISES[op]
    cases = exercise.cases(np.random.default_rng(SEED))
    given = tuple(name for name, function in zip(FUNCTIONS, (forward, backward), strict=True) if function is not None)
    try:
        ours = [answers(exercise, forward, backward, case) for case in cases]
    except Fault as fault:
        return Grade(op, given, len(cases), (), (Finding("", str(fault), hint=fault.hint),))
    right = [exercise.right(case) for case in cases]
    wrong = [name for name in ours[0] if any(differs(a[name], b[name]) for a, b in zip(ours, right, strict=True))]
    good = tuple(name for name in ours[0] if name not in wrong)
    same = _differences(exercise, forward, backward, cases, ours) if len(given) == 2 else None
    findings: list[Finding] = []
    if wrong:
        mistakes = mistaken_outputs(exercise, cases)
        if "y" in wrong and same:  # the backward belongs to the forward: one thing is wrong, not four
            wrong = ["y"]
        findings = _merged([diagnose(name, exercise, cases, ours, right, mistakes) for name in wrong])
        if "y" in wrong:
            findings = _forward_first(findings)
    return Grade(op, given, len(cases), good, tuple(findings), same)


def _forward_first(findings: Sequence[Finding]) -> list[Finding]:
    """Return the findings of a wrong forward: those that a mistake explains, and a word on the other gradients."""
    kept = [finding for finding in findings if finding.mistake or finding.output.startswith("y")]
    rest = ", ".join(finding.output for finding in findings if finding not in kept)
    if not rest:
        return kept
    problem = f"{rest} cannot be told from a wrong forward, and are not its slopes either"
    return [*kept, Finding(rest, problem, hint="Correct the forward first, and grade again.")]


def _merged(findings: Sequence[Finding]) -> list[Finding]:
    """Return the findings, those of one mistake as one: dq and dk lack the same term."""
    found: dict[Any, Finding] = {}
    for finding in findings:
        key = finding.mistake or finding.output
        if key in found:
            first = found[key]
            finding = Finding(f"{first.output}, {finding.output}", *list(asdict(first).values())[1:])
        found[key] = finding
    return list(found.values())


def _differences(exercise: Exercise, forward: Any, backward: Any, cases: Sequence[Case], ours: Sequence[Any]) -> bool:
    """Return whether the gradients are the slopes of the learner's own forward, along one random direction a case."""
    rng = np.random.default_rng(SEED + 1)
    for case, found in zip(cases, ours, strict=True):
        if not case.smooth:
            continue
        moved = {name: case.inputs[name] for name in exercise.differentiable}
        directions = {name: rng.normal(size=x.shape) * x.std() for name, x in moved.items()}

        def y(t: float, case: Case = case, directions: Mapping[str, Any] = directions) -> Any:
            inputs = {name: x + t * directions[name] if name in directions else x for name, x in case.inputs.items()}
            return answers(exercise, forward, None, case._replace(inputs=inputs))["y"]

        try:
            numeric = float(np.sum(case.dy * derivative(y)))
            terms = [np.sum(found[f"d{name}"] * direction) for name, direction in directions.items()]
        except (Fault, ValueError):  # the forward fails nearby, or a gradient has another shape
            return False
        scale = max(abs(numeric), *(abs(float(term)) for term in terms), 1e-12)
        if not abs(numeric - float(sum(terms))) <= 10 * TOLERANCE * scale:
            return False
    return True


def check(*functions: Callable[..., Any], answer: bool = False) -> bool:
    """Grade functions named OP_forward and OP_backward, and print what was found. Return whether all is right.

    For notebooks: `check(softmax_forward, softmax_backward)`. answer: also print the right lines.

    Raises:
        RangeError: a function whose name belongs to no exercise.
    """
    names = {getattr(function, "__name__", str(function)): function for function in functions}
    found = exercises_of(names)
    known = {f"{op}_{function}" for op in found for function in FUNCTIONS}
    for name in [*names, *([] if names else ["none"])]:
        if name not in known:
            raise RangeError(
                f"check: functions are named OP_forward or OP_backward, got {name}. The ops: {', '.join(EXERCISES)}."
            )
    grades = [grade_functions(op, *pair) for op, pair in found.items()]
    print("\n".join(written(grade, answer) for grade in grades))
    return all(grade.passed for grade in grades)


def written(grade: Grade, answer: bool = False) -> str:
    """Return a grade as lines of text: what is right, what is wrong, hints, and on request the answers."""
    functions = " and ".join(f"{grade.op}_{function}" for function in grade.functions)
    if grade.passed:
        rest = ", and finite differences agree" if grade.differences else ""
        return f"right   {functions}: {', '.join(grade.outputs)} in {grade.cases} cases{rest}"
    lines = [f"wrong   {functions}" + (f"; right: {', '.join(grade.outputs)}" if grade.outputs else "")]
    for finding in grade.findings:
        lines.append(f"        {finding.problem}")
        if finding.term:
            where = f"{finding.output}: " if finding.output else ""
            lines.append(f"  term    {where}{finding.term}")
        if finding.hint:
            lines.append(f"  hint    {finding.hint}")
        if answer and finding.answer:
            lines.append(f"  answer  {finding.answer}")
    if "y" in ", ".join(finding.output for finding in grade.findings).split(", ") and grade.differences:
        lines.append("        The backward is the right gradient of this forward: correct both together.")
    return "\n".join(lines)
