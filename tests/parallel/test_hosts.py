"""Two hosts, as network namespaces: `mpiexec` with a hostfile, and sockets, give the bits of one process.

Each namespace has a network of its own, and a cable between them; whatever one sends to the other goes by TCP. Only
root may make them, so elsewhere these tests are skipped.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_helpers import TEXT, TINY, environment

from compyute_transformer.environment.launcher import find_mpiexec

COMMAND = [sys.executable, "-m", "compyute_transformer", "train", "text.txt", *TINY, "--kernels=reference", "--steps=8"]
OPTIONS = ["--dropout=0.2", "--accumulation=2", "--clip=0.5", "--threads=1", "--leaves=1", "--sample-every=0"]
FIRST, SECOND = "10.77.0.1", "10.77.0.2"


def ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=True)
    return done.stdout


def may_make_hosts() -> bool:
    if not shutil.which("ip") or not hasattr(os, "geteuid") or os.geteuid() != 0:
        return False
    name = f"try{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode == 0
    return made and subprocess.run(["ip", "netns", "del", name], capture_output=True).returncode == 0


pytestmark = pytest.mark.skipif(not may_make_hosts(), reason="only root can make network namespaces, with iproute2")


@pytest.fixture(scope="module")
def hosts() -> Iterator[dict[str, str]]:
    """Two hosts: the names of their namespaces by their addresses."""
    names = {FIRST: f"one{os.getpid()}", SECOND: f"two{os.getpid()}"}
    for name in names.values():
        ip("netns", "add", name)
    try:
        cable = dict(zip(names.values(), (f"a{os.getpid()}", f"b{os.getpid()}"), strict=True))
        first, second = cable.values()
        ip("link", "add", first, "type", "veth", "peer", "name", second)
        for address, name in names.items():
            ip("link", "set", cable[name], "netns", name, "name", "cable")
            ip("-n", name, "addr", "add", f"{address}/24", "dev", "cable")
            for link in ("lo", "cable"):
                ip("-n", name, "link", "set", link, "up")
        yield names
    finally:
        for name in names.values():
            ip("netns", "del", name)


def received(host: str) -> int:
    """Return the bytes that a host has received over the cable."""
    lines = ip("-n", host, "-s", "link", "show", "cable").splitlines()
    heading = next(number for number, line in enumerate(lines) if "RX:" in line)
    return int(lines[heading + 1].split()[0])


def weights(run: Path) -> bytes:
    folder = run / "checkpoints" / "step-00000008"
    return b"".join((folder / f"{name}.safetensors").read_bytes() for name in ("model", "optimizer"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder, which both hosts see, with a text and the run of one process."""
    path = tmp_path_factory.mktemp("hosts")
    (path / "text.txt").write_text(TEXT, encoding="utf-8")
    subprocess.run([*COMMAND, *OPTIONS, "--out=one"], cwd=path, env=environment(), check=True, capture_output=True)
    return path


def test_mpiexec_with_a_hostfile(hosts: dict[str, str], folder: Path) -> None:
    shell = folder / "shell"  # what mpiexec calls in place of ssh: options, address, command
    cases = "".join(f"{address}) host={name};; " for address, name in hosts.items())
    shell.write_text(
        f'#!/bin/sh\nwhile [ "${{1#-}}" != "$1" ]; do shift; done\ncase $1 in {cases}esac\n'
        'shift\nexec ip netns exec "$host" sh -c "$*"\n'
    )
    shell.chmod(0o755)
    (folder / "hostfile").write_text(f"{FIRST}\n{SECOND}\n")
    launcher = ["ip", "netns", "exec", hosts[FIRST], str(find_mpiexec()), "-launcher", "ssh", "-launcher-exec"]
    by_network = {"UCX_TLS": "tcp,self"}  # UCX would see that both hosts are one machine, and take its memory
    before = received(hosts[SECOND])
    done = subprocess.run(
        [*launcher, str(shell), "-f", "hostfile", "-n", "2", *COMMAND, *OPTIONS, "--out=two"],
        cwd=folder,
        env=environment() | by_network,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    size = len((folder / "one" / "checkpoints" / "step-00000008" / "model.safetensors").read_bytes())
    assert received(hosts[SECOND]) - before > 8 * size * 0.9  # each step half of the gradient, and half of weights
    assert weights(folder / "two") == weights(folder / "one")


def test_sockets(hosts: dict[str, str], folder: Path) -> None:
    meeting = {"WORLD_SIZE": "2", "MASTER_ADDR": FIRST, "MASTER_PORT": "29500"}
    together = [
        subprocess.Popen(
            ["ip", "netns", "exec", host, *COMMAND, *OPTIONS, "--out=sockets"],
            cwd=folder,
            env=environment() | meeting | {"RANK": str(rank)},
            stdout=subprocess.DEVNULL,
        )
        for rank, host in enumerate(hosts.values())
    ]
    assert [process.wait(timeout=200) for process in together] == [0, 0]
    assert weights(folder / "sockets") == weights(folder / "one")
