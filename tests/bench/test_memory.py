"""The peak: what a process held at most, even when it gave it back, and nothing of the process that asked."""

import subprocess
import sys

import numpy as np
import pytest

from compyute_transformer.bench.memory import of_this_process, peak_memory
from compyute_transformer.errors import CompyuteError

TINY = {"context_length": 8, "embed_dim": 16, "num_heads": 2, "num_layers": 1, "batch_size": 3}
SCRIPT = """
import numpy as np
from compyute_transformer.bench.memory import of_this_process
before = of_this_process()
array = np.ones(25_000_000, np.float64)
del array
print(before, of_this_process())
"""


def test_what_was_held_and_given_back_counts() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    if sys.platform == "win32":  # which does not tell
        assert done.stdout.split() == ["None", "None"]
        return
    before, after = map(int, done.stdout.split())
    assert 190e6 < after - before < 240e6


def test_a_process_of_its_own_does_not_count_ours() -> None:
    held = np.ones(100_000_000, np.float32)
    peak = peak_memory("attention:run_step_alone", size="seed", overrides=TINY, algorithm="parallel")
    ours = of_this_process()
    if peak is None or ours is None:
        assert sys.platform == "win32"
        return
    assert 40e6 < peak < 400e6 < held.nbytes + 40e6 < ours


def test_a_process_that_fails_says_why() -> None:
    with pytest.raises(CompyuteError, match=r"attention:run_step_alone .* a preset must be one of"):
        peak_memory("attention:run_step_alone", size="huge", overrides={}, algorithm="parallel")
