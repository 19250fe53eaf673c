"""Step: time a whole training step, ours in float32 and bfloat16 beside PyTorch's, with the same mathematics.

All use the same weights, batches, activation, dropout probability, clipping and AdamW; the elements that are dropped
differ. Before anything is timed, both take two steps without dropout from random weights. If the losses or the gradient
norms differ, nothing is timed.
"""

from collections.abc import Callable, Mapping, Sequence
from shutil import which
from typing import Any

from ..environment.conditions import NO_TORCH, has_torch, survey, use_threads_of
from ..precision import Precision, use_precision
from ..verify.function import randomize
from .candidates import Candidate, Report, Result, alternate, check_parity
from .memory import NO_PEAK, peak_memory
from .workload import OurStep, Workload, workload

__all__ = ["TOLERANCES", "bench_step", "check_steps", "computing_in", "run_alone"]

# Relative error of the loss at the first step and at the second, where AdamW has made more of it, and of the gradient's
# norm. Autocast rounds the operands of its products to 8 bits, and so does our bfloat16.
EXACT, ROUNDED = (2e-5, 1e-4, 1e-3), (2e-2, 2e-2, 1e-1)
TOLERANCES = {"eager": EXACT, "compiled": EXACT, "autocast": ROUNDED, "bfloat16": ROUNDED}
STEPS_ALONE = 3
NO_COMPILER = "torch.compile needs a C++ compiler and there is none, so it was left out: install g++ or clang"


def bench_step(
    size: str = "shakespeare",
    overrides: Mapping[str, object] | None = None,
    vocab_size: int | None = None,
    modes: Sequence[str] = ("eager", "autocast"),
    reference: bool = False,
    rounds: int = 10,
    memory: bool = True,
    bfloat16: bool = True,
) -> Report:
    """Measure time, tokens a second and peak memory of a step.

    modes: the variants of PyTorch that are timed. reference: time our step without kernels as well. bfloat16: time our
    step with its products in bfloat16 as well; see `precision`.
    """
    work = workload(size, overrides, vocab_size)
    torch_is_here = has_torch()
    if torch_is_here:
        import torch  # noqa: F401  first, so that its threads begin with its own settings, not with ours
    environment, warnings = survey(work.training.device)
    report = Report(f"One step of training, {size}", environment, "ms", warnings=warnings)
    modes = _that_can_run(modes, torch_is_here, report)
    if torch_is_here:
        use_threads_of(environment)
    ours: list[Precision] = ["float32", "bfloat16"] if bfloat16 else ["float32"]
    for mode in (*ours[1:], *modes):
        check_steps(work, mode)
    candidates = _candidates(work, ours, modes, reference)
    times = alternate(candidates, rounds)
    report.add_times("step", work.shape, times)
    report.add_rates("step", work.shape, times, work.tokens, work.model_case.unit)
    candidates.clear()
    times.clear()  # which held the models
    if memory and work.training.device == "cuda":
        report.notes.append(NO_PEAK)
    elif memory:
        for provider, mode in [*(("compyute", each) for each in ours), *(("torch", mode) for mode in modes)]:
            given = {"size": size, "overrides": dict(overrides or {}), "vocab_size": vocab_size, "mode": mode}
            if (peak := peak_memory("step:run_alone", provider=provider, **given)) is not None:
                report.results.append(Result("step", provider, mode, peak / 1e6, "MB", work.shape))
            else:
                report.notes.append("This system does not tell the peak of a process's memory.")
                break
    return report


def computing_in(chosen: Precision, run: Callable[[], Any]) -> Callable[[], Any]:
    """Return a function with its matrix products in a precision."""

    def computed() -> Any:
        with use_precision(chosen):
            return run()

    return computed


def check_steps(work: Workload, mode: str) -> None:
    """Take two steps of each and raise ParityError if they differ. The second compares clipping and AdamW too.

    mode: a variant of PyTorch, or "bfloat16", which is ours. It is compared with ours in float32. The weights are
    random, because the loss of a newly initialized model is log V whatever it computes.
    """
    work = work.without_dropout()
    model = work.model_case.model(work.config, work.training.seed)
    randomize(model)
    theirs, take, name = _other_step(work, model, mode)
    ours = OurStep(work, model)
    *for_loss, for_norm = TOLERANCES[mode]
    for step, limit in enumerate(for_loss, start=1):
        check_parity(f"at step {step} the loss", name, [take()], [ours()], limit)
        check_parity(f"at step {step} the gradient norm", name, [theirs.norm], [ours.norm], for_norm)


def _other_step(work: Workload, model: Any, mode: str) -> tuple[Any, Callable[[], float], str]:
    """Return a step from the weights of a model, the function that takes it, and its name."""
    if mode == "bfloat16":
        same = work.model_case.model(work.config, work.training.seed)
        same.load_state_dict(model.state_dict())
        rounded = OurStep(work, same)
        return rounded, computing_in("bfloat16", rounded), "compyute bfloat16"
    from .torch_step import TorchStep

    theirs = TorchStep(work, model.state_dict(), mode)
    theirs.exact = True
    return theirs, theirs, f"torch {mode}"


def run_alone(size: str, overrides: Mapping[str, object], vocab_size: int | None, provider: str, mode: str) -> None:
    """Take a few steps of one candidate, to measure its peak memory."""
    work = workload(size, overrides, vocab_size)
    step: Callable[[], Any]
    if provider == "torch":
        from .torch_step import TorchStep

        step = TorchStep(work, OurStep(work).model.state_dict(), mode)
    else:
        step = computing_in("bfloat16" if mode == "bfloat16" else "float32", OurStep(work))
    for _ in range(STEPS_ALONE):
        step()


def _that_can_run(modes: Sequence[str], torch_is_here: bool, report: Report) -> list[str]:
    if modes and not torch_is_here:
        report.notes.append(NO_TORCH)
        return []
    if "compiled" in modes and not any(map(which, ("c++", "g++", "clang++", "cl"))):
        report.notes.append(NO_COMPILER)
        return [mode for mode in modes if mode != "compiled"]
    return list(modes)


def _candidates(work: Workload, ours: Sequence[Precision], modes: Sequence[str], reference: bool) -> list[Candidate]:
    step = OurStep(work)  # one model for all precisions: its weights are float32 in each
    candidates = [Candidate("compyute", chosen, computing_in(chosen, step)) for chosen in ours]
    if reference:
        candidates.append(Candidate("compyute", "reference", OurStep(work, reference=True)))
    if modes:
        from .torch_step import TorchStep

        state = step.model.state_dict()
        candidates += [Candidate("torch", mode, TorchStep(work, state, mode)) for mode in modes]
    return candidates
