"""Ops: each kernel beside its reference, and beside what the machine can do at best.

What moves numbers is held to a plain copy that reads and writes as many bytes; what multiplies matrices, to NumPy's
matrix product, on a GPU to CuPy's. The yardstick runs in the same rounds, so that the share refers to the same
conditions.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ..arrays import Array, Device, array_module, byte_bounds, to_device
from ..dispatch import package_fault
from ..environment.conditions import survey
from ..errors import ConfigError
from ..models.gpt import GPT
from ..optim.adamw import AdamWOptions, adamw_update
from ..verify.kernels import on_device
from ..verify.record import Arguments, Op, Sizes, cast, cotangent, map_arrays
from ..verify.registry import REGISTRY
from .candidates import Candidate, Report, Result, alternate, check_arrays, clock_of, ratio
from .workload import Workload, workload

__all__ = ["Piece", "bench_ops", "bytes_moved", "pieces"]

TOLERANCE = 1e-4
UNITS = {"copy": "GB/s", "gemm": "GFLOP/s"}
GEMM = (4096, 384, 1536)  # rows, inputs, outputs of the yardstick: those of a feed-forward layer


@dataclass(frozen=True)
class Piece:
    """A kernel at work. amount: bytes that must be moved (yardstick "copy"), or floating-point operations ("gemm")."""

    name: str
    shape: str
    kernel: Callable[[], Any]
    reference: Callable[[], Any]
    amount: float
    yardstick: Literal["copy", "gemm"]


def bench_ops(
    names: Sequence[str] = (),
    size: str = "shakespeare",
    overrides: Mapping[str, object] | None = None,
    rounds: int = 10,
) -> Report:
    """Time, rate and share of the yardstick of every kernel, at the shapes of a size. names: only these ops."""
    work = workload(size, overrides)
    known = [*REGISTRY, "adamw_update"]
    for name in names:
        if name not in known:
            raise ConfigError(f"bench ops: an op is one of {', '.join(known)}, got {name!r}.")
    device = work.training.device
    environment, warnings = survey(device)
    report = Report(f"Fast kernels, at the shapes of {size}", environment, "% of the yardstick", warnings=warnings)
    if fault := package_fault(device):
        report.notes.append(f"There are no kernels to time. {fault}.")
        return report
    with ThreadPoolExecutor(environment.threads) as threads:
        for piece in pieces(work, names):
            _time_piece(report, piece, rounds, _yardstick(piece, device, threads, environment.threads), device)
    return report


Yardstick = tuple[Callable[[], object], float]


def _yardstick(piece: Piece, device: Device, threads: ThreadPoolExecutor, count: int) -> Yardstick:
    """Return what a piece is compared with, and how much of its unit it does."""
    if piece.yardstick == "gemm":
        return _gemm(device)
    return _copy(piece.amount, threads, count) if device == "cpu" else _copy_on_gpu(piece.amount)


def _time_piece(report: Report, piece: Piece, rounds: int, yardsticks: Yardstick, device: Device) -> None:
    check_arrays(piece.name, piece.kernel(), piece.reference(), TOLERANCE)
    run, amount = yardsticks
    kernel = Candidate("compyute", "kernel", piece.kernel)
    reference = Candidate("compyute", "reference", piece.reference)
    yardstick = Candidate("numpy" if device == "cpu" else "cupy", piece.yardstick, run)
    times = alternate([kernel, reference, yardstick], rounds, clock=clock_of(device))
    of_yardstick = times.pop(yardstick)
    report.add_times(piece.name, piece.shape, times)
    unit = UNITS[piece.yardstick]
    report.add_rates(piece.name, piece.shape, times, piece.amount / 1e9, unit)
    report.add_rates(piece.name, piece.shape, {yardstick: of_yardstick}, amount / 1e9, unit)
    share = ratio(of_yardstick, times[kernel]).map(lambda times: 100 * times * piece.amount / amount)
    report.results.append(Result.median(piece.name, kernel, share, "% of the yardstick", piece.shape))


def _copy(amount: float, threads: ThreadPoolExecutor, count: int) -> tuple[Callable[[], object], float]:
    """Read half as many bytes and write as many, each thread its part."""
    source = np.ones(max(count, round(amount / 8)), np.float32)
    target = np.empty_like(source)
    parts = list(zip(np.array_split(source, count), np.array_split(target, count), strict=True))

    def run() -> None:
        others = [threads.submit(np.copyto, to, origin) for origin, to in parts[1:]]
        np.copyto(parts[0][1], parts[0][0])
        for other in others:
            other.result()

    return run, 2.0 * source.nbytes


def _copy_on_gpu(amount: float) -> Yardstick:
    """Read half as many bytes and write as many."""
    source = to_device(np.ones(max(1, round(amount / 8)), np.float32), "cuda")
    xp = array_module(source)
    target = xp.empty_like(source)
    return lambda: xp.copyto(target, source), 2.0 * source.nbytes


def _gemm(device: Device) -> Yardstick:
    rows, inputs, outputs = GEMM
    rng = np.random.default_rng(8)
    shapes = (rows, inputs), (outputs, inputs)
    x, weight = (to_device(rng.standard_normal(shape, dtype=np.float32), device) for shape in shapes)
    xp = array_module(x)
    y = xp.empty((rows, outputs), np.float32)
    return lambda: xp.matmul(x, weight.T, out=y), 2.0 * rows * inputs * outputs


# --- what is timed ---


def pieces(work: Workload, names: Sequence[str] = ()) -> Iterator[Piece]:
    """The forward and the backward of every op that have a kernel, then AdamW."""
    for op in REGISTRY.values():
        if not names or op.name in names:
            yield from _of_op(op, work)
    if not names or "adamw_update" in names:
        yield _adamw(work)


def _of_op(op: Op, work: Workload) -> Iterator[Piece]:
    device = work.training.device
    kernels = [name for name in ("forward", "backward") if _has_kernel(getattr(op, name), device)]
    if not kernels:
        return
    arguments, shape, flops = _sized(op, work)
    arguments = on_device(arguments, device)
    y, saved = op.forward(**arguments)
    dy = to_device(cotangent(y), device)
    if "forward" in kernels:
        amount = flops or bytes_moved(arguments, (y, saved))
        run: Any = op.forward
        yield Piece(
            f"{op.name}_forward", shape, lambda: run(**arguments)[0], lambda: run.reference(**arguments)[0],
            amount, "gemm" if flops else "copy",
        )  # fmt: skip
    if "backward" in kernels:
        gradients: Any = op.backward
        amount = (
            flops * op.benchmark.backward if op.benchmark and flops else bytes_moved((dy, saved), gradients(dy, saved))
        )
        yield Piece(
            f"{op.name}_backward", shape, lambda: gradients(dy, saved), lambda: gradients.reference(dy, saved),
            amount, "gemm" if flops else "copy",
        )  # fmt: skip


def _has_kernel(function: Any, device: Device) -> bool:
    return hasattr(function, "kernel") and function.kernel(device) is not None


def _sized(op: Op, work: Workload) -> tuple[Arguments, str, float]:
    """Return arguments in float32 at the shapes of a model, the shape in words, and the forward's FLOPs (0: few)."""
    if op.benchmark is None:
        case = op.cases[-1]
        return case.arguments(dtype=np.float32), case.name, 0.0
    sizes = _sizes_of(work)
    arguments: Arguments = cast(op.benchmark.draw(np.random.default_rng(7), sizes), np.float32)
    return arguments, op.benchmark.shape(sizes), op.benchmark.flops(sizes)


