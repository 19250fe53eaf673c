"""CuPy's ndarray on NumPy's memory."""

from collections.abc import Callable, Iterator
from math import prod
from types import SimpleNamespace
from typing import Any

import numpy as np

from . import memory, stream
from .memory import Allocation, MemoryPointer

BFLOAT16 = "bfloat16"


def empty_at(shape: Any, dtype: Any, memptr: MemoryPointer | None = None, strides: Any = None) -> np.ndarray:
    """Return a NumPy array on memory of the device, which is allocated unless it is given."""
    dtype = np.dtype(dtype)
    shape = (shape,) if isinstance(shape, int | np.integer) else tuple(map(int, shape))
    memptr = memory.alloc(prod(shape) * dtype.itemsize) if memptr is None else memptr
    raw = memptr.mem.allocation.raw[memptr.offset :]
    return np.ndarray(shape, dtype, raw.data if raw.size else b"", strides=strides), memptr.mem


class ndarray:
    """An array of the device. `_raw` is the same memory as NumPy sees it; no operand may be NumPy's array."""

    __slots__ = ("__weakref__", "_mem", "_raw")
    __array_priority__ = 100
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, shape: Any, dtype: Any = float, memptr: Any = None, strides: Any = None, order: str = "C"):
        self._raw, self._mem = empty_at(shape, dtype, memptr, strides)

    # --- what it is ---

    shape = property(lambda self: self._raw.shape)
    dtype = property(lambda self: self._raw.dtype)
    ndim = property(lambda self: self._raw.ndim)
    size = property(lambda self: self._raw.size)
    nbytes = property(lambda self: self._raw.nbytes)
    itemsize = property(lambda self: self._raw.itemsize)
    strides = property(lambda self: self._raw.strides)
    T = property(lambda self: view_of(self, self._raw.T))
    real = property(lambda self: computed(lambda a: a.real, self))
    imag = property(lambda self: computed(lambda a: a.imag, self))
    device = property(lambda self: 0)

    @property
    def data(self) -> MemoryPointer:
        return MemoryPointer(self._mem, self._raw.ctypes.data - self._mem.ptr if self.size else 0)

    @property
    def flags(self) -> SimpleNamespace:
        flags = self._raw.flags
        return SimpleNamespace(c_contiguous=flags.c_contiguous, f_contiguous=flags.f_contiguous, owndata=True)

    def __len__(self) -> int:
        return len(self._raw)

    def __iter__(self) -> Iterator["ndarray"]:
        if self.ndim == 0:
            raise TypeError("iteration over a 0-d array")
        return (self[i] for i in range(len(self)))

    # --- what the host reads, for which it waits ---

    def get(self, stream: Any = None, order: str = "C", out: Any = None, blocking: bool = True) -> np.ndarray:
        refuse_host("ndarray.get")
        return self._raw.copy()

    def set(self, arr: np.ndarray, stream: Any = None) -> None:
        refuse_host("ndarray.set")
        if arr.shape != self.shape or arr.dtype != self.dtype:
            raise ValueError(f"Shape or dtype mismatch. Old: {self.shape} {self.dtype}, new: {arr.shape} {arr.dtype}")
        self._raw[...] = arr

    def item(self, *index: Any) -> Any:
        return self.get().item(*index)

    def tolist(self) -> Any:
        return self.get().tolist()

    def tobytes(self, order: str = "C") -> bytes:
        return self.get().tobytes()

    def __bool__(self) -> bool:
        return bool(self.get())

    def __float__(self) -> float:
        return float(self.get())

    def __int__(self) -> int:
        return int(self.get())

    def __complex__(self) -> complex:
        return complex(self.get())

    def __repr__(self) -> str:
        return repr(self.get())

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format(self.get()[()], spec)

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. Please use `.get()` to construct a NumPy array "
            "explicitly."
        )

    def __reduce__(self) -> Any:
        return _from_numpy, (self.get(),)

    def __copy__(self) -> "ndarray":
        return self.copy()

    def __deepcopy__(self, memo: Any) -> "ndarray":
        return self.copy()

    # --- NumPy's functions on it ---

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, out: Any = None, **options: Any) -> Any:
        if method != "__call__":
            return NotImplemented
        if out is not None:
            [out] = out
            if not isinstance(out, ndarray):
                raise TypeError("return arrays must be of ArrayType")
            return into(ufunc, out, *inputs, **options)
        return computed(ufunc, *inputs, **options)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        from .functions import FUNCTIONS

        if function.__name__ not in FUNCTIONS:
            raise TypeError(f"cupy has no {function.__name__}")
        return FUNCTIONS[function.__name__](*args, **kwargs)

    # --- parts, and writing to them ---

    def __getitem__(self, index: Any) -> "ndarray":
        plain = index_of(index)
        parts = plain if isinstance(plain, tuple) else (plain,)
        arrays = [part for part in parts if isinstance(part, np.ndarray | list)]
        if not arrays:
            if not any(part is Ellipsis for part in parts):
                parts = (*parts, Ellipsis)
            return view_of(self, self._raw[parts])
        if any(np.asarray(part).dtype.kind == "b" for part in arrays):
            refuse_host("indexing by a mask of booleans")
        given = index if isinstance(index, tuple) else (index,)
        return computed(lambda a, *indices: a[with_arrays(parts, indices)], self, *arrays_in(given))

    def __setitem__(self, index: Any, value: Any) -> None:
        plain = index_of(index)
        parts = plain if isinstance(plain, tuple) else (plain,)
        value = operand(value)
        target = self._raw
        given = [self, *arrays_in(index if isinstance(index, tuple) else (index,)), value]

        def run() -> None:
            with np.errstate(all="ignore"):
                target[parts] = raw(value)

        stream.launch("ndarray.__setitem__", run, allocations_of(given))

    def fill(self, value: Any) -> None:
        self[...] = value

    # --- views and copies ---

    def reshape(self, *shape: Any, order: str = "C") -> "ndarray":
        return computed(lambda a: a.reshape(*shape, order=order), self)

    def transpose(self, *axes: Any) -> "ndarray":
        return view_of(self, self._raw.transpose(*axes))

    def swapaxes(self, one: int, other: int) -> "ndarray":
        return view_of(self, self._raw.swapaxes(one, other))

    def view(self, dtype: Any = None) -> "ndarray":
        return view_of(self, self._raw.view(self.dtype if dtype is None else dtype))

    def ravel(self, order: str = "C") -> "ndarray":
        return computed(lambda a: a.ravel(order), self)

    def squeeze(self, axis: Any = None) -> "ndarray":
        return view_of(self, self._raw.squeeze(axis))

    def copy(self, order: str = "C") -> "ndarray":
        return computed(lambda a: a.copy(order), self)

    def flatten(self, order: str = "C") -> "ndarray":
        return self.copy().ravel(order)

    def astype(self, dtype: Any, order: str = "K", casting: Any = None, subok: Any = None, copy: bool = True) -> Any:
        if not copy and self.dtype == np.dtype(dtype):
            return self
        return computed(lambda a: a.astype(dtype), self)

    def nonzero(self) -> tuple["ndarray", ...]:
        refuse_host("ndarray.nonzero")
        return tuple(computed(lambda a, axis=axis: a.nonzero()[axis], self) for axis in range(self.ndim))


