"""No kernel touches memory outside its arrays, whatever it is given: a correct result, or an error in words."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compyute_transformer.dispatch import Dispatched, use_kernels
from compyute_transformer.errors import CompyuteError
from compyute_transformer.optim.adamw import AdamWOptions, adamw_update
from compyute_transformer.verify.registry import REGISTRY, Case, Op, cotangent, map_arrays

pytestmark = pytest.mark.usefixtures("validation_only")

FORWARDS = [op for op in REGISTRY.values() if isinstance(op.forward, Dispatched)]
BACKWARDS = [op for op in REGISTRY.values() if isinstance(op.backward, Dispatched)]


@pytest.mark.skipif(sys.platform != "linux", reason="needs mprotect")
def test_kernels_stay_within_their_arrays() -> None:
    script = Path(__file__).parents[1] / "guarded.py"
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 0, (done.returncode, done.stderr[-500:])
    assert int(done.stdout) > 4 * sum(len(op.cases) for op in REGISTRY.values())


def others(array: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Yield arrays of other shapes, layouts and dtypes."""
    for axis in range(array.ndim):
        yield f"shorter along axis {axis}", array.take(range(array.shape[axis] - 1), axis)
        yield f"longer along axis {axis}", np.concatenate([array, array], axis)
        yield f"one of axis {axis}", array.take([0], axis)
        yield (
            f"every second along axis {axis}",
            np.repeat(array, 2, axis).take(range(0, 2 * array.shape[axis], 2), axis),
        )
        yield f"strided along axis {axis}", np.repeat(array, 2, axis)[(slice(None),) * axis + (slice(None, None, 2),)]
        yield f"backwards along axis {axis}", np.flip(np.flip(array, axis).copy(), axis)
    yield "Fortran's order", np.asfortranarray(array)
    yield "transposed", array.T
    yield "with one more axis", array[None]
    yield "flat", array.reshape(-1)
    yield "empty", array[:0] if array.ndim else array.reshape(1)[:0]
    frozen = array.copy()
    frozen.flags.writeable = False
    yield "read-only", frozen
    for dtype in (np.float64, np.float16, np.int32, np.int8, np.uint64, np.dtype(">f4"), np.dtype(">i8"), bool):
        with np.errstate(all="ignore"):
            yield f"of {np.dtype(dtype)}", array.astype(dtype)
    if array.dtype.kind in "iu":
        yield "out of range", array + 10_000
        yield "below zero", array - 10_000
        yield "out of int32", array.astype(np.int64) + (1 << 40)


def variants(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the same structure with one of its arrays changed."""
    arrays: list[np.ndarray] = []
    map_arrays(arrays.append, value)
    for number, array in enumerate(arrays):
        if not isinstance(array, np.ndarray):
            continue
        for what, other in others(array):
            places = iter(range(len(arrays)))
            yield (
                f"array {number} {what}",
                map_arrays(lambda a, o=other, n=number, p=places: o if next(p) == n else a, value),
            )


def outcome(function: Any, *args: Any, refusals: type[Exception] = CompyuteError) -> Any:
    with np.errstate(all="ignore"):
        try:
            return function(*args)
        except refusals as error:
            return str(error) if refusals is CompyuteError else "refused"


def agree(one: Any, two: Any) -> bool:
    if isinstance(one, str) or isinstance(two, str):
        return isinstance(one, str) and one == two
    if isinstance(one, tuple):
        return all(map(agree, one, two))
    if isinstance(one, np.ndarray | np.generic):
        return np.shape(one) == np.shape(two) and np.allclose(one, two, rtol=1e-3, atol=1e-4, equal_nan=True)
    return True


def first(result: Any) -> Any:
    """Return the output of a forward, without what it saved, or the error."""
    return result if isinstance(result, str) else result[0]


def test_read_only_arrays_are_never_written(op: Op, case: Case) -> None:
    """As of weights that are mapped from a file, where a write would end the process."""
    given = [value for value in case.arguments(dtype=np.float32).values() if isinstance(value, np.ndarray)]
    arguments = {
        name: value.copy() if isinstance(value, np.ndarray) else value
        for name, value in case.arguments(dtype=np.float32).items()
    }
    frozen = [value for value in arguments.values() if isinstance(value, np.ndarray)]
    for array in frozen:
        array.flags.writeable = False
    y, saved = op.forward(*arguments.values())
    op.gradients(cotangent(y), saved)
    for before, after in zip(given, frozen, strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("op", FORWARDS, ids=lambda op: op.name)
def test_kernel_and_reference_agree_about_other_arrays(op: Op) -> None:
    reference = op.forward.reference  # type: ignore[attr-defined]
    disagreeing = []
    for case in (op.cases[0], op.cases[-1]):
        arguments = tuple(case.arguments(dtype=np.float32).values())
        for what, args in variants(arguments):
            theirs, mine = outcome(reference, *args), outcome(op.forward, *args)
            if not agree(first(mine), first(theirs)):
                disagreeing.append((case.name, what, str(first(mine))[:200], str(first(theirs))[:200]))
    assert not disagreeing


@pytest.mark.parametrize("op", BACKWARDS, ids=lambda op: op.name)
def test_kernel_and_reference_agree_about_other_gradients_and_saved_arrays(op: Op) -> None:
    disagreeing = []
    y, saved = op.forward(*op.cases[-1].arguments(dtype=np.float32).values())
    cases = [(f"dy {what}", (dy, saved), CompyuteError) for what, dy in variants(cotangent(y))]
    # nobody but the forward makes what is saved: the words of NumPy will do
    cases += [(f"saved {what}", (cotangent(y), changed), Exception) for what, changed in variants(saved)]
    for what, args, refusals in cases:
        theirs, mine = (outcome(f, *args, refusals=refusals) for f in (op.backward.reference, op.backward))
        if not agree(mine, theirs):
            disagreeing.append((what, str(mine)[:100], str(theirs)[:100]))
    assert not disagreeing


def test_kernel_and_reference_of_adamw_agree_about_other_arrays() -> None:
    options = (3, AdamWOptions(1e-3, (0.9, 0.999), 1e-8, 0.1))
    for what, arrays in variants(tuple(np.linspace(0.1 * i, 1, 10, dtype=np.float32) for i in range(4))):
        mine, theirs = (tuple(np.array(a) for a in arrays) for _ in range(2))
        one, two = (
            outcome(f, *a, *options, refusals=Exception)
            for f, a in ((adamw_update, mine), (adamw_update.reference, theirs))
        )
        assert type(one) is type(two), what
        assert agree(mine, theirs), what


def test_the_variants_are_many() -> None:
    arguments = REGISTRY["linear"].cases[-1].arguments(dtype=np.float32)
    with use_kernels("reference"):
        assert len(list(variants(tuple(arguments.values())))) > 60
