"""Which array library, which device, and which of two functions of one name."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest

from compyute_transformer.arrays import array_module, device_of, erf, gpu_fault, to_device, to_numpy
from compyute_transformer.dispatch import Dispatched, dispatched, package_fault, use_kernels
from compyute_transformer.errors import BackendError, DeviceError

X = np.array([1.0, 2.0])


class OnGpu(np.ndarray):
    """Stands in for CuPy's array."""

    def get(self) -> np.ndarray:
        return np.array(self.view(np.ndarray))


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A CuPy that is imported and whose arrays are NumPy's underneath."""
    stand_in = SimpleNamespace(ndarray=OnGpu, asarray=lambda array: np.asarray(array).view(OnGpu))
    monkeypatch.setitem(sys.modules, "cupy", stand_in)
    return stand_in


# --- arrays and devices ----------------------------------------------------------------------------------------------


def test_anything_but_a_cupy_array_is_on_the_cpu(cupy: SimpleNamespace) -> None:
    assert [device_of(value) for value in (X, 1.0, None, [1.0])] == ["cpu"] * 4
    assert device_of(X.view(OnGpu)) == "cuda"


def test_the_array_module_is_the_one_that_made_the_arrays(cupy: SimpleNamespace) -> None:
    assert array_module(X, None, X) is np
    assert array_module() is np
    assert array_module(X.view(OnGpu), None) is cupy


def test_arrays_on_two_devices_are_refused(cupy: SimpleNamespace) -> None:
    with pytest.raises(DeviceError, match=r"one device, got both NumPy and CuPy arrays.*to_device"):
        array_module(X, X.view(OnGpu))


def test_moving_to_where_it_is_returns_the_array_itself() -> None:
    assert to_device(X, "cpu") is X
    assert to_numpy(X) is X


def test_moving_between_devices(cupy: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "gpu_fault", lambda: None)
    moved = to_device(X, "cuda")
    assert type(moved) is OnGpu
    assert to_device(moved, "cuda") is moved
    for back in (to_device(moved, "cpu"), to_numpy(moved)):
        assert type(back) is np.ndarray
        assert np.array_equal(back, X)


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(BackendError, match="a device is 'cpu' or 'cuda', got 'tpu'"):
        to_device(X, "tpu")  # type: ignore[arg-type]


def test_without_a_gpu_the_error_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "gpu_fault", lambda: "CuPy is not installed: pip install it")
    with pytest.raises(BackendError, match=r"to_device: no array can be moved to 'cuda'\. CuPy is not installed: pip"):
        to_device(X, "cuda")


@pytest.fixture
def fresh_fault() -> Iterator[Callable[[], str | None]]:
    """`gpu_fault`, which remembers, made to look again; and once more afterwards."""
    gpu_fault.cache_clear()
    yield gpu_fault
    gpu_fault.cache_clear()


@pytest.mark.parametrize(
    ("count", "sentence"),
    [
        (None, "pip install 'compyute-transformer[gpu]'"),
        (RuntimeError("no driver"), "finds no usable GPU (RuntimeError: no driver)"),
        (0, "has no NVIDIA GPU"),
    ],
    ids=["no CuPy", "no driver", "no device"],
)
def test_the_fault_of_a_gpu_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, fresh_fault: Callable[[], str | None], count: Any, sentence: str
) -> None:
    def get_device_count() -> int:
        if isinstance(count, Exception):
            raise count
        return count

    found = None if count is None else ModuleType("cupy")
    if found is not None:
        found.__spec__ = ModuleSpec("cupy", None)
        found.cuda = SimpleNamespace(runtime=SimpleNamespace(getDeviceCount=get_device_count))
    monkeypatch.setitem(sys.modules, "cupy", found)
    assert sentence in (fresh_fault() or "")
    assert package_fault("cuda") == fresh_fault()


def test_erf_is_that_of_the_standard_library() -> None:
    from math import erf as exact

    points = np.linspace(-3, 3, 13)
    assert np.allclose(erf(points), [exact(x) for x in points], rtol=1e-14)
    assert erf(points.astype(np.float32)).dtype == np.float32


# --- readable and fast -----------------------------------------------------------------------------------------------


def reference(x: Any, scale: float = 1.0) -> str:
    """The reference."""
    return "reference"


