"""The silent drain, the bound on visitors, the PROXY protocol, and the decoy's banner."""

from __future__ import annotations

import shutil
import socket
import ssl
import struct
import subprocess
from ipaddress import ip_network
from typing import Any

import pytest
from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure

from phantom.carriers import decoy, proxy_protocol
from phantom.carriers.decoy import BackendDecoy, H2Decoy, built_in_site
from phantom.carriers.drain import HALF_CLOSED_TIME, SilentDrain
from phantom.carriers.proxy_protocol import HEADER_TIMEOUT, Front, ProxyProtocolFactory
from phantom.carriers.strangers import Strangers
from phantom.carriers.tcp import discard_unread, prepare_link_socket
from phantom.carriers.tls_openssl import ServerCertificates
from phantom.carriers.tls_server import TLSServerFactory
from phantom.core.unsent import MOST_UNSENT
from phantom.layer import Layer
from phantom.relay import relay_pair
from phantom.runtime import Runtime


class Transport(StringTransport):
    protocol: Any = None
    aborted = False

    def __init__(self, host: str = "192.0.2.1") -> None:
        super().__init__(peerAddress=IPv4Address("TCP", host, 1))

    def abortConnection(self) -> None:
        self.aborted = True


class Recorder(Protocol):
    def __init__(self, address: Any = None) -> None:
        self.address = address
        self.received = b""
        self.lost = False
        self.ended: Deferred[None] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Any) -> None:
        self.lost = True
        self.ended.callback(None)


class Recorders(Factory):
    noisy = False

    def __init__(self) -> None:
        self.built: list[Recorder] = []

    def buildProtocol(self, addr: Any) -> Recorder:
        self.built.append(Recorder(addr))
        return self.built[-1]


def test_drain_is_silent_whatever_comes(runtime: Runtime, clock: Clock) -> None:
    drain = SilentDrain(runtime, 10, 10)
    transport = Transport()
    transport.pauseProducing()
    drain(transport, b"something")
    assert transport.producerState == "producing"
    for _ in range(100):
        transport.protocol.dataReceived(b"x" * 1000)
    clock.advance(1e6)
    transport.protocol.readConnectionLost()
    clock.advance(HALF_CLOSED_TIME - 1)
    assert not transport.value() and not transport.disconnecting and not transport.aborted
    clock.advance(1)
    assert transport.disconnecting and not transport.value() and len(drain) == 1
    transport.protocol.connectionLost(Failure(ConnectionDone()))
    assert len(drain) == 0


def test_drain_aborts_the_oldest_when_full(runtime: Runtime) -> None:
    drain = SilentDrain(runtime, 3, 2)
    crowd = [Transport(f"192.0.2.{number}") for number in range(3)]
    others = [Transport(f"198.51.{number}.1") for number in range(2)]
    for transport in crowd + others:
        drain(transport, b"")
    assert [one.aborted for one in crowd + others] == [True, True, False, False, False]
    crowd[0].protocol.connectionLost(Failure(ConnectionLost()))
    assert len(drain) == 3


async def test_silent_on_a_real_socket(reactor: Any, live_runtime: Runtime) -> None:
    drain = SilentDrain(live_runtime, 10, 10)
    transports: list[Any] = []

    class Visitor(Protocol):
        def dataReceived(self, data: bytes) -> None:
            transports.append(self.transport)
            drain(self.transport, data)

    port = reactor.listenTCP(0, Factory.forProtocol(Visitor), interface="127.0.0.1")

    def visit() -> str:
        with socket.create_connection(("127.0.0.1", port.getHost().port)) as one:
            one.sendall(b"hello" * 10_000)
            one.shutdown(socket.SHUT_WR)
            one.settimeout(0.3)
            try:
                return repr(one.recv(1))
            except TimeoutError:
                return "silence"

    assert await deferToThread(visit) == "silence"
    assert len(drain) == 1
    transports[0].abortConnection()
    while len(drain):
        pause: Deferred[None] = Deferred()
        reactor.callLater(0.01, pause.callback, None)
        await pause
    await port.stopListening()


# -- PROXY protocol ---------------------------------------------------------------------

HEADER = b"PROXY TCP4 203.0.113.9 198.51.100.1 50000 443\r\n"


