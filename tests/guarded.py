"""Run every kernel on arrays beside pages that nobody may touch: to read or write outside an array ends the process.

Started in a process of its own by `tests/cpu/test_memory.py`; prints the number of calls whose results are, to the bit,
those on ordinary arrays.
"""

import ctypes
import mmap
import sys
from importlib import import_module
from typing import Any

import numpy as np

from compyute_transformer.optim.adamw import AdamWOptions, adamw_update
from compyute_transformer.verify.registry import REGISTRY, cotangent, map_arrays

PAGE = mmap.PAGESIZE
TOPICS = ("activation", "adamw", "attention", "block", "dropout", "embedding", "linear", "loss", "norm", "rotary")
libc = ctypes.CDLL(None, use_errno=True)


def guarded(array: np.ndarray, at_end: bool) -> np.ndarray:
    """Return a copy that ends right before, or begins right after, a page without any permission."""
    room = -(-max(array.nbytes, 1) // PAGE) * PAGE
    memory = mmap.mmap(-1, room + 2 * PAGE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for page in (address, address + PAGE + room):
        if libc.mprotect(ctypes.c_void_p(page), ctypes.c_size_t(PAGE), 0):
            raise OSError(ctypes.get_errno(), "mprotect")
    start = PAGE + (room - array.nbytes if at_end else 0)
    copy: np.ndarray = np.frombuffer(memory, array.dtype, array.size, start).reshape(array.shape)
    copy[...] = array
    return copy


def same(one: Any, two: Any) -> bool:
    if isinstance(one, tuple):
        return all(map(same, one, two))
    return one is None or np.array_equal(np.asarray(one).view(np.uint8), np.asarray(two).view(np.uint8))


def run(op: Any, arguments: list[Any], place: Any) -> tuple[Any, ...]:
    y, saved = op.forward(*[place(value) for value in arguments])
    dy = cotangent(y)
    gradients = op.backward(place(dy), saved)
    return (np.ascontiguousarray(y), *(gradients if isinstance(gradients, tuple) else (gradients,)))


def contiguous(values: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(None if value is None else np.ascontiguousarray(value) for value in values)


def main() -> int:
    modules = [import_module(f"compyute_transformer.cpu.{topic}") for topic in TOPICS]
    own = [(module, module.empty) for module in modules if hasattr(module, "empty")]
    calls = 0
    for op in REGISTRY.values():
        for case in op.cases:
            arguments = list(case.arguments(dtype=np.float32).values())
            expected = contiguous(run(op, arguments, lambda value: value))
            for at_end in (True, False):
                print(op.name, case.name, at_end, file=sys.stderr, flush=True)

                def place(value: Any, at_end: bool = at_end) -> Any:
                    return map_arrays(lambda array: guarded(np.asarray(array), at_end), value)

                def empty(shape: Any, dtype: Any = np.float32, at_end: bool = at_end) -> np.ndarray:
                    return guarded(np.empty(shape, dtype), at_end)

                for module, _ in own:
                    module.empty = empty
                found = contiguous(run(op, arguments, place))
                for module, before in own:
                    module.empty = before
                assert same(expected, found), (op.name, case.name)
                calls += 1
    for size in (1, 7, 4096, 4099, 300_001):
        arrays = [np.linspace(0.1 * i, 1, size, dtype=np.float32) for i in range(4)]
        shadows = [guarded(array, True) for array in arrays]
        for group in (arrays, shadows):
            adamw_update(*group, 3, AdamWOptions(1e-3, (0.9, 0.999), 1e-8, 0.1))
        assert same(tuple(arrays), tuple(shadows)), size
        calls += 1
    print(calls)
    return 0


if __name__ == "__main__":
    sys.exit(main())
