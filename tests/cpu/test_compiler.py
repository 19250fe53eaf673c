"""A kernel is compiled in one piece: what it calls, and the bodies of its loops, are no code of their own."""

import numba
import numpy as np
import pytest
from numba.core.codegen import JITCodeLibrary

from compyute_transformer.arrays import Array
from compyute_transformer.cpu._compiler import KernelCompiler, part_compiler


@part_compiler()
def _twice(part: Array) -> None:
    for i in range(part.size):
        part[i] *= 2


@numba.njit(pipeline_class=KernelCompiler, parallel=True)
def _rows_twice(x: Array) -> None:
    for n in numba.prange(x.shape[0]):
        _twice(x[n])


def test_a_kernel_and_its_parts_are_optimized_once(monkeypatch: pytest.MonkeyPatch) -> None:
    optimized = []
    optimize = JITCodeLibrary._optimize_final_module

    def count(library: JITCodeLibrary) -> None:
        optimized.append(library.name)
        optimize(library)

    monkeypatch.setattr(JITCodeLibrary, "_optimize_final_module", count)
    x = np.arange(12.0).reshape(3, 4)
    _rows_twice(x)
    np.testing.assert_array_equal(x, 2 * np.arange(12.0).reshape(3, 4))
    assert [name for name in optimized if "_rows_twice" in name] == ["_rows_twice"]
    assert not [name for name in optimized if name.startswith(("_twice", "__numba_parfor", "parallelgufunc", "<numba"))]


def test_other_functions_are_compiled_as_always() -> None:
    @numba.njit(parallel=True)
    def total(x: Array) -> float:
        found = 0.0
        for i in numba.prange(x.size):
            found += x[i]
        return found

    assert total(np.arange(5.0)) == 10


def test_a_part_called_from_python_is_an_error() -> None:
    _rows_twice(np.ones((2, 3)))  # the part is compiled
    with pytest.raises(TypeError, match="_twice is a part of kernels"):
        _twice(np.ones(3))