def _connect(factory: Any, host: str = "10.0.0.1") -> tuple[Any, Transport]:
    transport = Transport(host)
    protocol = factory.buildProtocol(IPv4Address("TCP", host, 1))
    protocol.makeConnection(transport)
    return protocol, transport


@pytest.fixture
def recorders() -> Recorders:
    return Recorders()


def test_trusted_header_in_pieces(runtime: Runtime, recorders: Recorders, clock: Clock) -> None:
    factory = ProxyProtocolFactory(runtime, recorders, [ip_network("10.0.0.0/8")])
    protocol, _ = _connect(factory)
    for byte in HEADER:
        protocol.dataReceived(bytes([byte]))
    protocol.dataReceived(b"visitor")
    (inner,) = recorders.built
    assert inner.received == b"visitor"
    assert inner.address.host == "203.0.113.9" and inner.transport.getPeer() == inner.address
    assert inner.transport.getHost().host == "198.51.100.1"
    assert clock.getDelayedCalls() == []
    protocol.connectionLost(Failure(ConnectionDone()))
    assert inner.lost


def test_untrusted_header_is_the_visitors_own_bytes(runtime: Runtime, recorders: Recorders) -> None:
    factory = ProxyProtocolFactory(runtime, recorders, [ip_network("10.0.0.0/8")])
    protocol, _ = _connect(factory, "192.0.2.1")
    protocol.dataReceived(HEADER)
    assert recorders.built[0].received == HEADER
    assert recorders.built[0].address.host == "192.0.2.1"


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n", b"PROXY TCP4 x\r\n"])
def test_trusted_proxy_without_header(runtime: Runtime, recorders: Recorders, data: bytes) -> None:
    factory = ProxyProtocolFactory(runtime, recorders, [ip_network("10.0.0.0/8")])
    protocol, transport = _connect(factory)
    protocol.dataReceived(data)
    assert transport.aborted and not recorders.built
    protocol.connectionLost(Failure(ConnectionLost()))
    assert not runtime.clock.getDelayedCalls()  # type: ignore[attr-defined]


def test_trusted_proxy_that_says_nothing(
    runtime: Runtime, recorders: Recorders, clock: Clock
) -> None:
    factory = ProxyProtocolFactory(runtime, recorders, [ip_network("10.0.0.0/8")])
    _, transport = _connect(factory)
    clock.advance(HEADER_TIMEOUT)
    assert transport.aborted


def test_local_socket(runtime: Runtime, recorders: Recorders) -> None:
    trusting = ProxyProtocolFactory(runtime, recorders, ["unix"])
    assert not isinstance(trusting.buildProtocol(UNIXAddress("/x")), Recorder)
    wary = ProxyProtocolFactory(runtime, recorders, [ip_network("0.0.0.0/0")])
    assert isinstance(wary.buildProtocol(UNIXAddress("/x")), Recorder)


# -- a front that has ended TLS ----------------------------------------------------------

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"


def header(*extensions: tuple[int, bytes]) -> bytes:
    """Return a PROXY header of version 2."""
    body = bytes.fromhex("cb007109 c6336401 c350 01bb")
    for kind, value in extensions:
        body += struct.pack("!BH", kind, len(value)) + value
    return SIGNATURE + b"\x21\x11" + struct.pack("!H", len(body)) + body


def behind_front(runtime: Runtime, recorders: Recorders, **what: Any) -> ProxyProtocolFactory:
    front = Front(**{"alpn": "http/1.1", "h2": True, **what})
    return ProxyProtocolFactory(runtime, recorders, [ip_network("10.0.0.0/8")], front=front)


