"""Every op on arrays as users have them: the right value, or one sentence. Never a bare error, never other numbers.

The table is generated: each op of the registry, in its first and its last case, with every way in which an array may
differ from one that was made a moment ago.
"""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from compyute_transformer import ops
from compyute_transformer.dispatch import use_kernels
from compyute_transformer.errors import CompyuteError
from compyute_transformer.verify.registry import REGISTRY, Case, Op, cotangent, map_arrays

pytestmark = pytest.mark.usefixtures("validation_only")

Change = Callable[[np.ndarray], Any]


def of_floats(change: Change) -> Change:
    return lambda array: change(array) if array.dtype.kind == "f" else array


def of_integers(change: Change) -> Change:
    return lambda array: change(array) if array.dtype.kind in "iu" else array


def with_axes(change: Change) -> Change:
    """Leave an array without axes alone, which NumPy turns into a number or into one with an axis here and there."""
    return lambda array: change(array) if array.ndim else array


def read_only(array: np.ndarray) -> np.ndarray:
    copy = array.copy()
    copy.flags.writeable = False
    return copy


def unaligned(array: np.ndarray) -> np.ndarray:
    copy = np.ndarray(array.shape, array.dtype, np.empty(array.nbytes + 1, np.uint8), offset=1)
    copy[...] = array
    return copy


def spread(array: np.ndarray) -> np.ndarray:
    """Return the values as every second element of the last axis of a larger array."""
    return np.repeat(array, 2, axis=-1)[..., ::2]


def inner(array: np.ndarray) -> np.ndarray:
    """Return the values as the inside of a larger array."""
    return np.pad(array, 1)[tuple(slice(1, -1) for _ in array.shape)]


class Subclass(np.ndarray):
    """As some libraries make them."""


LAYOUTS: dict[str, Change] = {
    "Fortran order": lambda array: np.asarray(array, order="F"),
    "negative strides": lambda array: np.flip(np.flip(array).copy()),
    "every second element": spread,
    "inside of a larger array": inner,
    "read-only": read_only,
    "unaligned": unaligned,
    "broadcast": lambda array: np.broadcast_to(array, array.shape),
    "subclass": lambda array: array.copy().view(Subclass),
    "int32 ids": of_integers(lambda ids: ids.astype(np.int32)),
    "int16 ids": of_integers(lambda ids: ids.astype(np.int16)),
    "uint8 ids": of_integers(lambda ids: ids.astype(np.uint8) if ids.min(initial=0) >= 0 else ids),
}
OTHER_KINDS: dict[str, Change] = {  # what these make may be refused
    "big-endian": lambda array: array.astype(array.dtype.newbyteorder(">")),
    "floats as integers": of_floats(lambda array: array.astype(np.int64)),
    "floats as long double": of_floats(lambda array: array.astype(np.longdouble)),
    "float ids": of_integers(lambda ids: ids.astype(np.float32)),
    "uint64 ids": of_integers(lambda ids: ids.astype(np.uint64)),
    "lists": lambda array: array.tolist(),
    "nested tuples": lambda array: tuple(array.tolist()) if array.ndim else float(array),
    "objects": lambda array: array.astype(object),
    "masked": np.ma.masked_array,
}
DTYPES = {np.float16: 2e-2, np.float32: 2e-5, np.float64: 1e-12}
TABLE = [
    pytest.param(op, case, id=f"{op.name}-{case.name}")
    for op in REGISTRY.values()
    for case in {case.name: case for case in (op.cases[0], op.cases[-1])}.values()
]


def test_every_public_op_is_in_the_table() -> None:
    without_arrays = {"Mask", "sinusoids"}
    missing = [name for name in ops.__all__ if name not in REGISTRY and name not in without_arrays]
    assert not missing, f"{', '.join(missing)}: give each public op a record in verify/records, under its own name."


