"""Tensors in safetensors files, whole or in shards.

    8 bytes       n, the length of the header, little-endian
    n bytes       JSON: {name: {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}, "__metadata__": {...}}
    the rest      the data; offsets count from here

A header comes from a stranger: its length, dtypes, shapes and offsets are checked against the size of the file before
anything is read, tensors may neither overlap nor leave gaps, and a shard lies in the folder of its index. The data are
mapped, not copied: a tensor is read when it is used.

Source: the format's description in the safetensors library.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from .. import _io
from ..arrays import Array, to_numpy
from ..errors import DataError
from ..ops.quantized import QuantizedWeight, from_bfloat16, to_bfloat16

__all__ = ["Tensors", "as_floats", "mapped_or_copied", "read_tensors", "write_tensors"]

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
OURS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?")  # names of what is written
LONGEST_HEADER = 100_000_000  # bytes, as in the safetensors library
MOST_AXES = 16
DTYPES: dict[str, Any] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),  # NumPy has no bfloat16: the upper half of a float32
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
COPY_ON_WRITE: Literal["c"] = "c"  # a mapping in which a page is copied when it is written to; the file stays as it is
WRITTEN = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}


class Entry(NamedTuple):
    """Where a tensor lies. start: the byte of the file at which it begins."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    start: int


