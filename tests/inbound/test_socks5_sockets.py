"""The SOCKS inbound with real sockets on loopback: curl, and applications of our own."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator
from ipaddress import IPv4Address
from typing import Any

import pytest
from support.runtime import real_runtime
from support.socks_inbound import HELLO, REQUEST, ScriptedOutbound
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.internet.utils import getProcessOutputAndValue
from twisted.web import resource, server

from phantom.address import Destination
from phantom.errors import Outcome, RelayError
from phantom.inbound.socks5 import Socks5Factory


class ReactorOutbound:
    """Connects straight to where the test says each destination is.

    Attributes:
        asked: The destinations, in order.
    """

    def __init__(self, reactor: Any, port: int) -> None:
        self._reactor = reactor
        self._port = port
        self.asked: list[Destination] = []

    def connect(self, destination: Destination, protocol: Any) -> Deferred[Any]:
        self.asked.append(destination)
        if destination.port != self._port:
            failed: Deferred[Any] = Deferred()
            failed.errback(RelayError(Outcome.REFUSED))
            return failed
        factory = Factory.forProtocol(lambda: protocol)
        factory.noisy = False
        factory.buildProtocol = lambda addr: protocol  # type: ignore[method-assign]
        endpoint = TCP4ClientEndpoint(self._reactor, "127.0.0.1", self._port)
        return endpoint.connect(factory).addCallback(lambda connected: connected.transport)


class Echo(resource.Resource):
    """A page that is what was posted to it."""

    isLeaf = True

    def render_GET(self, request: Any) -> bytes:
        return b"hello from " + request.getHeader(b"host").split(b":")[0]

    def render_POST(self, request: Any) -> bytes:
        return bytes(request.content.read())


class Loopback:
    """A web server and a SOCKS port on loopback."""

    async def start(self, reactor: Any, credentials: dict[str, str] | None = None) -> Loopback:
        site = server.Site(Echo())
        site.noisy = False
        self.web = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(site)
        self.web_port = self.web.getHost().port
        self.outbound = ReactorOutbound(reactor, self.web_port)
        self.factory = Socks5Factory(real_runtime(reactor), self.outbound, credentials)
        endpoint = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
        self.socks = await endpoint.listen(self.factory)
        self.socks_port = self.socks.getHost().port
        return self

    async def stop(self) -> None:
        await self.socks.stopListening()
        await self.web.stopListening()


async def curl(*arguments: str) -> tuple[int, bytes]:
    """Run curl and return its exit status and output."""
    output, _, status = await getProcessOutputAndValue(
        "curl", ["-sS", "--noproxy", "", "--max-time", "10", *arguments], env={}
    )
    return status, output


@pytest.mark.parametrize(
    ("option", "host", "asked"),
    [
        ("--socks5-hostname", "site.example", "site.example"),
        ("--socks5-hostname", "127.0.0.1", IPv4Address("127.0.0.1")),
        ("--socks5", "127.0.0.1", IPv4Address("127.0.0.1")),
        ("--socks4", "127.0.0.1", IPv4Address("127.0.0.1")),
        ("--socks4a", "site.example", "site.example"),
    ],
)
async def test_curl(reactor: Any, option: str, host: str, asked: Any) -> None:
    world = await Loopback().start(reactor)
    try:
        url = f"http://{host}:{world.web_port}/"
        status, output = await curl(option, f"127.0.0.1:{world.socks_port}", url)
        assert (status, output) == (0, b"hello from " + host.encode())
        assert world.outbound.asked == [Destination(asked, world.web_port)]
    finally:
        await world.stop()
    assert not world.factory.waiting


async def test_curl_is_told_of_a_refused_connection(reactor: Any) -> None:
    world = await Loopback().start(reactor)
    try:
        proxy = f"127.0.0.1:{world.socks_port}"
        for option in ("--socks5-hostname", "--socks4a"):
            status, output = await curl(option, proxy, "http://site.example:1/")
            assert (status, output) == (97, b"")  # CURLE_PROXY: an answer, and it was no
    finally:
        await world.stop()


async def test_curl_with_a_password(reactor: Any) -> None:
    world = await Loopback().start(reactor, {"ann": "open sesame"})
    try:
        proxy = f"127.0.0.1:{world.socks_port}"
        url = f"http://site.example:{world.web_port}/"
        socks5 = ("--socks5-hostname", proxy, url)
        assert (await curl("--proxy-user", "ann:open sesame", *socks5))[0] == 0
        assert (await curl("--proxy-user", "ann:open", *socks5))[0] == 97
        assert (await curl(*socks5))[0] == 97
        assert (await curl("--proxy-user", "ann:", "--socks4a", proxy, url))[0] == 97
        assert len(world.outbound.asked) == 1
    finally:
        await world.stop()


async def test_a_large_upload_and_download(reactor: Any, tmp_path: Any) -> None:
    world = await Loopback().start(reactor)
    body = tmp_path / "body"
    body.write_bytes(bytes(range(256)) * (1 << 13))
    try:
        url = f"http://site.example:{world.web_port}/"
        status, output = await curl(
            "--socks5-hostname", f"127.0.0.1:{world.socks_port}", "--data-binary", f"@{body}", url
        )
        assert status == 0
        assert output == body.read_bytes()
    finally:
        await world.stop()


@contextlib.asynccontextmanager
async def application_of(reactor: Any) -> AsyncIterator[tuple[socket.socket, ScriptedOutbound]]:
    """An application's plain socket, connected to an inbound whose outbound is the test's."""
    outbound = ScriptedOutbound()
    factory = Socks5Factory(real_runtime(reactor), outbound)
    port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(factory)
    try:
        yield socket.create_connection(("127.0.0.1", port.getHost().port)), outbound
    finally:
        await port.stopListening()


async def test_a_reset_while_waiting_cancels_the_attempt(reactor: Any) -> None:
    async with application_of(reactor) as (application, outbound):
        application.sendall(HELLO + REQUEST)
        while not outbound.asked:
            await deferLater(reactor, 0.005)
        # A linger time of 0 makes the close a reset.
        application.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        application.close()
        while not outbound.cancelled:
            await deferLater(reactor, 0.005)


async def test_a_refusal_reaches_an_application_that_is_still_sending(reactor: Any) -> None:
    async with application_of(reactor) as (application, outbound):
        application.setblocking(False)
        application.sendall(HELLO + REQUEST)
        while not outbound.asked:
            await deferLater(reactor, 0.005)
        # More than one read, so that some is still in the kernel at the refusal.
        assert application.send(bytes(1 << 19)) > 1 << 17
        await deferLater(reactor, 0.05)
        outbound.fail(RelayError(Outcome.REFUSED))
        await deferLater(reactor, 0.05)
        answer = bytes.fromhex("05 00  05 05 00 01 00000000 0000")
        assert application.recv(100) == answer
        assert application.recv(100) == b""
        # Not a reset behind the FIN, which other kernels let destroy what is unread.
        assert application.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
        application.close()


async def test_pipelined_upload_and_a_half_close_before_the_answer(reactor: Any) -> None:
    """Everything the application sends goes out before the outbound has connected."""

    class Collector(Protocol):
        data = b""

        def dataReceived(self, data: bytes) -> None:
            self.data += data

        def connectionLost(self, reason: Any = None) -> None:
            done.callback(self.data)

    done: Deferred[bytes] = Deferred()
    sink = Factory.forProtocol(Collector)
    sink.noisy = False
    sink_port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(sink)
    try:
        async with application_of(reactor) as (application, outbound):
            application.setblocking(False)
            words = bytes(range(256)) * 256
            assert application.send(HELLO + REQUEST + words) == len(HELLO + REQUEST + words)
            application.shutdown(socket.SHUT_WR)
            await deferLater(reactor, 0.05)
            _, protocol, attempt = outbound.asked[-1]
            port = sink_port.getHost().port
            direct = ReactorOutbound(reactor, port)
            direct.connect(Destination("x", port), protocol).chainDeferred(attempt)
            assert await done == words
            application.close()
    finally:
        await sink_port.stopListening()
