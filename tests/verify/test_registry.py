"""What holds for every op: loops over the registry, one test a case. Select an op with `-k linear`."""

import inspect
import pkgutil
import sys
from importlib import import_module
from types import ModuleType, SimpleNamespace
from typing import Any

import jaxtyping
import numpy as np
import pytest
from tolerances import assert_passed, relative_error

from compyute_transformer import ops
from compyute_transformer.dispatch import Dispatched
from compyute_transformer.errors import DeviceError
from compyute_transformer.verify import check_case, compare, compare_devices
from compyute_transformer.verify.registry import REGISTRY, Case, Op, cast, cotangent, map_arrays

DTYPES = [np.float64, np.float32]
MODULES: list[ModuleType] = [
    import_module(f"{ops.__name__}.{found.name}") for found in pkgutil.iter_modules(ops.__path__)
]


def arrays_of(value: Any) -> list[np.ndarray]:
    """All arrays of a structure: of arguments, of a mask, of what was saved, head by head."""
    found: list[np.ndarray] = []
    map_arrays(found.append, value)
    return found


def by_columns(array: np.ndarray) -> np.ndarray:
    return np.asfortranarray(array).reshape(array.shape)  # which would give a scalar an axis


def run(op: Op, arguments: dict[str, Any], seed: int = 0) -> tuple[Any, Any, Any, dict[str, Any]]:
    y, saved = op.forward(*arguments.values())
    dy = cotangent(y, seed)
    return y, saved, dy, op.gradients(dy, saved)


# --- the registry ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__.rpartition(".")[2])
def test_every_forward_is_in_the_registry(module: ModuleType) -> None:
    functions = {
        name: value for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__
    }
    public = {name for name in functions if name in module.__all__ or isinstance(functions[name], Dispatched)}
    assert public <= set(module.__all__), "a fast op must be public"
    for name in public:
        if name.endswith("_forward"):
            op = REGISTRY[name.removesuffix("_forward")]
            assert functions[name] in (op.forward, getattr(op.forward, "__wrapped__", None))  # options by their names
            assert op.backward is functions[f"{op.name}_backward"]


def test_every_op_has_cases_of_different_names() -> None:
    for name, op in REGISTRY.items():
        assert name == op.name
        assert op.cases
        assert len({case.name for case in op.cases}) == len(op.cases)


def test_arguments_stand_in_the_order_of_the_signature(op: Op, case: Case) -> None:
    names = list(case.arguments())
    assert names == list(inspect.signature(op.forward).parameters)
    assert list(op.differentiable) == [name for name in names if name in op.differentiable]
    _, saved, *options = inspect.signature(op.backward).parameters.values()
    assert saved.name == "saved"
    assert all(option.default is not option.empty for option in options)


def test_a_case_draws_the_same_numbers_for_every_dtype(op: Op, case: Case) -> None:
    wide, again, narrow, other = case.arguments(), case.arguments(), case.arguments(dtype=np.float32), case.arguments(1)
    for a, b, c in zip(*map(arrays_of, (wide, again, narrow)), strict=True):
        assert np.array_equal(a, b)
        assert np.array_equal(a.astype(c.dtype), c)
        assert c.dtype in (np.float32, np.int64, bool)
    assert not all(np.array_equal(a, b) for a, b in zip(arrays_of(wide), arrays_of(other), strict=True))


def test_no_case_passes_by_luck(op: Op, case: Case) -> None:
    """A case verifies nothing where y or a gradient is zero, a weight is one, or dy is x."""
    arguments = case.arguments()
    y, _, dy, gradients = run(op, arguments)
    for array in (y, dy, *(gradient for gradient in gradients.values() if gradient is not None)):
        assert np.abs(array).max() > 1e-4
    for name in op.differentiable:
        if (given := arguments[name]) is not None:
            assert not np.any(given == 1.0)
            assert not np.any(given == 0.0)
            assert given.shape != dy.shape or not np.array_equal(given, dy)


# --- what every op promises ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_shapes_and_dtypes_are_those_that_came(op: Op, case: Case, dtype: Any) -> None:
    arguments = case.arguments(dtype=dtype)
    y, saved, _, gradients = run(op, arguments)
    assert y.dtype == dtype
    for name, gradient in gradients.items():
        assert (gradient is None) == (arguments[name] is None)
        if gradient is not None:
            assert (gradient.shape, gradient.dtype) == (arguments[name].shape, dtype)
    for array in arrays_of(saved):
        assert array.dtype == dtype or array.dtype.kind in "iub"


def test_nothing_that_was_given_is_changed(op: Op, case: Case) -> None:
    arguments = case.arguments()
    y, saved = op.forward(*arguments.values())
    dy = cotangent(y)
    before = cast((y, saved, dy), np.float64)  # a copy
    first = op.gradients(dy, saved)
    second = op.gradients(dy, saved)
    for a, b in zip(arrays_of((arguments, before)), arrays_of((case.arguments(), (y, saved, dy))), strict=True):
        assert np.array_equal(a, b)
    for a, b in zip(arrays_of(first), arrays_of(second), strict=True):
        assert np.array_equal(a, b)


