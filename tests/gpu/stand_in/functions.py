"""The functions of the module `cupy`: NumPy's, on arrays of the device. A test compares the names with real CuPy's."""

from collections.abc import Callable
from typing import Any

import numpy as np

from . import stream
from .array import allocations_of, arrays_in, computed, from_numpy, into, matmul, ndarray, operand, raw, refuse_host

UFUNCS = (
    *("add", "subtract", "multiply", "divide", "true_divide", "power", "exp", "log", "log1p", "expm1", "sqrt", "tanh"),
    *("sin", "cos", "abs", "absolute", "maximum", "minimum", "isfinite", "isnan", "isinf", "sign", "square", "ceil"),
    *("negative", "logical_and", "logical_or", "logical_not", "reciprocal", "rint", "greater", "less", "equal"),
)
OTHERS = (
    *("concatenate", "stack", "where", "broadcast_to", "take_along_axis", "split", "array_split", "repeat", "tile"),
    *("sum", "max", "min", "mean", "prod", "any", "all", "argmax", "argmin", "argsort", "sort", "cumsum", "clip"),
    *("swapaxes", "moveaxis", "transpose", "reshape", "expand_dims", "squeeze", "ravel", "pad", "flip", "outer"),
    *("ascontiguousarray", "zeros_like", "ones_like", "full_like", "tril", "triu", "einsum", "linspace", "take"),
    *(
        "array_equal",
        "allclose",
        "count_nonzero",
        "dot",
        "tensordot",
        "rint",
        "round",
        "amax",
        "amin",
        "vstack",
        "hstack",
    ),
)
MADE = ("arange", "zeros", "ones", "full", "eye", "identity")
SYNCHRONIZING = ("unique", "flatnonzero", "nonzero", "argwhere")
CONSTANTS = (
    *("inf", "nan", "pi", "newaxis", "float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8"),
    *("uint16", "uint32", "uint64", "bool_", "complex64", "complex128", "dtype", "result_type", "finfo", "iinfo"),
    *("floating", "integer", "generic", "can_cast", "promote_types"),
)
ADDED_AT = ("int32", "uint32", "uint64", "float16", "float32", "float64", "complex64", "complex128")


class Ufunc:
    """An element-wise function, with `at` where CuPy has it."""

    def __init__(self, name: str) -> None:
        self.__name__, self._function = name, getattr(np, name)

    def __call__(self, *args: Any, out: Any = None, **options: Any) -> Any:
        if out is not None:
            return into(self._function, out, *args, **options)
        return computed(self._function, *args, **options)

    def at(self, a: ndarray, indices: Any, b: Any = None) -> None:
        if self.__name__ != "add":
            raise NotImplementedError(f"{self.__name__}.at")
        if a.dtype.name not in ADDED_AT:
            raise TypeError(f"cupy.add.at does not take {a.dtype}")
        indices, b, target = operand(indices), operand(b), a._raw
        places, values = raw(indices), raw(b)
        stream.launch("add.at", lambda: np.add.at(target, places, values), allocations_of([a, indices, b]))


def _function(name: str) -> Callable[..., Any]:
    function = getattr(np, name)

    def call(*args: Any, out: Any = None, **options: Any) -> Any:
        if name in SYNCHRONIZING:
            refuse_host(name)
        if out is not None:
            return into(function, out, *args, **options)
        return computed(function, *args, **options)

    call.__name__ = name
    return call


def _refusing_host_arrays(name: str) -> Callable[..., Any]:
    """`zeros_like` and its kind: with an array of the host, CuPy makes one of the device's; here that is refused."""
    call = _function(name)

    def like(a: Any, *args: Any, **options: Any) -> Any:
        if not isinstance(a, ndarray):
            raise TypeError(f"Unsupported type {type(a)}")
        return call(a, *args, **options)

    like.__name__ = name
    return like


def empty(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    return ndarray(shape, dtype)


def empty_like(a: Any, dtype: Any = None, order: str = "K", subok: Any = None, shape: Any = None) -> ndarray:
    if not isinstance(a, ndarray):
        raise TypeError(f"Unsupported type {type(a)}")
    return ndarray(a.shape if shape is None else shape, a.dtype if dtype is None else dtype)


def asarray(a: Any, dtype: Any = None, order: Any = None, *, blocking: bool = False) -> ndarray:
    if isinstance(a, ndarray):
        return a if dtype is None else a.astype(dtype, copy=False)
    if isinstance(a, list | tuple) and arrays_in(a):
        return computed(lambda *each: np.asarray(each, dtype), *a)
    return from_numpy(a, dtype)


def array(obj: Any, dtype: Any = None, copy: bool = True, **options: Any) -> ndarray:
    made = asarray(obj, dtype)
    return made.copy() if copy and made is obj else made


def copyto(dst: ndarray, src: Any, casting: str = "same_kind", where: Any = None) -> None:
    src, where, target = operand(src), operand(where), dst._raw
    mask = True if where is None else raw(where)
    value = raw(src)
    stream.launch("copyto", lambda: np.copyto(target, value, casting, mask), allocations_of([dst, src, where]))


def asnumpy(a: Any, stream: Any = None, order: str = "C", out: Any = None, *, blocking: bool = True) -> np.ndarray:
    return a.get() if isinstance(a, ndarray) else np.asarray(a)


def get_array_module(*args: Any) -> Any:
    import sys

    return sys.modules["cupy"] if any(isinstance(arg, ndarray) for arg in args) else np


def may_share_memory(a: ndarray, b: ndarray, max_work: int | None = None) -> bool:
    return bool(np.may_share_memory(raw(a), raw(b)))


def byte_bounds(a: ndarray) -> tuple[int, int]:
    return np.lib.array_utils.byte_bounds(raw(a))


FUNCTIONS: dict[str, Any] = {
    **{name: Ufunc(name) for name in UFUNCS},
    **{name: _function(name) for name in (*OTHERS, *MADE, *SYNCHRONIZING)},
    **{name: _refusing_host_arrays(name) for name in ("zeros_like", "ones_like", "full_like")},
    **{f.__name__: f for f in (empty, empty_like, asarray, array, copyto, asnumpy, get_array_module, matmul)},
    **{f.__name__: f for f in (may_share_memory, byte_bounds)},
    "asanyarray": asarray,
}