def _reduction(name: str) -> Callable[..., Any]:
    def method(self: ndarray, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: bool = False) -> Any:
        options = {"axis": axis, "keepdims": keepdims} | ({} if dtype is None else {"dtype": dtype})
        if out is not None:
            return into(lambda a: getattr(wide(a), name)(**options), out, self)
        narrow = self.dtype if self.dtype.name == BFLOAT16 and dtype is None and name in SUMS else None
        return computed(lambda a: cast(getattr(wide(a), name)(**options), narrow), self)

    method.__name__ = name
    return method


def _plain(name: str) -> Callable[..., Any]:
    def method(self: ndarray, *args: Any, **options: Any) -> Any:
        return computed(lambda a, *rest: getattr(a, name)(*rest, **options), self, *args)

    method.__name__ = name
    return method


def _binary(name: str, function: Any) -> None:
    setattr(ndarray, f"__{name}__", lambda self, other: _operation(function, self, other))
    setattr(ndarray, f"__r{name}__", lambda self, other: _operation(function, other, self))
    setattr(ndarray, f"__i{name}__", lambda self, other: into(function, self, self, other))


def _operation(function: Any, one: Any, other: Any) -> Any:
    return matmul(one, other) if function is np.matmul else computed(function, one, other)


def matmul(one: Any, other: Any, out: Any = None) -> Any:
    """CuPy's product by cuBLAS, which it refuses to capture, and which fails for bfloat16 of more than two axes."""
    if stream.capturing():
        raise NotImplementedError("calling cuBLAS API during stream capture is currently unsupported")
    if one.dtype.name == BFLOAT16 and max(one.ndim, other.ndim) > 2:
        raise TypeError("matmul: bfloat16 of more than two axes")

    def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        kind = np.result_type(a, b)
        return (wide(a) @ wide(b)).astype(kind, copy=False)

    return computed(product, one, other) if out is None else into(product, out, one, other)


