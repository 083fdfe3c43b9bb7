"""Transfers that survive what networks and censors do to connections."""

from __future__ import annotations

import hashlib
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from support.censor import Censor, Rules
from support.destinations import TcpServer
from support.programs import Tunnel

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

MEGABYTE = 1_000_000


def pattern(size: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(size)


@pytest.fixture
def censored(make_tunnel: Callable[..., Tunnel]) -> Iterator[Callable[..., tuple[Tunnel, Censor]]]:
    """Makes a tunnel whose client reaches its server through a censor."""
    censors: list[Censor] = []

    def make(carrier: str, rules: Rules | None = None, **settings: object) -> tuple[Tunnel, Censor]:
        tunnel = make_tunnel(carrier, **settings)
        tunnel.start_server()
        censor = Censor(tunnel.server_address, rules)
        censors.append(censor)
        tunnel.client_settings["server"] = f"127.0.0.1:{censor.port}"
        tunnel.start_client()
        return tunnel, censor

    yield make
    for censor in censors:
        censor.close()


class BothWays:
    """A destination that sends `down` and receives `up`, at the same time."""

    def __init__(self, up: int, down: int) -> None:
        self.down = pattern(down, 1)
        self.up = pattern(up, 2)
        self.received = hashlib.sha256()
        self.size = 0
        self.done = threading.Event()

    def __call__(self, connection: socket.socket) -> None:
        sender = threading.Thread(target=connection.sendall, args=(self.down,), daemon=True)
        sender.start()
        while data := connection.recv(65536):
            self.received.update(data)
            self.size += len(data)
        sender.join()
        connection.shutdown(socket.SHUT_WR)
        self.done.set()

    def run(self, tunnel: Tunnel, timeout: float) -> float:
        """Transfer through the tunnel; return the longest time nothing came down."""
        with TcpServer(self) as server:
            connection = tunnel.connect(server.port)
            connection.settimeout(timeout)
            threading.Thread(target=self._send, args=(connection,), daemon=True).start()
            digest, size = hashlib.sha256(), 0
            longest, last = 0.0, time.monotonic()
            while data := connection.recv(65536):
                longest, last = max(longest, time.monotonic() - last), time.monotonic()
                digest.update(data)
                size += len(data)
            assert self.done.wait(timeout)
        assert size == len(self.down) and digest.digest() == hashlib.sha256(self.down).digest()
        assert self.size == len(self.up)
        assert self.received.digest() == hashlib.sha256(self.up).digest()
        return longest

    def _send(self, connection: socket.socket) -> None:
        connection.sendall(self.up)
        connection.shutdown(socket.SHUT_WR)


PATHS = {
    "freeze after 16 KB down": (Rules(freeze_down=16_000), 2),
    "freeze after 25 packets": (Rules(freeze_packets=25), 2),
    "reset after 20 KB": (Rules(rst_after=20_000), 2),
    "cut every second": (Rules(cut_after=1.0), 10),
    "throttled": (Rules(throttle=2_000_000), 10),
}


@pytest.mark.parametrize("path", PATHS)
def test_a_transfer_both_ways_survives(
    path: str, carrier: str, censored: Callable[..., tuple[Tunnel, Censor]]
) -> None:
    rules, megabytes = PATHS[path]
    tunnel, censor = censored(carrier, rules)
    began = time.monotonic()
    transfer = BothWays(megabytes * MEGABYTE, megabytes * MEGABYTE)
    longest = transfer.run(tunnel, 200)
    print(
        f"{path}, {carrier}: {megabytes} MB each way in {time.monotonic() - began:.1f} s, "
        f"{len(censor.connections)} links, longest stall {longest:.2f} s"
    )
    assert longest < 10
