"""The ladder: every rung takes a real step with exactly its kernels, and afterwards all kernels are back."""

from pathlib import Path

import numpy as np
import pytest

from compyute_transformer import dispatch
from compyute_transformer.bench import kernels as ladder
from compyute_transformer.bench.kernels import RUNGS, bench_ladder
from compyute_transformer.cpu._buffers import empty
from compyute_transformer.dispatch import only_kernels_of
from compyute_transformer.ops.linear import linear_forward
from compyute_transformer.ops.norm import layer_norm_forward

TINY = {"context_length": 8, "embed_dim": 16, "num_heads": 2, "num_layers": 1, "batch_size": 3}


def test_every_rung_is_timed_and_compared_with_the_one_below() -> None:
    report = bench_ladder("seed", TINY, rounds=2)
    names = [f"{rung}: {name}" for rung, (name, _) in enumerate(RUNGS)]
    assert [r.mode for r in report.results if r.unit == "ms"] == names
    assert [r.mode for r in report.results if r.unit == "× faster"] == names[1:]
    assert all(r.value > 0 for r in report.results)


def test_the_top_has_every_kernel_there_is() -> None:
    words = {path.stem for path in Path(dispatch.__file__).with_name("cpu").glob("[a-z]*.py")}
    assert {word for _, added in RUNGS for word in added} == words - {"block"}  # which writes, and takes no step


def test_a_rung_has_its_own_kernels_and_those_below(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.ones((2, 4), np.float32)
    seen: list[tuple[bool, bool]] = []
    recycled: list[bool] = []

    class Step:
        def __init__(self, work: object) -> None:
            pass

        def __call__(self) -> float:
            seen.append((linear_forward.has_kernel(x), layer_norm_forward.has_kernel(x)))
            recycled.append(empty((1 << 20,)).base is not None)
            return 0.0

    monkeypatch.setattr(ladder, "OurStep", Step)
    times = {rung: float(2 * len(RUNGS) - rung) for rung in range(len(RUNGS))}  # each rung is faster than the last
    monkeypatch.setattr(
        ladder, "alternate", lambda candidates, *_, **__: {c: [c.run() or times[r]] for r, c in enumerate(candidates)}
    )
    report = bench_ladder("seed", TINY)
    gains = [r.value for r in report.results if r.unit == "× faster"]
    assert gains == [times[rung] / times[rung + 1] for rung in range(len(RUNGS) - 1)]
    assert recycled == [False] * (len(RUNGS) - 1) + [True]
    assert seen == [(False, False), *[(True, False)] * 3, *[(True, True)] * (len(RUNGS) - 4)]


def test_other_kernels_are_hidden_and_come_back() -> None:
    x = np.ones((2, 4), np.float32)
    assert linear_forward.has_kernel(x)
    with only_kernels_of("norm"):
        assert not linear_forward.has_kernel(x)
        assert layer_norm_forward.has_kernel(x)
        assert np.array_equal(linear_forward(x, x)[0], x @ x.T)
    assert linear_forward.has_kernel(x)
    with pytest.raises(RuntimeError, match="out"), only_kernels_of():
        raise RuntimeError("out")
    assert linear_forward.has_kernel(x)