SUMS = ("sum", "mean", "prod", "max", "min")
for _name in (*SUMS, "all", "any", "var", "std"):
    setattr(ndarray, _name, _reduction(_name))
for _name in ("argmax", "argmin", "argsort", "cumsum", "repeat", "take", "clip", "round", "conj", "searchsorted"):
    setattr(ndarray, _name, _plain(_name))
for _name, _ufunc in {
    **{"add": np.add, "sub": np.subtract, "mul": np.multiply, "truediv": np.divide, "floordiv": np.floor_divide},
    **{"mod": np.remainder, "pow": np.power, "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor},
    **{"lshift": np.left_shift, "rshift": np.right_shift, "matmul": np.matmul},
}.items():
    _binary(_name, _ufunc)
for _name, _ufunc in {
    **{"lt": np.less, "le": np.less_equal, "eq": np.equal, "ne": np.not_equal, "gt": np.greater},
    "ge": np.greater_equal,
}.items():
    setattr(ndarray, f"__{_name}__", lambda self, other, f=_ufunc: computed(f, self, other))
for _name, _ufunc in {"neg": np.negative, "invert": np.invert, "abs": np.abs, "pos": np.positive}.items():
    setattr(ndarray, f"__{_name}__", lambda self, f=_ufunc: computed(f, self))


# --- how functions run ---


TAKEN = (ndarray, bool, int, float, complex, np.generic, np.dtype, type, str, slice, type(None), type(Ellipsis))


def operand(value: Any) -> Any:
    """Return an operand; refuse NumPy's arrays and whatever else CuPy does not take."""
    if isinstance(value, TAKEN):
        return value
    if isinstance(value, list | tuple):
        return type(value)(operand(each) for each in value)
    raise TypeError(f"Unsupported type {type(value)}")


def raw(value: Any) -> Any:
    """Return the same structure with NumPy's arrays on the same memory."""
    if isinstance(value, ndarray):
        return value._raw
    return type(value)([raw(each) for each in value]) if isinstance(value, (list, tuple)) else value


def arrays_in(values: Any) -> list["ndarray"]:
    """Return the arrays of a structure, in order."""
    found = []
    for value in values:
        if isinstance(value, ndarray):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found += arrays_in(value)
    return found


def allocations_of(values: Any) -> list[Allocation]:
    """Return the memory that the arrays of a structure lie in."""
    return [array._mem.allocation for array in arrays_in(values)]


def index_of(index: Any) -> Any:
    """Return an index for NumPy. NumPy's arrays are refused: CuPy copies them to the device at every call."""
    if isinstance(index, tuple):
        return tuple(index_of(part) for part in index)
    if isinstance(index, np.ndarray):
        raise TypeError(f"Unsupported type {type(index)} as an index: it would be copied to the device at each call")
    if isinstance(index, list):
        refuse_host("indexing by a list")
    return raw(index)


def with_arrays(parts: tuple[Any, ...], indices: tuple[np.ndarray, ...]) -> tuple[Any, ...]:
    """Return the parts of an index with these arrays in the places of its arrays."""
    rest = iter(indices)
    return tuple(next(rest) if isinstance(part, np.ndarray) else part for part in parts)


def cast(value: Any, dtype: Any) -> Any:
    return value if dtype is None else np.asarray(value).astype(dtype)


def wide(a: np.ndarray) -> np.ndarray:
    """Return bfloat16 as float32, in which CuPy sums it."""
    return a.astype(np.float32) if a.dtype.name == BFLOAT16 else a


def refuse_host(what: str) -> None:
    stream.refuse_in_capture(what)


def view_of(array: ndarray, view: np.ndarray) -> ndarray:
    """Return a view of the memory of an array."""
    new = object.__new__(ndarray)
    new._raw, new._mem = view, array._mem
    return new


def computed(function: Any, *args: Any, **options: Any) -> Any:
    """Return what a function of NumPy's makes of arrays, on memory of its own, or a view where NumPy makes one."""
    args = tuple(map(operand, args))
    options = {name: operand(value) for name, value in options.items()}
    given, plain = arrays_in((*args, *options.values())), raw(args)
    plain_options = {name: raw(value) for name, value in options.items()}

    def run() -> Any:
        with np.errstate(all="ignore"):
            return function(*plain, **plain_options)

    results = run()
    several = isinstance(results, list | tuple)
    made, written = [], []
    for result in results if several else [results]:
        result = np.asarray(result)
        owner = None  # of what is a view
        if not result.flags.owndata:
            owner = next((array for array in given if np.may_share_memory(array._raw, result)), None)
        if owner is not None:
            made.append(view_of(owner, result))
            continue
        new = ndarray(result.shape, result.dtype)
        if result.flags.f_contiguous and not result.flags.c_contiguous:
            new._raw = new._raw.reshape(result.shape[::-1]).T
        if stream.capturing():
            written.append((len(made), new._raw))
        else:
            new._raw[...] = result
        made.append(new)
    if written:
        name = getattr(function, "__name__", "function")
        stream.launch(name, lambda: _write(run(), written, several), allocations_of([given, made]))
    return type(results)(made) if several else made[0]


def _write(results: Any, places: list[tuple[int, np.ndarray]], several: bool) -> None:
    for number, place in places:
        place[...] = results[number] if several else results


def into(function: Any, out: ndarray, *args: Any, **options: Any) -> ndarray:
    """Write what a function makes of arrays into an array of the device."""
    args = tuple(operand(value) for value in args)
    plain, target = raw(args), out._raw
    options = {name: raw(operand(value)) for name, value in options.items()}

    def run() -> None:
        with np.errstate(all="ignore"):
            result = np.asarray(function(*plain, **options))
        if result.shape != target.shape and np.broadcast_shapes(result.shape, target.shape) != target.shape:
            raise ValueError("Out shape is mismatched")
        if not np.can_cast(result.dtype, target.dtype, "same_kind") and target.dtype.name != BFLOAT16:
            raise TypeError(f"output (typecode {result.dtype.char}) could not be coerced to {target.dtype.char}")
        target[...] = result

    stream.launch(getattr(function, "__name__", "function"), run, allocations_of([*args, out]))
    return out


def from_numpy(array: Any, dtype: Any = None) -> ndarray:
    """Copy an array of the host to the device."""
    array = np.asarray(array, dtype)
    if array.dtype.kind not in "biufcV":
        raise ValueError(f"Unsupported dtype {array.dtype}")
    refuse_host("a copy from the host")
    new = ndarray(array.shape, array.dtype)
    new._raw[...] = array
    return new


_from_numpy = from_numpy
