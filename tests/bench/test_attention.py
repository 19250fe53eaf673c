"""The benchmark of attention: the algorithms that were asked for, on one set of weights, and alone at each length."""

from typing import Any

import pytest

from compyute_transformer.bench import attention
from compyute_transformer.bench.attention import (
    OP_ALONE,
    bench_attention,
    check_algorithms,
    run_op_alone,
    run_step_alone,
)
from compyute_transformer.bench.workload import workload
from compyute_transformer.environment.conditions import NO_TORCH
from compyute_transformer.errors import ConfigError, ParityError
from compyute_transformer.ops.multi_head import IMPLEMENTATIONS
from compyute_transformer.verify.result import relative_error

TINY = {"context_length": 8, "embed_dim": 16, "num_heads": 2, "num_layers": 1, "batch_size": 3}


def run(*algorithms: str, lengths: tuple[int, ...] = (9,)) -> attention.Report:
    return bench_attention(algorithms, "seed", TINY, lengths, rounds=1, memory=False)


def test_all_four_agree_with_dropout_on() -> None:
    work = workload("seed", {**TINY, "dropout": 0.4})
    check_algorithms(work, attention.ALGORITHMS)


def test_an_algorithm_that_computes_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    forward, backward = IMPLEMENTATIONS["parallel"]

    def wrong(*args: Any, **options: Any) -> Any:
        y, saved = forward(*args, **options)
        return y * y.dtype.type(1.01), saved

    monkeypatch.setitem(IMPLEMENTATIONS, "parallel", (wrong, backward))
    with pytest.raises(ParityError, match="fused has the loss"):
        run("fused", "parallel", lengths=())


def test_those_run_that_were_asked_for() -> None:
    report = run("fused", "sequential")
    times = [(r.what, r.name) for r in report.results if r.unit == "ms"]
    assert times == [
        ("step", "compyute sequential"),
        ("step", "compyute fused"),
        (OP_ALONE, "compyute fused"),
        (OP_ALONE, "torch sdpa"),
        (OP_ALONE, "compyute fused bfloat16"),
        (OP_ALONE, "torch sdpa bfloat16"),
    ]
    assert {r.shape for r in report.results if r.what == OP_ALONE} == {"B 4, 8 heads, T 9, D 64, causal"}


def test_an_op_that_computes_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    forward, backward = attention.OPS["parallel"]
    monkeypatch.setitem(attention.OPS, "parallel", (forward, lambda dy, saved: backward(-dy, saved)))
    with pytest.raises(ParityError, match="result 1 of compyute parallel"):
        run("fused", "parallel")


def test_weights_that_would_fill_the_memory_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "LONGEST_WITH_WEIGHTS", 8)
    report = run("fused", "parallel")
    assert "At T 9 parallel was left out" in report.notes[0]
    names = [r.name for r in report.results if r.what == OP_ALONE and r.unit == "ms"]
    assert names == ["compyute fused", "torch sdpa", "compyute fused bfloat16", "torch sdpa bfloat16"]


def test_without_torch_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "has_torch", lambda: False)
    report = run("fused")
    assert report.notes == [NO_TORCH]
    assert all(r.provider == "compyute" for r in report.results)


def test_an_algorithm_that_there_is_not_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"one of sequential, .* got 'flash'"):
        run("flash")


def test_peak_memory_is_each_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def peak(target: str, **given: Any) -> int:
        asked.append(target)
        {"attention:run_step_alone": run_step_alone, "attention:run_op_alone": run_op_alone}[target](**given)
        return 7_000_000

    monkeypatch.setattr(attention, "peak_memory", peak)
    report = bench_attention(["fused"], "seed", TINY, (9,), rounds=1, bfloat16=False)
    names = [(r.what, r.name) for r in report.results if r.unit == "MB"]
    assert names == [("step", "compyute fused"), (OP_ALONE, "compyute fused"), (OP_ALONE, "torch sdpa")]
    assert len(asked) == 3
    run_op_alone("fused bfloat16", 9)


def test_bfloat16_rounds_on_both_sides() -> None:
    given = attention._inputs(9)
    exact = attention._numbers(attention._run_of("fused", *given)())
    for mode in ("fused bfloat16", "sdpa bfloat16"):
        rounded = attention._numbers(attention._run_of(mode, *given)())
        for one, other in zip(rounded, exact, strict=True):
            assert 1e-4 < relative_error(one, other) < 2e-2
