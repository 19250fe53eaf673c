"""Products through cuBLASLt: the row-major trick, every epilogue, plans, and what runs where a package is missing."""

from collections.abc import Iterator
from importlib import import_module
from itertools import product
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from gpu.stand_in import cublaslt, installed

from compyute_transformer.errors import BackendError
from compyute_transformer.ops.linear import linear_backward, linear_forward
from compyute_transformer.precision import precision, use_precision
from compyute_transformer.verify.kernels import compare_kernel
from compyute_transformer.verify.registry import REGISTRY

BF16 = np.dtype(ml_dtypes.bfloat16)
R, C, K = 5, 7, 3  # rows and columns of the result, and what is summed over
TOLERANCE = {"float64": 1e-13, "float32": 1e-5, "bfloat16": 2e-2}


class Gpu:
    """The stand-ins, and the functions under test. library: None without nvmath."""

    def __init__(self, cupy: Any, library: Any) -> None:
        self.cupy, self.library = cupy, library
        self.products = import_module("compyute_transformer.gpu._products")


@pytest.fixture(params=["fused", "no algorithm", "no nvmath"])
def gpu(request: pytest.FixtureRequest) -> Iterator[Gpu]:
    library, modules = cublaslt.make()
    if request.param == "no algorithm":
        library.refused |= {4, 160, 164, 192, 512}
    with installed(modules if request.param != "no nvmath" else None) as cupy:
        yield Gpu(cupy, library if request.param != "no nvmath" else None)


@pytest.fixture
def fused() -> Iterator[Gpu]:
    library, modules = cublaslt.make()
    with installed(modules) as cupy:
        yield Gpu(cupy, library)


def gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def numbers(seed: int, *shape: int, dtype: Any = np.float64) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


@pytest.mark.parametrize("dtypes", [("float64", "float64"), ("float32", "float32"), (BF16, "float32"), (BF16, BF16)])
@pytest.mark.parametrize("epilogue", ["none", "bias", "gelu", "gelu_bias", "dgelu", "bias_gradient"])
def test_every_epilogue_of_every_layout(gpu: Gpu, epilogue: Any, dtypes: Any) -> None:
    operand_dtype, out_dtype = dtypes
    for (first, second), accumulate in product(product((False, True), repeat=2), (False, True)):
        if accumulate and epilogue not in ("none", "bias_gradient"):
            continue
        a = numbers(1, *((K, R) if first else (R, K)), dtype=operand_dtype)
        b = numbers(2, *((C, K) if second else (K, C)), dtype=operand_dtype)
        start = numbers(3, R, C, dtype=out_dtype)
        hidden = numbers(4, R, C, dtype=out_dtype)
        vector = numbers(5, R if epilogue == "bias_gradient" else C, dtype=out_dtype)
        left, right = (x.astype(np.float64) for x in (a.T if first else a, b.T if second else b))
        expected = left @ right + (start.astype(np.float64) if accumulate else 0)
        expected_vector, expected_hidden = vector.astype(np.float64), hidden.astype(np.float64)
        if epilogue in ("bias", "gelu_bias"):
            expected = expected + expected_vector
        if epilogue in ("gelu", "gelu_bias"):
            expected_hidden, expected = expected, gelu(expected)
        if epilogue == "dgelu":
            h = expected_hidden
            expected = expected * (gelu(h + 1e-5) - gelu(h - 1e-5)) / 2e-5
        if epilogue == "bias_gradient":
            expected_vector = left.sum(1)
        on_gpu = [gpu.cupy.asarray(x) for x in (a, b, start, vector, hidden)]
        gpu.products.multiply(
            *on_gpu[:3],
            transposed=(first, second),
            epilogue=epilogue,
            vector=on_gpu[3],
            hidden=on_gpu[4],
            accumulate=accumulate,
        )
        limit = max(TOLERANCE[np.dtype(out_dtype).name], 1e-9 if epilogue == "dgelu" else 0)
        for found, wanted in zip(on_gpu[2:], (expected, expected_vector, expected_hidden), strict=True):
            error = np.abs(found.get().astype(np.float64) - wanted).max() / np.abs(wanted).max()
            assert error <= limit, (first, second, accumulate)
    if gpu.library is not None and not gpu.library.refused:  # an algorithm was found for each
        assert None not in gpu.products.planner().plans.values()


