"""Sockets in place of MPI: real processes that meet by RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT."""

import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_helpers import TEXT, TINY, environment

from compyute_transformer.errors import ParallelError
from compyute_transformer.parallel import all_reduce, fold
from compyute_transformer.parallel.tcp import TCP


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def run_all(size: int, function: Callable[[TCP], Any]) -> list[Any]:
    port = free_port()

    def process(rank: int) -> Any:
        communicator = TCP(rank, size, "127.0.0.1", port, 20.0)
        try:
            return function(communicator)
        finally:
            communicator.close()

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(process, range(size)))


@pytest.mark.parametrize("size", [2, 3, 4])
def test_sums_values_and_large_arrays_travel(size: int) -> None:
    arrays = [np.random.default_rng(rank).normal(size=300_001).astype(np.float32) for rank in range(size)]

    def process(communicator: TCP) -> tuple[bytes, list[Any]]:
        total = arrays[communicator.rank].copy()
        all_reduce(total, communicator)
        return total.tobytes(), communicator.gather({"rank": communicator.rank})

    expected = fold(arrays, np.add).tobytes(), [{"rank": rank} for rank in range(size)]
    assert run_all(size, process) == [expected] * size


def test_a_process_that_leaves_is_noticed() -> None:
    def process(communicator: TCP) -> str:
        if communicator.rank == 1:
            return ""  # closed when it returns
        with pytest.raises(ParallelError, match="process 1 is gone"):
            communicator.receive(np.zeros(3), 1)
        return "noticed"

    assert run_all(2, process) == ["noticed", ""]


def test_a_process_that_hangs_is_given_up() -> None:
    def process(communicator: TCP) -> str:
        communicator.timeout = 0.2
        if communicator.rank == 0:
            with pytest.raises(ParallelError, match="has not answered process 0"):
                communicator.receive(np.zeros(3), 1)
        else:
            time.sleep(1.0)
        return "done"

    assert run_all(2, process) == ["done", "done"]


def test_nobody_at_the_port_is_one_sentence() -> None:
    with pytest.raises(ParallelError, match=r"must reach process 0 at 127\.0\.0\.1"):
        TCP(1, 2, "127.0.0.1", free_port(), timeout=0.2)


def test_the_command_trains_by_sockets(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "compyute_transformer",
        "train",
        "text.txt",
        *TINY,
        "--kernels=reference",
        "--steps=3",
    ]
    meeting = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    together = [
        subprocess.Popen([*command, "--out=two"], cwd=tmp_path, env=environment() | meeting | {"RANK": str(rank)})
        for rank in range(2)
    ]
    assert [process.wait(timeout=200) for process in together] == [0, 0]
    subprocess.run([*command, "--out=one", "--leaves=2"], cwd=tmp_path, env=environment(), check=True)
    weights = [
        (tmp_path / run / "checkpoints" / "step-00000003" / "model.safetensors").read_bytes() for run in ("one", "two")
    ]
    assert weights[0] == weights[1]
