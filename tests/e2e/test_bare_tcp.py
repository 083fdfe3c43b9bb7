"""Bare TCP on real sockets: what probes get, and that strangers are bounded."""

from __future__ import annotations

import contextlib
import random
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.destinations import WebServer
from support.programs import PATIENCE, Tunnel, wait_until

from phantom.audit.detectors import first_packet

pytestmark = pytest.mark.e2e

MakeTunnel = Callable[..., Tunnel]


class Tap:
    """A relay in front of a server that keeps every connection's pieces, and cuts on demand.

    Attributes:
        port: Where it listens.
        connections: The pieces that each client sent before the server said anything.
    """

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.connections: list[list[bytes]] = []
        self._open: list[socket.socket] = []

    def start(self, server: tuple[str, int]) -> None:
        threading.Thread(target=self._accept, args=(server,), daemon=True).start()

    def _accept(self, server: tuple[str, int]) -> None:
        with contextlib.suppress(OSError):
            while True:
                client = self._listener.accept()[0]
                far = socket.create_connection(server)
                far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._open += [client, far]
                threading.Thread(target=self._relay, args=(client, far), daemon=True).start()

    def _relay(self, client: socket.socket, far: socket.socket) -> None:
        pieces: list[bytes] = []
        self.connections.append(pieces)
        answered = False
        with contextlib.suppress(OSError):
            while True:
                for ready in select.select([client, far], [], [])[0]:
                    data = ready.recv(65536)
                    if not data:
                        raise OSError
                    if ready is far:
                        answered = True
                        client.sendall(data)
                    else:
                        if not answered:
                            pieces.append(data)
                        far.sendall(data)

    def cut(self) -> None:
        """Reset every connection."""
        cut, self._open = self._open, []
        for one in cut:
            with contextlib.suppress(OSError):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def close(self) -> None:
        self._listener.close()
        self.cut()


@pytest.fixture
def tap() -> Iterator[Tap]:
    made = Tap()
    yield made
    made.close()


def changed(data: bytes, places: tuple[int, ...], rng: random.Random) -> bytes:
    """Return `data` with some bytes changed, as the GFW's replay probes do (IMC 2020)."""
    out = bytearray(data)
    for place in places:
        out[place] ^= rng.randint(1, 255)
    return bytes(out)


def quiet(sockets: list[socket.socket], seconds: float) -> None:
    """Watch that nothing comes on any of these, no end either."""
    for one in select.select(sockets, [], [], seconds)[0]:
        raise AssertionError((sockets.index(one), one.recv(100)))


def test_links_that_resume_and_their_probes(
    make_tunnel: MakeTunnel, tap: Tap, web: WebServer
) -> None:
    """First flights vary and are exempt; every replay the GFW is known for meets silence."""
    tunnel = make_tunnel("tcp")
    tunnel.start_server()
    tap.start(tunnel.server_address)
    tunnel.client_settings["server"] = f"127.0.0.1:{tap.port}"
    tunnel.start_client()
    for count in range(2, 6):
        tap.cut()
        resumed = f"{count - 1} links resumed"
        wait_until(lambda c=count: tunnel.client.log().count("resumed after") >= c - 1, resumed)
    flights = [pieces for pieces in tap.connections if pieces]
    assert all(first_packet.exemption(pieces[0]) for pieces in flights)
    assert len({len(pieces[0]) for pieces in flights}) >= 4
    first = b"".join(flights[0])
    assert 1300 < len(first) < 1900, "an ML-KEM key; a slow relay may see both packets as one"
    assert all(len(b"".join(pieces)) < 1000 for pieces in flights[1:]), "the ratchet"

    rng = random.Random(6)
    end = next(place for place, byte in enumerate(first) if byte >= 0x80) + 1
    probes = [
        first,  # R1
        changed(first, (0,), rng),  # R2
        changed(first, (*range(8), 62, 63), rng),  # R3
        changed(first, (16,), rng),  # R4
        changed(first, (6, 16), rng),  # R5
        first[end:],  # without its prefix
        b"other words\x80" + first[end:],  # with another one: the same message
        *(rng.randbytes(size + d) for size in (8, 12, 16, 22, 33, 41, 49) for d in (-1, 0, 1)),
        rng.randbytes(221),
        b"".join(flights[-1]),  # a replay of a link that was resumed
    ]
    for flip in (0x40, 0x80, 0xC0):  # the two bits that no representative has
        twisted = bytearray(first)
        twisted[end + 31] ^= flip
        probes.append(bytes(twisted))
    with ExitStack() as stack:
        sockets = []
        for probe in probes:
            one = socket.create_connection(tunnel.server_address, timeout=PATIENCE)
            sockets.append(stack.enter_context(one))
            one.sendall(probe)
        quiet(sockets, 3)
        for one in sockets:
            one.sendall(rng.randbytes(2000))  # it reads on
        quiet(sockets, 1)
    with tunnel.connect(web.port) as connection:
        connection.sendall(b"GET /bytes/10 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 200")
    assert tunnel.server.log().count("session begun") == 1
    assert "Traceback" not in tunnel.server.log() + tunnel.client.log()


def resident(pid: int) -> int:
    """Return the bytes of memory a process holds."""
    text = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return 1024 * int(text.partition("VmRSS:")[2].split()[0])


def test_strangers_cost_little_memory_and_have_limits(make_tunnel: MakeTunnel) -> None:
    """A stranger may send for ever, many may stay; and the oldest of one network gives way."""
    tunnel = make_tunnel("tcp", server={"max_unauthenticated": 64})
    tunnel.start_server()
    rng = random.Random(7)
    with ExitStack() as stack:

        def stranger() -> socket.socket:
            one = socket.create_connection(tunnel.server_address, timeout=PATIENCE)
            one.sendall(b"\x80" + rng.randbytes(200))
            return stack.enter_context(one)

        crowd = [stranger() for _ in range(50)]
        quiet(crowd, 0.5)
        before = resident(tunnel.server.pid)
        block = rng.randbytes(1 << 20)
        for _ in range(40):
            crowd[0].sendall(block)  # it is read, or this would block
        assert resident(tunnel.server.pid) - before < 8 << 20
        # 4096 places at most, a sixteenth of them for one /24: 256.
        crowd += [stranger() for _ in range(256)]
        end = time.monotonic() + PATIENCE
        gone: list[socket.socket] = []
        while len(gone) < 50 and time.monotonic() < end:
            gone = select.select(crowd, [], [], 0.1)[0]
        assert gone == crowd[:50], "the oldest, and nobody else"
        with pytest.raises(ConnectionResetError):
            gone[0].recv(1)
        quiet(crowd[50:], 0.5)
    assert "Traceback" not in tunnel.server.log()
