"""Parallel: the same training step by 1, 2, 4, ... processes of this machine, and what other networks would make of it.

Each number of processes is started anew in every round, in turn. All of them compute the same leaves, so they end with
the same weights, which is checked before anything is reported. Process W of a machine gets 1/W of its cores.

A step is predicted for more processes, each with a machine of its own, from what one process was measured to need:

    step(W) = compute / W + 2 log₂ W · latency + 2 (W − 1)/W · bytes / bandwidth

with bytes of the gradient, and latency and bandwidth those of a network. Those of this machine are fitted to messages
of two lengths. A batch has no more leaves than it has rows, so W ends there.
"""

import json
import os
import subprocess
import sys
from math import log2
from statistics import median
from typing import Any

from ..environment.conditions import survey
from ..environment.launcher import find_mpiexec
from ..errors import CompyuteError, MissingExtraError, ParityError
from .candidates import Report, Result, Spread

__all__ = ["NETWORKS", "bench_parallel", "predicted"]

MOST_PROCESSES = 1024
NETWORKS = {  # latency in seconds, bandwidth in bytes a second, in each direction, of one process
    "Ethernet 10 Gb/s": (3e-5, 1.25e9),
    "InfiniBand 200 Gb/s": (1.5e-6, 25e9),
    "NVLink 450 GB/s": (3e-6, 450e9),
}

CHILD = """
import json, sys
from hashlib import sha256
from time import perf_counter
import numpy as np
from compyute_transformer.bench.workload import workload
from compyute_transformer.ops.loss import cross_entropy_backward, cross_entropy_forward
from compyute_transformer.optim import AdamW, clip_grad_norm_, decay_groups
from compyute_transformer.parallel import DataParallel, world
from compyute_transformer.threads import on_threads, threads
from compyute_transformer.training.tasks.task import split_batch

size, leaves, steps = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
work, communicator = workload(size), world()
model = work.model_case.model(work.config, 0)
optimizer = AdamW(decay_groups(model, work.training.weight_decay), work.training.learning_rate)
parallel = DataParallel(model, communicator)

def loss_and_gradient(leaf, weight):
    *inputs, targets = leaf
    loss, saved = cross_entropy_forward(model(*inputs), targets)
    model.backward(cross_entropy_backward(weight, saved, overwrite=True))
    return weight * float(loss)

def step(batch):
    inputs, targets = batch
    optimizer.zero_grad()
    parallel.accumulate(split_batch((*inputs, targets), leaves), loss_and_gradient)
    clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()

def seconds(function, *arguments):
    communicator.barrier()
    began = perf_counter()
    function(*arguments)
    return perf_counter() - began

with on_threads(max(1, threads() // communicator.neighbors)):
    batches = work.batches()
    step(batches[0])
    taken = [seconds(step, batches[i % len(batches)]) for i in range(steps)]
told = {"step": taken, "bytes": model.flat.data.nbytes, "sha256": sha256(model.flat.data.tobytes()).hexdigest()}
if communicator.size > 1:
    peer = communicator.rank ^ 1
    for name, count in (("short", 1), ("long", 1 << 20)):
        message = np.zeros(count)
        times = [seconds(communicator.exchange, message, message, peer) for _ in range(20)]
        told[name] = [message.nbytes, sorted(times)[10]]
if communicator.rank == 0:
    print(json.dumps(told))
"""


def bench_parallel(size: str = "cpu", processes: tuple[int, ...] = (1, 2), steps: int = 10, rounds: int = 3) -> Report:
    """Return the time of a step by each number of processes, their efficiency, and predictions.

    Raises MissingExtraError without mpiexec, ParityError if the weights depend on the number of processes.
    """
    environment, warnings = survey()
    report = Report(f"Processes that share a batch, {size}", environment, "ms", warnings=warnings)
    leaves = max(processes)
    measured: dict[int, list[dict[str, Any]]] = {count: [] for count in processes}
    for number in range(rounds):
        for count in processes if number % 2 == 0 else processes[::-1]:
            measured[count].append(_run(size, count, leaves, steps))
    if len({told["sha256"] for runs in measured.values() for told in runs}) > 1:
        raise ParityError("bench parallel: the weights must not depend on the number of processes, but they do.")
    alone = median(median(told["step"]) for told in measured[processes[0]]) * processes[0]
    number_of_bytes = measured[leaves][0]["bytes"]
    for count in processes:
        times = Spread.of([1e3 * seconds for told in measured[count] for seconds in told["step"]])
        sent = 2 * (count - 1) / count * number_of_bytes
        mode = f"{count} process{'es' if count > 1 else ''}"
        report.results += [
            Result("step", "compyute", mode, times.p50, "ms", size, times),
            Result("bytes sent by each", "compyute", mode, sent / 2**20, "MiB", size),
            Result("speed beside one", "compyute", mode, 1e3 * alone / times.p50, "x", size),
        ]
    fitted = _fit([told for told in measured[leaves] if "short" in told])
    networks = NETWORKS | ({} if fitted is None else {"this machine": fitted})
    for network, (latency, bandwidth) in networks.items():
        for count in (2**k for k in range(1, int(log2(MOST_PROCESSES)) + 1)):
            seconds = predicted(alone, number_of_bytes, count, latency, bandwidth)
            report.results.append(
                Result(f"predicted: {network}", "compyute", f"{count} processes", 1e3 * seconds, "ms", size)
            )
    return report


def predicted(alone: float, number_of_bytes: float, processes: int, latency: float, bandwidth: float) -> float:
    """Return the seconds of a step by the formula above. alone: those of one process."""
    messages = 2 * log2(processes) * latency
    return alone / processes + messages + 2 * (processes - 1) / processes * number_of_bytes / bandwidth


def _fit(runs: list[dict[str, Any]]) -> tuple[float, float] | None:
    """Return latency and bandwidth of a line through the times of short and long messages."""
    if not runs:
        return None
    (few, _), (many, _) = runs[0]["short"], runs[0]["long"]
    short, long = (median(told[name][1] for told in runs) for name in ("short", "long"))
    return short, (many - few) / max(long - short, 1e-9)


def _run(size: str, processes: int, leaves: int, steps: int) -> dict[str, Any]:
    launcher = find_mpiexec()
    if launcher is None:
        raise MissingExtraError(
            "bench parallel: mpiexec and mpi4py are needed: pip install 'compyute-transformer[parallel]'"
        )
    command = [launcher, "-n", str(processes), sys.executable, "-c", CHILD, size, str(leaves), str(steps)]
    done = subprocess.run(command, env=dict(os.environ), capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise CompyuteError(f"bench parallel: {processes} processes failed: {last}.")
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told
