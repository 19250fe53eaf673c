"""Products of float32 in registers: any shape, any distance in memory, with 8 and with 16 numbers in a register."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from typing import Any

import numpy as np
import pytest

from compyute_transformer.arrays import Array
from compyute_transformer.cpu import _amx, _float32
from compyute_transformer.cpu._kernel import compile_kernel

RNG = np.random.default_rng(0)
GAP = 5  # numbers behind each row of a matrix, which nobody may read or write


def with_gaps(rows: int, columns: int) -> Array:
    """Return a matrix of random numbers, NaN behind each of its rows."""
    memory = np.full((rows, columns + GAP), np.nan, np.float32)
    memory[:, :columns] = RNG.standard_normal((rows, columns))
    return memory[:, :columns]


def sixteen_numbers_in_a_register() -> Any:
    """Return the module as it is on a processor with AVX-512; the compiler makes two registers of each here."""
    name = "compyute_transformer.cpu._float32_of_avx512"
    spec = spec_from_file_location(name, _float32.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    features, _amx.features = _amx.features, lambda: {"avx512f": True, "fma": True}
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    finally:
        _amx.features = features
        del sys.modules[name]
    return module


def kernels_of(module: Any) -> Any:
    """Return the two products as functions of (A, B, S, C): C = S + A B, where B lies behind two other rows."""
    add_product, add_packed, scratch_of = module.add_product, module.add_packed_product, module.scratch_of
    columns_of_panels, pack = module.columns_of_panels, module.pack

    @compile_kernel
    def run(is_packed, a, a_row, a_k, b, b_row, rows, columns, depth, s, s_row, c, c_row):  # type: ignore[no-untyped-def]
        scratch, has = scratch_of(depth), depth + 2
        if is_packed:
            own = np.full(has * columns_of_panels(columns), np.nan, np.float32)
            at = own.ctypes.data
            pack(b - 2 * b_row, b_row, has, columns, at, has)
            add_packed(a, a_row, a_k, at, has, 2, rows, columns, depth, s, s_row, c, c_row, scratch)
        else:
            add_product(a, a_row, a_k, b, b_row, rows, columns, depth, s, s_row, c, c_row, scratch)

    def product(is_packed: bool, a: Array, b: Array, s: Array, c: Array) -> None:
        (rows, depth), s_row = a.shape, s.strides[0] if len(s) > 1 else 0
        matrices = (
            b.ctypes.data,
            b.strides[0],
            rows,
            b.shape[1],
            depth,
            s.ctypes.data,
            s_row,
            c.ctypes.data,
            c.strides[0],
        )
        run(is_packed, a.ctypes.data, *a.strides, *matrices)

    return product


MODULES = {8: _float32, 16: sixteen_numbers_in_a_register()}
KERNELS = {lanes: kernels_of(module) for lanes, module in MODULES.items()}


def test_the_modules_are_those_of_both_registers() -> None:
    assert MODULES[16].LANES == 16
    assert (MODULES[16].ROWS, MODULES[16].TALL) == (8, 12)


@pytest.mark.parametrize("lanes", KERNELS)
@pytest.mark.parametrize("is_packed", [False, True])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(
    ("rows", "depth", "columns"),
    [
        (64, 20, 64),
        (64, 7, 256),
        (1, 1, 1),
        (6, 3, 16),
        (7, 5, 23),
        (10, 64, 40),
        (13, 9, 48),
        (15, 2, 65),
        (12, 33, 96),
    ],
)
def test_a_product_of_any_shape(lanes: int, is_packed: bool, turned: bool, rows: int, depth: int, columns: int) -> None:
    a = with_gaps(depth, rows).T if turned else with_gaps(rows, depth)
    b, c, row = with_gaps(depth + 2, columns)[2:], with_gaps(rows, columns), with_gaps(1, columns)
    before, expected = c.copy(), a.astype(np.float64) @ b.astype(np.float64)
    for s, added in ((c, before), (row, row), (np.zeros_like(row), np.float32(0))):
        KERNELS[lanes](is_packed, a, b, s, c)
        np.testing.assert_allclose(c, expected + added, rtol=0, atol=2e-5 * np.sqrt(depth))
    assert np.isnan(c.base[:, columns:]).all(), "what is behind a row stays as it is"


@pytest.mark.parametrize("is_packed", [False, True])
@pytest.mark.parametrize("lanes", KERNELS)
def test_rows_and_columns_beside_an_element_do_not_change_it(lanes: int, is_packed: bool) -> None:
    a, b, nothing = with_gaps(64, 40), with_gaps(42, 64)[2:], np.zeros((1, 64), np.float32)
    whole, part = np.zeros((64, 64), np.float32), np.zeros((7, 17), np.float32)
    KERNELS[lanes](is_packed, a, b, nothing, whole)
    KERNELS[lanes](is_packed, a[20:27], b[:, :17], nothing, part)
    np.testing.assert_array_equal(part, whole[20:27, :17])


def test_a_processor_that_cannot_multiply_and_add_at_once_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_float32, "features", dict)
    assert _float32.fault() == "this processor has no fused multiplication and addition"
    monkeypatch.setenv("COMPYUTE_FLOAT32", "0")
    assert _float32.fault() == "COMPYUTE_FLOAT32 is 0"