def made_up() -> Dispatched:
    """A fast op of a word that no package knows, so that a test may add kernels of its own."""

    def made_up_forward(x: Any, scale: float = 1.0) -> str:
        """The reference."""
        return "reference"

    made_up_forward.__module__ = "compyute_transformer.ops.made_up"
    return dispatched(made_up_forward)


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts a module with a kernel on a package."""

    def put(name: str = "cpu", supports: Callable[..., bool] = lambda *args, **kwargs: True) -> None:
        module = ModuleType(f"compyute_transformer.{name}.made_up")
        module.__spec__ = ModuleSpec(module.__name__, None)

        def made_up_forward(x: Any, scale: float = 1.0) -> str:
            return f"kernel on {name}"

        made_up_forward.supports = supports  # type: ignore[attr-defined]
        module.made_up_forward = made_up_forward  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)

    return put


def test_without_a_kernel_the_reference_runs() -> None:
    assert made_up()(X) == "reference"


def test_a_kernel_runs_where_it_serves_and_the_reference_is_always_callable(package: Callable[..., None]) -> None:
    package("cpu", supports=lambda x, scale=1.0: scale == 1.0)
    op = made_up()
    assert op(X) == "kernel on cpu"
    assert op(X, scale=2.0) == "reference"
    assert op.reference(X) == "reference"


def test_the_kernel_that_a_call_would_run_can_be_asked_for(package: Callable[..., None]) -> None:
    assert made_up().kernel_of(X) is None
    package("cpu", supports=lambda x, scale=1.0: scale == 1.0)
    op = made_up()
    assert op.kernel_of(X)(X) == "kernel on cpu"  # type: ignore[misc]
    assert op.kernel_of(X, scale=2.0) is None
    with use_kernels("reference"):
        assert op.kernel_of(X) is None
    with use_kernels("cuda"):
        assert op.kernel_of(X) is None
    with use_kernels("cpu"):
        assert op.kernel_of(x=X) is not None


def test_arguments_may_all_be_given_by_name(package: Callable[..., None]) -> None:
    assert made_up()(x=X) == "reference"
    package()
    assert made_up()(x=X) == "kernel on cpu"


def test_reference_turns_kernels_off(package: Callable[..., None]) -> None:
    package()
    op = made_up()
    with use_kernels("reference"):
        assert op(X) == "reference"
    assert op(X) == "kernel on cpu"


def test_choices_nest_and_an_exception_restores_them(package: Callable[..., None]) -> None:
    package()
    op = made_up()
    with use_kernels("reference"):
        with use_kernels("auto"):
            assert op(X) == "kernel on cpu"
            with use_kernels("cpu"):
                assert op(X) == "kernel on cpu"
        assert op(X) == "reference"
        with pytest.raises(ZeroDivisionError), use_kernels("cpu"):
            raise ZeroDivisionError
        assert op(X) == "reference"
    assert op(X) == "kernel on cpu"


def test_an_explicit_request_that_no_kernel_meets_raises(package: Callable[..., None]) -> None:
    with (
        use_kernels("cpu"),
        pytest.raises(BackendError, match=r"made_up_forward: .*use\('cpu'\), but the op has no kernel there"),
    ):
        made_up()(X)
    package("cpu", supports=lambda x, scale=1.0: False)
    with use_kernels("cpu"), pytest.raises(BackendError, match=r"does not serve these arguments.*use\('auto'\)"):
        made_up()(X)


def test_an_explicit_request_for_a_floor_that_cannot_run_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "gpu_fault", lambda: "The machine has no GPU")
    with use_kernels("cuda"), pytest.raises(BackendError, match=r"use\('gpu'\), but The machine has no GPU"):
        made_up()(X)
    monkeypatch.setitem(sys.modules, "numba", None)  # as if it were not installed
    with use_kernels("cpu"), pytest.raises(BackendError, match=r"but Numba is not installed: pip install numba"):
        made_up()(X)


def test_an_unknown_choice_is_refused() -> None:
    with pytest.raises(BackendError, match="use: one of auto, reference, cpu, gpu, got 'fast'"), use_kernels("fast"):  # type: ignore[arg-type]
        pass


def test_the_device_of_the_arrays_chooses_the_package(
    package: Callable[..., None], cupy: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Saved(NamedTuple):
        x: Any

    monkeypatch.setattr(dispatch, "gpu_fault", lambda: None)
    package("cpu")
    package("cuda")
    op = made_up()
    on_gpu = X.view(OnGpu)
    assert op(X) == "kernel on cpu"
    assert op(on_gpu) == op(x=on_gpu) == "kernel on gpu"
    assert op(1.0, Saved(on_gpu)) == op(np.float32(1.0), Saved(on_gpu)) == "kernel on gpu"  # type: ignore[arg-type]
    assert op(1.0, Saved(X)) == "kernel on cpu"  # type: ignore[arg-type]


def test_a_fast_function_keeps_its_name_and_words() -> None:
    op = dispatched(reference)
    assert isinstance(op, Dispatched)
    assert (op.__name__, op.__doc__) == ("reference", "The reference.")


WITHOUT = """
import sys
sys.modules["numba"] = sys.modules["cupy"] = None      # as if neither were installed
import numpy as np
from compyute_transformer.backend import use_kernels
from compyute_transformer.errors import BackendError
from compyute_transformer.ops import linear
from compyute_transformer.ops.contract import REGISTRY, cotangent
for op in REGISTRY.values():
    for case in op.cases:
        y, saved = op.forward(*case.arguments(dtype=np.float32).values())
        op.gradients(cotangent(y), saved)
try:
    with use_kernels("cpu"):
        linear(np.ones((2, 3)), np.ones((4, 3)))
except BackendError as error:
    print(error)
"""


def test_without_numba_and_cupy_every_op_runs_on_its_reference() -> None:
    done = subprocess.run([sys.executable, "-W", "error", "-c", WITHOUT], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "linear_forward" in done.stdout
    assert "Numba is not installed" in done.stdout
