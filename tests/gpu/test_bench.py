"""Benchmarks of ops and of attention compute on a GPU where `--device cuda` says so."""

from collections.abc import Iterator
from typing import Any

import pytest
from gpu.stand_in import cublaslt, cudnn, installed

from compyute_transformer.bench import attention, ops
from compyute_transformer.bench.candidates import clock_of
from compyute_transformer.cli import main

TINY = ["--preset=seed", "--context-length=8", "--embed-dim=16", "--num-heads=2", "--batch-size=3", "--rounds=1"]


@pytest.fixture
def cupy() -> Iterator[Any]:
    _, products = cublaslt.make()
    with installed(products | cudnn.make()) as module:
        yield module


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Time each candidate once, and return their names."""
    timed = []

    def once(candidates: Any, rounds: int, clock: Any = None, **_: Any) -> Any:
        timed.extend(candidate.name for candidate in candidates)
        for candidate in candidates:
            candidate.run()
        return {candidate: [1.0] * rounds for candidate in candidates}

    for module in (attention, ops):
        monkeypatch.setattr(module, "alternate", once)
    return timed


def command(*arguments: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(["bench", *arguments])
    return int(left.value.code or 0)


def test_ops_of_a_gpu(cupy: Any, no_waiting: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert command("ops", "layer_norm", "linear", "adamw_update", *TINY, "--device=cuda", "--json") == 0
    out = capsys.readouterr().out
    assert no_waiting.count("cupy copy") == 3  # of the norm, forward and backward, and of AdamW
    assert no_waiting.count("cupy gemm") == 2
    assert "Stand-in H100, Linux" in out
    assert '"what": "adamw_update"' in out


def test_attention_of_a_gpu(cupy: Any, no_waiting: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    sizes = [*TINY, "--num-layers=1", "--lengths=none", "--device=cuda"]
    assert command("attention", "fused", "parallel", *sizes) == 0
    assert no_waiting == ["compyute parallel", "compyute fused"]
    assert "says nothing of a GPU's" in " ".join(capsys.readouterr().out.split())


def test_attention_alone_of_a_gpu(cupy: Any, no_waiting: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "has_torch", lambda: False)
    report = attention.Report("", attention.survey("cuda")[0], "ms")
    attention._time_ops(report, 9, ("fused", "parallel"), ["float32"], 1, False, "cuda")
    assert no_waiting == ["compyute fused", "compyute parallel"]
    assert report.results


def test_a_clock_of_a_gpu_waits_for_it(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    waited = []
    monkeypatch.setattr(cupy.cuda.Device, "synchronize", lambda self: waited.append(self))
    clock = clock_of("cuda")
    assert clock() <= clock()
    assert len(waited) == 2


@pytest.mark.parametrize("what", [["ops", "layer_norm"], ["attention", "--lengths=none"], ["step"], ["generate"]])
def test_without_a_gpu_it_is_said(what: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    sizes = [option for option in TINY if what != ["generate"] or "batch" not in option]
    assert command(*what, *sizes, "--device=cuda") == 1
    told = " ".join(capsys.readouterr().err.split())
    assert "nothing can be timed on 'cuda'. CuPy is not installed: pip install 'compyute-transformer[gpu]'" in told
