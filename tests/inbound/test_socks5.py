"""The SOCKS inbound: in memory against a fake outbound, then real clients on loopback."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.runtime import fake_runtime, real_runtime
from support.transports import ByteTransport
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock, deferLater
from twisted.internet.utils import getProcessOutputAndValue
from twisted.logger import globalLogPublisher
from twisted.web import resource, server

from phantom.address import Destination
from phantom.errors import EXPLANATIONS, Outcome, RelayError
from phantom.inbound.socks5 import LINGER, MAX_EARLY_DATA, Socks5Factory

HELLO = b"\x05\x01\x00"
REQUEST = b"\x05\x01\x00\x03\x09a.example\x01\xbb"
REQUEST_4A = b"\x04\x01\x01\xbb\x00\x00\x00\x01me\x00a.example\x00"
DESTINATION = Destination("a.example", 443)
CONNECTED_5 = bytes.fromhex("05 00 00 01 00000000 0000")


class ScriptedOutbound:
    """An outbound whose attempts the test decides.

    Attributes:
        asked: Destination, far protocol and Deferred of each attempt.
        cancelled: How many attempts were given up.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[Destination, Any, Deferred[Any]]] = []
        self.cancelled = 0

    def connect(self, destination: Destination, protocol: Any) -> Deferred[Any]:
        def cancel(attempt: Deferred[Any]) -> None:
            self.cancelled += 1
            attempt.errback(RelayError(Outcome.CANCELLED))

        attempt: Deferred[Any] = Deferred(cancel)
        self.asked.append((destination, protocol, attempt))
        return attempt

    def succeed(self) -> ByteTransport:
        """Let the latest attempt connect."""
        _, protocol, attempt = self.asked[-1]
        transport = ByteTransport(protocol).connect()
        attempt.callback(transport)
        return transport

    def fail(self, error: Exception) -> None:
        self.asked[-1][2].errback(error)


class ImmediateOutbound(ScriptedOutbound):
    """An outbound that is connected before `connect` returns."""

    def __init__(self) -> None:
        super().__init__()
        self.far: Any = None

    def connect(self, destination: Destination, protocol: Any) -> Deferred[Any]:
        attempt = super().connect(destination, protocol)
        self.far = self.succeed()
        return attempt


class World:
    """One application on one port."""

    def __init__(
        self,
        outbound: ScriptedOutbound | None = None,
        credentials: dict[str, str] | None = None,
        **options: Any,
    ) -> None:
        self.clock = Clock()
        self.outbound = outbound if outbound is not None else ScriptedOutbound()
        self.factory = Socks5Factory(
            fake_runtime(self.clock), self.outbound, credentials, greeting_timeout=10.0, **options
        )
        self.app = self.accept()

    def accept(self) -> ByteTransport:
        protocol = self.factory.buildProtocol(None)
        assert protocol is not None
        return ByteTransport(protocol).connect()

    def nothing_left(self) -> bool:
        return not self.clock.getDelayedCalls() and not self.factory.waiting


def waiting_world(**options: Any) -> World:
    """Return a world whose application waits for the outbound."""
    world = World(**options)
    world.app.deliver(HELLO)
    assert world.app.take() == b"\x05\x00"
    world.app.deliver(REQUEST)
    assert world.outbound.asked[-1][0] == DESTINATION
    assert world.app.take() == b""
    return world


def logged(record: list[dict[str, Any]]) -> str:
    return "\n".join(
        str(event.get("log_format", "")).format_map({k: str(v) for k, v in event.items()})
        for event in record
    )


@pytest.fixture
def log_record() -> Any:
    record: list[dict[str, Any]] = []
    globalLogPublisher.addObserver(record.append)
    yield record
    globalLogPublisher.removeObserver(record.append)


# -- connecting ---------------------------------------------------------------------------


def test_answers_only_when_connected_and_then_relays_both_ways() -> None:
    world = waiting_world()
    far = world.outbound.succeed()
    assert world.app.take() == CONNECTED_5
    world.app.deliver(b"ping")
    far.deliver(b"pong")
    assert (far.take(), world.app.take()) == (b"ping", b"pong")
    assert world.app.no_delay
    assert world.nothing_left()


def test_an_outbound_that_is_connected_at_once() -> None:
    outbound = ImmediateOutbound()
    world = World(outbound)
    world.app.deliver(HELLO + REQUEST + b"early")
    assert world.app.take() == b"\x05\x00" + CONNECTED_5
    assert outbound.far.take() == b"early"
    world.app.deliver(b" later")
    assert outbound.far.take() == b" later"


