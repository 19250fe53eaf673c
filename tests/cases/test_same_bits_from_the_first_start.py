"""The process that compiles the kernels, several that do so at once, and all later ones compute the same bits.

Nothing may depend on what a process has run before, so half of the processes run the ops in the opposite order. One of
those that compile is killed in the middle of a run, which a later one resumes. Nor may anything depend on the number of
threads.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

# every op on its largest case and on those with dropout; then training steps, cut short and resumed if asked to
CODE = """
import hashlib, json, os, signal, sys
from pathlib import Path
import numpy as np
from compyute_transformer.ops import gelu, layer_norm, linear, softmax
from compyute_transformer.verify.registry import REGISTRY, cotangent
order = reversed if "backwards" in sys.argv else list
found = {}
def note(name, *arrays):
    whole = hashlib.sha256()
    for array in arrays:
        if array is not None:
            whole.update(np.ascontiguousarray(array))
    found[name] = whole.hexdigest()[:16]
def of_op(op):
    for case in order([case for case in op.cases if "dropout" in case.name or case is op.cases[-1]]):
        y, saved = op.forward(*case.arguments(dtype=np.float32).values())
        note(f"{op.name} {case.name}", y, *op.gradients(cotangent(y), saved).values())
def of_size(rows):
    x, w = (np.random.default_rng(0).standard_normal(s, dtype=np.float32) for s in ((rows, 513), (1026, 513)))
    note(f"{rows} rows", softmax(x), gelu(x, "tanh"), gelu(x), layer_norm(x, w[0], w[1]), linear(x, w, w[:, 0].copy()))
def train():
    from compyute_transformer import GPT, AdamW, GPTConfig
    from compyute_transformer.ops.loss import cross_entropy_backward, cross_entropy_forward
    model = GPT(GPTConfig(67, context_length=45, embed_dim=66, num_heads=3, num_layers=2, dropout=0.2))
    optimizer = AdamW(model.parameters(), 1e-3)
    for x, y in np.random.default_rng(0).integers(0, 67, (50, 2, 5, 45)):
        loss, saved = cross_entropy_forward(model(x), y)
        optimizer.zero_grad()
        model.backward(cross_entropy_backward(1.0, saved))
        optimizer.step()
    note("50 steps", model.flat.data)
def run_of(folder):
    from compyute_transformer.training import Settings, load_run, resume_run, start_run
    from compyute_transformer.training.reporting.events import Advanced
    def die(trainer, event):
        if "killed" in sys.argv[1] and "resumed" not in sys.argv and isinstance(event, Advanced) and event.step == 25:
            print(json.dumps(found, sort_keys=True), flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
    if "resumed" in sys.argv:
        resume_run(folder)
    else:
        options = dict(context_length=16, embed_dim=48, num_heads=3, num_layers=2, batch_size=6, dropout=0.1, warmup=3)
        settings = Settings.resolve("nano", None, options | dict(steps=50, checkpoint_every=10, sample_every=0))
        start_run([folder.with_name("owl.txt")], settings, folder, callbacks=[die])
    note("a run of 50 steps", load_run(folder, "last").model.flat.data)
if "only the run" in sys.argv:
    run_of(Path(sys.argv[1]))
    print(json.dumps(found, sort_keys=True))
    sys.exit()
parts = [lambda op=op: of_op(op) for op in REGISTRY.values()] + [lambda n=n: of_size(n) for n in (1, 3, 64, 1024)]
for part in order([*parts, train]):
    part()
run_of(Path(sys.argv[1]))
print(json.dumps(found, sort_keys=True))
"""
TEXT = "The owl and the pussycat went to sea in a beautiful pea green boat.\n" * 40


def results(cache: Path, *commands: Sequence[str], **environment: str) -> list[dict[str, str]]:
    """Return what several processes print that start at once: the digest of each result by its name."""
    variables = {**os.environ, "NUMBA_CACHE_DIR": str(cache / "kernels"), **environment}
    (cache / "owl.txt").write_text(TEXT)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CODE, str(cache / folder), *words],
            **{"env": variables, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True},
        )
        for folder, *words in commands
    ]
    outputs = [process.communicate(timeout=600) for process in processes]
    expected = [-signal.SIGKILL if "killed" in words and "resumed" not in words else 0 for words in commands]
    assert [process.returncode for process in processes] == expected, outputs
    return [json.loads(output) for output, _ in outputs]


def test_the_first_processes_give_the_bits_of_all_later_ones(tmp_path: Path) -> None:
    first, killed = results(tmp_path, ["first"], ["killed", "backwards"])
    later = results(tmp_path, ["later"])
    later += results(tmp_path, ["one thread", "backwards"], NUMBA_NUM_THREADS="1")
    assert len(first) > 30
    run = first.pop("a run of 50 steps")
    assert killed == first
    assert [one.pop("a run of 50 steps") for one in later] == [run, run]
    assert later == [first, first]
    assert results(tmp_path, ["killed", "resumed", "only the run"]) == [{"a run of 50 steps": run}]
    for count in ("3", "8", "32"):
        found = results(tmp_path, [f"{count} threads", "only the run"], NUMBA_NUM_THREADS=count)
        assert found == [{"a run of 50 steps": run}], f"{count} threads"
