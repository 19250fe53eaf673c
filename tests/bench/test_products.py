"""The benchmark of matrix products: every library computes the same products, and has a share of the best."""

import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from compyute_transformer.bench import candidates, mkl, products
from compyute_transformer.bench.products import NO_MKL, NO_NUMKONG, Operands, Shape, bench_products, shapes_of
from compyute_transformer.bench.workload import workload
from compyute_transformer.errors import ParityError
from compyute_transformer.precision import round_to_bfloat16

TINY = {"context_length": 8, "embed_dim": 16, "num_heads": 2, "batch_size": 3}


def given() -> Operands:
    rng = np.random.default_rng(0)
    return Operands(*(rng.standard_normal(shape, dtype=np.float32) for shape in ((7, 5), (3, 5), (7, 3))))


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the libraries that are measured where they are installed, but PyTorch; and do not wait between turns."""
    monkeypatch.setattr(products, "alternate", partial(candidates.alternate, turn=1e-4, pause=0.0))
    monkeypatch.setattr(products, "find_spec", lambda name: None)
    monkeypatch.setattr(mkl, "library", lambda: None)


def test_the_shapes_are_those_of_a_model() -> None:
    work = workload("gpt2")
    assert list(shapes_of(work.config, work.training.batch_size)) == [
        Shape("q, k, v", 1024, 768, 2304),
        Shape("attention output", 1024, 768, 768),
        Shape("up", 1024, 768, 3072),
        Shape("down", 1024, 3072, 768),
        Shape("head", 1024, 768, 50257),
    ]


@pytest.mark.usefixtures("alone")
def test_every_library_has_a_rate_and_a_share() -> None:
    report = bench_products("seed", TINY, rounds=1)
    first = [r for r in report.results if r.what == "backward, up"]
    assert {(r.name, r.shape) for r in first} == {
        ("compyute float32", "24 rows, 16 to 64, float32"),
        ("numpy float32", "24 rows, 16 to 64, float32"),
        ("torch float32", "24 rows, 16 to 64, float32"),
        ("compyute bfloat16", "24 rows, 16 to 64, bfloat16"),
        ("torch bfloat16", "24 rows, 16 to 64, bfloat16"),
    }
    for name, factor in (("forward, up", 2), ("backward, up", 4)):
        found = {r.unit: r.value for r in report.results if r.what == name and r.name == "torch float32"}
        assert found["GFLOP/s"] == pytest.approx(1e-9 * factor * 24 * 16 * 64 / found["ms"] * 1e3)
    for precision in ("float32", "bfloat16"):
        shares = [r.value for r in first if r.unit == products.SHARE and r.mode == precision]
        assert max(shares) == 1
        assert min(shares) > 0
    assert report.notes == [NO_NUMKONG, NO_MKL]


@pytest.mark.usefixtures("alone")
def test_a_library_that_computes_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    right = products._torchs

    def wrong(given: Operands, chosen: Any) -> Any:
        return right(given._replace(dy=-given.dy), chosen)

    monkeypatch.setattr(products, "_torchs", wrong)
    with pytest.raises(ParityError, match="result 0 of torch float32"):
        bench_products("seed", TINY, rounds=1)


def expected(x: Any, weight: Any, dy: Any) -> tuple[Any, Any, Any]:
    return x @ weight.T, dy @ weight, dy.T @ x


def test_numkong_divides_the_rows_and_gets_both_transposed_for_a_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in that has the same functions."""
    kong: Any = ModuleType("numkong")
    kong.astype = lambda array, dtype: round_to_bfloat16(array)
    kong.dots_pack = lambda array, dtype: array.copy()
    places: dict[int, Any] = {}
    kong.from_pointer = lambda address, shape, dtype, owner: places.setdefault(address, owner)

    def dots_packed(a: Any, b: Any, out: Any, start_row: int, end_row: int) -> None:
        out[start_row:end_row] = a[start_row:end_row] @ b.T

    kong.dots_packed = dots_packed
    monkeypatch.setitem(sys.modules, "numkong", kong)
    x, weight, dy = map(round_to_bfloat16, given())
    with ThreadPoolExecutor(2) as threads:
        forward, backward = products._numkongs(given(), threads, 3)
        for one, other in zip((forward(), *backward()), expected(x, weight, dy), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_mkl_is_called_with_rows_and_strides(monkeypatch: pytest.MonkeyPatch) -> None:
    """With SciPy's BLAS, which has the same function, in its place for float32."""
    calls = []

    class Library:
        @staticmethod
        def cblas_sgemm(*arguments: Any) -> None:
            calls.append([argument.value for argument in arguments])

        cblas_gemm_bf16bf16f32 = cblas_sgemm

    monkeypatch.setattr(mkl, "library", Library)
    assert mkl.has_bfloat16()
    forward, backward = products._mkls(given(), "bfloat16")
    forward()
    backward()
    assert [call[:6] for call in calls] == [
        [101, 111, 112, 7, 3, 5],
        [101, 111, 111, 7, 5, 3],
        [101, 112, 111, 3, 5, 7],
    ]
    assert [(call[8], call[10], call[13]) for call in calls] == [(5, 5, 3), (3, 5, 5), (3, 5, 5)]
