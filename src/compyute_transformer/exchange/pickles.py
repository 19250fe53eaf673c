"""Pickles of other programs, read without running anything: only plain values and arrays can come out.

A pickle is a program for a machine with a stack, which may call any function. This reader has no way to do so: it knows
the instructions that build values, and the few names below, each of which stands for a function of this file.

    read_pickle    plain values and arrays of a pickle: dict, list, tuple, str, bytes, numbers, None, NumPy arrays
    read_torch     the same of a file of torch.save: a zip archive of a pickle and the memory of its tensors

Source: pickletools of the standard library, whose parser splits the instructions; the layout of torch.save.
"""

import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from math import prod
from pathlib import Path
from pickletools import genops
from typing import Any, NamedTuple

import numpy as np

from .. import _io
from ..arrays import Array
from ..errors import DataError
from ..ops.quantized import from_bfloat16

__all__ = ["read_pickle", "read_torch"]

MOST_BYTES = 1 << 40
FAULTS = (OSError, ValueError, LookupError, TypeError, OverflowError, AttributeError, RecursionError, EOFError)
FAULTS_OF_ARCHIVES = (*FAULTS, zipfile.BadZipFile, NotImplementedError, RuntimeError)  # another compression; encrypted
# The memory of a tensor by the name of its storage in torch; bfloat16 comes as 16 bits each.
STORAGES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "BFloat16Storage": "<u2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}
NUMPY = ("numpy.core.multiarray", "numpy._core.multiarray")
ARRAY_DTYPES = ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "b1")


class Name(NamedTuple):
    """A function or class that a pickle names."""

    module: str
    name: str


class Shell:
    """An object that is filled after it was made: an array, a dtype, or a tensor of Compyute."""

    def __init__(self, kind: str, value: Any = None) -> None:
        self.kind, self.value = kind, value

    def fill(self, state: Any) -> None:
        """Take the state that a pickle gives. Raises ValueError for one that does not fit."""
        if self.kind == "dtype":
            if not (isinstance(state, tuple) and len(state) >= 2 and state[1] in ("<", "|", "=")):
                raise ValueError("a dtype is that of little-endian numbers")
        elif self.kind == "array":
            self.value = _array(state)
        else:
            parts = state if isinstance(state, tuple) else (state,)
            fields = {key: value for part in parts if isinstance(part, dict) for key, value in part.items()}
            self.value = fields.get("data", fields.get("_data"))


def _array(state: Any) -> Array:
    if not (isinstance(state, tuple) and len(state) == 5):
        raise ValueError("the state of an array has five parts")
    _, shape, dtype, is_fortran, data = state
    return _from_bytes(data, dtype, shape, "F" if is_fortran else "C")


def _from_bytes(data: Any, dtype: Any, shape: Any, order: str = "C") -> Array:
    if not (isinstance(dtype, Shell) and dtype.kind == "dtype" and isinstance(data, bytes) and _are_sizes(shape)):
        raise ValueError("an array is made of bytes, a dtype of numbers, and sizes")
    array = np.frombuffer(data, dtype.value)
    if array.size != prod(shape):
        raise ValueError(f"an array of shape {shape} does not have {array.size} numbers")
    return array.reshape(shape, order="F" if order == "F" else "C")


def _are_sizes(values: Any) -> bool:
    return isinstance(values, tuple) and len(values) <= 16 and all(type(n) is int and 0 <= n < 1 << 48 for n in values)


def _dtype(code: Any, *_: Any) -> Shell:
    if code not in ARRAY_DTYPES:
        raise ValueError(f"arrays hold numbers, got the dtype {str(code)[:20]!r}")
    return Shell("dtype", np.dtype("<" + code))


def _pairs(pairs: Any = ()) -> dict[Any, Any]:
    return {_key(key): value for key, value in pairs}


def _key(key: Any) -> Any:
    if type(key) not in (str, int, bool, float, bytes, type(None)):
        raise ValueError(f"the keys of a dict are texts or numbers, got a {type(key).__name__}")
    return key


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Array:
    """Return the tensor of torch that lies in a storage. Raises ValueError for one that reaches outside."""
    fits = isinstance(storage, np.ndarray) and _are_sizes(shape) and _are_sizes(strides) and len(shape) == len(strides)
    if not fits or type(offset) is not int or offset < 0:
        raise ValueError("a tensor has a storage, an offset, sizes and strides")
    count = prod(shape)
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if count > storage.size or (count and last >= storage.size):
        raise ValueError(f"a tensor of shape {shape} reaches outside its storage of {storage.size} numbers")
    if not count:
        return np.zeros(shape, storage.dtype)
    begin = storage[offset:]
    steps = [stride * storage.itemsize for stride in strides]
    return np.lib.stride_tricks.as_strided(begin, shape, steps, writeable=False)