def _sizes_of(work: Workload) -> Sizes:
    c = work.config
    return Sizes(
        B=work.training.batch_size,
        T=c.context_length,
        C=c.embed_dim,
        H=c.num_heads,
        D=c.embed_dim // c.num_heads,
        F=c.mlp_dim or 4 * c.embed_dim,
        V=c.vocab_size,
        dropout=c.dropout,
        gelu="none" if c.activation == "gelu" else "tanh",
    )


def _adamw(work: Workload) -> Piece:
    count = GPT(work.config).num_parameters
    rng = np.random.default_rng(9)
    gradient = to_device(rng.standard_normal(count, dtype=np.float32), work.training.device)
    xp = array_module(gradient)
    options = AdamWOptions(lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1)

    def stepper(update: Any) -> Callable[[], Array]:
        weight, first, second = xp.ones(count, np.float32), xp.zeros_like(gradient), xp.zeros_like(gradient)

        def run() -> Array:
            update(weight, gradient, first, second, 1, options)
            return weight

        return run

    update: Any = adamw_update
    moved = 7.0 * gradient.nbytes  # four arrays are read, three written
    return Piece("adamw_update", f"({count})", stepper(update), stepper(update.reference), moved, "copy")


def bytes_moved(read: Any, written: Any) -> float:
    """The bytes of all arrays in a structure that is read and one that is written; one in both is read only."""
    arrays: dict[int, int] = {}

    def note(array: Array) -> None:
        if not isinstance(array, np.generic):
            arrays[byte_bounds(array)[0]] = array.nbytes

    map_arrays(note, read)
    map_arrays(note, written)
    return float(sum(arrays.values()))
