"""Parallel: the same training step by 1, 2, 4, ... processes of this machine, and what other networks would make of it.

Each number of processes is started anew in every round, in turn. All of them compute the same leaves, so they end with
the same weights, which is checked before anything is reported. Process W of a machine gets 1/W of its cores.

Steps are taken in turn with sums that begin while the backward runs, and with sums after it. A process measures how
long it does nothing but wait for them; what the first saves of the second is the overlap.

A step is predicted for more processes, each with a machine of its own, from what one process was measured to need:

    step(W) = compute / W + 2 log₂ W · latency + 2 (W − 1)/W · bytes / bandwidth

with bytes of the gradient, and latency and bandwidth those of a network; the overlap, which hides a part of this, is
left out. Those of this machine are fitted to messages of four lengths. A batch that stays the same has no more leaves
than rows, so W ends there; more processes take a larger batch. The prediction for a batch that grows with W is the same
with all of compute for each, and its efficiency is compute / step(W).
"""

import json
import os
import subprocess
import sys
from math import log2
from statistics import median
from typing import Any

import numpy as np

from ..environment.conditions import survey
from ..environment.launcher import find_mpiexec
from ..errors import CompyuteError, MissingExtraError, ParityError
from .candidates import Report, Result, Spread
from .workload import workload

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
parallels = {name: DataParallel(model, communicator, overlap=name == "overlap") for name in ("overlap", "after")}
optimizer = parallels["overlap"].shard(AdamW(decay_groups(model, work.training.weight_decay)))

def loss_and_gradient(leaf, weight):
    *inputs, targets = leaf
    loss, saved = cross_entropy_forward(model(*inputs), targets)
    model.backward(cross_entropy_backward(weight, saved, overwrite=True))
    return weight * float(loss)

def step(batch, parallel):
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

told = {name: [] for name in ("overlap", "after", "waited overlap", "waited after")}
with on_threads(max(1, threads() // communicator.neighbors)):
    batches = work.batches()
    for parallel in parallels.values():
        step(batches[0], parallel)
    for i in range(steps):
        for name in sorted(parallels, reverse=i % 2 == 0):
            told[name].append(seconds(step, batches[i % len(batches)], parallels[name]))
            told["waited " + name].append(parallels[name].waited)
own = getattr(optimizer, "_own", optimizer)
moments = {id(array): array.nbytes for slot in own._slots for array in slot.moments or ()}
told |= {"bytes": model.flat.data.nbytes, "moments": sum(moments.values())}
told["sha256"] = sha256(model.flat.data.tobytes()).hexdigest()
if communicator.size > 1:
    told["messages"] = []
    for count in (1, 1 << 12, 1 << 16, 1 << 20):
        message = np.zeros(count)
        times = [seconds(communicator.exchange, message, message, communicator.rank ^ 1) for _ in range(20)]
        told["messages"].append([message.nbytes, sorted(times)[10]])
if communicator.rank == 0:
    print(json.dumps(told))
"""


def bench_parallel(size: str = "cpu", processes: tuple[int, ...] = (1, 2), steps: int = 10, rounds: int = 3) -> Report:
    """Return the time of a step by each number of processes, their efficiency, and predictions.

    Raises MissingExtraError without mpiexec, ParityError if the weights depend on the number of processes.
    """
    (environment, warnings), work = survey(), workload(size)
    report = Report(f"Processes that share a batch, {size}", environment, "ms", warnings=warnings)
    leaves = max(processes)
    measured: dict[int, list[dict[str, Any]]] = {count: [] for count in processes}
    for number in range(rounds):
        for count in processes if number % 2 == 0 else processes[::-1]:
            measured[count].append(_run(size, count, leaves, steps))
    if len({told["sha256"] for runs in measured.values() for told in runs}) > 1:
        raise ParityError("bench parallel: the weights must not depend on the number of processes, but they do.")
    alone = median(seconds for told in measured[processes[0]] for seconds in told["overlap"]) * processes[0]
    for count in processes:
        report.results += _measured(measured[count], count, work.shape, alone)
    number_of_bytes = measured[leaves][0]["bytes"]
    fitted = _fit([told["messages"] for told in measured[leaves] if "messages" in told])
    networks = NETWORKS | ({} if fitted is None else {"this machine": fitted})
    for network, (latency, bandwidth) in networks.items():
        for count in (2**k for k in range(1, int(log2(MOST_PROCESSES)) + 1)):
            sums = predicted(0.0, number_of_bytes, count, latency, bandwidth)
            found = [("predicted efficiency, the batch grows", 100 * alone / (alone + sums), "percent")]
            if count <= work.training.batch_size:
                found.append(("predicted", 1e3 * (alone / count + sums), "ms"))
            for what, value, unit in found:
                report.results.append(Result(f"{what}: {network}", "compyute", _mode(count), value, unit, work.shape))
    if fitted is not None:
        report.notes.append(f"Fitted to this machine: {1e6 * fitted[0]:.1f} µs and {fitted[1] / 1e9:.2f} GB/s.")
    return report


def _mode(count: int) -> str:
    return f"{count} process{'es' if count > 1 else ''}"


def _measured(runs: list[dict[str, Any]], count: int, shape: str, alone: float) -> list[Result]:
    """Return the results of one number of processes. alone: the seconds of a step of one."""

    def result(what: str, value: float, unit: str, spread: Spread | None = None) -> Result:
        return Result(what, "compyute", _mode(count), value, unit, shape, spread)

    def times(name: str) -> Spread:
        return Spread.of([1e3 * seconds for told in runs for seconds in told[name]])

    steps, number_of_bytes, moments = times("overlap"), runs[0]["bytes"], runs[0]["moments"]
    results = [
        result("step", steps.p50, "ms", steps),
        result("bytes sent by each", 2 * (count - 1) / count * number_of_bytes / 2**20, "MiB"),
        result("optimizer's memory of process 0", moments / 2**20, "MiB"),
        result("memory of process 0: weights, gradients, optimizer", (2 * number_of_bytes + moments) / 2**20, "MiB"),
        result("efficiency on the same cores", 100 * 1e3 * alone / steps.p50, "percent"),
    ]
    if count > 1:
        after, hidden, waited = times("after"), times("waited overlap").p50, times("waited after").p50
        results += [
            result("step, sums after the backward", after.p50, "ms", after),
            result("wait for sums", hidden, "ms"),
            result("wait for sums after the backward", waited, "ms"),
            result("overlap", 100 * (1 - hidden / waited), "percent"),
        ]
    return results


def predicted(alone: float, number_of_bytes: float, processes: int, latency: float, bandwidth: float) -> float:
    """Return the seconds of a step by the formula above. alone: those of one process."""
    messages = 2 * log2(processes) * latency
    return alone / processes + messages + 2 * (processes - 1) / processes * number_of_bytes / bandwidth


def _fit(runs: list[list[tuple[int, float]]]) -> tuple[float, float] | None:
    """Return latency and bandwidth of a line through the times of messages, by least squares of relative errors."""
    if not runs:
        return None
    sizes = np.array([number_of_bytes for number_of_bytes, _ in runs[0]], float)
    times = np.median([[seconds for _, seconds in messages] for messages in runs], axis=0)
    scaled = np.stack([1 / times, sizes / times], axis=1)
    latency, of_byte = np.linalg.lstsq(scaled, np.ones(len(times)), rcond=None)[0]
    return max(float(latency), 1e-9), 1 / max(float(of_byte), 1e-15)


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
