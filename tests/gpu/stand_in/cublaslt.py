"""nvmath.bindings.cublasLt: column-major matrices with leading dimensions, transposes and epilogues, in NumPy.

Written from NVIDIA's documentation of cublasLtMatmul, not from what calls it: A (m, k), B (k, n), C and D (m, n), each
the transpose of its layout where the descriptor says so.

    BIAS             + bias[row of D]                      GELU_AUX(_BIAS) aux = that, D = gelu(aux), aux (m, n), ld
    DGELU            · gelu′(aux)                          BGRADB          bias[column of D] = Σ_k op(B)
"""

import ctypes
from collections.abc import Callable
from enum import IntEnum
from types import ModuleType
from typing import Any

import ml_dtypes
import numpy as np

from . import memory, stream
from .module import _module

TYPES = {14: np.dtype(ml_dtypes.bfloat16), 0: np.dtype(np.float32), 1: np.dtype(np.float64)}
# compute type, scale type -> the dtypes of A and B, of D
SUPPORTED = {
    (68, 0): {(14, 14), (14, 0), (0, 0)},
    (77, 0): {(0, 0)},
    (70, 1): {(1, 1)},
}
ALGORITHMS = 3


class Epilogue(IntEnum):
    DEFAULT, BIAS, GELU_AUX, GELU_AUX_BIAS, DGELU, BGRADA, BGRADB = 1, 4, 160, 164, 192, 256, 512


class Attribute(IntEnum):
    TRANSA, TRANSB, EPILOGUE, BIAS_POINTER, EPILOGUE_AUX_POINTER = 3, 4, 7, 8, 11
    EPILOGUE_AUX_LD, EPILOGUE_AUX_DATA_TYPE, BIAS_DATA_TYPE = 12, 22, 26


KINDS = {7: np.uint32, 8: np.int64, 11: np.int64, 12: np.int64}  # all others: int32
RESULT = np.dtype(
    [("algo", [("data_", "<u8", (8,))]), ("workspace_size", "<u8"), ("state", "<i4"), ("waves_count", "<f4"),
     ("reserved", "<i4", (4,))]
)  # fmt: skip


class cuBLASLtError(Exception):
    """What the library returns for arguments that it does not take."""