def run(op: Op, arguments: dict[str, Any], dy: Any) -> dict[str, Any]:
    """Return y and the gradients by name."""
    y, saved = op.forward(*arguments.values())
    return {"y": y, **op.gradients(dy, saved)}


def own(op: Op, case: Case, dtype: Any) -> tuple[dict[str, Any], np.ndarray]:
    """Return arguments of this dtype and a cotangent."""
    arguments = case.arguments(dtype=dtype)
    with use_kernels("reference"):
        y, _ = op.forward(*arguments.values())
    return arguments, cotangent(y)


def assert_equal(found: dict[str, Any], expected: dict[str, Any], tolerance: float, what: str) -> None:
    assert found.keys() == expected.keys()
    for name, right in expected.items():
        if right is None:
            assert found[name] is None, f"{what}: {name}"
            continue
        scale = float(np.abs(right).max(initial=0)) or 1.0
        difference = np.abs(np.asarray(found[name], np.float64) - right).max(initial=0)
        assert difference <= tolerance * scale, f"{what}: {name} is off by {difference / scale:.1e}"


@pytest.mark.parametrize(("each", "example"), TABLE)
def test_the_layout_of_arrays_changes_nothing(each: Op, example: Case) -> None:
    arguments, dy = own(each, example, np.float32)
    with use_kernels("reference"):
        expected = run(each, arguments, dy)
    before = map_arrays(np.copy, arguments)
    for name, change in LAYOUTS.items():
        change = with_axes(change)
        changed = map_arrays(change, before)
        assert_equal(run(each, changed, change(dy)), expected, 2e-5, f"{each.name}, {name}")
        for key, value in before.items():  # what the caller gave is the caller's
            if isinstance(value, np.ndarray):
                assert np.array_equal(changed[key], value), f"{each.name}, {name}: {key} was changed"


@pytest.mark.parametrize(("each", "example"), TABLE)
def test_another_kind_of_numbers_is_right_or_refused(each: Op, example: Case) -> None:
    arguments, dy = own(each, example, np.float32)
    with use_kernels("reference"):
        expected = run(each, arguments, dy)
    for name, change in OTHER_KINDS.items():
        for place in (*arguments, "all", "dy"):
            parts = {key: place in (key, "all") for key in arguments}
            changed = {key: map_arrays(change, v) if parts[key] else v for key, v in arguments.items()}
            given = change(dy) if place in ("all", "dy") else dy
            if place != "dy" and all(same(changed[key], arguments[key]) for key in arguments):
                continue
            try:
                found = run(each, changed, given)
            except CompyuteError:
                continue
            if "integers" not in name:  # rounded, they are other numbers
                assert_equal(found, expected, 2e-5, f"{each.name}, {place} as {name}")


def same(one: Any, other: Any) -> bool:
    return one is other or (isinstance(one, tuple) and isinstance(other, tuple) and all(map(same, one, other)))


@pytest.mark.parametrize(("each", "example"), TABLE)
def test_every_float_dtype_is_right_in_any_thread_or_refused(each: Op, example: Case) -> None:
    for dtype, tolerance in DTYPES.items():
        arguments, dy = own(each, example, dtype)
        wide = map_arrays(lambda a: a.astype(np.float64) if a.dtype.kind == "f" else a, arguments)
        with use_kernels("reference"):
            expected = run(each, wide, dy.astype(np.float64))
        found = run(each, arguments, dy)
        assert all(value is None or value.dtype == dtype for value in found.values()), each.name
        assert_equal(found, expected, tolerance, f"{each.name}, {np.dtype(dtype)}")
        elsewhere: list[Any] = []
        thread = threading.Thread(target=lambda a=arguments, d=dy, into=elsewhere: into.append(run(each, a, d)))
        thread.start()
        thread.join()
        assert elsewhere, f"{each.name}: failed in a thread"
        assert all(np.array_equal(elsewhere[0][name], value) for name, value in found.items() if value is not None)
