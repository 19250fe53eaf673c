"""Run every kernel on arrays beside pages that nobody may touch: to read or write outside an array ends the process.

Started in a process of its own by `tests/cpu/test_memory.py`; prints the number of calls whose results are, to the bit,
those on ordinary arrays.
"""

import ctypes
import mmap
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import numpy as np

from compyute_transformer.nn import Dropout, FeedForward, LayerNorm, MultiHeadAttention, PreNormBlock, share_generator
from compyute_transformer.ops import Mask
from compyute_transformer.ops.quantized import quantize, quantized_linear
from compyute_transformer.optim.adamw import AdamWOptions, adamw_update
from compyute_transformer.precision import use_precision
from compyute_transformer.random import Generator
from compyute_transformer.verify.registry import REGISTRY, cotangent, map_arrays

PAGE = mmap.PAGESIZE
TOPICS = (
    *("activation", "adamw", "addition", "attention", "block", "dropout", "embedding", "feed_forward", "linear"),
    *("loss", "norm", "pre_norm_block", "quantized", "rotary"),
    *("_packing", "_products", "_quantized_products", "_rounding"),
)
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


@contextmanager
def beside_guards(at_end: bool) -> Iterator[None]:
    """Let the kernels write to arrays beside such pages, within a `with` block."""
    modules = [import_module(f"compyute_transformer.cpu.{topic}") for topic in TOPICS]
    own = [(module, module.empty) for module in modules if hasattr(module, "empty")]
    for module, _ in own:
        module.empty = lambda shape, dtype=np.float32: guarded(np.empty(shape, dtype), at_end)
    yield
    for module, before in own:
        module.empty = before


def run_ops(precision: Any) -> int:
    """Return the number of calls: every op on every case."""
    calls = 0
    for op in REGISTRY.values():
        for case in op.cases:
            arguments = list(case.arguments(dtype=np.float32).values())
            with use_precision(precision):
                expected = contiguous(run(op, arguments, lambda value: value))
            for at_end in (True, False):
                print(op.name, case.name, precision, at_end, file=sys.stderr, flush=True)

                def place(value: Any, at_end: bool = at_end) -> Any:
                    return map_arrays(lambda array: guarded(np.asarray(array), at_end), value)

                with beside_guards(at_end), use_precision(precision):
                    found = contiguous(run(op, arguments, place))
                assert same(expected, found), (op.name, case.name)
                calls += 1
    return calls


def run_block(x: np.ndarray, place: Any) -> tuple[Any, ...]:
    """Return the results of a block in training, and of quantized products of its rows; all dropped at random."""
    rng, C = np.random.default_rng(0), x.shape[2]
    attention, feed_forward = MultiHeadAttention(C, 2, 1, dropout=0.2), FeedForward(C, 35)
    block = PreNormBlock(LayerNorm(C), attention, Dropout(0.3), LayerNorm(C), feed_forward, Dropout(0.1))
    share_generator(block, Generator(3))
    for parameter in block.parameters():
        parameter.data = place(rng.standard_normal(parameter.data.shape, dtype=np.float32))
    y = block(place(x), Mask(causal=True))
    dx = block.backward(place(cotangent(y)))
    rows = place(x.reshape(-1, C))
    products = [quantized_linear(rows, quantize(rng.standard_normal((37, C), np.float32), "bfloat16"))]
    if C % 32 == 0:
        products.append(quantized_linear(rows, quantize(rng.standard_normal((37, C), np.float32), "int8")))
    return (y, dx, *products, *(parameter.grad for parameter in block.parameters()))


def run_blocks(precision: Any) -> int:
    """Return the number of calls: blocks of several shapes."""
    calls = 0
    for shape in ((1, 17, 36), (3, 13, 34), (2, 70, 32), (5, 33, 64)):
        x = np.random.default_rng(1).standard_normal(shape, dtype=np.float32)
        with use_precision(precision):
            expected = contiguous(run_block(x, lambda array: array))
        for at_end in (True, False):
            print("block", shape, precision, at_end, file=sys.stderr, flush=True)
            with beside_guards(at_end), use_precision(precision):
                found = contiguous(run_block(x, lambda array, at_end=at_end: guarded(array, at_end)))
            assert same(expected, found), shape
            calls += 1
    return calls


def main() -> int:
    calls = sum(run_ops(precision) + run_blocks(precision) for precision in ("float32", "bfloat16"))
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
