"""The benchmark of kernels: every version takes a real step with exactly its kernels; afterwards all are back."""

from pathlib import Path

import numpy as np
import pytest

from compyute_transformer import dispatch
from compyute_transformer.bench import kernels as module
from compyute_transformer.bench.kernels import VERSIONS, bench_kernels
from compyute_transformer.cpu._buffers import empty
from compyute_transformer.dispatch import only_kernels_of
from compyute_transformer.ops.linear import linear_forward
from compyute_transformer.ops.norm import layer_norm_forward

TINY = {"context_length": 8, "embed_dim": 16, "num_heads": 2, "num_layers": 1, "batch_size": 3}


def test_every_version_is_timed_and_compared_with_the_one_before() -> None:
    report = bench_kernels("seed", TINY, rounds=2)
    names = [f"{version}: {name}" for version, (name, _) in enumerate(VERSIONS)]
    assert [r.mode for r in report.results if r.unit == "ms"] == names
    assert [r.mode for r in report.results if r.unit == "× faster"] == names[1:]
    assert all(r.value > 0 for r in report.results)


def test_the_last_version_has_every_kernel_there_is() -> None:
    files = {path.stem for path in Path(dispatch.__file__).with_name("cpu").glob("[a-z]*.py")}
    assert {file for _, added in VERSIONS for file in added} == files - {
        "block",
        "feed_forward",
        "gated_block",
        "pre_norm_block",
        "quantized",
        "rotary",
    }  # of generation, of products in bfloat16, and of Llama only


def test_a_version_has_its_own_kernels_and_those_before(monkeypatch: pytest.MonkeyPatch) -> None:
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

    monkeypatch.setattr(module, "OurStep", Step)
    times = {i: float(2 * len(VERSIONS) - i) for i in range(len(VERSIONS))}  # each version is faster than the last
    monkeypatch.setattr(
        module, "alternate", lambda candidates, *_, **__: {c: [c.run() or times[r]] for r, c in enumerate(candidates)}
    )
    report = bench_kernels("seed", TINY)
    gains = [r.value for r in report.results if r.unit == "× faster"]
    assert gains == [times[i] / times[i + 1] for i in range(len(VERSIONS) - 1)]
    assert recycled == [False] * (len(VERSIONS) - 1) + [True]
    assert seen == [(False, False), *[(True, False)] * 3, *[(True, True)] * (len(VERSIONS) - 4)]


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
