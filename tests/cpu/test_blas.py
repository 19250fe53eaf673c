"""The matrix product inside a kernel: any rows of any array; the BLAS's threads are given back."""

import numba
import numpy as np
import pytest

from compyute_transformer.arrays import Array
from compyute_transformer.cpu._blas import AS_IT_IS, TRANSPOSED, sgemm, sgemm_address, single_threaded
from compyute_transformer.cpu._threads import of_blas


@numba.njit
def _product(address: int, a: Array, b: Array, c: Array, alpha: float, beta: float, transposed: bool) -> None:
    """Row-major C ← alpha · A op(B) + beta · C, of the first columns of wider arrays."""
    m, n = c.shape
    k = a.shape[1]
    sgemm(
        address, TRANSPOSED if transposed else AS_IT_IS, AS_IT_IS, n, m, k, np.float32(alpha),
        b.ctypes.data, b.strides[0] // 4, a.ctypes.data, a.strides[0] // 4, np.float32(beta),
        c.ctypes.data, c.strides[0] // 4,
    )  # fmt: skip


@pytest.mark.parametrize("transposed", [False, True])
def test_product_of_parts_of_wider_arrays(transposed: bool) -> None:
    rng = np.random.default_rng(0)
    a, c = (rng.normal(size=shape).astype(np.float32) for shape in ((5, 9), (5, 11)))
    b = rng.normal(size=(3, 13) if transposed else (7, 13)).astype(np.float32)
    a_part, c_part, b_part = a[:, :7], c[:, :3], b[:, :7] if transposed else b[:, :3]
    expected = 2 * a_part @ (b_part.T if transposed else b_part) + 0.5 * c_part
    outside = c[:, 3:].copy()
    _product(sgemm_address(), a_part, b_part, c_part, 2.0, 0.5, transposed)
    np.testing.assert_allclose(c_part, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(c[:, 3:], outside)


def test_threads_are_given_back_after_nesting_and_after_errors() -> None:
    blas = of_blas("scipy")
    assert blas is not None, "SciPy's wheels carry OpenBLAS"
    get = blas.get
    before = get()
    with single_threaded:
        with single_threaded:
            assert get() == 1
        assert get() == 1
    assert get() == before
    with pytest.raises(KeyError), single_threaded:
        raise KeyError
    assert get() == before
