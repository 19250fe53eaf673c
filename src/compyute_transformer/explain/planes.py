"""Planes: many arrays as one compressed block of bytes that a browser reads, within a limit of size.

An array is stored as planes of bytes: the first byte of every number, then the second, and so on, which compresses
better than one number after the other. Each array says how exact its numbers are:

    f8 f4    as they are, float64 or float32
    f2       float16 times a power of two: 11 bits of each number, so a relative error of at most 2**-11
    i1       int8 times a scale: an absolute error of at most 1/254 of the largest number
    product  not stored: the page computes it as a product of two others (the gradient of a weight)
    i4 u1    whole numbers, booleans

All arrays start exact. While the block is too large, the largest array is made smaller by the next step: computed
instead of stored, then f2, then i1, then cut to its first rows and columns. float64 becomes float32 on the way to f2.
"""

import base64
import gzip
import json
from dataclasses import dataclass, field
from math import frexp, prod
from typing import Any

import numpy as np

__all__ = ["Planes", "Product", "decode", "letters_of", "read_block", "write_block"]

CUT = 48  # rows and columns of the last two axes, and entries of the others, that are left of an array that is cut
EXPANSION = 4 / 3 * 0.95  # of base64, after compression, which gains little on floats
F2_TOP = 2**14


@dataclass(frozen=True)
class Product:
    """An array as a sum of products of two others. axes: "* o, * i -> o i", where * is any number of leading axes."""

    left: int
    right: int
    axes: str


@dataclass
class Entry:
    """One array, and how it is stored."""

    array: np.ndarray
    product: Product | None = None
    code: str = ""
    cut: tuple[int, ...] = ()
    derived: bool = False

    @property
    def size(self) -> int:
        """Return the bytes it takes before compression."""
        return 0 if self.derived else prod(self.cut) * int(self.code[1])


@dataclass
class Planes:
    """Gathers arrays; each gets a number, and equal objects get one."""

    entries: list[Entry] = field(default_factory=list)
    _numbers: dict[int, int] = field(default_factory=dict)

    def add(self, array: np.ndarray, product: Product | None = None) -> int:
        """Return the number of an array. product: how the page can compute it, if it need not be stored."""
        if id(array) not in self._numbers:
            values = np.asarray(array)
            self._numbers[id(array)] = len(self.entries)
            self.entries.append(Entry(values, code=_exact(values), cut=values.shape))
        number = self._numbers[id(array)]
        if product is not None and self.entries[number].product is None:
            self.entries[number].product = product
        return number

    def fit(self, limit: int) -> None:
        """Make arrays smaller, the largest first, until all take about `limit` bytes as base64."""
        for step in (_derive, _halve, _quarter, _cut):
            while sum(entry.size for entry in self.entries) * EXPANSION > limit:
                products = [e.product for e in self.entries if e.product and (e.derived or step is _derive)]
                used = {number for p in products for number in (p.left, p.right)}
                able = [e for number, e in enumerate(self.entries) if step(e, number in used, False)]
                if not able:
                    break
                step(max(able, key=lambda entry: (not entry.derived, entry.array.size)), False, True)

    def write(self) -> tuple[list[dict[str, Any]], bytes]:
        """Return what describes each array, and the bytes of all."""
        described, block, offset = [], [], 0
        for entry in self.entries:
            about: dict[str, Any] = {"shape": list(entry.array.shape), "stats": _statistics(entry.array)}
            if entry.derived and entry.product is not None:
                about |= {"code": "product", "product": vars(entry.product)}
            else:
                data, scale = _encode(entry.array[tuple(slice(n) for n in entry.cut)], entry.code)
                about |= {"code": entry.code, "offset": offset, "scale": scale}
                if entry.cut != entry.array.shape:
                    about["cut"] = list(entry.cut)
                block.append(data)
                offset += len(data)
            described.append(about)
        return described, b"".join(block)


def _exact(array: np.ndarray) -> str:
    if array.dtype.kind == "f":
        return "f8" if array.dtype.itemsize == 8 else "f4"
    return "u1" if array.dtype.kind == "b" else "i4"


def _derive(entry: Entry, used: bool, apply: bool) -> bool:
    able = entry.product is not None and not entry.derived and not used
    if able and apply:
        entry.derived = True
    return able


def _halve(entry: Entry, used: bool, apply: bool) -> bool:
    able = entry.code in ("f4", "f8") and not entry.derived
    if able and apply:
        entry.code = "f4" if entry.code == "f8" else "f2"
    return able