def _encoded(text: Any, *_: Any) -> bytes:
    if not isinstance(text, str):
        raise ValueError("only a text can be encoded")
    return text.encode("latin-1")


KNOWN: dict[Name, Callable[..., Any]] = {
    Name("collections", "OrderedDict"): _pairs,
    Name("_codecs", "encode"): _encoded,
    Name("__builtin__", "bytes"): lambda: b"",  # no bytes, in the first protocols
    Name("numpy", "dtype"): _dtype,
    Name("torch._utils", "_rebuild_tensor_v2"): _tensor,
    Name("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
    Name("cupy._core.core", "array"): lambda array, *_: array,
    **{Name(module, "_reconstruct"): lambda *_: Shell("array") for module in NUMPY},
    **{Name(module, "scalar"): lambda dtype, data: _from_bytes(data, dtype, ())[()] for module in NUMPY},
    **{Name(f"numpy.{core}.numeric", "_frombuffer"): _from_bytes for core in ("core", "_core")},
    **{
        Name(module, name): lambda *_: Shell("tensor")
        for module, name in (
            ("compyute.tensors", "Tensor"),
            ("compyute.nn.parameter", "Parameter"),
            ("compyute.nn.parameter", "Buffer"),
        )
    },
}
NAMED_ONLY = {Name("numpy", "ndarray"), *(Name("torch", name) for name in STORAGES)}  # mentioned, never called


class Machine:
    """Runs the instructions of one pickle. persistent: returns the memory that an instruction of torch.save names."""

    def __init__(self, persistent: Callable[[Any], Array] | None = None) -> None:
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self._persistent = persistent

    def run(self, data: bytes) -> Any:
        """Return the value of a pickle. Raises ValueError, in words, for one that is none or does something else."""
        for opcode, argument, _ in genops(data):
            if opcode.name == "STOP":
                return _plain(self._stack.pop())
            self._step(opcode.name, argument)
        raise ValueError("it has no end")

    def _step(self, name: str, argument: Any) -> None:
        stack = self._stack
        if name in PUSHED:
            stack.append(bytes(argument) if isinstance(argument, bytearray) else argument)
        elif name in MADE:
            stack.append(MADE[name]())
        elif name in ("PROTO", "FRAME"):
            pass
        elif name == "MARK":
            self._marks.append(len(stack))
        elif name in ("BINPUT", "LONG_BINPUT", "PUT", "MEMOIZE"):
            self._memo[len(self._memo) if argument is None else int(argument)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(self._memo[int(argument)])
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            self._name(argument)
        elif name in ("REDUCE", "NEWOBJ"):
            arguments, function = stack.pop(), stack.pop()
            if not isinstance(function, Name) or function not in KNOWN or not isinstance(arguments, tuple):
                raise ValueError("it calls something that is no function")
            stack.append(KNOWN[function](*map(_plain, arguments)))
        elif name == "BUILD":
            self._build()
        elif name == "BINPERSID" and self._persistent is not None:
            stack.append(self._persistent(stack.pop()))
        elif name == "POP":
            stack.pop()
        else:
            self._collect(name)

    def _name(self, argument: Any) -> None:
        if argument is None:
            name, module = self._stack.pop(), self._stack.pop()
        else:
            module, _, name = argument.partition(" ")
        found = Name(str(module), str(name))
        if found not in KNOWN and found not in NAMED_ONLY:
            raise ValueError(
                f"it names {ascii(str(module)[:60])[1:-1]}.{ascii(str(name)[:60])[1:-1]}, "
                "which is neither an array nor a plain value"
            )
        self._stack.append(found)

    def _build(self) -> None:
        state, target = self._stack.pop(), self._stack[-1]
        if isinstance(target, Shell):
            target.fill(state)
        elif not isinstance(target, dict):  # an OrderedDict may have attributes, such as versions of modules
            raise ValueError("it changes something that is no array")

    def _collect(self, name: str) -> None:
        """Put what lies above the last mark, or the last few values, into a container."""
        stack = self._stack
        if name in TUPLES:
            count = TUPLES[name]
            items = stack[len(stack) - count :] if count <= len(stack) else None
        else:
            items = stack[self._marks.pop() :] if name in ("TUPLE", "APPENDS", "SETITEMS", "LIST", "DICT") else None
        if items is None:
            raise ValueError(f"it has the instruction {name}, which builds no plain value")
        del stack[len(stack) - len(items) :]
        if name in ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"):
            stack.append(tuple(items))
        elif name in ("LIST", "DICT"):
            stack.append(items if name == "LIST" else _pairs(zip(items[::2], items[1::2], strict=True)))
        elif name in ("APPEND", "APPENDS") and isinstance(stack[-1], list):
            stack[-1].extend(items)
        elif name in ("SETITEM", "SETITEMS") and isinstance(stack[-1], dict):
            stack[-1].update(_pairs(zip(items[::2], items[1::2], strict=True)))
        else:
            raise ValueError(f"{name} has no container")


TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "APPEND": 1, "SETITEM": 2}
MADE: dict[str, Callable[[], Any]] = {
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
}
PUSHED = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "STRING", "BINSTRING", "SHORT_BINSTRING"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}


