"""Products: the matrix products of a model's linear layers by several libraries, in float32 and bfloat16.

A forward is y = x Wᵀ, a backward dx = dy W and dW = dyᵀ x. Ours is the op: it takes float32 arrays in both precisions
and rounds them itself. The others are given what they take, already rounded and, where they want that, packed.
"""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from ..arrays import Array
from ..environment.conditions import NO_TORCH, has_torch, survey, use_threads_of
from ..ops.linear import LinearSaved, linear_backward, linear_forward
from ..ops.quantized import to_bfloat16
from ..precision import Precision
from . import mkl
from .candidates import Candidate, Report, Result, Spread, alternate, check_arrays
from .step import computing_in
from .workload import workload

__all__ = ["Shape", "bench_products", "shapes_of"]

LIMITS: dict[Precision, float] = {"float32": 1e-4, "bfloat16": 2e-2}  # the results of PyTorch's bfloat16 are rounded
NO_NUMKONG = "numkong is not installed, so it was left out: pip install numkong"
NO_MKL = "Intel's MKL is not installed, so it was left out: pip install mkl"
SHARE = "of the best"


class Shape(NamedTuple):
    """A linear layer. rows: of x, over the whole batch. inputs, outputs: the axes of the weight, (O, I)."""

    name: str
    rows: int
    inputs: int
    outputs: int


class Operands(NamedTuple):
    """What the products of a layer read: x (N, I), weight (O, I), dy (N, O), float32."""

    x: Array
    weight: Array
    dy: Array


Products = tuple[Callable[[], Any], Callable[[], tuple[Any, Any]]]  # forward: y; backward: dx, dW


def bench_products(
    size: str = "shakespeare", overrides: Mapping[str, object] | None = None, rounds: int = 10
) -> Report:
    """Time and rate of each library at the shapes of a model, and its share of the best of them in a precision."""
    work = workload(size, overrides)
    if has_torch():
        import torch  # noqa: F401  first, so that its threads begin with its own settings, not with ours
    environment, warnings = survey()
    report = Report(f"Matrix products, at the shapes of {size}", environment, "GFLOP/s", warnings=warnings)
    missing = {NO_TORCH: has_torch(), NO_NUMKONG: find_spec("numkong"), NO_MKL: mkl.library()}
    report.notes += [note for note, found in missing.items() if not found]
    if has_torch():
        use_threads_of(environment)
    with ThreadPoolExecutor(environment.threads) as threads:
        for shape in shapes_of(work.config, work.training.batch_size):
            for chosen in LIMITS:
                _time_shape(report, shape, chosen, rounds, threads, environment.threads)
    return report


def shapes_of(config: Any, batch_size: int) -> Iterator[Shape]:
    """Yield the linear layers of a GPT: of one of its blocks, and the head."""
    N, C, F = batch_size * config.context_length, config.embed_dim, config.mlp_dim or 4 * config.embed_dim
    yield Shape("q, k, v", N, C, 3 * C)
    yield Shape("attention output", N, C, C)
    yield Shape("up", N, C, F)
    yield Shape("down", N, F, C)
    yield Shape("head", N, C, config.vocab_size)


def _time_shape(
    report: Report, shape: Shape, chosen: Precision, rounds: int, threads: ThreadPoolExecutor, count: int
) -> None:
    rng = np.random.default_rng(8)
    sizes = (shape.rows, shape.inputs), (shape.outputs, shape.inputs), (shape.rows, shape.outputs)
    given = Operands(*(rng.standard_normal(size, dtype=np.float32) for size in sizes))
    providers = dict(_providers(given, chosen, threads, count))
    multiplications = shape.rows * shape.inputs * shape.outputs
    for index, (name, products) in enumerate((("forward", 1), ("backward", 2))):
        candidates = [Candidate(provider, chosen, both[index]) for provider, both in providers.items()]
        results = [_as_numpy(candidate.run()) for candidate in candidates]
        for candidate, result in zip(candidates, results, strict=True):
            check_arrays(candidate.name, result, results[0], LIMITS[chosen])
        del results
        what = f"{name}, {shape.name}"
        times = alternate(candidates, rounds)
        sizes_in_words = f"{shape.rows} rows, {shape.inputs} to {shape.outputs}, {chosen}"
        report.add_times(what, sizes_in_words, times)
        report.add_rates(what, sizes_in_words, times, 2e-9 * products * multiplications, "GFLOP/s")
        best = min(Spread.of(seconds).p50 for seconds in times.values())
        for candidate, seconds in times.items():
            share = best / Spread.of(seconds).p50
            report.results.append(Result(what, candidate.provider, chosen, share, SHARE, sizes_in_words))