def _quarter(entry: Entry, used: bool, apply: bool) -> bool:
    able = entry.code == "f2" and not entry.derived and bool(np.isfinite(entry.array).all())
    if able and apply:
        entry.code = "i1"
    return able


def _cut(entry: Entry, used: bool, apply: bool) -> bool:
    """Cut an array, or store a part of a computed one, which needs its factors whole: then they can be cut too."""
    shape = tuple(min(n, CUT) for n in entry.cut)
    able = not used and (entry.derived or shape != entry.cut)
    if able and apply:
        entry.cut, entry.derived, entry.code = shape, False, "f2" if entry.derived else entry.code
    return able


def _encode(array: np.ndarray, code: str) -> tuple[bytes, float]:
    scale = 1.0
    if code in ("f2", "i1"):
        finite = np.abs(array[np.isfinite(array)])
        largest = float(finite.max()) if finite.size else 0.0
        if code == "f2":
            scale = 2.0 ** (frexp(largest)[1] - 14) if largest else 1.0  # the largest lies in [2**13, 2**14)
            array = np.asarray(array, np.float64) / scale
        else:
            scale = largest / 127 or 1.0
            array = np.rint(np.asarray(array, np.float64) / scale)
    kind = {"f8": "<f8", "f4": "<f4", "f2": "<f2", "i1": "i1", "i4": "<i4", "u1": "u1"}[code]
    values = np.ascontiguousarray(array, dtype=kind)
    planes = values.reshape(-1).view(np.uint8).reshape(values.size, values.dtype.itemsize).T
    return planes.tobytes(), scale


def _statistics(array: np.ndarray) -> dict[str, Any]:
    """Return what the page says of an array at a glance; computed from the exact numbers."""
    if array.dtype.kind != "f" or not array.size:
        return {}
    finite = array[np.isfinite(array)].astype(np.float64)
    found: dict[str, Any] = {
        "nan": int(np.isnan(array).sum()),
        "infinite": int(np.isinf(array).sum()),
        "zero": int((array == 0).sum()),
    }
    if finite.size:
        found |= {"min": float(finite.min()), "max": float(finite.max()), "mean": float(finite.mean())}
        found |= {"norm": float(np.sqrt((finite * finite).sum()))}
    return found


# --- the block, and back ---


def write_block(about: dict[str, Any], planes: bytes) -> str:
    """Return a description and planes as base64 of gzip, the text that stands in a page."""
    text = json.dumps(about, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode()
    packed = gzip.compress(len(text).to_bytes(4, "little") + text + planes, compresslevel=6, mtime=0)
    return base64.b64encode(packed).decode()


def read_block(text: str) -> tuple[dict[str, Any], bytes]:
    """Return what `write_block` wrote."""
    raw = gzip.decompress(base64.b64decode(text))
    length = int.from_bytes(raw[:4], "little")
    about: dict[str, Any] = json.loads(raw[4 : 4 + length])
    return about, raw[4 + length :]


def decode(about: dict[str, Any], planes: bytes, number: int) -> np.ndarray:
    """Return an array of a page, at the precision in which it was stored."""
    entry = about["tensors"][number]
    if entry["code"] == "product":
        product = Product(**entry["product"])
        left, right = decode(about, planes, product.left), decode(about, planes, product.right)
        spec = letters_of(product.axes, left.ndim, right.ndim)
        return np.asarray(np.einsum(spec, left.astype(np.float64), right.astype(np.float64)))
    code, shape = entry["code"], tuple(entry.get("cut", entry["shape"]))
    width, count = int(code[1]), prod(shape)
    raw = np.frombuffer(planes, np.uint8, count * width, entry["offset"]).reshape(width, count).T
    kind = {"f8": "<f8", "f4": "<f4", "f2": "<f2", "i1": "i1", "i4": "<i4", "u1": "u1"}[code]
    values = np.ascontiguousarray(raw).view(kind).reshape(shape)
    return values.astype(np.float64) * entry["scale"] if code in ("f2", "i1") else values


def letters_of(axes: str, *ranks: int) -> str:
    """Return the axes of a product for `numpy.einsum`: * becomes as many letters as the first factor has to spare."""
    left = axes.partition("->")[0].partition(",")[0].split()
    extra = "ABCDEFG"[: ranks[0] - len(left) + 1] if "*" in left else ""
    return axes.replace("*", extra).replace(" ", "")
