"""The HTTP inbound with real sockets on loopback: curl, Twisted's web server, rude origins."""

from __future__ import annotations

import shutil
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from support.runtime import real_runtime
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import CertificateOptions
from twisted.internet.task import deferLater
from twisted.internet.utils import getProcessOutputAndValue
from twisted.python.failure import Failure
from twisted.web import resource, server

from phantom.address import Destination
from phantom.errors import Outcome, RelayError
from phantom.inbound.http import HttpProxyFactory

CURL = shutil.which("curl") or "curl"
MEGABYTE = 1_000_000


class _Given(Factory[Any]):
    """Connects one protocol that is there already."""

    noisy = False

    def __init__(self, protocol: Any) -> None:
        self._protocol = protocol

    def buildProtocol(self, addr: Any) -> Any:
        return self._protocol


class LoopbackOutbound:
    """Connects every name to 127.0.0.1."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self.connections = 0

    def connect(self, destination: Destination, protocol: Any) -> Deferred[Any]:
        self.connections += 1
        attempt = TCP4ClientEndpoint(self._reactor, "127.0.0.1", destination.port).connect(
            _Given(protocol)
        )
        return attempt.addCallbacks(
            lambda _: protocol.transport, lambda _: Failure(RelayError(Outcome.REFUSED))
        )


class Site(resource.Resource):
    """Tells what it was asked."""

    isLeaf = True

    def render_GET(self, request: Any) -> bytes:
        if request.path == b"/large":
            return bytes(MEGABYTE)
        fields = request.requestHeaders.getAllRawHeaders()
        names = b",".join(sorted(name.lower() for name, _ in fields))
        return b"%s %s %s" % (request.method, request.uri, names)

    def render_POST(self, request: Any) -> bytes:
        return b"%d" % len(request.content.read())


class Rude(Protocol):
    """Answers the first octets with a script, and ends as it says."""

    script = b""
    end = "close"

    def dataReceived(self, data: bytes) -> None:
        transport: Any = self.transport
        transport.write(self.script)
        if self.end == "close":
            transport.loseConnection()


class Echo(Protocol):
    """Agrees to any upgrade, then echoes."""

    _switched = False

    def dataReceived(self, data: bytes) -> None:
        transport: Any = self.transport
        if not self._switched:
            self._switched = True
            assert b"\r\nUpgrade: websocket\r\n" in data
            transport.write(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                b"Connection: Upgrade\r\n\r\n"
            )
            data = data.partition(b"\r\n\r\n")[2]
        transport.write(data)


class Talker(Protocol):
    """A client that says one thing and keeps what it hears."""

    def __init__(self, words: bytes, enough: bytes) -> None:
        self._words = words
        self._enough = enough
        self.heard = b""
        self.done: Deferred[bytes] = Deferred()
        self.lost: Deferred[Failure] = Deferred()

    def connectionMade(self) -> None:
        transport: Any = self.transport
        transport.write(self._words)

    def dataReceived(self, data: bytes) -> None:
        self.heard += data
        if self._enough and self.heard.endswith(self._enough) and not self.done.called:
            self.done.callback(self.heard)

    def connectionLost(self, reason: Any = None) -> None:
        self.lost.callback(reason.type)


class Net:
    """A proxy on loopback, and whatever a test puts beside it."""

    def __init__(self, reactor: Any) -> None:
        self.reactor = reactor
        self.outbound = LoopbackOutbound(reactor)
        self._ports: list[Any] = []

    async def listen(self, factory: Any, interface: str = "127.0.0.1") -> int:
        port = await TCP4ServerEndpoint(self.reactor, 0, interface=interface).listen(factory)
        self._ports.append(port)
        return int(port.getHost().port)

    async def proxy(self, **options: Any) -> int:
        self.factory = HttpProxyFactory(real_runtime(self.reactor), self.outbound, **options)
        return await self.listen(self.factory)

    async def site(self) -> int:
        site = server.Site(Site())
        site.noisy = False
        return await self.listen(site)

    async def rude(self, script: bytes, end: str = "close") -> int:
        kind = type("Scripted", (Rude,), {"script": script, "end": end})
        return await self.listen(_quiet(kind))

    async def curl(self, proxy: int, *options: str) -> tuple[bytes, int]:
        """Return curl's output and exit status."""
        out, _, status = await getProcessOutputAndValue(
            CURL, ("-sS", "-q", "-m", "20", "-x", f"http://127.0.0.1:{proxy}", *options), env={}
        )
        return out, status

    async def talk(self, port: int, words: bytes, enough: bytes) -> Talker:
        talker = Talker(words, enough)
        await TCP4ClientEndpoint(self.reactor, "127.0.0.1", port).connect(_Given(talker))
        return talker

    async def settle(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition` holds; the test's time limit ends it otherwise."""
        while not condition():
            await deferLater(self.reactor, 0.01)

    async def close(self) -> None:
        self.factory.abort_waiting()
        await self.settle(lambda: not self.factory.waiting and not self.factory.relayed)
        for port in self._ports:
            await port.stopListening()


def _quiet(protocol: Any) -> Factory[Any]:
    factory: Factory[Any] = Factory.forProtocol(protocol)
    factory.noisy = False
    return factory


@pytest_twisted.async_yield_fixture
async def net(reactor: Any) -> AsyncIterator[Net]:
    made = Net(reactor)
    yield made
    await made.close()


async def test_curl_gets_two_urls_over_one_connection(net: Net) -> None:
    proxy, site = await net.proxy(), await net.site()
    out, status = await net.curl(
        proxy,
        f"http://one.test:{site}/a?b",
        f"http://one.test:{site}/c",
        "-w",
        "|%{num_connects}|",
    )
    assert out == b"GET /a?b accept,host,user-agent|1|GET /c accept,host,user-agent|0|"
    assert status == 0
    assert net.outbound.connections == 1


async def test_keep_alive_goes_on_across_origins(net: Net) -> None:
    proxy, one, two = await net.proxy(), await net.site(), await net.site()
    out, _ = await net.curl(
        proxy, f"http://a.test:{one}/", f"http://b.test:{two}/", "-w", "|%{num_connects}|"
    )
    assert out.endswith(b"|0|")
    assert net.outbound.connections == 2


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("-H", "Transfer-Encoding: chunked"),
        ("-H", "Expect: 100-continue"),
        ("-H", "Transfer-Encoding: chunked", "-H", "Expect: 100-continue"),
        ("--http1.0",),
    ],
)
async def test_curl_uploads_a_megabyte(net: Net, tmp_path: Path, options: tuple[str, ...]) -> None:
    proxy, site = await net.proxy(), await net.site()
    (tmp_path / "body").write_bytes(bytes(MEGABYTE))
    body = f"@{tmp_path / 'body'}"
    url = f"http://a.test:{site}/"
    out, status = await net.curl(proxy, *options, "--data-binary", body, url)
    assert (out, status) == (b"%d" % MEGABYTE, 0)


@pytest.mark.parametrize("options", [(), ("--http1.0",), ("-p",), ("-p", "--http1.0")])
async def test_curl_downloads_a_megabyte(net: Net, options: tuple[str, ...]) -> None:
    proxy, site = await net.proxy(), await net.site()
    out, status = await net.curl(proxy, *options, f"http://a.test:{site}/large")
    assert (len(out), status) == (MEGABYTE, 0)


async def test_curl_asks_for_the_head_only(net: Net) -> None:
    proxy, site = await net.proxy(), await net.site()
    out, status = await net.curl(proxy, "-I", f"http://a.test:{site}/large")
    assert out.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"Content-Length: %d\r\n" % MEGABYTE in out
    assert b"via" not in out.lower()
    assert status == 0


async def test_curl_reaches_a_tls_server_through_connect(net: Net) -> None:
    options = CertificateOptions(*_certificate())
    site = server.Site(Site())
    site.noisy = False
    port = net.reactor.listenSSL(0, site, options, interface="127.0.0.1")
    net._ports.append(port)
    proxy = await net.proxy()
    out, status = await net.curl(proxy, "-k", f"https://a.test:{port.getHost().port}/large")
    assert (len(out), status) == (MEGABYTE, 0)


def _certificate() -> tuple[Any, Any]:
    """Return a key and a certificate that vouches for itself, as pyOpenSSL takes them."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a.test")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    return key, certificate


async def test_curl_gives_a_password(net: Net) -> None:
    proxy, site = await net.proxy(credentials={"me": "s:x"}), await net.site()
    url = f"http://a.test:{site}/"
    code = ("-o", "/dev/null", "-w", "%{http_code} %{http_connect}")
    assert (await net.curl(proxy, url, *code))[0] == b"407 000"
    assert (await net.curl(proxy, url, *code, "-U", "me:wrong"))[0] == b"407 000"
    assert (await net.curl(proxy, url, *code, "-U", "me:s:x"))[0] == b"200 000"
    assert (await net.curl(proxy, url, *code, "-U", "me:s:x", "-p"))[0] == b"200 200"
    # Asked first, over the connection that the 407 has left open.
    out, _ = await net.curl(
        proxy,
        url,
        *code[:2],
        "-w",
        "%{http_code} %{num_connects}",
        "-U",
        "me:s:x",
        "--proxy-anyauth",
    )
    assert out == b"200 1"


async def test_curl_hears_of_a_refused_connection(net: Net) -> None:
    proxy = await net.proxy()
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        out, status = await net.curl(proxy, f"http://a.test:{port}/", "-w", "%{http_code}")
        assert b"refused the connection" in out
        assert out.endswith(b"502")
        assert status == 0
        _, status = await net.curl(proxy, "-p", f"http://a.test:{port}/")
        assert status == 56  # curl: the tunnel could not be opened


@pytest.mark.parametrize(
    ("script", "end", "status"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi", "close", 56),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n", "close", 56),
        (b"HTTP/1.0 200 OK\r\n\r\nhi", "close", 0),
        # Complete: what becomes of the connection is no matter.
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "stay", 0),
    ],
)
async def test_curl_notices_what_was_cut_short(
    net: Net, script: bytes, end: str, status: int
) -> None:
    proxy, rude = await net.proxy(), await net.rude(script, end)
    out, got = await net.curl(proxy, f"http://a.test:{rude}/")
    assert got == status
    assert status or out == b"hi"


@pytest.mark.parametrize(
    "script",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nhi",
        b"HTTP/1.1 200 OK\nContent-Length: 2\n\nhi",
        b"",
        b"\xff" * 70000,
    ],
)
async def test_curl_gets_502_for_what_is_no_response(net: Net, script: bytes) -> None:
    proxy, rude = await net.proxy(), await net.rude(script)
    out, status = await net.curl(proxy, f"http://a.test:{rude}/", "-w", "%{http_code}")
    assert out.endswith(b"502")
    assert status == 0


async def test_an_early_refusal_reaches_a_client_that_is_still_sending(
    net: Net, tmp_path: Path
) -> None:
    answer = b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nno\n"
    proxy, rude = await net.proxy(), await net.rude(answer, "stay")
    (tmp_path / "body").write_bytes(bytes(20 * MEGABYTE))
    out, _ = await net.curl(
        proxy,
        *("-H", "Expect:", "--data-binary", f"@{tmp_path / 'body'}"),
        *(f"http://a.test:{rude}/", "-w", "%{http_code}"),
    )
    assert out == b"no\n413"


async def test_a_websocket_is_joined(net: Net) -> None:
    proxy, echo = await net.proxy(), await net.listen(_quiet(Echo))
    head = (
        f"GET http://a.test:{echo}/chat HTTP/1.1\r\nHost: a.test\r\n"
        "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n"
    )
    talker = await net.talk(proxy, head.encode() + b"early", b"early")
    heard = await talker.done
    assert heard.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
    talker.done = Deferred()
    talker._enough = b"the end"
    transport: Any = talker.transport
    transport.write(bytes(MEGABYTE) + b"the end")
    assert len(await talker.done) == len(heard) + MEGABYTE + len(b"the end")
    transport.loseConnection()
    assert await talker.lost is ConnectionDone
    await net.settle(lambda: not net.factory.relayed)


async def test_a_slow_reader_stops_the_origin(net: Net) -> None:
    written = 0

    class Fountain(Protocol):
        """Writes for as long as it is let."""

        def dataReceived(self, data: bytes) -> None:
            transport: Any = self.transport
            transport.write(b"HTTP/1.1 200 OK\r\n\r\n")
            transport.registerProducer(self, False)

        def resumeProducing(self) -> None:
            nonlocal written
            written += 65536
            transport: Any = self.transport
            transport.write(bytes(65536))

        def stopProducing(self) -> None:
            pass

    proxy, fountain = await net.proxy(), await net.listen(_quiet(Fountain))
    request = f"GET http://a.test:{fountain}/ HTTP/1.1\r\nHost: a.test\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", proxy)) as client:
        client.sendall(request)
        before = -1
        while before != written or not written:
            before = written
            await deferLater(net.reactor, 0.3)
        # The kernel's buffers on both hops, and little else.
        assert written < 64 * MEGABYTE
    await net.settle(lambda: not net.factory.waiting)


async def test_a_tls_client_on_the_plain_port_is_told(net: Net) -> None:
    proxy = await net.proxy()
    hello = ssl.MemoryBIO()
    session = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), hello, server_hostname="a")
    with pytest.raises(ssl.SSLWantReadError):
        session.do_handshake()
    talker = await net.talk(proxy, hello.read(), b"</html>\n")
    assert (await talker.done).startswith(b"HTTP/1.1 400 ")
    transport: Any = talker.transport
    transport.loseConnection()
    await talker.lost
