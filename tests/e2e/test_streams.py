"""What programs may rely on of a connection: its ends, its breaks, its pace; and many at once."""

from __future__ import annotations

import hashlib
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from support.destinations import TcpServer, WebServer, content, content_digest, read_all, reset
from support.programs import PATIENCE, Tunnel, place, wait_until

pytestmark = pytest.mark.e2e

MEGABYTE = 1_000_000


def through_http(tunnel: Tunnel, port: int) -> socket.socket:
    """Return a connection made by CONNECT."""
    connection = socket.create_connection(place(tunnel.http), timeout=PATIENCE)
    target = f"127.0.0.1:{port}"
    connection.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
    assert read_head(connection).startswith(b"HTTP/1.1 200 ")
    return connection


def read_head(connection: socket.socket) -> bytes:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = connection.recv(1)
        assert byte, head
        head += byte
    return head


def exactly(connection: socket.socket, size: int) -> bytes:
    received = bytearray()
    while len(received) < size:
        piece = connection.recv(size - len(received))
        assert piece, "ended early"
        received += piece
    return bytes(received)


Connect = Callable[[Tunnel, int], socket.socket]
WAYS = pytest.mark.parametrize("connect", [Tunnel.connect, through_http], ids=["socks5", "connect"])


# -- ends and breaks ---------------------------------------------------------------------------


@WAYS
def test_an_answer_to_all_that_was_sent(tunnel: Tunnel, connect: Connect) -> None:
    """The program ends its half; the answer needs all of it, and still arrives."""

    def serve(connection: socket.socket) -> None:
        connection.sendall(hashlib.sha256(read_all(connection)).hexdigest().encode())

    with TcpServer(serve) as server, connect(tunnel, server.port) as connection:
        connection.sendall(content(5 * MEGABYTE))
        connection.shutdown(socket.SHUT_WR)
        assert read_all(connection).decode() == content_digest(5 * MEGABYTE)


@WAYS
def test_the_destination_ends_first(tunnel: Tunnel, connect: Connect) -> None:
    received: queue.Queue[bytes] = queue.Queue()

    def serve(connection: socket.socket) -> None:
        connection.sendall(b"that is all")
        connection.shutdown(socket.SHUT_WR)
        received.put(read_all(connection))

    with TcpServer(serve) as server, connect(tunnel, server.port) as connection:
        assert read_all(connection) == b"that is all"
        connection.sendall(content(MEGABYTE))
        connection.shutdown(socket.SHUT_WR)
        assert received.get(timeout=PATIENCE) == content(MEGABYTE)


@WAYS
def test_a_broken_connection_is_no_clean_end(tunnel: Tunnel, connect: Connect) -> None:
    """Or a cut-off page would look whole."""
    go = threading.Event()

    def serve(connection: socket.socket) -> None:
        connection.sendall(b"half a page")
        go.wait(PATIENCE)
        reset(connection)

    with TcpServer(serve) as server, connect(tunnel, server.port) as connection:
        assert exactly(connection, 11) == b"half a page"
        go.set()
        with pytest.raises(ConnectionResetError):
            connection.recv(1)


@WAYS
def test_a_program_that_breaks_off_breaks_the_destination_off(
    tunnel: Tunnel, connect: Connect
) -> None:
    ends: queue.Queue[str] = queue.Queue()

    def serve(connection: socket.socket) -> None:
        connection.settimeout(PATIENCE)
        connection.sendall(b"?")
        try:
            ends.put("end" if not connection.recv(1) else "data")
        except ConnectionResetError:
            ends.put("reset")

    with TcpServer(serve) as server:
        connection = connect(tunnel, server.port)
        assert connection.recv(1) == b"?"
        reset(connection)
        assert ends.get(timeout=PATIENCE) == "reset"


def test_an_upgrade_of_the_protocol(tunnel: Tunnel) -> None:
    """What a WebSocket does through a proxy for plain HTTP."""

    def serve(connection: socket.socket) -> None:
        head = read_head(connection)
        assert head.startswith(b"GET /chat?room=1 HTTP/1.1\r\n")
        assert b"upgrade: websocket\r\n" in head.lower()
        connection.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\n\r\nfirst"
        )
        while piece := connection.recv(65536):
            connection.sendall(piece[::-1])

    with TcpServer(serve) as server:
        connection = socket.create_connection(place(tunnel.http), timeout=PATIENCE)
        with connection:
            connection.sendall(
                b"GET http://127.0.0.1:%d/chat?room=1 HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n"
                b"Upgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
                % (server.port, server.port)
            )
            head = read_head(connection)
            assert head.startswith(b"HTTP/1.1 101 ") and b"upgrade: websocket" in head.lower()
            assert exactly(connection, 5) == b"first"
            for message in (b"abc", b"\x81\x00\xff", b"x" * 1000):
                connection.sendall(message)
                assert exactly(connection, len(message)) == message[::-1]


# -- many ------------------------------------------------------------------------------------------


