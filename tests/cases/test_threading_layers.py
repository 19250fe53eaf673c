"""Whatever threading layer Numba has or is told to have: numbers, or one sentence, and the process lives."""

import os
import subprocess
import sys

import pytest

CODE = """
import threading
import numpy as np
from compyute_transformer.ops import softmax
x = np.random.default_rng(0).standard_normal((2048, 512)).astype(np.float32)
want, wrong = softmax(x), []
def work():
    for _ in range(100):
        if not np.array_equal(softmax(x), want):
            wrong.append(1)
threads = [threading.Thread(target=work) for _ in range(3)]
for thread in threads: thread.start()
for thread in threads: thread.join()
from compyute_transformer.threads import threads
print("done", len(wrong), threads() > 0)
"""


def run(layer: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "NUMBA_THREADING_LAYER": layer, "NUMBA_NUM_THREADS": "2"}
    return subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True)


def test_several_threads_on_the_workqueue_layer_take_turns() -> None:
    done = run("workqueue")
    assert done.stdout.split() == ["done", "0", "True"], (done.returncode, done.stderr[-500:])


@pytest.mark.parametrize("layer", ["bogus", "tbb"])
def test_a_layer_that_cannot_be_used_is_told_once_and_the_references_run(layer: str) -> None:
    done = run(layer)
    assert done.stdout.split() == ["done", "0", "True"], (done.returncode, done.stderr[-500:])
    if layer == "bogus" or done.stderr:
        assert done.stderr.count("\n") == 1
        assert done.stderr.startswith("Kernels are off, ops run their references, which are slower: the threading")
