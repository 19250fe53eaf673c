"""TCP: processes that were told RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, without MPI.

Process 0 listens at MASTER_ADDR:MASTER_PORT. Every other process connects to it, says where it listens itself, and
gets the addresses of all; then each process connects to those of lower rank. There is no encryption and no password:
use it on a network that you trust, as for MPI.
"""

import json
import select
import socket
import struct
import time
from collections import deque
from typing import Any

import numpy as np

from ..arrays import Array
from ..environment.launcher import meeting_place, numbers
from ..errors import ParallelError
from .communicator import Communicator, Message, hangs

__all__ = ["TCP"]

LENGTH = struct.Struct("!Q")
MOST_BYTES = 2**28  # of a list of plain values
PIECE = 2**20


class TCP(Communicator):
    """A process among others that reach each other by sockets.

    host, port: where process 0 listens. timeout: seconds after which a peer that does not answer is given up.
    """

    engine = "TCP"

    def __init__(self, rank: int, size: int, host: str, port: int, timeout: float = 600.0) -> None:
        if not 0 <= rank < size:
            raise ParallelError(f"parallel: RANK is in [0, WORLD_SIZE), got {rank} of {size}.")
        self.rank, self.size, self.timeout = rank, size, timeout
        self.peers: dict[int, socket.socket] = {}
        self._under_way: dict[int, deque[_Bytes]] = {}
        try:
            self._meet(host, port)
        except OSError as error:
            raise ParallelError(
                f"parallel: process {rank} must reach process 0 at {host}:{port} within {timeout:g} s, which fails: "
                f"{error.strerror or error}. Check MASTER_ADDR and MASTER_PORT, and that all processes were started."
            ) from error
        hosts = self.gather(socket.gethostname())
        self.neighbors = hosts.count(hosts[rank])

    @classmethod
    def from_environment(cls, timeout: float = 600.0) -> "TCP":
        """Return the communicator that MASTER_ADDR, MASTER_PORT, and RANK or a step of Slurm describe."""
        host, port = meeting_place() or ("", "")
        for name, value in {**numbers(), "MASTER_PORT": port}.items():
            if not value.isdecimal():
                raise ParallelError(f"parallel: {name} is a whole number, got {value!r}.")
        size, rank = map(int, numbers().values())
        return cls(rank, size, host, int(port), timeout)

    # --- how processes meet ---

    def _meet(self, host: str, port: int) -> None:
        end = time.monotonic() + self.timeout
        address = (host, port) if self.rank == 0 else ("", 0)
        with socket.create_server(address, backlog=self.size) as server:
            server.settimeout(self.timeout)
            if self.rank == 0:
                listening = {0: [host, port]}
                for _ in range(self.size - 1):
                    link, (origin, *_rest) = server.accept()
                    number, own_port = self._greeting(link)
                    listening[number] = [origin, own_port]
                for peer in self.peers:
                    self._put(peer, [listening[number] for number in range(self.size)])
                return
            first = self._connect(host, port, end)
            self._greet(0, first, server.getsockname()[1])
            addresses = self._get(0)
            for peer in range(1, self.rank):
                self._greet(peer, self._connect(str(addresses[peer][0]), int(addresses[peer][1]), end), 0)
            for _ in range(self.rank + 1, self.size):
                self._greeting(server.accept()[0])

    @staticmethod
    def _connect(host: str, port: int, end: float) -> socket.socket:
        """Connect to a process that may not listen yet."""
        while True:
            try:
                return socket.create_connection((host, port), timeout=max(0.1, end - time.monotonic()))
            except ConnectionRefusedError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)

    def _greet(self, peer: int, link: socket.socket, port: int) -> None:
        self._add(peer, link)
        self._put(peer, [self.rank, port])

    def _greeting(self, link: socket.socket) -> tuple[int, int]:
        """Take in a process that has connected, and return its rank and where it listens."""
        self._add(-1, link)
        said = self._get(-1)
        link = self.peers.pop(-1)
        if not (isinstance(said, list) and len(said) == 2 and all(type(value) is int for value in said)):
            raise ParallelError("parallel: something else than a process of this job connected to the port.")
        number, port = said
        if not 0 <= number < self.size or number in self.peers or number == self.rank:
            raise ParallelError(f"parallel: two processes say that they are number {number}. Give each its own RANK.")
        self.peers[number] = link
        return number, port

    def _add(self, peer: int, link: socket.socket) -> None:
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link.setblocking(False)
        self.peers[peer] = link

    def close(self) -> None:
        """Close the sockets; the peers are told that this process is gone."""
        for link in self.peers.values():
            link.close()

    # --- messages ---

    def begin(self, array: Array | None, into: Array | None, peer: int) -> Message:
        out = memoryview(b"") if array is None else _bytes_of(np.ascontiguousarray(array))
        return self._begin(peer, out, memoryview(b"") if into is None else _bytes_of(into))

    def _begin(self, peer: int, out: memoryview, into: memoryview) -> "_Bytes":
        message = _Bytes(self, peer, out, into)
        self._under_way.setdefault(peer, deque()).append(message)
        return message

    def gather(self, value: Any) -> list[Any]:
        """Process 0 collects the values, and sends the list to all. They travel as JSON."""
        if self.rank:
            self._put(0, value)
            every: list[Any] = self._get(0)
            return every
        every = [json.loads(json.dumps(value)), *(self._get(peer) for peer in range(1, self.size))]
        for peer in range(1, self.size):
            self._put(peer, every)
        return every

    def _put(self, peer: int, value: Any) -> None:
        text = json.dumps(value).encode()
        self._begin(peer, memoryview(LENGTH.pack(len(text)) + text), memoryview(b"")).wait()

    def _get(self, peer: int) -> Any:
        head = bytearray(LENGTH.size)
        self._begin(peer, memoryview(b""), memoryview(head)).wait()
        (length,) = LENGTH.unpack(head)
        if length > MOST_BYTES:
            raise ParallelError(f"parallel: process {peer} announced {length} bytes, which is no message of this job.")
        text = bytearray(length)
        self._begin(peer, memoryview(b""), memoryview(text)).wait()
        return json.loads(text)

    def move(self, seconds: float) -> bool:
        """Send and receive what the sockets take and give within some seconds; return whether that was anything.

        Both at once, so that two processes that both send much do not wait for each other. Messages of one peer follow
        each other in the order in which they were begun.
        """
        sending: dict[socket.socket, _Bytes] = {}
        receiving: dict[socket.socket, _Bytes] = {}
        for peer, messages in self._under_way.items():
            while messages and not messages[0].out and not messages[0].into:
                messages.popleft()
            if not messages:
                continue
            link = self.peers[peer]
            for message in reversed(messages):  # so that the first ones stay
                if message.out:
                    sending[link] = message
                if message.into:
                    receiving[link] = message
        if not sending and not receiving:
            return False
        readable, writable, _ = select.select(receiving, sending, [], seconds)
        for link in writable:
            sending[link].send(link)
        for link in readable:
            receiving[link].receive(link)
        return bool(readable or writable)