def test_socks4a_is_answered_in_its_own_words() -> None:
    world = World()
    world.app.deliver(REQUEST_4A)
    assert world.outbound.asked[-1][0] == DESTINATION
    world.outbound.succeed()
    assert world.app.take() == b"\x00\x5a" + bytes(6)

    world = World()
    world.app.deliver(REQUEST_4A)
    world.outbound.fail(RelayError(Outcome.FORBIDDEN))
    assert world.app.take() == b"\x00\x5b" + bytes(6)
    assert world.app.disconnecting


@given(st.lists(st.integers(0, 60), max_size=12), st.integers(0, 12))
@settings(max_examples=60)
def test_every_chunking_relays_the_same(places: list[int], connect_after: int) -> None:
    data = HELLO + REQUEST + b"first words of the application"
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    world = World()
    far: ByteTransport | None = None
    for number, (start, end) in enumerate(pairwise(edges)):
        if end > start:
            world.app.deliver(data[start:end])
        if far is None and world.outbound.asked and number >= connect_after:
            far = world.outbound.succeed()
    world.app.end()
    if far is None:
        far = world.outbound.succeed()
    assert world.app.take() == b"\x05\x00" + CONNECTED_5
    assert far.take() == b"first words of the application"
    far.flush()
    assert far.write_closed


def test_early_data_stops_the_reading_and_arrives_in_order() -> None:
    world = waiting_world()
    assert world.app.reading
    world.app.deliver(b"one ")
    assert not world.app.reading
    world.app.deliver(b"two ")  # stays in the kernel
    far = world.outbound.succeed()
    assert world.app.reading
    world.app.deliver(b"three")
    assert far.take() == b"one two three"


def test_a_congested_destination_keeps_the_application_paused() -> None:
    world = waiting_world()
    world.app.deliver(b"early")
    _, far_protocol, attempt = world.outbound.asked[-1]
    far = ByteTransport(far_protocol).connect()
    far.congest()
    attempt.callback(far)
    assert not world.app.reading
    far.relieve()
    assert world.app.reading


