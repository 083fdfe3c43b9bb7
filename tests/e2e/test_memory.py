"""What stalled readers, and very many connections, cost in memory: bounded by the configuration."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from support.destinations import TcpServer, content, read_all
from support.programs import PATIENCE, Process, Tunnel, wait_until

from phantom.core.blocks import BLOCK_SIZE, MAX_RETAINED_BYTES
from phantom.core.session import BATCH
from phantom.fast.buffers import SEALED_SIZE

pytestmark = pytest.mark.e2e

MiB = 1024 * 1024
READERS = 100
#: What each would be sent if it read.
CONTENT = 300 * 1_000_000
#: Python's objects for a connection on either side (sockets, relays, streams), generously.
PER_CONNECTION = 64 * 1024
#: Modules loaded late, timers, logs, the allocator's rounding.
SLACK = 8 * MiB

MakeTunnel = Callable[..., Tunnel]


def received_bound(session_memory: int) -> int:
    """Return how much the receiving side may grow.

    All of `session_memory`, and an eighth of it that growing byte arrays reserve; for each
    connection what one read of the link brought and its socket did not take; the log, of
    window updates, and the lent buffers.
    """
    return session_memory * 9 // 8 + READERS * PER_CONNECTION + 4 * BLOCK_SIZE + SEALED_SIZE + SLACK


def sent_bound() -> int:
    """Return how much the sending side may grow: sockets are not read, so it is the log."""
    return 2 * MAX_RETAINED_BYTES + READERS * PER_CONNECTION + BATCH + SEALED_SIZE + SLACK


class Peak:
    """The most memory that processes had while it watched, beyond what they began with."""

    def __init__(self, *processes: Process) -> None:
        self._processes = processes
        self._began = [process.memory() for process in processes]
        self.grown = [0 for _ in processes]

    def look(self) -> None:
        for place, process in enumerate(self._processes):
            self.grown[place] = max(self.grown[place], process.memory() - self._began[place])

    def watch(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.look()
            time.sleep(0.05)


@pytest.fixture
def generous() -> Iterator[TcpServer]:
    """A server that sends 300 MB to whoever comes."""
    piece = content(MiB)

    def serve(connection: socket.socket) -> None:
        left = CONTENT
        while left > 0:
            left -= connection.send(piece[:left])

    with TcpServer(serve) as server:
        yield server


def fits(tunnel: Tunnel) -> bool:
    """Return whether a small download still works."""
    with (
        TcpServer(lambda connection: connection.sendall(b"x" * 100_000)) as server,
        tunnel.connect(server.port) as connection,
    ):
        return len(read_all(connection)) == 100_000


@pytest.mark.slow
@pytest.mark.parametrize("session_memory", [16 * MiB, 64 * MiB], ids=["16 MiB", "64 MiB"])
def test_a_hundred_stalled_readers_hold_what_the_session_may(
    make_tunnel: MakeTunnel, generous: TcpServer, session_memory: int
) -> None:
    settings = {"session_memory": session_memory, "max_streams": 256}
    tunnel = make_tunnel("tcp", server=settings, client=settings).start()
    assert fits(tunnel)
    peak = Peak(tunnel.client, tunnel.server)
    with ExitStack() as stack:
        for _ in range(READERS):
            connection = stack.enter_context(tunnel.connect(generous.port))
            assert connection.recv(1)
        peak.watch(3)
        received, sent = peak.grown
        assert received <= received_bound(session_memory), received
        assert sent <= sent_bound(), sent
        assert fits(tunnel), "and nobody else is kept waiting"
    print(f"client +{received / MiB:.1f} MiB, server +{sent / MiB:.1f} MiB")


@pytest.mark.slow
def test_a_hundred_stalled_destinations_hold_what_the_session_may(make_tunnel: MakeTunnel) -> None:
    session_memory = 16 * MiB
    settings = {"session_memory": session_memory, "max_streams": 256}
    tunnel = make_tunnel("tcp", server=settings, client=settings).start()
    assert fits(tunnel)
    peak = Peak(tunnel.server, tunnel.client)
    over = threading.Event()
    piece = content(MiB)
    with TcpServer(lambda _: over.wait(PATIENCE)) as stalled, ExitStack() as stack:
        senders = [stack.enter_context(tunnel.connect(stalled.port)) for _ in range(READERS)]
        for sender in senders:
            sender.setblocking(False)
        until = time.monotonic() + 3
        while time.monotonic() < until:
            for sender in senders:
                try:
                    sender.send(piece)
                except BlockingIOError:
                    continue
            peak.look()
            time.sleep(0.01)
        received, sent = peak.grown
        assert received <= received_bound(session_memory), received
        assert sent <= sent_bound(), sent
        assert fits(tunnel)
        over.set()
    print(f"server +{received / MiB:.1f} MiB, client +{sent / MiB:.1f} MiB")


def churn(tunnel: Tunnel, count: int) -> None:
    """Make so many connections, each with a message and its answer."""

    def serve(connection: socket.socket) -> None:
        connection.sendall(connection.recv(64)[::-1])

    def visit(number: int) -> None:
        message = b"visit %d" % number
        with tunnel.connect(server.port) as connection:
            connection.sendall(message)
            assert read_all(connection) == message[::-1]

    with TcpServer(serve) as server, ThreadPoolExecutor(16) as pool:
        for start in range(0, count, 10_000):
            list(pool.map(visit, range(start, min(count, start + 10_000))))


@pytest.mark.parametrize(
    "warm, count, allowed",
    [
        pytest.param(1_000, 3_000, 3 * MiB, marks=pytest.mark.slow),
        pytest.param(
            10_000, 100_000, 2 * MiB, marks=[pytest.mark.endurance, pytest.mark.timeout(900)]
        ),
    ],
)
def test_connections_that_are_over_cost_nothing(
    make_tunnel: MakeTunnel, warm: int, count: int, allowed: int
) -> None:
    """2 MiB in 100,000 connections would be 20 bytes each: a leak is hundreds."""
    tunnel = make_tunnel("tcp").start()
    ends = (tunnel.server, tunnel.client)
    churn(tunnel, warm)
    time.sleep(0.5)
    before = [end.memory() for end in ends]
    descriptors = [end.descriptors() for end in ends]
    churn(tunnel, count)
    for end, was in zip(ends, descriptors, strict=True):
        wait_until(lambda end=end, was=was: end.descriptors() <= was, f"{end.name} closes")
    grown = [end.memory() - was for end, was in zip(ends, before, strict=True)]
    print("grown", [f"{size / 1024:.0f} KiB" for size in grown])
    assert max(grown) <= allowed, grown
