"""Step: time a whole training step, ours beside PyTorch's, with the same mathematics.

Both use the same weights, batches, activation, dropout probability, clipping and AdamW; the elements that are dropped
differ. Before anything is timed, both take two steps without dropout from random weights. If the losses or the gradient
norms differ, nothing is timed.
"""

from collections.abc import Mapping, Sequence
from shutil import which

from ..environment.conditions import NO_TORCH, has_torch, survey, use_threads_of
from ..verify.function import randomize
from .candidates import Candidate, Report, Result, alternate, check_parity
from .memory import NO_PEAK, peak_memory
from .workload import OurStep, Workload, workload

__all__ = ["TOLERANCES", "bench_step", "check_steps", "run_alone"]

# Relative error of the loss at the first step and at the second, where AdamW has made more of it, and of the gradient's
# norm. Autocast rounds the operands of its products to 8 bits.
TOLERANCES = {"eager": (2e-5, 1e-4, 1e-3), "compiled": (2e-5, 1e-4, 1e-3), "autocast": (2e-2, 2e-2, 1e-1)}
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
) -> Report:
    """Measure time, tokens a second and peak memory of a step.

    modes: the variants of PyTorch that are timed. reference: time our step without kernels as well.
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
    for mode in modes:
        check_steps(work, mode)
    candidates = _candidates(work, modes, reference)
    times = alternate(candidates, rounds)
    report.add_times("step", work.shape, times)
    report.add_rates("step", work.shape, times, work.tokens, work.model_case.unit)
    candidates.clear()
    times.clear()  # which held the models
    if memory and work.training.device == "cuda":
        report.notes.append(NO_PEAK)
    elif memory:
        for provider, mode in [("compyute", "auto"), *(("torch", mode) for mode in modes)]:
            given = {"size": size, "overrides": dict(overrides or {}), "vocab_size": vocab_size, "mode": mode}
            if (peak := peak_memory("step:run_alone", provider=provider, **given)) is not None:
                report.results.append(Result("step", provider, mode, peak / 1e6, "MB", work.shape))
            else:
                report.notes.append("This system does not tell the peak of a process's memory.")
                break
    return report


def check_steps(work: Workload, mode: str) -> None:
    """Take two steps of each and raise ParityError if they differ. The second compares clipping and AdamW too.

    The weights are random, because the loss of a newly initialized model is log V whatever it computes.
    """
    from .torch_step import TorchStep

    work = work.without_dropout()
    model = work.model_case.model(work.config, work.training.seed)
    randomize(model)
    theirs = TorchStep(work, model.state_dict(), mode)
    theirs.exact = True
    ours = OurStep(work, model)
    *for_loss, for_norm = TOLERANCES[mode]
    for step, limit in enumerate(for_loss, start=1):
        check_parity(f"at step {step} the loss", f"torch {mode}", [theirs()], [ours()], limit)
        check_parity(f"at step {step} the gradient norm", f"torch {mode}", [theirs.norm], [ours.norm], for_norm)


def run_alone(size: str, overrides: Mapping[str, object], vocab_size: int | None, provider: str, mode: str) -> None:
    """Take a few steps of one candidate, to measure its peak memory."""
    work = workload(size, overrides, vocab_size)
    if provider == "torch":
        from .torch_step import TorchStep

        step = TorchStep(work, OurStep(work).model.state_dict(), mode)
    else:
        step = OurStep(work)  # type: ignore[assignment]
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


def _candidates(work: Workload, modes: Sequence[str], reference: bool) -> list[Candidate]:
    ours = OurStep(work)
    candidates = [Candidate("compyute", "auto", ours)]
    if reference:
        candidates.append(Candidate("compyute", "reference", OurStep(work, reference=True)))
    if modes:
        from .torch_step import TorchStep

        state = ours.model.state_dict()
        candidates += [Candidate("torch", mode, TorchStep(work, state, mode)) for mode in modes]
    return candidates