@pytest.mark.parametrize(
    ("said", "default", "alpn"),
    [
        (HEADER, "http/1.1", "http/1.1"),
        (HEADER, "h2", "h2"),
        (header(), "h2", "h2"),
        (header((1, b"h2")), "http/1.1", "h2"),
        (header((1, b"http/1.1")), "h2", "http/1.1"),
        (header((1, b"http/1.0"), (0x20, b"\x01\x00\x00\x00\x00")), "http/1.1", "http/1.1"),
        (header((1, b"h2")) + b"more", "http/1.1", "h2"),
    ],
)
def test_what_a_front_agreed_to(
    runtime: Runtime, recorders: Recorders, said: bytes, default: str, alpn: str
) -> None:
    factory = behind_front(runtime, recorders, alpn=default)
    protocol, _ = _connect(factory)
    protocol.dataReceived(said)
    (inner,) = recorders.built
    assert inner.transport.alpn == alpn
    assert inner.transport.getPeer().host == "203.0.113.9"


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (header((0x20, b"\x00\x00\x00\x00\x01")), "without TLS"),
        (header((1, b"h2")), "decoy_h2c"),
        (b"GET / HTTP/1.1\r\n", "no PROXY header"),
    ],
)
def test_what_a_front_may_not_say(
    runtime: Runtime,
    recorders: Recorders,
    monkeypatch: pytest.MonkeyPatch,
    said: bytes,
    why: str,
) -> None:
    told: list[str] = []
    monkeypatch.setattr(proxy_protocol.log, "warn", lambda _form, why: told.append(why))
    protocol, transport = _connect(behind_front(runtime, recorders, h2=False))
    protocol.dataReceived(said + b"GET / HTTP/1.1\r\n\r\n")
    assert transport.aborted and not recorders.built
    assert len(told) == 1 and why in told[0]
    protocol.dataReceived(b"and more")
    assert not recorders.built
    assert not runtime.clock.getDelayedCalls()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "address", [IPv4Address("TCP", "192.0.2.1", 1), IPv4Address("TCP", "127.0.0.1", 1), None]
)
def test_others_than_the_front_are_closed(
    runtime: Runtime, recorders: Recorders, address: Any
) -> None:
    assert behind_front(runtime, recorders).buildProtocol(address) is None
    assert not recorders.built


