"""Attention: the algorithms beside each other, in whole steps of training and alone, and alone beside PyTorch's.

Alone it is timed in float32 and bfloat16.

All algorithms use one model and its weights: the algorithm is switched
in place. They drop the same elements, so their losses and gradients must agree with dropout on too.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..arrays import Array, Device, device_of, to_device, to_numpy
from ..environment.conditions import NO_TORCH, has_torch, survey, use_threads_of
from ..errors import ConfigError
from ..nn.attention import Implementation
from ..ops.attention import (
    Mask,
    attention_backward,
    attention_forward,
    fused_attention_backward,
    fused_attention_forward,
)
from ..ops.loss import cross_entropy_backward, cross_entropy_forward
from ..optim.clip import global_norm
from ..precision import Precision
from ..verify.function import randomize
from ..verify.kernels import on_device
from .candidates import Candidate, Report, Result, alternate, check_arrays, check_parity, clock_of
from .memory import NO_PEAK, peak_memory
from .step import computing_in
from .workload import OurStep, Workload, workload

__all__ = ["ALGORITHMS", "LENGTHS", "bench_attention", "check_algorithms", "run_op_alone", "run_step_alone"]

ALGORITHMS: tuple[Implementation, ...] = ("sequential", "semiparallel", "parallel", "fused")
LENGTHS = (1024, 2048, 4096)
BATCH, HEADS, WIDTH = 4, 8, 64  # of the op alone
LONGEST_WITH_WEIGHTS = 2048  # the (B, H, T, T) weights of twice that are 2 GB, several times over
CAUSAL = Mask(causal=True)
OP_ALONE = "attention forward + backward"
TOLERANCE = 1e-4
LIMITS: dict[Precision, float] = {
    "float32": TOLERANCE,
    "bfloat16": 2e-2,
}  # of the op alone; each beside ours in float32
TORCH = "sdpa"


def bench_attention(
    algorithms: Sequence[str] = ALGORITHMS,
    size: str = "seed",
    overrides: Mapping[str, object] | None = None,
    lengths: Sequence[int] = LENGTHS,
    rounds: int = 10,
    memory: bool = True,
    bfloat16: bool = True,
) -> Report:
    """Time and peak memory of a step with each algorithm, then of the op alone at some lengths (none: not at all).

    bfloat16: time the op alone in bfloat16 as well, of PyTorch on tensors of bfloat16.
    """
    for name in algorithms:
        if name not in ALGORITHMS:
            raise ConfigError(f"bench attention: an algorithm is one of {', '.join(ALGORITHMS)}, got {name!r}.")
    chosen = [name for name in ALGORITHMS if name in algorithms]
    work = workload(size, overrides)
    if has_torch() and lengths:
        import torch  # noqa: F401  first, so that its threads begin with its own settings, not with ours
    device = work.training.device
    environment, warnings = survey(device)
    report = Report("Attention", environment, "ms", warnings=warnings)
    candidates = _race_steps(report, work, chosen, rounds)
    if memory and device == "cuda":
        report.notes.append(NO_PEAK)
        memory = False
    for candidate in candidates if memory else ():
        given = {"size": size, "overrides": dict(overrides or {}), "algorithm": candidate.mode}
        _add_peak(report, "step", candidate, work.shape, "attention:run_step_alone", **given)
    if lengths and has_torch():
        use_threads_of(environment)
    elif lengths:
        report.notes.append(NO_TORCH)
    precisions: list[Precision] = ["float32", "bfloat16"] if bfloat16 else ["float32"]
    for length in lengths:
        _time_ops(report, length, chosen, precisions, rounds, memory, device)
    return report


def check_algorithms(work: Workload, algorithms: Sequence[Implementation]) -> None:
    """The loss and the norm of the gradient, dropout included, from weights drawn anew. Raises ParityError."""
    model = work.model_case.model(work.config, work.training.seed)
    randomize(model)
    model.to(work.training.device)
    inputs, targets = on_device(work.batches()[0], work.training.device)
    found = []
    for name in algorithms:
        model.use_attention(name)
        model.generator.offset = 0
        model.zero_grad()
        loss, saved = cross_entropy_forward(model(*inputs), targets)
        model.backward(cross_entropy_backward(1.0, saved, overwrite=True))
        found.append((float(loss), global_norm(model.flat.grad)))
        check_parity("the loss", name, found[-1][:1], found[0][:1], TOLERANCE)
        check_parity("the gradient norm", name, found[-1][1:], found[0][1:], TOLERANCE)


def run_step_alone(size: str, overrides: Mapping[str, object], algorithm: Implementation) -> None:
    """A few steps with one algorithm, for the peak of its memory."""
    step = OurStep(workload(size, overrides))
    for _ in range(3):
        _with_algorithm(step, algorithm)()


def run_op_alone(mode: str, length: int) -> None:
    """The op alone, twice, for the peak of its memory. mode: "fused", "fused bfloat16", "sdpa"."""
    for _ in range(2):
        _run_of(mode, *_inputs(length))()


# --- whole steps ---


def _race_steps(report: Report, work: Workload, algorithms: Sequence[Implementation], rounds: int) -> list[Candidate]:
    check_algorithms(work, algorithms)
    step = OurStep(work)
    candidates = [Candidate("compyute", name, _with_algorithm(step, name)) for name in algorithms]
    times = alternate(candidates, rounds)
    report.add_times("step", work.shape, times)
    report.add_rates("step", work.shape, times, work.tokens, "tokens/s")
    return candidates


def _with_algorithm(step: OurStep, name: Implementation) -> Callable[[], float]:
    def run() -> float:
        step.model.use_attention(name)
        return step()

    return run


# --- the op alone ---

OPS: dict[str, tuple[Any, Any]] = {
    "fused": (fused_attention_forward, fused_attention_backward),
    "parallel": (attention_forward, attention_backward),
}


def _time_ops(
    report: Report,
    length: int,
    algorithms: Sequence[Implementation],
    precisions: Sequence[Precision],
    rounds: int,
    memory: bool,
    device: Device,
) -> None:
    q, k, v, dy = (to_device(array, device) for array in _inputs(length))
    modes = [mode for mode in OPS if mode in algorithms]
    if "parallel" in modes and length > LONGEST_WITH_WEIGHTS:
        modes.remove("parallel")
        report.notes.append(f"At T {length} parallel was left out: its weights would fill gigabytes.")
    providers = [*(("compyute", mode) for mode in modes), *([("torch", TORCH)] if has_torch() else [])]
    candidates = [
        Candidate(provider, _mode(mode, chosen), _run_of(_mode(mode, chosen), q, k, v, dy))
        for chosen in precisions
        for provider, mode in providers
    ]
    if not candidates:
        return
    shape = f"B {BATCH}, {HEADS} heads, T {length}, D {WIDTH}, causal"
    results = [_numbers(candidate.run()) for candidate in candidates]
    for candidate, result in zip(candidates, results, strict=True):
        check_arrays(candidate.name, result, results[0], LIMITS[_parts(candidate.mode)[1]])
    del results
    report.add_times(OP_ALONE, shape, alternate(candidates, rounds, clock=clock_of(device)))
    for candidate in candidates if memory else ():
        given = {"mode": candidate.mode, "length": length}
        _add_peak(report, OP_ALONE, candidate, shape, "attention:run_op_alone", **given)


def _inputs(length: int) -> tuple[Array, Array, Array, Array]:
    """q, k, v, dy."""
    rng = np.random.default_rng(6)
    q, k, v, dy = rng.standard_normal((4, BATCH, HEADS, length, WIDTH), dtype=np.float32)
    return q, k, v, dy


def _mode(algorithm: str, chosen: Precision) -> str:
    return algorithm if chosen == "float32" else f"{algorithm} {chosen}"


def _parts(mode: str) -> tuple[str, Precision]:
    algorithm, _, chosen = mode.partition(" ")
    return algorithm, "bfloat16" if chosen else "float32"


def _run_of(mode: str, q: Array, k: Array, v: Array, dy: Array) -> Callable[[], tuple[Any, ...]]:
    """Return the forward and backward of a mode, ours or PyTorch's."""
    algorithm, chosen = _parts(mode)
    if algorithm == TORCH:
        return _torchs(chosen, q, k, v, dy)
    return computing_in(chosen, _ours(algorithm, q, k, v, dy))