class Library:
    """What is behind the handles. refused: epilogues for which there is no algorithm. calls: products computed."""

    def __init__(self) -> None:
        self.things: list[Any] = [None]
        self.refused: set[int] = set()
        self.calls: list[tuple[int, int]] = []  # epilogue, algorithm

    def keep(self, thing: Any) -> int:
        self.things.append(thing)
        return len(self.things) - 1

    def desc_create(self, compute: int, scale: int) -> int:
        return self.keep({"compute": compute, "scale": scale, 3: 0, 4: 0, 7: 1})

    def set_attribute(self, desc: int, attribute: int, pointer: int, size: int) -> None:
        kind = np.dtype(KINDS.get(attribute, np.int32))
        if size != kind.itemsize:
            raise cuBLASLtError(f"INVALID_VALUE: attribute {attribute} has {kind.itemsize} bytes, got {size}")
        self.things[desc][int(attribute)] = int(np.frombuffer(_bytes(pointer, size), kind)[0])

    def layout_create(self, kind: int, rows: int, columns: int, ld: int) -> int:
        if ld < rows:
            raise cuBLASLtError(f"INVALID_VALUE: a leading dimension of {ld} for {rows} rows")
        return self.keep((kind, rows, columns, ld))

    def preference_set(self, preference: int, attribute: int, pointer: int, size: int) -> None:
        kind = np.uint64 if attribute == 1 else np.uint32
        if size != np.dtype(kind).itemsize:
            raise cuBLASLtError("INVALID_VALUE: size of a preference")
        self.things[preference][attribute] = int(np.frombuffer(_bytes(pointer, size), kind)[0])

    def check(self, desc: dict[Any, int], a: Any, b: Any, c: Any, d: Any) -> tuple[int, int, int]:
        """Return m, n and k. Raise for shapes or dtypes that do not fit."""
        op_a = (a[2], a[1]) if desc[3] else (a[1], a[2])
        op_b = (b[2], b[1]) if desc[4] else (b[1], b[2])
        if op_a[1] != op_b[0] or (op_a[0], op_b[1]) != (d[1], d[2]) or c[:3] != d[:3]:
            raise cuBLASLtError(f"INVALID_VALUE: {op_a} times {op_b} is not {d[1:3]}")
        if a[0] != b[0] or (a[0], d[0]) not in SUPPORTED.get((desc["compute"], desc["scale"]), ()):
            raise cuBLASLtError("NOT_SUPPORTED: dtypes")
        if desc.get(26, d[0]) != d[0] or desc.get(22, d[0]) != d[0] or desc.get(12, d[1]) < d[1]:
            raise cuBLASLtError("NOT_SUPPORTED: dtype of a bias, or leading dimension of what is kept")
        return op_a[0], op_b[1], op_a[1]

    def heuristic(self, handle: int, desc: int, *rest: int) -> None:
        *layouts, preference, wanted, results, count = rest
        about, wishes = self.things[desc], self.things[preference]
        self.check(about, *(self.things[layout] for layout in layouts))
        if stream.capturing():
            raise cuBLASLtError("INTERNAL_ERROR: heuristics during a capture")
        found = np.frombuffer(_bytes(results, wanted * RESULT.itemsize, True), RESULT)
        made = 0 if about[7] in self.refused or wishes.get(1, 0) < 1 else min(wanted, ALGORITHMS)
        for number in range(made):
            alignments = [wishes.get(5 + i, 256) for i in range(4)]
            found[number]["algo"]["data_"][:6] = (about[7], number + 1, *alignments)
            found[number]["state"] = 0
        np.frombuffer(_bytes(count, 4, True), np.int32)[0] = made

    def matmul(self, handle: int, desc: int, alpha: int, *rest: int) -> None:
        a, la, b, lb, beta, c, lc, d, ld, algo, workspace, workspace_size, on_stream = rest
        about = dict(self.things[desc])  # as it is now: a later change does not reach a launch
        layouts = [self.things[layout] for layout in (la, lb, lc, ld)]
        m, n, _ = self.check(about, *layouts)
        epilogue, number, *alignments = (int(x) for x in np.frombuffer(_bytes(algo, 48), np.uint64))
        if epilogue != about[7]:
            raise cuBLASLtError("INVALID_VALUE: an algorithm for another epilogue")
        for pointer, alignment in zip((a, b, c, d), alignments, strict=True):
            if pointer % alignment:
                raise cuBLASLtError(f"INVALID_VALUE: an address aligned to less than {alignment} bytes")
        if on_stream != stream.get_current_stream().ptr:
            raise cuBLASLtError("the product runs on another stream than the arrays around it")
        scale = TYPES[about["scale"]]
        factors = [np.frombuffer(_bytes(p, scale.itemsize), scale)[0] for p in (alpha, beta)]
        (A, mem_a), (B, mem_b), (C, mem_c), (D, mem_d) = (
            _matrix(pointer, *layout) for pointer, layout in zip((a, b, c, d), layouts, strict=True)
        )
        kind, touched = layouts[3][0], [mem_a, mem_b, mem_c, mem_d, _allocation(workspace, workspace_size)]
        vector = aux = None
        if epilogue in (Epilogue.BIAS, Epilogue.GELU_AUX_BIAS, Epilogue.BGRADB, Epilogue.BGRADA):
            length = n if epilogue == Epilogue.BGRADB else m
            vector, owner = _matrix(about[8], kind, length, 1, length)
            touched.append(owner)
        if epilogue in (Epilogue.GELU_AUX, Epilogue.GELU_AUX_BIAS, Epilogue.DGELU):
            aux, owner = _matrix(about[11], kind, m, n, about[12])
            touched.append(owner)
        wide = np.float64 if scale == np.float64 else np.float32

        def run() -> None:
            op_a, op_b = (x.T if t else x for x, t in ((A, about[3]), (B, about[4])))
            op_a, op_b = op_a.astype(wide), op_b.astype(wide)
            product = factors[0] * (op_a @ op_b)
            if factors[1]:
                product = product + factors[1] * C.astype(wide)
            D[...] = _finish(epilogue, product, vector, aux, op_a, op_b)

        self.calls.append((epilogue, number))
        stream.launch(f"matmul, epilogue {epilogue}", run, touched)


