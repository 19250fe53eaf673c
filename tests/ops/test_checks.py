"""Wrong input is refused with the op, the rule, what came, and the remedy."""

import numpy as np
import pytest

from compyute_transformer.errors import DtypeError, RangeError, ShapeError
from compyute_transformer.ops._checks import (
    check_floats,
    check_gradient,
    check_heads,
    check_ids,
    check_last_axis,
    check_probability,
    check_shape,
)

X = np.zeros((2, 3), np.float32)


def test_floats_of_one_dtype_pass_and_none_is_passed_over() -> None:
    assert check_floats("op", {"bias": None}, x=X, y=X) is np
    assert check_floats("op", {"bias": X}, x=X) is np


@pytest.mark.parametrize(
    "other", [X.astype(np.float64), X.astype(np.int64), X.astype(bool)], ids=lambda x: x.dtype.name
)
def test_other_dtypes_are_refused(other: object) -> None:
    with pytest.raises(DtypeError, match=r"^op: .*one dtype, got x: float32, y: .*astype"):
        check_floats("op", x=X, y=other)


@pytest.mark.parametrize("value", [[[0.0]], 1.0, None, np.float32(1.0), np.ma.masked_array([1.0])])
def test_what_is_no_array_is_refused_with_the_conversion(value: object) -> None:
    for check in (lambda: check_floats("op", x=value), lambda: check_ids("op", "x", value, 5)):
        with pytest.raises(
            DtypeError, match=rf"^op: x is a NumPy or CuPy array, got {type(value).__name__}\. Convert it"
        ):
            check()


def test_integers_alone_are_refused() -> None:
    with pytest.raises(DtypeError, match="got x: int64"):
        check_floats("op", x=X.astype(np.int64))


@pytest.mark.parametrize("shape", [(2,), (2, 3, 1), (3, 3), (2, 4)])
def test_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError) as caught:
        check_shape("op", "w", np.zeros(shape), (2, 3), "rows by columns")
    assert str(caught.value) == f"op: w must have shape (2, 3), rows by columns, got {shape}."


def test_none_stands_for_any_length_and_the_message_says_so() -> None:
    check_shape("op", "w", X, (None, 3), "")
    with pytest.raises(ShapeError, match=r"shape \(any, 4\), as x, got \(2, 3\)"):
        check_shape("op", "w", X, (None, 4), "as x")
    with pytest.raises(ShapeError, match=r"shape \(4,\), as x, got \(2, 3\)"):
        check_shape("op", "w", X, (4,), "as x")


@pytest.mark.parametrize("shape", [(), (0,), (2, 0)])
def test_an_empty_last_axis_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match="op: x must have a last axis that is not empty"):
        check_last_axis("op", "x", np.zeros(shape))


def test_a_gradient_of_another_shape_or_dtype_is_refused() -> None:
    check_gradient("op_backward", X, X, (2, 3))
    with pytest.raises(ShapeError, match=r"op_backward: dy must have shape \(2, 4\), the shape of y, got \(2, 3\)"):
        check_gradient("op_backward", X, X, (2, 4))
    with pytest.raises(DtypeError, match=r"op_backward: dy .* float32, got float64.*astype"):
        check_gradient("op_backward", X.astype(np.float64), X, (2, 3))


@pytest.mark.parametrize("probability", [-0.5, 1.0, 1.5, float("nan"), float("inf")])
def test_a_probability_outside_0_to_1_is_refused(probability: float) -> None:
    with pytest.raises(RangeError, match=rf"op: a dropout probability lies in \[0, 1\), got {probability}.*Give 0"):
        check_probability("op", probability)


def test_ids_inside_pass() -> None:
    check_ids("op", "ids", np.array([[0, 4]]), 5)
    check_ids("op", "ids", np.array([0, -100]), 5, ignore=-100)
    check_ids("op", "ids", np.array([], np.int64), 5)
    check_ids("op", "ids", np.array([0, 4], np.uint8), 5)


@pytest.mark.parametrize("outside", [-1, 5, 2**40, -100])
def test_an_id_outside_is_refused_with_its_place(outside: int) -> None:
    with pytest.raises(RangeError, match=rf"op: ids lie in \[0, 5\), got {outside} at \(0, 1\).*tokenizer"):
        check_ids("op", "ids", np.array([[0, outside]]), 5)


def test_an_ignored_id_is_named() -> None:
    with pytest.raises(RangeError, match=r"\[0, 5\) \(or -100, which is ignored\), got -1"):
        check_ids("op", "targets", np.array([-100, -1]), 5, ignore=-100)


@pytest.mark.parametrize("ids", [np.zeros(2), np.zeros(2, bool)], ids=["floats", "booleans"])
def test_ids_that_are_not_integers_are_refused(ids: object) -> None:
    with pytest.raises(DtypeError, match=r"op: ids are integers, got .*astype"):
        check_ids("op", "ids", ids, 5)  # type: ignore[arg-type]


@pytest.mark.usefixtures("validation_only")
@pytest.mark.parametrize("count", [0, -3, 2.0])
def test_a_number_of_heads_that_is_none_is_refused(count: int) -> None:
    with pytest.raises(RangeError, match=f"num_heads is a whole number of at least 1, got {count}"):
        check_heads("op", 12, count, 1)
    with pytest.raises(RangeError, match=f"num_kv_heads is a whole number of at least 1, got {count}"):
        check_heads("op", 12, 4, count)


def test_heads_that_do_not_divide_are_refused_with_those_that_do() -> None:
    with pytest.raises(ShapeError, match=r"width 12 and 5 heads.*divide it: 1, 2, 3, 4, 6, 12\."):
        check_heads("op", 12, 5, 5)
    with pytest.raises(ShapeError, match="4 heads and 3 key/value heads"):
        check_heads("op", 12, 4, 3)
    with pytest.raises(ShapeError, match="at least 1, got 0"):
        check_heads("op", 0, 4, 4)
    check_heads("op", 12, 4, 2)
