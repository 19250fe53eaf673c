"""Whole steps of training on kernels: they agree with the references, hold on to no memory, and compile once."""

import ast
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compyute_transformer.cpu import _buffers, _tiles
from compyute_transformer.dispatch import use_kernels
from compyute_transformer.models.gpt import GPT, GPTConfig
from compyute_transformer.ops.attention import fused_attention_backward, fused_attention_forward
from compyute_transformer.ops.loss import cross_entropy_backward, cross_entropy_forward
from compyute_transformer.optim import AdamW, clip_grad_norm_
from compyute_transformer.verify.records.attention import CASES as ATTENTION_CASES

STEPS = 50


def stepper(config: GPTConfig, batch: int) -> Callable[[], float]:
    """A step of training as the trainer takes it, on the same ids each time, so that the loss falls."""
    model = GPT(config, seed=1)
    optimizer = AdamW(model.parameters(), 1e-3)
    rng = np.random.default_rng(2)
    x, y = rng.integers(0, config.vocab_size, (2, batch, config.context_length))

    def step() -> float:
        model.zero_grad()
        loss, saved = cross_entropy_forward(model(x), y)
        model.backward(cross_entropy_backward(1.0, saved))
        clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return float(loss)

    return step


def test_fifty_losses_agree_with_those_of_the_readable_references() -> None:
    config = GPTConfig(vocab_size=31, context_length=24, embed_dim=36, num_heads=3, num_layers=2, dropout=0.1)
    fast, readable = stepper(config, 4), stepper(config, 4)
    losses = [fast() for _ in range(STEPS)]
    with use_kernels("reference"):
        expected = [readable() for _ in range(STEPS)]
    assert losses[-1] < 0.9 * losses[0], "something was learned"
    # float32 rounds differently in another order of sums, and each step makes a little more of it
    np.testing.assert_allclose(losses, expected, rtol=2e-5)


def test_steps_hold_on_to_no_memory() -> None:
    step = stepper(
        GPTConfig(vocab_size=65, context_length=128, embed_dim=96, num_heads=3, num_layers=2, dropout=0.2), 8
    )
    _buffers.release()
    for _ in range(3):
        step()

    def pooled() -> int:
        return sum(size * len(free) for size, free in _buffers._free.items())

    lent_back = pooled()
    tracemalloc.start()
    try:
        step()
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        for _ in range(7):
            step()
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        pool_after = pooled()
        _buffers.release()
    assert pool_after == lent_back > 0, "the recycled memory neither grows nor is it lost"
    assert after - before < 64_000, "bytes kept by seven steps"
    assert peak - before < lent_back / 4, "beside the recycled memory a step takes little"


COLD = """
import sys
import numpy as np
from compyute_transformer.ops import layer_norm
y = layer_norm(np.ones((1024, 512), np.float32), np.ones(512, np.float32))  # worth threads
from compyute_transformer.cpu import norm
stats = norm._forward.kernel.stats
print(sum(stats.cache_misses.values()), sum(stats.cache_hits.values()))
"""


def test_kernels_compile_once_for_all_processes_and_one_line_says_so(tmp_path: Path) -> None:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-W", "error", "-c", COLD]
    first, second = (
        subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment) for _ in range(2)
    )
    assert (first.returncode, first.stdout.split()) == (0, ["1", "0"]), first.stderr
    assert first.stderr.startswith("Compiling kernels that this machine has not run before: ")
    assert first.stderr.count("\n") == 1
    assert (second.returncode, second.stdout.split(), second.stderr) == (0, ["0", "1"], "")


def test_attention_is_compiled_for_one_kind_of_arguments_whatever_the_mask() -> None:
    kernels: list[Any] = [_tiles.forward, _tiles.backward]
    for case in ATTENTION_CASES:
        y, saved = fused_attention_forward(**case.arguments(dtype=np.float32))
        fused_attention_backward(np.ones_like(y), saved)
    assert [len(kernel.kernel.signatures) for kernel in kernels] == [1, 1]


@pytest.mark.parametrize(
    "word", ["_bfloat16_attention", "_tiles", "activation", "adamw", "dropout", "embedding", "linear", "loss", "norm"]
)
def test_no_kernel_runs_over_a_range_that_starts_at_a_name(word: str) -> None:
    # such an index may be negative for all the compiler knows, and the loop gathers instead of loading (see _kernel);
    # range(name, …) as the innermost loop over elements is what to avoid
    module = import_module(f"compyute_transformer.cpu.{word}")
    tree = ast.parse(Path(module.__file__ or "").read_text(encoding="utf-8"))
    loops = [
        node for node in ast.walk(tree) if isinstance(node, ast.For) and ast.unparse(node.iter).startswith("range")
    ]
    innermost = [loop for loop in loops if not any(isinstance(n, ast.For) for s in loop.body for n in ast.walk(s))]
    assert innermost
    for loop in innermost:
        assert isinstance(loop.iter, ast.Call)
        assert len(loop.iter.args) == 1, f"{module.__name__}, line {loop.lineno}: for {ast.unparse(loop.iter)}"