def _finish(epilogue: int, x: np.ndarray, vector: Any, aux: Any, op_a: np.ndarray, op_b: np.ndarray) -> np.ndarray:
    if epilogue in (Epilogue.BIAS, Epilogue.GELU_AUX_BIAS):
        x = x + vector.astype(x.dtype)  # (m, 1): along the columns
    if epilogue in (Epilogue.GELU_AUX, Epilogue.GELU_AUX_BIAS):
        aux[...] = x
        x = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    if epilogue == Epilogue.DGELU:
        h = aux.astype(x.dtype)
        t = np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3))
        x = x * (0.5 * (1 + t) + 0.5 * h * (1 - t * t) * np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * h**2))
    if epilogue == Epilogue.BGRADB:
        vector[:, 0] = op_b.sum(0)
    if epilogue == Epilogue.BGRADA:
        vector[:, 0] = op_a.sum(1)
    return x


def _bytes(pointer: int, size: int, writable: bool = False) -> Any:
    return memoryview((ctypes.c_uint8 * size).from_address(pointer))


def _allocation(pointer: int, size: int) -> memory.Allocation:
    """Return the memory of the device that an address lies in. Raise where there is none, or not enough."""
    allocation = memory.allocation_at(pointer)
    if allocation is None:
        raise memory.CUDARuntimeError("cudaErrorIllegalAddress: an illegal memory access was encountered")
    if pointer + size > allocation.start + allocation.raw.nbytes:
        raise cuBLASLtError("an address whose matrix reaches beyond its memory")
    return allocation


def _matrix(pointer: int, kind: int, rows: int, columns: int, ld: int) -> tuple[np.ndarray, memory.Allocation]:
    """Return a column-major matrix (rows, columns) at an address, and the memory it lies in."""
    dtype = TYPES[kind]
    size = ((columns - 1) * ld + rows) * dtype.itemsize
    allocation = _allocation(pointer, size)
    offset = pointer - allocation.start
    strides = (dtype.itemsize, ld * dtype.itemsize)
    return np.ndarray((rows, columns), dtype, allocation.raw.data, offset, strides), allocation


def make() -> tuple[Library, dict[str, ModuleType]]:
    """Return what the calls are recorded in, and the modules by name."""
    library = Library()
    destroy: Callable[[int], None] = lambda handle: None  # noqa: E731
    bindings = _module(
        "nvmath.bindings.cublasLt",
        create=lambda: library.keep("handle"),
        matmul_desc_create=library.desc_create,
        matmul_desc_set_attribute=library.set_attribute,
        get_matmul_desc_attribute_dtype=lambda attribute: np.dtype(KINDS.get(int(attribute), np.int32)),
        matrix_layout_create=library.layout_create,
        matmul_preference_create=lambda: library.keep({}),
        matmul_preference_set_attribute=library.preference_set,
        matmul_preference_destroy=destroy,
        matmul_algo_get_heuristic=library.heuristic,
        matmul=library.matmul,
        matmul_heuristic_result_dtype=RESULT,
        cuBLASLtError=cuBLASLtError,
        Epilogue=Epilogue,
        MatmulDescAttribute=Attribute,
    )
    package = _module("nvmath.bindings", cublasLt=bindings)
    return library, {m.__name__: m for m in (_module("nvmath", bindings=package), package, bindings)}