def download(tunnel: Tunnel, web: WebServer, size: int) -> str:
    """Return the digest of a download through the SOCKS5 proxy."""
    digest = hashlib.sha256()
    with tunnel.connect(web.port) as connection:
        connection.sendall(b"GET /bytes/%d HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % size)
        read_head(connection)
        while piece := connection.recv(1 << 18):
            digest.update(piece)
    return digest.hexdigest()


def test_sixteen_downloads_at_once(tunnel: Tunnel, web: WebServer) -> None:
    size = 8 * MEGABYTE + 321
    with ThreadPoolExecutor(16) as pool:
        digests = list(pool.map(lambda _: download(tunnel, web, size), range(16)))
    assert digests == [content_digest(size)] * 16


@pytest.mark.slow
def test_two_thousand_quick_connections_leave_nothing(make_tunnel: Callable[..., Tunnel]) -> None:
    """More than ``max_streams``: a stream that stays behind would have the last refused."""

    def serve(connection: socket.socket) -> None:
        connection.sendall(connection.recv(64)[::-1])

    def visit(number: int) -> None:
        message = b"visit %d" % number
        with tunnel.connect(server.port) as connection:
            connection.sendall(message)
            assert read_all(connection) == message[::-1]

    tunnel = make_tunnel("tcp", server={"max_streams": 64}, client={"max_streams": 64}).start()
    ends = (tunnel.server, tunnel.client)
    with TcpServer(serve) as server, ThreadPoolExecutor(24) as pool:
        list(pool.map(visit, range(100)))  # what is loaded and allocated once
        time.sleep(0.3)
        before = [(end.descriptors(), end.memory()) for end in ends]
        list(pool.map(visit, range(2000)))
        for end, (descriptors, memory) in zip(ends, before, strict=True):

            def as_before(end: object = end, descriptors: int = descriptors) -> bool:
                return end.descriptors() <= descriptors  # type: ignore[attr-defined]

            wait_until(as_before, f"the descriptors of {end.name} are closed")
            assert end.memory() - memory < 16 * MEGABYTE, end.name


# -- the slow reader ------------------------------------------------------------------------------


@pytest.fixture
def endless() -> Iterator[TcpServer]:
    """A server that sends as long as somebody reads."""
    piece = content(MEGABYTE)

    def serve(connection: socket.socket) -> None:
        while True:
            connection.sendall(piece)

    with TcpServer(serve) as server:
        yield server


@pytest.mark.slow
def test_stalled_readers_cost_little_and_hinder_nobody(
    make_tunnel: Callable[..., Tunnel], carrier: str, web: WebServer, endless: TcpServer
) -> None:
    tunnel = make_tunnel(carrier).start()
    size = 50 * MEGABYTE

    def seconds() -> float:
        start = time.perf_counter()
        assert download(tunnel, web, size) == content_digest(size)
        return time.perf_counter() - start

    alone = min(seconds() for _ in range(2))
    ends = (tunnel.server, tunnel.client)
    before = [end.memory() for end in ends]
    with ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(tunnel.connect(endless.port))
        time.sleep(1.5)  # they stall
        beside = min(seconds() for _ in range(2))
        grown = [end.memory() - was for end, was in zip(ends, before, strict=True)]
        # A window of 4 MiB for each at the very most, and what Python makes of it.
        assert max(grown) < 64 * MEGABYTE, grown
        assert beside < 2 * alone + 0.5, (beside, alone)


@pytest.mark.slow
def test_a_stalled_destination_costs_little_and_hinders_nobody(
    make_tunnel: Callable[..., Tunnel], web: WebServer
) -> None:
    """The other way round: who sends without end is made to wait."""
    tunnel = make_tunnel("tcp").start()
    over = threading.Event()
    piece = content(MEGABYTE)

    def push(connection: socket.socket) -> int:
        sent = 0
        connection.settimeout(1.5)
        try:
            while True:
                sent += connection.send(piece)
        except TimeoutError:
            return sent

    ends = (tunnel.server, tunnel.client)
    with TcpServer(lambda _: over.wait(PATIENCE)) as stalled, ExitStack() as stack:
        before = [end.memory() for end in ends]
        senders = [stack.enter_context(tunnel.connect(stalled.port)) for _ in range(8)]
        with ThreadPoolExecutor(len(senders)) as pool:
            sent = list(pool.map(push, senders))
        # What the windows and the kernel's buffers hold, and no more.
        assert max(sent) < 40 * MEGABYTE
        grown = [end.memory() - was for end, was in zip(ends, before, strict=True)]
        assert max(grown) < 64 * MEGABYTE, grown
        assert download(tunnel, web, MEGABYTE) == content_digest(MEGABYTE)
        over.set()


def test_one_stream_too_many_is_told_so(make_tunnel: Callable[..., Tunnel]) -> None:
    tunnel = make_tunnel("tcp", server={"max_streams": 4}, client={"early_reply": "never"}).start()
    with TcpServer(lambda connection: connection.recv(1)) as server, ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(tunnel.connect(server.port))
        with pytest.raises(ConnectionError, match="SOCKS5 reply 1"):
            tunnel.connect(server.port)