@pytest.mark.parametrize("name", ["linear"])
def test_the_kernel_of_linear_equals_its_reference(gpu: Gpu, name: str) -> None:
    for case in REGISTRY[name].cases:
        for dtype in (np.float32, np.float64):
            results = compare_kernel(REGISTRY[name], case, dtype, "cuda")
            assert results
            assert [str(result) for result in results if not result.passed] == []


def test_the_kernel_of_linear_uses_the_epilogues(fused: Gpu) -> None:
    x, weight, bias = (fused.cupy.asarray(numbers(i, *shape)) for i, shape in enumerate([(2, 4, 3), (5, 3), (5,)]))
    y, saved = linear_forward(x, weight, bias)
    linear_backward(y, saved)
    assert list(dict.fromkeys(epilogue for epilogue, _ in fused.library.calls)) == [4, 1, 512]  # each is tried, too


def test_the_precision_of_products_of_float32(fused: Gpu) -> None:
    x, weight = numbers(0, 40, 30, dtype=np.float32), numbers(1, 20, 30, dtype=np.float32)
    arrays = fused.cupy.asarray(x), fused.cupy.asarray(weight)
    exact = x.astype(np.float64) @ weight.T.astype(np.float64)
    rounded = x.astype(BF16).astype(np.float64) @ weight.astype(BF16).T.astype(np.float64)
    with use_precision("bfloat16"):
        y = linear_forward(*arrays)[0]
    assert precision() == "float32"
    assert y.dtype == np.float32
    assert np.abs(y.get() - rounded).max() < 1e-5 < 1e-3 < np.abs(y.get() - exact).max()
    assert np.abs(linear_forward(*arrays)[0].get() - exact).max() < 1e-5
    with use_precision("tf32"):
        linear_forward(*arrays)
    planned = fused.products.planner().plans
    assert {problem.compute for problem in planned} == {68, 77}


def test_a_product_is_planned_once_and_the_fastest_proposal_is_kept(
    fused: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter([3.0, 1.0, 2.0])
    monkeypatch.setattr(fused.cupy.cuda, "get_elapsed_time", lambda *events: next(times))
    a, b, out = (fused.cupy.ones(shape) for shape in ((R, K), (K, C), (R, C)))
    for _ in range(3):
        fused.products.multiply(a, b, out, accumulate=True)
    assert out.tolist() == [[1 + 3 * K] * C] * R  # trials added nothing
    assert [algorithm for _, algorithm in fused.library.calls][-3:] == [2, 2, 2]
    assert len(fused.products.planner().plans) == 1


def test_addresses_of_little_alignment_have_plans_of_their_own(fused: Gpu) -> None:
    whole = fused.cupy.asarray(numbers(0, 200))
    b, out = fused.cupy.asarray(numbers(1, K, C)), fused.cupy.zeros((R, C))
    for start in (0, 1, 4):  # as parameters lie in a flat buffer
        a = whole[start : start + R * K].reshape(R, K)
        fused.products.multiply(a, b, out)
        assert np.allclose(out.get(), a.get() @ b.get())
    assert len(fused.products.planner().plans) == 3


def test_a_captured_product_is_replayed_and_a_new_shape_is_refused_there(fused: Gpu) -> None:
    a, b, out = (fused.cupy.asarray(numbers(i, *shape)) for i, shape in enumerate(((R, K), (K, C), (R, C))))
    fused.products.multiply(a, b, out)
    with fused.cupy.cuda.Stream(non_blocking=True) as stream:
        stream.begin_capture()
        fused.products.multiply(a, b, out)
        with pytest.raises(BackendError, match="planned before it is captured"):
            fused.products.multiply(a, b, out, accumulate=True)
        graph = stream.end_capture()
    a[...] = 2.0
    graph.launch()
    assert np.allclose(out.get(), 2 * b.get().sum(0))


def test_without_nvmath_the_program_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    with installed() as cupy:
        x, weight = cupy.ones((2, 3)), cupy.ones((4, 3))
        for _ in range(2):
            linear_forward(x, weight)
    said = [record.getMessage() for record in caplog.records if "nvmath" in record.getMessage()]
    assert len(said) == 1
    assert "pip install 'compyute-transformer[gpu]'" in said[0]
