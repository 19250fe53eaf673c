"""The process that compiles the kernels, several that do so at once, and all later ones compute the same bits.

Nothing may depend on what a process has run before, so half of the processes run the ops in the opposite order.
"""

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

# every op on its largest case and on those with dropout; then training steps, cut short and resumed if asked to
CODE = """
import hashlib, json, sys
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
parts = [lambda op=op: of_op(op) for op in REGISTRY.values()] + [lambda n=n: of_size(n) for n in (1, 3, 64, 1024)]
for part in order([*parts, train]):
    part()
print(json.dumps(found, sort_keys=True))
"""


def results(cache: Path, orders: Iterable[str], **environment: str) -> list[str]:
    """Return what several processes print that start at once."""
    variables = {**os.environ, "NUMBA_CACHE_DIR": str(cache), **environment}
    command = [sys.executable, "-c", CODE]
    processes = [
        subprocess.Popen([*command, order], env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for order in orders
    ]
    outputs = [process.communicate(timeout=600) for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), outputs
    return [output for output, _ in outputs]


def test_the_first_processes_give_the_bits_of_all_later_ones(tmp_path: Path) -> None:
    first = results(tmp_path, ["forwards", "backwards"])
    later = results(tmp_path, ["forwards"]) + results(tmp_path, ["backwards"], NUMBA_NUM_THREADS="1")
    assert len(first[0]) > 1000
    assert set(first) == {first[0]}
    assert set(later) == {first[0]}