class Tensors(Mapping[str, Array]):
    """The tensors of a file or a folder by name: mapped arrays, bfloat16 as float32.

    metadata: the texts that the header holds beside them.
    """

    def __init__(self, entries: Mapping[str, Entry], metadata: Mapping[str, str]) -> None:
        self._entries, self.metadata = dict(entries), dict(metadata)

    def __getitem__(self, name: str) -> Array:
        entry = self._entries[name]
        dtype = DTYPES[entry.dtype]
        if not prod(entry.shape):
            array: Array = np.zeros(entry.shape, dtype)
        else:
            array = np.memmap(entry.path, dtype, COPY_ON_WRITE, entry.start, entry.shape)
        return from_bfloat16(array) if entry.dtype == "BF16" else array

    def quantized(self, name: str, weights: str) -> QuantizedWeight | None:
        """Return a tensor that the file holds in these bits already, mapped; None for one that it does not."""
        entry = self._entries[name]
        if weights != "bfloat16" or entry.dtype != "BF16" or len(entry.shape) != 2 or not prod(entry.shape):
            return None
        bits = np.memmap(entry.path, DTYPES["BF16"], COPY_ON_WRITE, entry.start, entry.shape)
        return QuantizedWeight(mapped_or_copied(bits, np.uint16))

    def without(self, name: str) -> "Tensors":
        """Return the other tensors."""
        return Tensors({own: entry for own, entry in self._entries.items() if own != name}, self.metadata)

    def __contains__(self, name: object) -> bool:
        return name in self._entries  # a Mapping would read the tensor for it

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor, without reading it."""
        return self._entries[name].shape

    def dtype(self, name: str) -> str:
        """Return the dtype of a tensor as the header spells it: "F32", "BF16", …"""
        return self._entries[name].dtype


def read_tensors(path: str | Path) -> Tensors:
    """Return the tensors of a safetensors file, or of a folder with model.safetensors or its index and shards.

    Raises:
        DataError: the file is missing, or breaks the format; the message says where.
    """
    path = Path(path)
    try:
        if not path.is_dir():
            return Tensors(*_read_file(path))
        if (path / INDEX).is_file() and not (path / WHOLE).is_file():
            return _read_shards(path)
        return Tensors(*_read_file(path / WHOLE))
    except FileNotFoundError as error:
        raise DataError(
            f"read_tensors: a folder holds {WHOLE}, or {INDEX} and the shards that it names; "
            f"{error.filename} is missing. Check the path; files of another format (.bin, .pt) are not read."
        ) from error
    except (OSError, ValueError) as error:
        raise DataError(
            f"read_tensors: {path} must hold tensors in the safetensors format; it does not: {str(error)[:500]}. "
            "Fetch or copy it again."
        ) from error


def _read_file(path: Path) -> tuple[dict[str, Entry], dict[str, str]]:
    """Return the entries of one file and its metadata. Raises ValueError, in words, for what breaks the format."""
    size = os.stat(path).st_size
    with open(path, "rb") as file:
        head = file.read(8)
        length = int.from_bytes(head, "little")
        if len(head) < 8 or length > min(LONGEST_HEADER, size - 8):
            raise ValueError(f"{path.name} has {size:,} bytes, too few for a header of {length:,}")
        header = _io.parse_json(file.read(length).decode("utf-8"))
    if not isinstance(header, dict):
        raise ValueError(f"the header of {path.name} is no JSON object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise ValueError(f"the metadata of {path.name} are texts by name")
    begin = 8 + length
    spans = {name: _checked(name, entry) for name, entry in header.items()}
    end = 0
    for name, (_, _, first, last) in sorted(spans.items(), key=lambda item: item[1][2:]):
        if first != end:
            raise ValueError(f"{name[:80]!r} begins at byte {first}, where byte {end} follows: a gap or an overlap")
        end = last
    if end != size - begin:
        raise ValueError(f"the tensors of {path.name} have {end:,} bytes, and the file holds {size - begin:,}")
    entries = {name: Entry(path, dtype, shape, begin + first) for name, (dtype, shape, first, _) in spans.items()}
    return entries, metadata


def _checked(name: str, entry: Any) -> tuple[str, tuple[int, ...], int, int]:
    """Return dtype, shape, and where the data begin and end. Raises ValueError."""
    shown = repr(name[:80])
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{shown} has no dtype, shape and data_offsets, or more than these")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ValueError(f"{shown} has the dtype {str(dtype)[:20]!r}; known are {', '.join(DTYPES)}")
    if not isinstance(shape, list) or len(shape) > MOST_AXES or not all(_is_size(n) for n in shape):
        raise ValueError(f"{shown} has a shape that is no list of at most {MOST_AXES} sizes")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(_is_size(n) for n in offsets):
        raise ValueError(f"{shown} has data_offsets that are no two numbers of bytes")
    first, last = offsets
    if last - first != prod(shape) * DTYPES[dtype].itemsize:
        raise ValueError(f"{shown} has {last - first} bytes, and its shape {shape} of {dtype} asks for another number")
    return dtype, tuple(shape), first, last


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 62


def _read_shards(folder: Path) -> Tensors:
    """Return the tensors of all shards that the index names. Raises ValueError, and OSError for a missing shard."""
    index = _io.read_json(folder / INDEX)
    names = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(names, dict) or not all(isinstance(shard, str) for shard in names.values()):
        raise ValueError(f"{INDEX} has no weight_map of file names")
    for shard in set(names.values()):
        if shard in ("", ".", "..") or any(mark in shard for mark in "/\\\0:"):
            raise ValueError(f"a shard is a file in the folder of its index, got {shard[:80]!r}")
    entries: dict[str, Entry] = {}
    metadata: dict[str, str] = {}
    for shard in sorted(set(names.values())):
        found, texts = _read_file(folder / shard)
        metadata |= texts
        for name, entry in found.items():
            if names.get(name) != shard:
                raise ValueError(f"{name[:80]!r} lies in {shard}, and the index says {str(names.get(name))[:80]!r}")
            entries[name] = entry
    if missing := [name for name in names if name not in entries]:
        raise ValueError(f"the shards have no {', '.join(missing[:5])}, which the index names")
    return Tensors(entries, metadata)


# --- numbers ---------------------------------------------------------------------------------------------------------


def as_floats(array: Array, dtype: Any) -> Array:
    """Return a tensor of a file as floats of a dtype, in memory of its own.

    Raises:
        DataError: it holds no floats, as the tensors of quantized models do.
    """
    if array.dtype.kind != "f":
        raise DataError(
            f"from_pretrained: weights are floats, got {array.dtype}. Quantized models are not read; "
            "give the model they were made from."
        )
    return np.array(array, dtype=dtype)


def mapped_or_copied(array: Array, dtype: Any) -> Array:
    """Return an array of a dtype: the mapped one where it can be used as it lies in the file, else a copy."""
    is_mapped = isinstance(array, np.memmap) and array.dtype == dtype and array.flags.carray
    # a file that is mapped cannot be replaced on Windows: the model could not be saved to where it came from
    return np.asarray(array).view(np.ndarray) if is_mapped and os.name != "nt" else np.array(array, dtype, order="C")


# --- writing ---------------------------------------------------------------------------------------------------------


def _encoded(array: Array, dtype: str) -> tuple[str, tuple[int, ...], bytes]:
    integers = {own: name for name, own in DTYPES.items() if name not in WRITTEN.values()}
    name = integers.get(array.dtype, WRITTEN[dtype])
    values = to_bfloat16(array) if name == "BF16" else np.asarray(array, DTYPES[name], order="C")
    return name, tuple(array.shape), values.tobytes()


def write_tensors(
    folder: str | Path,
    tensors: Mapping[str, Array],
    dtype: str = "float32",
    shard_bytes: int = 50_000_000_000,
    whole: str = WHOLE,
) -> None:
    """Write model.safetensors into a folder, which is made, or shards of at most `shard_bytes` and their index.

    dtype: "float64", "float32", "float16" or "bfloat16". whole: another name of the one file. Without one, the files of
    an earlier model that would be read in place of these, or beside them, are deleted once these are there.

    Raises:
        DataError: an unknown dtype, before there is a folder. OSError: the files cannot be written.
    """
    if dtype not in WRITTEN:
        raise DataError(f"write_tensors: dtype is one of {', '.join(WRITTEN)}, got {dtype!r}.")
    tensors = {name: to_numpy(array) for name, array in tensors.items()}
    if odd := [f"{name}: {array.dtype}" for name, array in tensors.items() if array.dtype.kind not in "fiubV"]:
        raise DataError(f"write_tensors: every tensor is an array of numbers, got {', '.join(odd[:9])}.")
    itemsize = DTYPES[WRITTEN[dtype]].itemsize  # integers keep their own dtype
    shards: list[list[str]] = [[]]
    filled = 0
    for name, array in tensors.items():
        size = array.size * itemsize
        if shards[-1] and filled + size > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    count = len(shards)
    files = [whole] if count == 1 else [f"model-{i + 1:05}-of-{count:05}.safetensors" for i in range(count)]
    for file, names in zip(files, shards, strict=True):
        data = _file_bytes({name: _encoded(tensors[name], dtype) for name in names})
        _io.replace_file(folder / file, lambda hidden, data=data: hidden.write_bytes(data))  # type: ignore[misc]
    if count > 1:
        total = sum(array.size for array in tensors.values()) * itemsize
        places = {name: file for file, names in zip(files, shards, strict=True) for name in names}
        index = {"metadata": {"total_size": total}, "weight_map": places}
        _io.replace_text(folder / INDEX, json.dumps(index, indent=2) + "\n")
        files.append(INDEX)
    if whole == WHOLE:
        for path in folder.iterdir():
            if OURS.fullmatch(path.name) and path.name not in files:
                path.unlink()


def _file_bytes(tensors: Mapping[str, tuple[str, tuple[int, ...], bytes]]) -> bytes:
    """Return a file: header, padded to a multiple of 8 bytes with spaces, then the data in the order of the header."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # which Transformers asks for
    end = 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + len(data)]}
        end += len(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, *(data for _, _, data in tensors.values())])