def _ours(mode: str, q: Array, k: Array, v: Array, dy: Array) -> Callable[[], tuple[Array, ...]]:
    forward, backward = OPS[mode]

    def run() -> tuple[Array, ...]:
        y, saved = forward(q, k, v, CAUSAL)
        return y, *backward(dy, saved)

    return run


def _torchs(chosen: Precision, q: Array, k: Array, v: Array, dy: Array) -> Callable[[], tuple[Any, ...]]:
    import torch

    place = {"device": device_of(q), "dtype": getattr(torch, chosen)}
    leaves = [torch.from_numpy(to_numpy(array)).to(**place).requires_grad_() for array in (q, k, v)]
    their_dy = torch.from_numpy(to_numpy(dy)).to(**place)

    def run() -> tuple[Any, ...]:
        y = torch.nn.functional.scaled_dot_product_attention(*leaves, is_causal=True)
        gradients = torch.autograd.grad(y, leaves, their_dy)
        return y.detach(), *gradients

    return run


def _numbers(results: Any) -> tuple[Array, ...]:
    """Return arrays and PyTorch's tensors as NumPy's arrays, none of them in bfloat16."""
    return tuple(each.float().cpu().numpy() if hasattr(each, "cpu") else to_numpy(each) for each in results)


def _add_peak(report: Report, what: str, candidate: Candidate, shape: str, target: str, **given: Any) -> None:
    if (peak := peak_memory(target, **given)) is not None:
        report.results.append(Result(what, candidate.provider, candidate.mode, peak / 1e6, "MB", shape))