def test_a_transport_that_will_not_pause_is_cut_off() -> None:
    world = waiting_world()
    piece = bytes(1 << 18)
    for _ in range(MAX_EARLY_DATA // len(piece)):
        world.app.protocol.dataReceived(piece)
    assert not world.app.aborted
    world.app.protocol.dataReceived(b"x")
    assert world.app.aborted
    world.app.flush()
    assert world.outbound.cancelled == 1


# -- half-close and the end -----------------------------------------------------------------


@pytest.mark.parametrize("early", [b"", b"all I have to say"])
def test_a_half_close_while_waiting_reaches_the_destination(early: bytes) -> None:
    world = waiting_world()
    if early:
        world.app.deliver(early)
    world.app.end()
    assert not world.app.disconnecting
    assert world.outbound.cancelled == 0
    far = world.outbound.succeed()
    assert far.take() == early
    assert far.write_closed
    far.deliver(b"answer")
    assert world.app.take() == CONNECTED_5 + b"answer"
    far.end()
    world.app.flush()
    far.flush()
    assert not world.app.connected
    assert not far.connected
    assert not far.aborted
    assert world.factory.relayed == 0


class OnceTransport(ByteTransport):
    """Tells of the peer's half-close once; a kernel tells again whoever goes on reading."""

    def end(self) -> None:
        super().end()
        assert not self.reading
        self._ending = False


def test_a_half_close_is_passed_on_even_by_a_transport_that_tells_it_once() -> None:
    world = World()
    world.app = OnceTransport(world.factory.buildProtocol(None)).connect()
    world.app.deliver(HELLO + REQUEST)
    world.app.end()
    far = world.outbound.succeed()
    assert far.write_closed
    assert not far.disconnecting


@pytest.mark.parametrize("sent", [b"", HELLO, HELLO + REQUEST[:-1], REQUEST_4A[:-1]])
def test_a_half_close_before_the_request_is_complete_ends_it(sent: bytes) -> None:
    world = World()
    if sent:
        world.app.deliver(sent)
    world.app.end()
    world.app.flush()
    assert not world.app.connected
    assert world.outbound.asked == []
    assert world.nothing_left()


def test_an_application_that_goes_away_cancels_the_attempt() -> None:
    world = waiting_world()
    world.app.lose(ConnectionLost())
    assert world.outbound.cancelled == 1
    assert world.app.take() == b""
    assert world.nothing_left()


def test_a_connection_made_in_spite_of_the_cancelling_is_aborted() -> None:
    world = World()
    attempt: Deferred[Any] = Deferred(lambda attempt: attempt.callback(far))
    far = ByteTransport(Protocol()).connect()
    world.outbound.connect = lambda destination, protocol: attempt  # type: ignore[method-assign]
    world.app.deliver(HELLO + REQUEST)
    world.app.lose(ConnectionDone())
    assert far.aborted


# -- failures -------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", [o for o in Outcome if o is not Outcome.CONNECTED])
def test_every_failure_has_its_true_code(outcome: Outcome) -> None:
    world = waiting_world()
    world.outbound.fail(RelayError(outcome))
    code = EXPLANATIONS[outcome].socks
    assert code != 0
    assert world.app.take() == bytes((5, code)) + bytes.fromhex("00 01 00000000 0000")
    assert world.app.disconnecting
    assert not world.app.aborted
    world.app.flush()
    assert world.nothing_left()


def test_refused_with_unread_input_listens_on_so_that_the_reply_arrives() -> None:
    world = waiting_world()
    world.app.deliver(b"early")
    world.app.deliver(b"more")
    world.outbound.fail(RelayError(Outcome.REFUSED))
    assert world.app.take()[1] == 5
    assert world.app.write_closed
    assert not world.app.disconnecting
    assert world.app.reading
    world.app.end()
    world.app.flush()
    assert not world.app.connected
    assert not world.app.aborted
    assert world.nothing_left()


def test_an_application_that_never_stops_sending_is_cut_off() -> None:
    world = waiting_world()
    world.app.deliver(b"early")
    world.outbound.fail(RelayError(Outcome.REFUSED))
    for _ in range(8):
        world.clock.advance(LINGER / 8)
        if not world.app.disconnecting:
            world.app.deliver(b"still here")
    assert world.app.aborted
    world.app.flush()
    assert world.nothing_left()


def test_an_unexpected_error_is_logged_and_answered(logged_failures: Any) -> None:
    world = waiting_world()
    world.outbound.fail(ZeroDivisionError())
    assert world.app.take()[:2] == b"\x05\x01"
    assert len(logged_failures.flush(ZeroDivisionError)) == 1


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (b"\x05\x01\x02", b"\x05\xff"),
        (HELLO + b"\x05\x02\x00\x01\x7f\0\0\1\0\x50", b"\x05\x00" + b"\x05\x07\x00\x01" + bytes(6)),
        (HELLO + b"\x05\x01\x00\x05", b"\x05\x00" + b"\x05\x08\x00\x01" + bytes(6)),
        (HELLO + b"\x05\x01\x00\x03\x01 \0\x50", b"\x05\x00" + b"\x05\x01\x00\x01" + bytes(6)),
        (b"\x04\x02\x00\x50\x7f\0\0\1\0", b"\x00\x5b" + bytes(6)),
        (b"SSH-2.0-x\r\n", b""),
    ],
)
def test_what_cannot_be_served_is_answered_where_it_can_be_and_closed(
    sent: bytes, answer: bytes
) -> None:
    world = World()
    world.app.deliver(sent)
    assert world.app.take() == answer
    assert world.app.disconnecting
    assert world.outbound.asked == []
    world.app.flush()
    assert world.nothing_left()


@given(
    st.sampled_from(
        [HELLO, HELLO + REQUEST[:4], REQUEST_4A[:8], b"\x05\x01\x02\x01", b"\x05", b""]
    ),
    st.binary(min_size=1, max_size=600),
    st.sampled_from([None, {"ann": "secret"}]),
)
@settings(max_examples=150)
def test_random_octets_end_in_an_answer_a_close_or_a_wait(
    head: bytes, tail: bytes, credentials: dict[str, str] | None
) -> None:
    world = World(credentials=credentials)
    world.app.deliver(head + tail)
    world.clock.advance(10.0)
    if world.outbound.asked:
        world.outbound.succeed()
    else:
        assert world.app.disconnecting
        world.app.flush()
    assert world.nothing_left()


# -- credentials, time and number -------------------------------------------------------------


def test_password() -> None:
    for secret, answer in ((b"secret", b"\x01\x00"), (b"guess!", b"\x01\x01")):
        world = World(credentials={"ann": "secret"})
        world.app.deliver(b"\x05\x02\x00\x02")
        assert world.app.take() == b"\x05\x02"
        world.app.deliver(b"\x01\x03ann\x06" + secret)
        assert world.app.take() == answer
        assert world.app.disconnecting == (answer[1] != 0)
        if not world.app.disconnecting:
            world.app.deliver(REQUEST)
        assert len(world.outbound.asked) == (answer[1] == 0)