class _Bytes(Message):
    """What is still to be sent and received."""

    def __init__(self, owner: TCP, peer: int, out: memoryview, into: memoryview) -> None:
        self.owner, self.peer, self.out, self.into = owner, peer, out, into

    def arrived(self) -> bool:
        while self.out or self.into:
            if not self.owner.move(0.0):
                return False
        return True

    def wait(self) -> None:
        while self.out or self.into:
            if not self.owner.move(self.owner.timeout):
                raise hangs(self.peer, self.owner.rank, self.owner.timeout)

    def send(self, link: socket.socket) -> None:
        """Send what the socket takes."""
        try:
            self.out = self.out[link.send(self.out[:PIECE]) :]
        except ConnectionError as error:
            raise _gone(self.peer) from error

    def receive(self, link: socket.socket) -> None:
        """Receive what is there."""
        try:
            count = link.recv_into(self.into)
        except ConnectionError as error:
            raise _gone(self.peer) from error
        if count == 0:
            raise _gone(self.peer)
        self.into = self.into[count:]


def _gone(peer: int) -> ParallelError:
    return ParallelError(
        f"parallel: process {peer} is gone. Continue the run from its last checkpoint with compyute train --resume."
    )


def _bytes_of(array: np.ndarray) -> memoryview:
    return memoryview(array.reshape(-1).view(np.uint8).data)