def _as_numpy(results: Any) -> Any:
    """Return a result, or a tuple of results, as arrays in float32."""
    if isinstance(results, tuple):
        return tuple(map(_as_numpy, results))
    return results.float().numpy() if hasattr(results, "numpy") else np.asarray(results)


# --- the libraries ---


def _providers(
    given: Operands, chosen: Precision, threads: ThreadPoolExecutor, count: int
) -> Iterator[tuple[str, Products]]:
    yield "compyute", _ours(given, chosen)
    if chosen == "float32":
        yield "numpy", _numpys(given)
    if has_torch():
        yield "torch", _torchs(given, chosen)
    if chosen == "bfloat16" and find_spec("numkong"):
        yield "numkong", _numkongs(given, threads, count)
    if mkl.library() and (chosen == "float32" or mkl.has_bfloat16()):
        yield "mkl", _mkls(given, chosen)


def _ours(given: Operands, chosen: Precision) -> Products:
    x, weight, dy = given
    saved = LinearSaved(x, weight, False, chosen)
    forward: Any = linear_forward
    return computing_in(chosen, lambda: forward(x, weight)[0]), lambda: linear_backward(dy, saved)[:2]


def _numpys(given: Operands) -> Products:
    x, weight, dy = given
    y, dx, dweight = (np.empty_like(array) for array in (dy, x, weight))
    return (
        lambda: np.matmul(x, weight.T, out=y),
        lambda: (np.matmul(dy, weight, out=dx), np.matmul(dy.T, x, out=dweight)),
    )


def _torchs(given: Operands, chosen: Precision) -> Products:
    import torch

    x, weight, dy = (torch.from_numpy(array).to(getattr(torch, chosen)) for array in given)
    y, dx, dweight = (torch.empty_like(each) for each in (dy, x, weight))
    return (
        lambda: torch.matmul(x, weight.T, out=y),
        lambda: (torch.matmul(dy, weight, out=dx), torch.matmul(dy.T, x, out=dweight)),
    )


def _numkongs(given: Operands, threads: ThreadPoolExecutor, count: int) -> Products:
    """Multiply packed matrices, the rows divided among threads. The weight is packed beforehand, both ways.

    numkong computes A Bᵀ, so that dW needs both of its operands transposed, which counts.
    """
    library = import_module("numkong")

    def narrow(array: Array) -> Any:
        return library.astype(array, "bf16")

    def packed(array: Array) -> Any:
        return library.dots_pack(narrow(np.ascontiguousarray(array)), dtype="bf16")

    def multiply(a: Any, b: Any, columns: int) -> Array:
        rows = a.shape[0]
        y = np.empty((rows, columns), np.float32)
        out = library.from_pointer(y.ctypes.data, y.shape, "float32", owner=y)
        edges = [rows * index // count for index in range(count + 1)]
        parts = [
            threads.submit(library.dots_packed, a, b, out=out, start_row=start, end_row=stop)
            for start, stop in pairwise(edges)
        ]
        for part in parts:
            part.result()
        return y

    x, weight, dy = given
    rows, gradient, forward, backward = narrow(x), narrow(dy), packed(weight), packed(weight.T)
    outputs, inputs = weight.shape
    return (
        lambda: multiply(rows, forward, outputs),
        lambda: (
            multiply(gradient, backward, inputs),
            multiply(narrow(np.ascontiguousarray(dy.T)), packed(x.T), inputs),
        ),
    )


def _mkls(given: Operands, chosen: Precision) -> Products:
    x, weight, dy = given if chosen == "float32" else map(to_bfloat16, given)
    y, dx, dweight = (np.empty(array.shape, np.float32) for array in (given.dy, given.x, given.weight))
    multiply = mkl.multiply
    return (
        lambda: multiply(x, weight, y, turned=(False, True)),
        lambda: (multiply(dy, weight, dx), multiply(dy, x, dweight, turned=(True, False))),
    )
