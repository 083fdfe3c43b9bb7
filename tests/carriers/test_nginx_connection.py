"""Times and closes of the nginx-like server, and its sites, over a memory transport."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet.error import ConnectionLost
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock, deferLater
from twisted.internet.testing import StringTransport
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure

from phantom.carriers.decoy import FolderDecoy, built_in_site
from phantom.carriers.nginx_site import (
    HEADER_TIMEOUT,
    KEEPALIVE_TIMEOUT,
    LINGERING_TIMEOUT,
    MOST_UNREAD,
    SEND_TIMEOUT,
)
from phantom.carriers.tcp import unsent
from phantom.runtime import Runtime

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


class Transport(StringTransport):
    """A StringTransport that half-closes and knows its protocol."""

    protocol: Any = None
    half_closed = False
    aborted = False

    def loseWriteConnection(self) -> None:
        self.half_closed = True

    def abortConnection(self) -> None:
        self.aborted = True

    def lose(self) -> None:
        self.protocol.connectionLost(Failure(ConnectionLost()))


def _visit(policy: Any, received: bytes = b"") -> Transport:
    transport = Transport()
    policy(transport, received)
    return transport


def _served(policy: Any, clock: Clock) -> Transport:
    """Visit, and take the page as a transport does that drains at once."""
    transport = _visit(policy, GET)
    assert transport.producer is not None
    transport.producer.resumeProducing()
    clock.advance(0)
    assert transport.producer is None
    return transport


@pytest.fixture
def policy(runtime: Runtime) -> Any:
    return built_in_site(runtime, b"one server")


def test_keepalive_and_header_timeouts(policy: Any, clock: Clock) -> None:
    transport = _served(policy, clock)
    assert transport.value().startswith(b"HTTP/1.1 200 OK\r\nServer: nginx/")
    clock.advance(KEEPALIVE_TIMEOUT - 1)
    transport.clear()
    transport.protocol.dataReceived(GET[:10])
    clock.advance(HEADER_TIMEOUT - 1)
    transport.protocol.dataReceived(GET[10:20])
    assert not transport.disconnecting
    clock.advance(1)
    assert transport.disconnecting and not transport.value()
    transport.lose()
    assert clock.getDelayedCalls() == []


def test_idle_connection_closes(policy: Any, clock: Clock) -> None:
    transport = _served(policy, clock)
    clock.advance(KEEPALIVE_TIMEOUT)
    assert transport.disconnecting


def test_half_request_times_out_without_a_word(policy: Any, clock: Clock) -> None:
    transport = _visit(policy, b"GET / HT")
    clock.advance(HEADER_TIMEOUT)
    assert transport.disconnecting and transport.value() == b""


def test_end_of_input_closes(policy: Any) -> None:
    transport = _visit(policy, b"GET / HT")
    transport.protocol.readConnectionLost()
    assert transport.disconnecting and transport.value() == b""


def test_lingering_reads_on(policy: Any, clock: Clock) -> None:
    transport = _visit(policy, b"bad" + b"x" * 5000)
    assert transport.half_closed and not transport.disconnecting
    for _ in range(5):
        clock.advance(LINGERING_TIMEOUT - 1)
        transport.protocol.dataReceived(b"more")
    assert not transport.disconnecting
    clock.advance(LINGERING_TIMEOUT)
    transport.protocol.dataReceived(b"more")
    clock.advance(LINGERING_TIMEOUT)
    assert transport.disconnecting


def test_pipelined_requests_are_all_answered(policy: Any, clock: Clock) -> None:
    transport = _visit(policy, GET * 3)
    clock.advance(0)
    for _ in range(20):
        if transport.producer is not None:
            transport.producer.resumeProducing()
        clock.advance(0)
    assert transport.value().count(b"HTTP/1.1 200 OK") == 3


def test_a_stalled_download_is_cut(runtime: Runtime, clock: Clock, tmp_path: Path) -> None:
    (tmp_path / "big.bin").write_bytes(bytes(1_000_000))
    transport = _visit(
        FolderDecoy(runtime, str(tmp_path)), b"GET /big.bin HTTP/1.1\r\nHost: x\r\n\r\n"
    )
    assert transport.producer is not None and not transport.streaming
    transport.producer.resumeProducing()
    sent = len(transport.value())
    assert sent < 200_000, "only what the transport asked for"
    clock.advance(SEND_TIMEOUT)
    assert transport.aborted
    transport.lose()


def test_folder_keeps_to_itself(runtime: Runtime, tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "site").mkdir()
    os.mkfifo(tmp_path / "site" / "pipe")
    policy = FolderDecoy(runtime, str(tmp_path / "site"))
    for path in (b"/../secret", b"/%2e%2e/secret", b"//..//secret", b"/pipe", b"/.", b"/x\\..\\y"):
        transport = _visit(policy, b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n\r\n")
        status = transport.value().split(b" ")[1]
        assert status in (b"400", b"403", b"404"), path
        transport.lose()


def test_built_in_sites_differ_but_each_stays_the_same(runtime: Runtime) -> None:
    def page(seed: bytes) -> bytes:
        transport = _visit(built_in_site(runtime, seed), GET)
        for _ in range(3):
            if transport.producer is not None:
                transport.producer.resumeProducing()
        transport.lose()
        return bytes(transport.value())

    pages = {page(b"seed %d" % number) for number in range(50)}
    assert len(pages) == 50
    assert page(b"seed 1") == page(b"seed 1")
    assert all(b"phantom" not in one.lower() for one in pages)


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=80),
            st.sampled_from(
                [
                    GET,
                    b"GET ",
                    b"/",
                    b" HTTP/1.1\r\n",
                    b"Host: x\r\n",
                    b"\r\n",
                    b"Content-Length: 9\r\n",
                    b"Transfer-Encoding: chunked\r\n",
                    b"POST ",
                ]
            ),
        ),
        max_size=12,
    )
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_visitors_never_break_it(policy: Any, clock: Clock, pieces: list[bytes]) -> None:
    transport = _visit(policy)
    for piece in pieces:
        transport.protocol.dataReceived(piece)
        clock.advance(0)
    transport.protocol.readConnectionLost()
    transport.lose()
    clock.advance(0)
    assert clock.getDelayedCalls() == []


async def test_answers_that_nobody_reads_do_not_pile_up(reactor: Any, live_runtime: Any) -> None:
    policy = built_in_site(live_runtime, b"one server")
    made: list[Any] = []

    class Visitor(Protocol):
        def connectionMade(self) -> None:
            made.append(self.transport)

        def dataReceived(self, data: bytes) -> None:
            policy(self.transport, data)

    factory: Any = Factory.forProtocol(Visitor)
    port = reactor.listenTCP(0, factory, interface="127.0.0.1")
    port.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
    count = 500

    def read_all(near: socket.socket) -> bytes:
        data = b""
        while data.count(b"HTTP/1.1 200 OK\r\n") < count or not data.endswith(b"</html>\n"):
            received = near.recv(1 << 20)
            assert received, "closed before everything was answered"
            data += received
        return data

    try:
        with socket.socket() as near:
            near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            near.connect(("127.0.0.1", port.getHost().port))
            near.settimeout(10)
            near.send(GET)
            while not made:
                await deferLater(reactor, 0.01)
            near.sendall(GET * (count - 1))
            most = 0
            for _ in range(50):
                await deferLater(reactor, 0.01)
                most = max(most, unsent(made[0]))
            assert 0 < most <= MOST_UNREAD + 8192
            data = await deferToThread(read_all, near)
            assert data.count(b"HTTP/1.1 200 OK\r\n") == count
            # It waits for more, as after any request.
            near.sendall(GET)
            assert await deferToThread(near.recv, 1 << 16)
            made[0].abortConnection()
    finally:
        await port.stopListening()