def _plain(value: Any) -> Any:
    """Return the array of a shell; anything else as it is."""
    while isinstance(value, Shell) and value.kind != "dtype":
        value = value.value
    return value


def read_pickle(path: str | Path) -> Any:
    """Return the value in a pickle file; arrays in dicts are those of its tensors.

    Raises:
        DataError: the file is missing, is no pickle, or names anything but arrays and plain values.
    """
    try:
        return _filled(Machine().run(_io.read_bytes(path, MOST_BYTES)))
    except FAULTS as error:
        raise _refused("read_pickle", path, error) from error


def read_torch(path: str | Path) -> Any:
    """Return the value in a file of torch.save; its tensors are read-only arrays, bfloat16 as float32.

    Raises:
        DataError: the file is missing, is no such archive, or names anything but tensors and plain values.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _filled(_torch_value(archive))
    except FAULTS_OF_ARCHIVES as error:
        raise _refused("read_torch", path, error) from error


def _refused(operation: str, path: str | Path, error: Exception) -> DataError:
    names_something = "names " in str(error)  # as only a pickle does, of version 0 or 1
    if not isinstance(error, OSError) and not names_something and not _begins_with_weights(path):
        return DataError(
            f"{operation}: {path} must be a file that torch.save or pickle wrote; it begins as neither does. Give a "
            "run, a directory of a published model, or a .gguf, .safetensors or .pt file."
        )
    return DataError(
        f"{operation}: {path} must hold tensors and plain values; it cannot be read: {str(error)[:300]}. "
        "Fetch or copy it again, or save the weights as safetensors."
    )


def _begins_with_weights(path: str | Path) -> bool:
    """Return whether a file begins as a pickle since version 2 of the format or as an archive does."""
    with suppress(OSError), open(path, "rb") as file:
        start = file.read(2)
        return start == b"PK" or start[:1] in (b"\x80", b"")
    return True


def _torch_value(archive: zipfile.ZipFile) -> Any:
    entries = {entry.filename: entry for entry in archive.infolist()}
    names = [name for name in entries if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(names) != 1:
        raise ValueError("an archive of torch.save has one data.pkl")
    folder = names[0].removesuffix("data.pkl")
    order = entries.get(folder + "byteorder")
    if order is not None and archive.read(_stored(order)) != b"little":
        raise ValueError("its numbers are big-endian")
    memory: dict[str, Array] = {}
    total, size = sum(entry.file_size for entry in entries.values()), Path(str(archive.filename)).stat().st_size
    if total > size:
        raise ValueError(f"its entries have {total:,} bytes, more than the file with {size:,}")

    def storage(given: Any) -> Array:
        if not (isinstance(given, tuple) and len(given) == 5 and given[0] == "storage" and isinstance(given[2], str)):
            raise ValueError("it refers to something that is no storage")
        _, kind, key, _, _ = given
        if not (isinstance(kind, Name) and kind.name in STORAGES):
            raise ValueError("a storage is one of numbers")
        if key not in memory:
            raw = archive.read(_stored(entries[f"{folder}data/{key}"]))
            array: Array = np.frombuffer(raw, STORAGES[kind.name])
            memory[key] = from_bfloat16(array) if kind.name == "BFloat16Storage" else array
        return memory[key]

    return Machine(storage).run(archive.read(_stored(entries[names[0]])))


def _stored(entry: zipfile.ZipInfo) -> zipfile.ZipInfo:
    """Raise ValueError for a compressed entry, which torch.save never writes and which may be huge."""
    if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
        raise ValueError(f"{entry.filename[:60]} is compressed")
    return entry


def _filled(value: Any, depth: int = 3) -> Any:
    """Return a dict, and dicts in it, with arrays in the place of shells. What lies deeper stays as it is."""
    if not isinstance(value, Mapping) or not depth:
        return _plain(value)
    return {key: _filled(item, depth - 1) for key, item in value.items()}
