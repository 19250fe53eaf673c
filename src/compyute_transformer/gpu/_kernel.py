"""Shared: from a CUDA text to kernels, how many threads run it, and what a kernel says of the arguments it supports.

A text is compiled at its first use, for float32 or for bfloat16, by NVRTC through CuPy, which stores the result. It is
handed over whole: what it includes is put in first, so that CuPy notices a change of either file.

Null pointers are `NULL`, a number of the size of a pointer: CuPy has no other way to pass one.
"""

from collections.abc import Callable
from contextvars import ContextVar
from functools import cache
from importlib import import_module
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np

from ..arrays import Array
from ..errors import BackendError

__all__ = [
    "ADVANCE",
    "NULL",
    "THREADS",
    "address_of",
    "blocks_for",
    "is_contiguous",
    "is_ready",
    "kernel",
    "of_one_shape",
    "rows_of",
    "source_of",
    "threads_for_row",
    "vector_for",
]

FOLDER = Path(__file__).resolve().parent
INCLUDE = '#include "common.cuh"\n'
NULL = np.uintp(0)
# Where a captured step looks up how far its random offsets have come: one uint32 on the device.
ADVANCE: ContextVar[Any] = ContextVar("advance", default=NULL)
VECTOR_BYTES = 16  # of one load
THREADS, WARP, MOST_THREADS = 256, 32, 1024
MOST_BLOCKS = (1 << 31) - 1

Launch = Callable[..., None]


@cache
def source_of(topic: str) -> str:
    """Return the text of the kernels of a topic, with the common text in place of the line that includes it."""
    text = (FOLDER / f"{topic}.cu").read_text(encoding="utf-8")
    return text.replace(INCLUDE, (FOLDER / "common.cuh").read_text(encoding="utf-8"))


def compile_text(source: str, bfloat16: bool) -> Any:
    """Return the compiled module of a text."""
    options = ["-std=c++17"]
    if bfloat16:
        options += ["-DBFLOAT16", f"-I{_headers()}"]
    return import_module("cupy").RawModule(code=source, options=tuple(options), backend="nvrtc")


@cache
def _headers() -> str:
    """Return the folder of NVIDIA's cuda_bf16.h, which comes with nvidia-cuda-runtime or with a toolkit."""
    found = import_module("cuda.pathfinder").find_nvidia_header_directory("cudart")
    if found is None or not (Path(found) / "cuda_bf16.h").exists():
        raise BackendError(
            "kernels in bfloat16 need NVIDIA's header cuda_bf16.h, which is not here: pip install nvidia-cuda-runtime"
        )
    return str(found)


_modules: dict[tuple[str, bool], Any] = {}


def kernel(topic: str, name: str, dtype: Any) -> Launch:
    """Return a kernel of a topic's text, for arrays of a dtype: `kernel(...)(grid, block, args, shared_mem=0)`."""
    key = topic, np.dtype(dtype).name == "bfloat16"
    if key not in _modules:
        _modules[key] = compile_text(source_of(topic), key[1])
    launch: Launch = _modules[key].get_function(name)
    return launch


def is_ready(*arrays: Array | None) -> bool:
    """Float32 or bfloat16, all of one, in one piece, row-major. None is passed over."""
    given = [array for array in arrays if array is not None]
    one = given[0].dtype
    return one.name in ("float32", "bfloat16") and all(a.dtype == one and a.flags.c_contiguous for a in given)


def is_contiguous(dtype: Any, *arrays: Array) -> bool:
    """Whether all arrays have this dtype and lie in one piece: statistics, which are float32 beside any storage."""
    return all(array.dtype == dtype and array.flags.c_contiguous for array in arrays)


def of_one_shape(*arrays: Array | None) -> bool:
    """Whether all arrays that are there have the shape of the first. A kernel indexes them all alike, unchecked.

    Validation sees dy alone: what was saved is as the forward made it, unless somebody replaced a part of it.
    """
    return all(array is None or array.shape == arrays[0].shape for array in arrays)  # type: ignore[union-attr]


def address_of(array: Array) -> int:
    """Return where the numbers of an array begin."""
    found: Any = array  # of NumPy where the kernels run on a CPU
    return int(array.__array_interface__["data"][0] if isinstance(array, np.ndarray) else found.data.ptr)


def vector_for(length: int, *arrays: Any) -> np.int32:
    """Return 1 where rows of this length can be read 16 bytes at a time in all of the arrays, else 0.

    `NULL` and None are passed over.
    """
    there = [array for array in arrays if array is not None and not isinstance(array, np.generic)]
    whole = all(length * array.dtype.itemsize % VECTOR_BYTES == 0 for array in there)
    return np.int32(whole and all(address_of(array) % VECTOR_BYTES == 0 for array in there))


def rows_of(array: Array) -> int:
    """Return the number of rows of the last axis."""
    return int(array.size // array.shape[-1]) if array.size else 0


def threads_for_row(length: int, vector: Any, itemsize: int, most: int = MOST_THREADS) -> int:
    """Return the threads of a block that reads a row: whole warps, no more than have something to read."""
    loads = ceil(length * itemsize / VECTOR_BYTES) if vector else length
    return min(most, ceil(loads / WARP) * WARP)


def blocks_for(work: int, threads: int = THREADS) -> tuple[int]:
    """Return the grid for an amount of work, a thread each.

    Raises:
        BackendError: there are more blocks than a grid can have.
    """
    blocks = -(-work // threads)
    if blocks > MOST_BLOCKS:
        raise BackendError(f"a grid has at most {MOST_BLOCKS} blocks, got {blocks}. Compute in smaller batches.")
    return (blocks,)