def test_strangers_at_the_door_of_a_front_do_not_fill_the_log(
    runtime: Runtime, recorders: Recorders, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(proxy_protocol.log, "warn", lambda form, **what: told.append(form))
    factory = behind_front(runtime, recorders)
    for _ in range(1000):
        assert factory.buildProtocol(IPv4Address("TCP", "192.0.2.1", 1)) is None
        protocol, _ = _connect(factory)
        protocol.dataReceived(b"GET / HTTP/1.1\r\n\r\n")
        clock.advance(0.01)
    assert 1 <= len(told) <= 20
    clock.advance(3600)
    told.clear()
    factory.buildProtocol(IPv4Address("TCP", "192.0.2.1", 1))
    assert len(told) == 1


async def test_a_web_server_that_is_down_does_not_fill_the_log(
    runtime: Runtime, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every hello asks for it anew."""
    told: list[str] = []
    monkeypatch.setattr(decoy.log, "warn", lambda text, **_figures: told.append(text))
    for host in (
        BackendDecoy(runtime, "127.0.0.1", 1, relay_pair),
        H2Decoy(runtime, "127.0.0.1", 1, relay_pair),
    ):
        told.clear()
        monkeypatch.setattr(host._endpoint, "connect", lambda _factory: fail(OSError()))
        for _ in range(1000):
            host.expect(Transport("192.0.2.1"), None).release()
            clock.advance(0.01)
        assert 1 <= len(told) <= 3, host


# -- bounds and sockets -----------------------------------------------------------------


def test_handshakes_are_bounded(runtime: Runtime, certificate: Any, clock: Clock) -> None:
    strangers = Strangers(2, 2)
    factory = TLSServerFactory(
        runtime,
        ServerCertificates(certificate[0], certificate[1]),
        Recorders(),
        strangers=strangers,
    )
    visitors = [_connect(factory, f"192.0.{number}.1") for number in range(3)]
    assert [transport.aborted for _, transport in visitors] == [True, False, False]
    for protocol, _ in visitors:
        protocol.connectionLost(Failure(ConnectionLost()))
    assert len(strangers) == 0 and clock.getDelayedCalls() == []


class Ready:
    """What is ready for a visitor, and whether it was let go."""

    def __init__(self, layer: Any, alpn: str | None) -> None:
        self.layer, self.alpn, self.released = layer, alpn, 0

    def release(self) -> None:
        self.released += 1


@pytest.mark.parametrize("end", ["gone", "late", "garbage", "up"])
def test_the_web_server_is_readied_when_a_hello_is_answered(
    runtime: Runtime, certificate: Any, clock: Clock, end: str
) -> None:
    made: list[Ready] = []

    def early(layer: Any, alpn: str | None) -> Any:
        made.append(Ready(layer, alpn))
        return made[-1]

    certificates = ServerCertificates(certificate[0], certificate[1], ("h2", "http/1.1"))
    factory = TLSServerFactory(runtime, certificates, Recorders(), early=early)
    protocol, transport = _connect(factory)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(back, there, server_hostname="server.test")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    hello = there.read()
    protocol.dataReceived(hello[:50])
    assert not made
    protocol.dataReceived(hello[50:])
    [ready] = made
    assert (ready.alpn, ready.released, protocol.expected) == ("h2", 0, ready)
    if end == "gone":
        protocol.connectionLost(Failure(ConnectionLost()))
    elif end == "late":
        clock.advance(60)
    elif end == "garbage":
        protocol.dataReceived(b"\xff" * 100)
    else:
        back.write(transport.value())
        client.do_handshake()
        protocol.dataReceived(there.read())
        assert protocol.alpn == "h2"  # and as nobody has taken what was ready, it is let go
    assert ready.released == 1 and protocol.expected is None and len(made) == 1
    protocol.connectionLost(Failure(ConnectionLost()))
    assert ready.released == 1


async def test_link_sockets_are_prepared(reactor: Any) -> None:
    recorders = Recorders()
    port = reactor.listenTCP(0, recorders, interface="127.0.0.1")
    from twisted.internet.endpoints import TCP4ClientEndpoint

    endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port)
    client = await endpoint.connect(Recorders())
    layer = Layer(Recorder())
    layer.transport = client.transport
    prepare_link_socket(layer)
    handle = client.transport.getHandle()
    assert handle.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert handle.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        low_water = handle.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT)
        assert low_water == MOST_UNSENT
    prepare_link_socket(StringTransport())  # left alone
    transport = client.transport
    transport.loseConnection()
    await client.ended
    await recorders.built[0].ended
    prepare_link_socket(transport)  # nothing left to prepare
    discard_unread(transport)
    await port.stopListening()


async def test_backend_gets_every_byte_and_gives_its_name(
    reactor: Any, live_runtime: Runtime
) -> None:
    heard: list[bytes] = []

    class Backend(Protocol):
        def dataReceived(self, data: bytes) -> None:
            heard.append(data)
            self.transport.write(b"HTTP/1.1 200 OK\r\nServer: Caddy\r\n\r\n")
            if data.startswith(b"HEAD"):
                self.transport.loseConnection()

    backend = reactor.listenTCP(0, Factory.forProtocol(Backend), interface="127.0.0.1")
    decoy = BackendDecoy(live_runtime, "127.0.0.1", backend.getHost().port, relay_pair)

    class Visitor(Protocol):
        def dataReceived(self, data: bytes) -> None:
            decoy(self.transport, b"\x00already read\xff" + data)

    port = reactor.listenTCP(0, Factory.forProtocol(Visitor), interface="127.0.0.1")
    from twisted.internet.endpoints import TCP4ClientEndpoint

    endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port)
    client = await endpoint.connect(Recorders())
    client.transport.write(b"visitor")
    for _ in range(200):
        if client.received and decoy.banner == "Caddy":
            break
        pause: Deferred[None] = Deferred()
        reactor.callLater(0.01, pause.callback, None)
        await pause
    assert b"\x00already read\xffvisitor" in heard
    assert client.received.startswith(b"HTTP/1.1 200 OK") and decoy.banner == "Caddy"
    client.transport.loseConnection()
    await client.ended
    await port.stopListening()
    await backend.stopListening()


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
async def test_curl_sees_a_site(reactor: Any, live_runtime: Runtime, certificate: Any) -> None:
    policy = built_in_site(live_runtime, b"seed")

    class Visitor(Protocol):
        def dataReceived(self, data: bytes) -> None:
            policy(self.transport, data)

    factory = TLSServerFactory(
        live_runtime,
        ServerCertificates(certificate[0], certificate[1]),
        Factory.forProtocol(Visitor),
    )
    port = reactor.listenTCP(0, factory, interface="127.0.0.1")
    base = f"https://127.0.0.1:{port.getHost().port}"

    def curl() -> str:
        command = ["curl", "-sSik", "--noproxy", "*", f"{base}/", f"{base}/style.css"]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=10, check=True
        ).stdout

    text = await deferToThread(curl)
    assert text.count("HTTP/1.1 200 OK") == 2 and "<h1>" in text and "text/css" in text
    await port.stopListening()
