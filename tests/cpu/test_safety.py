"""Kernels index only what there is, take a bounded stack, and step back where they cannot run."""

import os
import subprocess
import sys

import numpy as np
import pytest

from compyute_transformer.errors import RangeError
from compyute_transformer.ops.embedding import embedding_backward, embedding_forward
from compyute_transformer.ops.loss import cross_entropy_backward, cross_entropy_forward
from compyute_transformer.optim.adamw import adamw_update


def run(code: str, prefix: str = "", arguments: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    command = f'{prefix} exec "{sys.executable}" -c "$CODE" {arguments}'
    return subprocess.run(
        ["bash", "-c", command], env={**os.environ, **environment, "CODE": code}, capture_output=True, text=True
    )


STACK = """
import sys
import numpy as np, numba
from compyute_transformer.dispatch import use_kernels
from compyute_transformer.ops.attention import Mask, fused_attention_backward, fused_attention_forward
numba.set_num_threads(int(sys.argv[1]))
with use_kernels("cpu"):
    for heads, length, mask, backward in (
        (1, 6000, Mask(), True),
        (32, 2048, Mask(causal=True, window=512), True),
        (1, 16_000, Mask(causal=True, window=300), True),
        (1, 32_000, Mask(causal=True, window=300), False),
        (1, 128_000, Mask(causal=True, window=300), False),
    ):
        q, k = np.ones((1, heads, length, 8), np.float32), np.ones((1, 1, length, 8), np.float32)
        y, saved = fused_attention_forward(q, k, k, mask)
        assert abs(y - 1).max() < 1e-5
        if backward:
            fused_attention_backward(np.ones_like(y), saved)
        print(heads, length, flush=True)
"""


@pytest.mark.parametrize("threads", [1, 2])
def test_the_stack_of_attention_does_not_grow_with_heads_and_context(threads: int) -> None:
    """Threads have 512 kB of it, as on macOS; many heads share one key/value head in a single task."""
    done = run(STACK, f"ulimit -s 512; set -- {threads};", "$1", OMP_STACKSIZE="512k", NUMBA_NUM_THREADS=str(threads))
    assert done.stdout.count("\n") == 5, (done.returncode, done.stdout, done.stderr[-500:])


def test_ids_and_targets_that_change_between_forward_and_backward_are_refused() -> None:
    ids, weight = np.zeros(4, np.int64), np.ones((5, 3), np.float32)
    y, saved = embedding_forward(ids, weight)
    loss, scored = cross_entropy_forward(np.ones((4, 5), np.float32), ids)
    for wrong in (5, -1, 1 << 40):
        ids[2] = wrong
        with pytest.raises(RangeError, match="ids lie in"):
            embedding_backward(np.ones_like(y), saved)
        with pytest.raises(RangeError, match="targets lie in"):
            cross_entropy_backward(1.0, scored)
    assert np.isfinite(loss)


@pytest.mark.parametrize("short", [1, 2, 3])
def test_adamw_supports_arrays_of_one_axis_and_one_length_only(short: int) -> None:
    kernel = adamw_update.kernel("cpu")
    arrays = [np.ones(10, np.float32) for _ in range(4)]
    assert kernel.supports(*arrays)  # type: ignore[union-attr, attr-defined]
    arrays[short] = np.ones(9, np.float32)
    assert not kernel.supports(*arrays)  # type: ignore[union-attr, attr-defined]
    assert not kernel.supports(*(np.ones((5, 2), np.float32) for _ in range(4)))  # type: ignore[union-attr, attr-defined]


SOFTMAX = "import numpy as np; from compyute_transformer.ops import softmax; x = np.ones((600, 600), np.float32)\n"


def test_without_compilation_the_reference_runs() -> None:
    code = SOFTMAX + "from compyute_transformer.dispatch import package_fault; softmax(x); print(package_fault('cpu'))"
    done = run(code, NUMBA_DISABLE_JIT="1")
    assert done.stdout.startswith("NUMBA_DISABLE_JIT is set"), done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_after_use_is_refused_and_references_run() -> None:
    code = (
        SOFTMAX
        + """
import os
softmax(x)
child = os.fork()
if child == 0:
    from compyute_transformer.dispatch import use_kernels
    from compyute_transformer.errors import BackendError
    try:
        softmax(x)
    except BackendError as error:
        print(error, file=__import__("sys").stderr, flush=True)
    else:
        os._exit(3)
    with use_kernels("reference"):
        softmax(x)
    os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    )
    done = run(code)
    assert done.stdout.strip() == "7", (done.returncode, done.stderr[-500:])
    assert "start processes with multiprocessing.get_context('spawn')" in done.stderr


def test_two_threads_compute_on_a_layer_that_serves_one_at_a_time() -> None:
    code = (
        SOFTMAX
        + """
import threading
x = np.random.default_rng(0).standard_normal((2048, 512)).astype(np.float32)
want, wrong = softmax(x), []
def work():
    for _ in range(50):
        if not np.array_equal(softmax(x), want):
            wrong.append(1)
threads = [threading.Thread(target=work) for _ in range(2)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print("wrong", len(wrong))
"""
    )
    done = run(code, NUMBA_THREADING_LAYER="workqueue", NUMBA_NUM_THREADS="2")
    assert done.stdout.strip() == "wrong 0", (done.returncode, done.stderr[-500:])


BITS = (
    SOFTMAX
    + """
import hashlib
from compyute_transformer.verify.registry import REGISTRY, cotangent
found = hashlib.sha256()
for op in REGISTRY.values():
    y, saved = op.forward(*op.cases[-1].arguments(dtype=np.float32).values())
    for array in (y, *op.gradients(cotangent(y), saved).values()):
        if array is not None:
            found.update(np.ascontiguousarray(array))
rng = np.random.default_rng(0)
from compyute_transformer.ops.linear import linear_backward, linear_forward
for N, I, O in ((517, 301, 199), (40, 301, 1999), (16, 301, 1999), (3001, 65, 130)):
    x, w, dy = (rng.standard_normal(s, dtype=np.float32) for s in ((N, I), (O, I), (N, O)))
    y, saved = linear_forward(x, w, w[:, 0].copy())
    for array in (y, *linear_backward(dy, saved)):
        found.update(np.ascontiguousarray(array))
print(found.hexdigest())
"""
)


def test_the_number_of_threads_changes_no_bit_of_any_op() -> None:
    run(BITS)  # compiles what is not compiled yet
    found = {run(BITS, NUMBA_NUM_THREADS=str(count)).stdout.strip() for count in (1, 2, 3, 5, 6, 8, 16, 32)}
    assert len(found) == 1
    assert len(found.pop()) == 64
