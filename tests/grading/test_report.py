"""Grades: the right term for each mistake, nothing for right variants, and one sentence for whatever cannot run."""

from typing import Any

import numpy as np
import pytest
from grading_right import RIGHT
from grading_wrong import WRONG

from compyute_transformer.errors import RangeError
from compyute_transformer.grading import check, grade_functions, zoo
from compyute_transformer.grading.report import written

pytestmark = pytest.mark.usefixtures("validation_only")


def test_there_are_enough_of_both() -> None:
    assert len(WRONG) >= 50
    assert len(RIGHT) >= 20


@pytest.mark.parametrize("name", WRONG)
def test_the_term_that_is_wrong_is_named(name: str) -> None:
    op, forward, backward, term = WRONG[name]
    grade = grade_functions(op, forward, backward)
    named = [finding for finding in grade.findings if finding.term]
    assert named, written(grade, answer=True)
    assert all(term in finding.term and finding.hint for finding in named), written(grade, answer=True)
    assert grade.findings[0] is named[0]
    assert not grade.passed


@pytest.mark.parametrize("name", RIGHT)
def test_nothing_is_found_in_a_right_variant(name: str) -> None:
    op, forward, backward = RIGHT[name]
    grade = grade_functions(op, forward, backward)
    assert grade.passed, written(grade)
    assert not grade.findings
    assert grade.differences is (None if backward is None else True)


def test_every_mistake_of_the_zoo_is_known_by_its_own_name() -> None:
    from compyute_transformer.grading import EXERCISES
    from compyute_transformer.grading.exercise import copied

    for name, made in zoo.MISTAKES.items():
        exercise = EXERCISES[made.op]

        def forward(*inputs: Any, exercise: Any = exercise, name: str = name) -> Any:
            with zoo.mistake(name):
                return exercise.forward(*map(copied, inputs))

        def backward(dy: Any, saved: Any, exercise: Any = exercise, name: str = name) -> Any:
            with zoo.mistake(name):
                return exercise.backward(dy, saved)

        found = grade_functions(made.op, forward, backward)
        assert name in {finding.mistake for finding in found.findings}, written(found)


def softmax_forward(x: Any) -> Any:
    y = np.exp(x - x.max(-1, keepdims=True))
    y /= y.sum(-1, keepdims=True)
    return y, y


def in_place(dy: Any, y: Any) -> Any:
    dy *= y
    return dy


def overwriting(x: Any) -> Any:
    x -= x.max(-1, keepdims=True)
    return softmax_forward(x)


def leave(dy: Any, y: Any) -> Any:
    raise SystemExit(3)


def endless(dy: Any, y: Any) -> Any:
    return endless(dy, y)


@pytest.mark.parametrize(
    ("forward", "backward", "problem"),
    [
        (lambda x: None, None, "softmax_forward: y is an array of real numbers, got None"),
        (
            lambda x: softmax_forward(x)[0],
            lambda dy, y: dy,
            "returns a pair, y and what the backward needs, got ndarray",
        ),
        (softmax_forward, lambda dy, y: None, "softmax_backward: dx is an array of real numbers, got None"),
        (softmax_forward, lambda dy, y: (dy, dy), "softmax_backward returns dx, 1 in this order, got a tuple of 2"),
        (softmax_forward, in_place, "softmax_backward writes over its argument dy"),
        (overwriting, None, "softmax_forward writes over its argument x"),
        (softmax_forward, lambda dy: dy, "raised TypeError"),
        (lambda x: x.foo, None, "raised AttributeError: 'numpy.ndarray' object has no attribute 'foo'"),
        (softmax_forward, leave, "leave raised SystemExit: 3"),
        (softmax_forward, endless, "endless raised RecursionError"),
        (lambda x: ("text", 0), None, "y is an array of real numbers, got str"),
        (lambda x: ([[1], [1, 2]], 0), None, "y is an array of real numbers, got a list of 2"),
        (lambda x: (softmax_forward(x)[0] + 0j, 0), None, "y is an array of real numbers, got ndarray"),
        (lambda x: (softmax_forward(x)[0].astype("f4"), 0), None, "has the dtype of the inputs, float64, got float32"),
        (lambda x: (softmax_forward(x)[0][0], 0), None, "y has shape (5,), and must have (3, 5)"),
        (lambda x: (softmax_forward(x)[0] * np.nan, 0), None, "y holds NaN or infinity in 15 of 15 places"),
    ],
)
def test_whatever_cannot_be_compared_is_said_in_a_sentence(forward: Any, backward: Any, problem: str) -> None:
    grade = grade_functions("softmax", forward, backward)
    assert problem in grade.findings[0].problem
    assert not grade.passed


def test_an_error_names_the_line() -> None:
    grade = grade_functions("softmax", softmax_forward, leave)
    assert "raise SystemExit(3))" in grade.findings[0].problem


def test_a_backward_that_belongs_to_a_wrong_forward_is_not_blamed() -> None:
    op, forward, backward, _ = WRONG["attention: scale missing"]
    grade = grade_functions(op, forward, backward)
    assert grade.differences is True
    assert [finding.output for finding in grade.findings] == ["y"]
    assert "The backward is the right gradient of this forward" in written(grade)


def test_two_mistakes_are_both_named() -> None:
    _, forward, backward, _ = WRONG["linear: weight gradient transposed"]
    _, _, other, _ = WRONG["linear: gradient of the bias averaged"]

    def both(dy: Any, saved: Any) -> Any:
        dx, dweight, _ = backward(dy, saved)
        return dx, dweight, other(dy, saved)[2]

    terms = [finding.term for finding in grade_functions("linear", forward, both).findings]
    assert len(terms) == 2
    assert "transposed" in terms[0]
    assert "divided by the number of rows" in terms[1]


def test_what_has_no_name_is_placed() -> None:
    def backward(dy: Any, y: Any) -> Any:
        dx = y * (dy - (dy * y).sum(-1, keepdims=True))
        if dx.ndim == 4:
            dx[1, 2, 3, 0] = 7.0
        return dx

    (finding,) = grade_functions("softmax", softmax_forward, backward).findings
    assert not finding.term
    assert "dx[1, 2, 3, 0] is 7, and must be" in finding.problem
    assert finding.hint == "It is right in this case: two axes; scores of a thousand. What is different in the others?"


def test_a_backward_alone_gets_what_the_library_saved() -> None:
    grade = grade_functions("softmax", None, lambda dy, saved: saved.y * (dy - (dy * saved.y).sum(-1, keepdims=True)))
    assert grade.passed
    assert grade.outputs == ("dx",)


def test_check_prints_a_hint_first_and_the_answer_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    def softmax_backward(dy: Any, y: Any) -> Any:
        return y * dy

    assert not check(softmax_forward, softmax_backward)
    out = capsys.readouterr().out
    assert "term    dx: the sum over j of dy y" in out
    assert "hint" in out
    assert "answer" not in out
    assert not check(softmax_forward, softmax_backward, answer=True)
    assert "answer  dx = y * (dy - (dy * y).sum(-1, keepdims=True))" in capsys.readouterr().out
    assert check(softmax_forward)
    assert capsys.readouterr().out == "right   softmax_forward: y in 3 cases\n"
    with pytest.raises(RangeError, match="named OP_forward or OP_backward, got leave"):
        check(softmax_forward, leave)
    with pytest.raises(RangeError, match="got none"):
        check()