def test_socks4_is_refused_where_a_password_is_asked_for() -> None:
    world = World(credentials={"ann": "secret"})
    world.app.deliver(REQUEST_4A)
    assert world.app.take() == b"\x00\x5d" + bytes(6)
    assert world.app.disconnecting
    assert world.outbound.asked == []


@pytest.mark.parametrize("sent", [b"", HELLO, HELLO + REQUEST[:-1]])
def test_slow_greetings_time_out_however_they_trickle(sent: bytes) -> None:
    world = World()
    for octet in sent:
        world.clock.advance(0.1)
        world.app.deliver(bytes([octet]))
    world.clock.advance(9.99 - 0.1 * len(sent))
    assert not world.app.aborted
    world.clock.advance(0.02)
    assert world.app.aborted
    world.app.flush()
    assert world.nothing_left()


def test_the_wait_for_the_outbound_is_not_a_slow_greeting() -> None:
    world = waiting_world()
    world.clock.advance(1000.0)
    world.outbound.succeed()
    assert world.app.take() == CONNECTED_5


def test_connections_are_limited_and_counted_off() -> None:
    world = World(max_connections=2)
    second = world.accept()
    assert world.factory.buildProtocol(None) is None
    second.lose()
    world.app.deliver(HELLO + REQUEST)
    far = world.outbound.succeed()
    second = world.accept()
    assert world.factory.buildProtocol(None) is None
    far.lose(ConnectionLost())
    world.app.flush()
    assert world.app.aborted
    assert world.factory.buildProtocol(None) is not None


def test_stopping_aborts_what_the_relay_does_not_have() -> None:
    world = waiting_world()
    greeting, relayed = world.accept(), world.accept()
    relayed.deliver(HELLO + REQUEST)
    world.outbound.succeed()
    world.factory.abort_waiting()
    assert world.app.aborted
    assert greeting.aborted
    assert not relayed.aborted


# -- what is logged -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "line"),
    [
        (b"GET http://private.example/ HTTP/1.1\r\n\r\n", "an HTTP request arrived"),
        (b"CONNECT private.example:443 HTTP/1.1\r\n\r\n", "an HTTP request arrived"),
        (b"\x16\x03\x01\x02\x00\x01private.example", "a TLS handshake arrived"),
    ],
)
def test_a_wrong_proxy_type_is_explained_once_and_without_its_bytes(
    sent: bytes, line: str, log_record: list[dict[str, Any]]
) -> None:
    world = World()
    for _ in range(3):
        app = world.accept()
        app.deliver(sent)
        assert app.disconnecting
        assert app.written == b""
        app.flush()
    text = logged(log_record)
    assert text.count(f"{line} at the SOCKS port: set the application's proxy type to SOCKS5") == 1
    assert "private" not in repr(log_record)
    world.clock.advance(60.0)
    world.accept().deliver(sent)
    assert logged(log_record).count(line) >= 2


# -- real clients -------------------------------------------------------------------------------


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


async def test_a_reset_while_waiting_cancels_the_attempt(reactor: Any) -> None:
    outbound = ScriptedOutbound()
    factory = Socks5Factory(real_runtime(reactor), outbound)
    port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(factory)
    try:
        application = socket.create_connection(("127.0.0.1", port.getHost().port))
        application.sendall(HELLO + REQUEST)
        while not outbound.asked:
            await deferLater(reactor, 0.005)
        # A linger time of 0 makes the close a reset.
        application.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        application.close()
        while not outbound.cancelled:
            await deferLater(reactor, 0.005)
    finally:
        await port.stopListening()


async def test_a_refusal_reaches_an_application_that_is_still_sending(reactor: Any) -> None:
    outbound = ScriptedOutbound()
    factory = Socks5Factory(real_runtime(reactor), outbound)
    port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(factory)
    try:
        application = socket.create_connection(("127.0.0.1", port.getHost().port))
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
    finally:
        await port.stopListening()


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
    outbound = ScriptedOutbound()
    factory = Socks5Factory(real_runtime(reactor), outbound)
    port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(factory)
    try:
        application = socket.create_connection(("127.0.0.1", port.getHost().port))
        application.setblocking(False)
        words = bytes(range(256)) * 256
        assert application.send(HELLO + REQUEST + words) == len(HELLO + REQUEST + words)
        application.shutdown(socket.SHUT_WR)
        await deferLater(reactor, 0.05)
        _, protocol, attempt = outbound.asked[-1]
        direct = ReactorOutbound(reactor, sink_port.getHost().port)
        direct.connect(Destination("x", sink_port.getHost().port), protocol).chainDeferred(attempt)
        assert await done == words
        application.close()
    finally:
        await port.stopListening()
        await sink_port.stopListening()