def test_the_layout_in_memory_does_not_matter(op: Op, case: Case) -> None:
    arguments = case.arguments()
    y, _, dy, gradients = run(op, arguments)
    other_y, saved = op.forward(*map_arrays(by_columns, arguments).values())
    other = op.gradients(by_columns(dy), saved)
    for a, b in zip(arrays_of((other_y, other)), arrays_of((y, gradients)), strict=True):
        assert relative_error(a, b) <= 1e-13


def test_arguments_may_be_given_by_name(op: Op, case: Case) -> None:
    arguments = case.arguments()
    assert np.array_equal(op.forward(**arguments)[0], op.forward(*arguments.values())[0])


@pytest.mark.parametrize("name", [name for name in ops.__all__ if name in REGISTRY])
def test_the_short_name_is_the_forward_without_what_it_saves(name: str) -> None:
    op = REGISTRY[name]
    function = getattr(sys.modules[op.forward.__module__], name)
    for case in op.cases:
        arguments = case.arguments()
        assert np.array_equal(function(*arguments.values()), op.forward(*arguments.values())[0])


def takes_two_arrays(case: Case) -> bool:
    arguments = case.arguments()
    names = [name for name, value in arguments.items() if isinstance(value, np.ndarray)]
    return len(names) > 1 or bool(arrays_of(arguments.get("mask")))  # one array cannot be on two devices


TWO_ARRAYS = [
    pytest.param(op, case, id=f"{op.name}-{case.name}")
    for op in REGISTRY.values()
    for case in op.cases
    if takes_two_arrays(case)
]


@pytest.mark.usefixtures("validation_only")
@pytest.mark.parametrize(("kind", "example"), TWO_ARRAYS)
def test_arrays_on_two_devices_are_refused(kind: Op, example: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    class OnGpu(np.ndarray):
        """Stands in for CuPy's array."""

    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(ndarray=OnGpu))
    arguments = example.arguments()
    names = [name for name, value in arguments.items() if isinstance(value, np.ndarray)]
    for name in names[1:] or names:
        moved = arguments | {name: arguments[name].view(OnGpu)}
        with pytest.raises(DeviceError, match=r"one device.*to_device"):
            kind.forward(*moved.values())


# --- the checks ------------------------------------------------------------------------------------------------------


def test_gradients_are_the_slopes_of_the_forward(op: Op, case: Case) -> None:
    assert_passed([check for seed in range(2) for check in check_case(op, case, seed)])


@pytest.mark.parametrize("dtype", DTYPES)
def test_y_and_gradients_are_those_of_pytorch(op: Op, case: Case, dtype: Any) -> None:
    assert_passed(compare(op, case, dtype))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_gpu_gives_what_a_cpu_gives(op: Op, case: Case, dtype: Any) -> None:
    assert_passed(compare_devices(op, case, dtype))


# --- the annotations are enforced ------------------------------------------------------------------------------------

WRONG = """
from jaxtyping import Float
from compyute_transformer.arrays import Array
from compyute_transformer.dispatch import dispatched

@dispatched
def wrong_forward(x: Float[Array, "A B"]) -> Float[Array, "B A"]:
    return x

@dispatched
def right_forward(x: Float[Array, "A B"]) -> Float[Array, "B A"]:
    return x.T
"""


def test_a_wrong_annotation_fails(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wrong.py").write_text(WRONG)
    monkeypatch.setattr(ops, "__path__", [*ops.__path__, str(tmp_path)])
    monkeypatch.delitem(sys.modules, f"{ops.__name__}.wrong", raising=False)
    wrong = import_module(f"{ops.__name__}.wrong")
    del ops.wrong
    x = np.zeros((2, 3), np.float32)
    assert wrong.right_forward(x).shape == (3, 2)
    with pytest.raises(jaxtyping.TypeCheckError, match="return value"):
        wrong.wrong_forward(x)
    with pytest.raises(jaxtyping.TypeCheckError, match="parameters"):
        wrong.right_forward(np.zeros((2, 3, 4), np.float32))
    with pytest.raises(jaxtyping.TypeCheckError, match="parameters"):
        wrong.right_forward(np.zeros((2, 3), np.int64))


def test_the_annotations_of_every_op_are_enforced(op: Op, case: Case) -> None:
    arguments = case.arguments()
    reference = getattr(op.forward, "_trusted", op.forward)  # what the validation, with errors of its own, lets run
    for name in op.differentiable:
        if arguments[name] is not None:
            wrong = arguments | {name: np.ones(arguments[name].shape, np.int64)}
            with pytest.raises(jaxtyping.TypeCheckError, match=f"parameter '{name}'"):
                reference(*wrong.values())
