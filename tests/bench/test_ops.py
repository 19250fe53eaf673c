"""The benchmark of ops: every kernel has its line, the work is counted right, and a kernel that is wrong is refused."""

from typing import Any

import numpy as np
import pytest

from compyute_transformer.bench import ops
from compyute_transformer.bench.ops import Piece, bench_ops, bytes_moved, pieces
from compyute_transformer.bench.workload import workload
from compyute_transformer.errors import ConfigError, ParityError
from compyute_transformer.ops.norm import layer_norm_forward
from compyute_transformer.verify.registry import REGISTRY

TINY = {"context_length": 8, "embed_dim": 16, "num_heads": 2, "num_layers": 1, "batch_size": 3}
N, C, F = 24, 16, 64


def by_name(*names: str) -> dict[str, Piece]:
    return {piece.name: piece for piece in pieces(workload("seed", TINY), names)}


def test_every_kernel_has_its_line() -> None:
    functions = [f for op in REGISTRY.values() for f in (op.forward, op.backward)]
    kernels = [f.__name__ for f in functions if hasattr(f, "kernel") and f.kernel("cpu") is not None]
    assert list(by_name()) == [*kernels, "adamw_update"]


def test_the_work_is_counted() -> None:
    found = by_name()
    floats = {name: piece.amount / 4 for name, piece in found.items() if piece.yardstick == "copy"}
    assert floats["layer_norm_forward"] == 2 * N * C + 2 * C + 2 * N  # x, y, scale and shift, mean and deviation
    assert floats["gelu_forward"] == 2 * N * F
    assert floats["gelu_backward"] == 3 * N * F
    assert floats["dropout_forward"] == 2 * N * C
    flops = {name: piece.amount for name, piece in found.items() if piece.yardstick == "gemm"}
    assert flops["linear_forward"] == 2 * N * C * F
    assert flops["linear_backward"] == 4 * N * C * F
    pairs = 3 * 2 * (8 * 9 / 2)  # B, H, and the scores on and below the diagonal
    assert flops["fused_attention_forward"] == 2 * 2 * 8 * pairs
    assert flops["fused_attention_backward"] == 5 * 2 * 8 * pairs


def test_an_array_that_is_read_and_written_counts_once() -> None:
    a, b = np.zeros(10, np.float32), np.zeros(5, np.float64)
    assert bytes_moved({"a": a, "n": 3}, (a, (b, None))) == 80


def test_the_report_has_time_rate_and_share() -> None:
    report = bench_ops(["layer_norm", "linear"], "seed", TINY, rounds=2)
    for name, unit in (("layer_norm_forward", "GB/s"), ("linear_backward", "GFLOP/s")):
        found = {(r.mode, r.unit): r.value for r in report.results if r.what == name}
        yardstick = "copy" if unit == "GB/s" else "gemm"
        assert found.keys() == {
            *(("kernel", u) for u in ("ms", unit, "% of the yardstick")),
            *(("reference", u) for u in ("ms", unit, "× compyute kernel")),
            (yardstick, unit),
        }
        amount = by_name(name.rpartition("_")[0])[name].amount
        assert found["reference", unit] == pytest.approx(amount / found["reference", "ms"] / 1e6, rel=0.7)
    assert {r.what for r in report.results} == {
        f"{op}_{way}" for op in ("layer_norm", "linear") for way in ("forward", "backward")
    }


def test_the_share_is_of_the_rate_in_the_same_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    def fixed(candidates: list[Any], rounds: int, **_: Any) -> dict[Any, list[float]]:
        return {candidate: [seconds] * rounds for candidate, seconds in zip(candidates, (2.0, 8.0, 1.0), strict=True)}

    monkeypatch.setattr(ops, "alternate", fixed)
    report = bench_ops(["layer_norm"], "seed", TINY, rounds=3)
    shares = [r.value for r in report.results if r.unit.startswith("%")]
    assert shares == pytest.approx([50.0, 50.0], rel=0.05)  # twice as long as a copy of as many bytes
    assert [r.value for r in report.results if r.unit.startswith("×")] == [4.0, 4.0]


def test_adamw_moves_seven_arrays() -> None:
    piece = by_name("adamw_update")["adamw_update"]
    assert piece.shape == f"({round(piece.amount / 28)})"
    assert list(by_name("adamw_update")) == ["adamw_update"]


def test_a_kernel_that_computes_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    right = layer_norm_forward.reference

    def wrong(*args: Any, **options: Any) -> Any:
        y, saved = right(*args, **options)
        return y * np.float32(1.001), saved

    monkeypatch.setattr(layer_norm_forward, "reference", wrong)
    with pytest.raises(ParityError, match="layer_norm_forward"):
        bench_ops(["layer_norm"], "seed", TINY, rounds=1)


def test_without_numba_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "package_fault", lambda package: "Numba is not installed: pip install numba")
    report = bench_ops(rounds=1)
    assert report.results == []
    assert report.notes == ["There are no kernels to time. Numba is not installed: pip install numba."]


def test_an_op_that_there_is_not_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"an op is one of embedding, .* got 'conv'"):
        bench_ops(["conv"])
