"""Array libraries and devices; what dispatch runs, and that it validates first."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec
from inspect import signature
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest

from compyute_transformer import arrays, dispatch
from compyute_transformer.arrays import array_module, device_of, erf, gpu_fault, to_device, to_numpy
from compyute_transformer.dispatch import (
    Dispatched,
    dispatched,
    kernel_for,
    only_kernels_of,
    output_of,
    package_fault,
    use_kernels,
)
from compyute_transformer.errors import BackendError, DeviceError, InputError, RangeError

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
    monkeypatch.setattr(arrays, "gpu_fault", lambda: None)
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
    monkeypatch.setattr(arrays, "gpu_fault", lambda: "CuPy is not installed: pip install it")
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
        (
            RuntimeError("no driver"),
            "finds no usable GPU (RuntimeError: no driver): it needs one of NVIDIA's, and its driver",
        ),
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


# --- reference and kernels --------------------------------------------------------------------------------------------


def check_made_up(x: Any, scale: float = 1.0) -> None:
    if not isinstance(scale, float):
        raise RangeError(f"made_up: scale is a float, got {scale!r}.")


def made_up() -> Dispatched:
    """An op of a topic for which no package has a file, so that a test may register kernels of its own."""

    def made_up_forward(x: Any, scale: float = 1.0) -> str:
        """The reference."""
        return "reference"

    made_up_forward.__module__ = "compyute_transformer.ops.made_up"
    return dispatched(validate=check_made_up)(made_up_forward)


def add_kernel(
    op: Dispatched, device: Any = "cpu", supports: Callable[..., bool] = lambda *args, **kwargs: True
) -> None:
    @kernel_for(op, supports=supports, device=device)
    def made_up_kernel(x: Any, scale: float = 1.0) -> str:
        return f"kernel for {device}"


def test_without_a_kernel_the_reference_runs() -> None:
    assert made_up()(X) == "reference"


def test_a_kernel_runs_where_it_supports_the_arguments_and_the_reference_is_always_callable() -> None:
    op = made_up()
    add_kernel(op, supports=lambda x, scale=1.0: scale == 1.0)
    assert op(X) == "kernel for cpu"
    assert op(X, scale=2.0) == "reference"
    assert op.reference(X) == "reference"


def test_the_kernel_of_a_device_is_found_and_says_what_it_supports() -> None:
    op = made_up()
    assert op.kernel("cpu") is None
    add_kernel(op, supports=lambda x, scale=1.0: scale == 1.0)
    kernel: Any = op.kernel("cpu")
    assert kernel(X) == "kernel for cpu"
    assert kernel.supports(X)
    assert not kernel.supports(X, scale=2.0)


def test_an_op_of_the_library_and_its_kernel_lead_to_each_other() -> None:
    from compyute_transformer.ops.norm import layer_norm_forward

    kernel: Any = layer_norm_forward.kernel("cpu")
    assert kernel.__module__ == "compyute_transformer.cpu.norm"
    assert kernel.__globals__["layer_norm_forward"] is layer_norm_forward


def test_the_kernel_that_a_call_would_run_can_be_asked_for() -> None:
    op = made_up()
    assert op.kernel_of(X) is None
    add_kernel(op, supports=lambda x, scale=1.0: scale == 1.0)
    assert op.kernel_of(X)(X) == "kernel for cpu"  # type: ignore[misc]
    assert op.kernel_of(X, scale=2.0) is None
    with use_kernels("reference"):
        assert op.kernel_of(X) is None
    with use_kernels("cuda"):
        assert op.kernel_of(X) is None
    with use_kernels("cpu"):
        assert op.kernel_of(x=X) is not None


def test_arguments_may_all_be_given_by_name() -> None:
    op = made_up()
    assert op(x=X) == "reference"
    add_kernel(op)
    assert op(x=X) == "kernel for cpu"


def test_arguments_are_validated_before_a_kernel_or_the_reference_sees_them() -> None:
    op, seen = made_up(), []
    for call in (op, op.reference):
        with pytest.raises(RangeError, match=r"^made_up: scale is a float, got 2\.$"):
            call(X, 2)
    add_kernel(op, supports=lambda *args, **kwargs: bool(seen.append(args)))
    with pytest.raises(RangeError, match=r"^made_up: scale is a float, got 2\.$"):
        op(X, scale=2)
    assert not seen


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((), {}, "missing a required argument: 'x'"),
        ((X, 1.0, 2.0), {}, "too many positional arguments"),
        ((X,), {"is_causal": True}, r"'is_causal'\. Ours for is_causal is mask=Mask\(causal=True\)"),
    ],
)
def test_a_call_that_does_not_fit_the_signature_is_named(args: Any, kwargs: Any, message: str) -> None:
    for call in (made_up(), made_up().reference):
        with pytest.raises(InputError, match=rf"^made_up_forward: the arguments are x, scale, .*{message}"):
            call(*args, **kwargs)


def test_reference_turns_kernels_off() -> None:
    op = made_up()
    add_kernel(op)
    with use_kernels("reference"):
        assert op(X) == "reference"
    assert op(X) == "kernel for cpu"


def test_choices_nest_and_an_exception_restores_them() -> None:
    op = made_up()
    add_kernel(op)
    with use_kernels("reference"):
        with use_kernels("auto"):
            assert op(X) == "kernel for cpu"
            with use_kernels("cpu"):
                assert op(X) == "kernel for cpu"
        assert op(X) == "reference"
        with pytest.raises(ZeroDivisionError), use_kernels("cpu"):
            raise ZeroDivisionError
        assert op(X) == "reference"
    assert op(X) == "kernel for cpu"


def test_only_the_kernels_of_some_topics_run() -> None:
    op = made_up()
    with only_kernels_of("linear"):
        add_kernel(op)  # registered meanwhile, as by the first call of another op
        assert op(X) == "reference"
        with only_kernels_of("made_up"):
            assert op(X) == "reference"
        assert not op.has_kernel(X)
    with only_kernels_of("made_up"):
        assert op(X) == "kernel for cpu"
    assert op.has_kernel(X)


def test_an_explicit_request_that_no_kernel_meets_raises() -> None:
    op = made_up()
    with (
        use_kernels("cpu"),
        pytest.raises(BackendError, match=r"made_up_forward: .*use_kernels\('cpu'\), but the op has no kernel there"),
    ):
        op(X)
    add_kernel(op, supports=lambda x, scale=1.0: False)
    with use_kernels("cpu"), pytest.raises(BackendError, match=r"does not support these arguments.*'auto'"):
        op(X)


def test_an_explicit_request_for_a_device_that_cannot_run_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "gpu_fault", lambda: "The machine has no GPU")
    with use_kernels("cuda"), pytest.raises(BackendError, match=r"use_kernels\('cuda'\), but The machine has no GPU"):
        made_up()(X)
    monkeypatch.setitem(sys.modules, "numba", None)  # as if it were not installed
    with use_kernels("cpu"), pytest.raises(BackendError, match=r"but Numba is not installed: pip install numba"):
        made_up()(X)


def test_an_unknown_choice_is_refused() -> None:
    message = "use_kernels: kernels is one of auto, reference, cpu, cuda, got 'fast'"
    with pytest.raises(BackendError, match=message), use_kernels("fast"):  # type: ignore[arg-type]
        pass


def test_the_device_of_the_arrays_chooses_the_kernel(cupy: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "gpu_fault", lambda: None)

    class Saved(NamedTuple):
        x: Any

    op = made_up()
    add_kernel(op, "cpu")
    add_kernel(op, "cuda")
    on_gpu = X.view(OnGpu)
    assert op(X) == "kernel for cpu"
    assert op(on_gpu) == op(x=on_gpu) == "kernel for cuda"
    assert op(Saved(on_gpu)) == "kernel for cuda"
    assert op(Saved(X)) == "kernel for cpu"


def test_a_kernel_is_hidden_where_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be registered all the same: where tests ran it on a CPU."""
    op = made_up()
    add_kernel(op, "cuda")
    monkeypatch.setattr(dispatch, "gpu_fault", lambda: None)
    assert op.kernel("cuda") is not None
    monkeypatch.setattr(dispatch, "gpu_fault", lambda: "The machine has no GPU")
    assert op.kernel("cuda") is None


def test_an_op_keeps_the_name_and_docstring_of_its_reference() -> None:
    op = made_up()
    assert isinstance(op, Dispatched)
    assert (op.__name__, op.__doc__) == ("made_up_forward", "The reference.")


def test_the_function_without_a_gradient_is_derived() -> None:
    def square_forward(x: float, scale: float = 1.0) -> tuple[float, str]:
        """Square x.

        y = scale x²
        """
        return scale * x * x, "saved"

    square = output_of("square", square_forward)
    assert square(3.0, scale=2.0) == 18.0
    assert square.__name__ == "square"
    assert str(signature(square)) == "(x: float, scale: float = 1.0) -> float"
    assert (square.__doc__ or "").startswith("Square x.\n\n    Return y alone. `square_forward` also returns")
    assert "y = scale x²" in (square.__doc__ or "")


WITHOUT = """
import sys
sys.modules["numba"] = sys.modules["cupy"] = None      # as if neither were installed
import numpy as np
from compyute_transformer.dispatch import use_kernels
from compyute_transformer.errors import BackendError
from compyute_transformer.ops import linear
from compyute_transformer.verify.registry import REGISTRY, cotangent
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
