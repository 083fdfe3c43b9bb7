"""The TLS layer over memory: both engines, any chunks, every way to end."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IHalfCloseableProtocol, IPushProducer
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from phantom.carriers import tls_utls
from phantom.carriers.tls import FAILED_LINGER, SERVER_HANDSHAKE_TIMEOUT, TLSLayer
from phantom.carriers.tls_openssl import ServerCertificates
from phantom.carriers.tls_server import server_engines
from phantom.errors import HandshakeError
from phantom.fast.sockets import READ_SIZE
from phantom.runtime import Runtime


class Upper:
    """Records what a layer does to it."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.transport: Any = None
        self.reasons: list[type[BaseException]] = []
        self.on_data: Any = None

    def makeConnection(self, transport: Any) -> None:
        self.transport = transport

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        if self.on_data is not None:
            self.on_data()

    def connectionLost(self, reason: Any) -> None:
        self.reasons.append(reason.type)


@implementer(IHalfCloseableProtocol)
class HalfCloser(Upper):
    ended = 0

    def readConnectionLost(self) -> None:
        self.ended += 1

    def writeConnectionLost(self) -> None:
        pass


@pytest.fixture
def joined(runtime: Runtime, clock: Clock, certificate: Any, wire: Any) -> Any:
    def make(client_engine: Any, upper: type[Upper] = Upper, server: str = "openssl") -> Any:
        certificates = server_engines(server, certificate[0], certificate[1])
        near, far = upper(), upper()
        client = TLSLayer(runtime, client_engine(), near)
        peer = TLSLayer(runtime, certificates.engine(), far)
        return near, far, wire(clock, client, peer)

    return make


@pytest.fixture(params=["openssl", "boringssl"])
def shaking(joined: Any, client_engine: Any, request: pytest.FixtureRequest) -> Any:
    """Makes two ends, by each of the client's engines with each of the server's."""
    if request.param == "boringssl" and not tls_utls.AVAILABLE:
        pytest.skip("the package utls is not installed")
    return lambda upper=Upper: joined(client_engine, upper, request.param)


@pytest.fixture(params=[False, True], ids=["engine's records", "our records"])
def pair(shaking: Any, request: pytest.FixtureRequest) -> Any:
    """Makes two ends, whose engines were replaced or not."""

    def make(upper: type[Upper] = Upper) -> Any:
        near, far, wire = shaking(upper)
        if request.param:
            replace_engines(near, far, wire)
        return near, far, wire

    return make


def replace_engines(near: Upper, far: Upper, wire: Any) -> None:
    """Have both sides talk, and trust each other."""
    wire.run()
    for _ in range(2):
        for source, sink in ((near, far), (far, near)):
            source.transport.write(b"a word")
            wire.run()
            assert sink.received == b"a word"
            sink.received.clear()
            sink.transport.trust_peer()
    for end in wire.ends:
        assert end.protocol._engine.replaced


def test_upper_starts_only_when_the_handshake_is_done(shaking: Any) -> None:
    near, far, wire = shaking()
    assert near.transport is None and far.transport is None
    wire.run()
    assert near.transport.alpn == far.transport.alpn == "http/1.1"


chunking = given(
    sizes=st.lists(st.integers(1, 3000), min_size=1, max_size=20),
    up=st.lists(st.binary(max_size=3000), max_size=4),
    down=st.lists(st.binary(max_size=3000), max_size=4),
)
often = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


@chunking
@often
def test_any_chunking_with_openssl(
    joined: Any, openssl_engine: Any, sizes: list[int], up: list[bytes], down: list[bytes]
) -> None:
    _exchange(*joined(openssl_engine), sizes, up, down)


@chunking
@often
def test_any_chunking_with_utls(
    joined: Any, utls_engine: Any, sizes: list[int], up: list[bytes], down: list[bytes]
) -> None:
    _exchange(*joined(utls_engine), sizes, up, down)


def _exchange(
    near: Any, far: Any, wire: Any, sizes: list[int], up: list[bytes], down: list[bytes]
) -> None:
    turn = 0

    def size() -> int:
        nonlocal turn
        turn += 1
        return sizes[turn % len(sizes)]

    wire.run(size)
    # Engines are replaced wherever in this it happens.
    near.transport.trust_peer()
    far.transport.trust_peer()
    for words, source in ((up, near), (down, far)):
        for number, word in enumerate(words):
            source.transport.write(word)
            if number % 2:
                wire.step(size())
    wire.run(size)
    near.transport.loseConnection()
    wire.run(size)
    assert bytes(far.received) == b"".join(up) and bytes(near.received) == b"".join(down)
    assert near.reasons == far.reasons == [ConnectionDone]


def test_byte_by_byte(pair: Any) -> None:
    near, far, wire = pair()
    wire.run(lambda: 1)
    near.transport.write(b"x" * 40000)
    wire.run(lambda: 1)
    assert far.received == b"x" * 40000


def test_closing_twice_and_after_the_end_is_harmless(pair: Any) -> None:
    near, far, wire = pair()
    wire.run()
    near.transport.loseConnection()
    near.transport.loseConnection()
    wire.run()
    for upper in (near, far):
        upper.transport.write(b"x")
        upper.transport.loseWriteConnection()
        upper.transport.loseConnection()
        upper.transport.abortConnection()
    wire.run()
    assert near.reasons == far.reasons == [ConnectionDone]


def test_ten_megabytes_both_ways_with_back_pressure(pair: Any) -> None:
    near, far, wire = pair()
    wire.run()
    total = 10_000_000
    block = bytes(range(256)) * 512

    @implementer(IPushProducer)
    class Source:
        def __init__(self, transport: Any) -> None:
            self.transport, self.sent, self.paused, self.pauses = transport, 0, False, 0

        def pauseProducing(self) -> None:
            self.paused = True
            self.pauses += 1

        def resumeProducing(self) -> None:
            self.paused = False
            self.push()

        def stopProducing(self) -> None:
            self.paused = True

        def push(self) -> None:
            while not self.paused and self.sent < total:
                self.transport.write(block)
                self.sent += len(block)

    sources = [Source(near.transport), Source(far.transport)]
    for source in sources:
        source.transport.registerProducer(source, True)
        source.push()
    wire.run()
    assert near.received == far.received == block * (sources[0].sent // len(block))
    assert len(near.received) >= total
    for source, end in zip(sources, wire.ends, strict=True):
        assert source.pauses > 50
        assert end.peak < 65536 + len(block) + 4096


def test_nothing_is_delivered_while_paused(pair: Any) -> None:
    near, far, wire = pair()
    wire.run()
    far.on_data = lambda: far.transport.pauseProducing()
    total = 3 * READ_SIZE + 1000
    near.transport.write(b"a" * total)
    wire.run(lambda: 2 * total)
    first = len(far.received)
    assert 0 < first < total
    assert not wire.ends[1].reading
    far.transport.resumeProducing()
    assert len(far.received) == first, "delivery must not happen inside resumeProducing"
    wire.run()
    assert first < len(far.received) < total
    far.on_data = None
    far.transport.resumeProducing()
    wire.run()
    assert len(far.received) == total


def test_close_waits_behind_paused_data(pair: Any) -> None:
    near, far, wire = pair()
    wire.run()
    far.transport.pauseProducing()
    near.transport.write(b"last words")
    near.transport.loseConnection()
    # As if the kernel had handed everything over before the pause.
    wire.ends[1].reading = True
    wire.step(1 << 20)
    assert far.received == b"" and far.reasons == []
    far.transport.resumeProducing()
    wire.run()
    assert far.received == b"last words" and far.reasons == [ConnectionDone]


def test_cut_behind_paused_data(pair: Any) -> None:
    near, far, wire = pair()
    wire.run()
    far.transport.pauseProducing()
    near.transport.write(b"last words")
    wire.ends[0].loseConnection()
    wire.ends[1].reading = True
    wire.step(1 << 20)
    far.transport.resumeProducing()
    wire.run()
    assert far.received == b"last words" and far.reasons == [ConnectionLost]


def test_half_close_each_way(pair: Any) -> None:
    near, far, wire = pair(HalfCloser)
    wire.run()
    near.transport.write(b"question")
    near.transport.loseWriteConnection()
    near.transport.write(b"too late")
    wire.run()
    assert far.received == b"question" and far.ended == 1
    assert far.reasons == near.reasons == []
    far.transport.write(b"answer" * 50_000)
    wire.run()
    far.transport.loseWriteConnection()
    wire.run()
    assert near.received == b"answer" * 50_000
    assert near.reasons == far.reasons == [ConnectionDone]
    assert far.ended == 1


def test_nothing_is_taken_behind_a_close(pair: Any) -> None:
    near, far, wire = pair(HalfCloser)
    wire.run()
    near.transport.loseWriteConnection()
    wire.run()
    assert far.ended
    layer = wire.ends[1].protocol
    layer._engine = None  # whoever gives it anything fails
    layer.dataReceived(bytes(1000))


def test_half_close_closes_who_knows_none(pair: Any) -> None:
    near, far, wire = pair()
    wire.run()
    near.transport.loseWriteConnection()
    wire.run()
    assert near.reasons == far.reasons == [ConnectionDone]


@pytest.mark.parametrize("upper", [Upper, HalfCloser])
def test_a_cut_is_never_a_clean_end(pair: Any, upper: Any) -> None:
    near, far, wire = pair(upper)
    wire.run()
    near.transport.write(b"half a page")
    wire.run()
    wire.ends[0].loseConnection()  # TCP ends, TLS did not
    wire.run()
    assert far.received == b"half a page"
    assert far.reasons == near.reasons == [ConnectionLost]


def test_a_changed_byte_ends_both(pair: Any) -> None:
    near, far, wire = pair()
    wire.run()
    near.transport.write(b"good")
    near.transport.write(b"spoiled")
    wire.ends[0].queue[-1] ^= 1
    wire.run()
    assert far.received == b"good"
    assert far.reasons == [ConnectionLost]
    assert near.reasons == [ConnectionLost]  # told so by the alert


def test_closing_what_is_lost_does_nothing(pair: Any) -> None:
    """The end of the last link may stop the reactor, which loses the rest in the same call."""
    _, far, wire = pair(HalfCloser)
    wire.run()
    end = wire.ends[1]
    end.lost = True
    end.protocol.connectionLost(Failure(ConnectionLost()))
    far.transport.loseConnection()
    assert not end.closing


def test_abort_sends_no_close(pair: Any) -> None:
    near, far, wire = pair()
    wire.run()
    near.transport.abortConnection()
    wire.run()
    assert far.reasons == near.reasons == [ConnectionLost]


def test_pull_producer_is_waited_for(pair: Any) -> None:
    near, far, wire = pair()
    wire.run()

    class Pull:
        left = 5

        def resumeProducing(self) -> None:
            self.left -= 1
            near.transport.write(b"piece")
            if not self.left:
                near.transport.unregisterProducer()

        def stopProducing(self) -> None:
            pass

    near.transport.registerProducer(Pull(), False)
    near.transport.loseConnection()
    wire.run()
    assert far.received == b"piece" * 5 and far.reasons == [ConnectionDone]


def test_echo_inside_data_received(pair: Any) -> None:
    near, far, wire = pair()
    wire.run()
    far.on_data = lambda: (far.transport.write(b"bye"), far.transport.loseConnection())
    near.transport.write(b"hello")
    wire.run()
    assert near.received == b"bye"
    assert near.reasons == far.reasons == [ConnectionDone]


def test_handshake_timeout(runtime: Runtime, clock: Clock, certificate: Any, wire: Any) -> None:
    certificates = ServerCertificates(certificate[0], certificate[1])
    outcomes: list[Any] = []
    upper = Upper()
    layer = TLSLayer(runtime, certificates.engine(), upper, outcome=outcomes.append)
    joined = wire(clock, layer, Upper())
    clock.advance(SERVER_HANDSHAKE_TIMEOUT - 1)
    assert not joined.ends[0].closing
    clock.advance(1)
    assert joined.ends[0].closing
    assert outcomes[0].check(HandshakeError)
    clock.advance(FAILED_LINGER)
    assert joined.ends[0].aborted
    joined.run()
    assert upper.reasons == [] and len(outcomes) == 1
    assert clock.getDelayedCalls() == []


@given(st.binary(min_size=1, max_size=400))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_garbage_never_raises(
    certificate: Any,
    openssl_engine: Any,
    utls_engine: Any,
    runtime: Runtime,
    clock: Clock,
    wire: Any,
    data: bytes,
) -> None:
    server = ServerCertificates(certificate[0], certificate[1]).engine()
    for engine in (server, openssl_engine(), utls_engine()):
        upper = Upper()
        joined = wire(clock, TLSLayer(runtime, engine, upper), HalfCloser())
        joined.ends[1].write(data)
        joined.run()
        joined.ends[1].loseConnection()
        joined.run()
        assert upper.transport is None


def test_not_tls_is_given_away(runtime: Runtime, clock: Clock, certificate: Any, wire: Any) -> None:
    certificates = ServerCertificates(certificate[0], certificate[1])
    taken: list[Any] = []
    upper = Upper()
    layer = TLSLayer(
        runtime, certificates.engine(), upper, not_tls=lambda *visitor: taken.append(visitor)
    )
    joined = wire(clock, layer, Upper())
    joined.ends[1].write(b"GET / HTTP/1.0\r\n\r\n")
    joined.run()
    assert taken == [(joined.ends[0], b"GET / HTTP/1.0\r\n\r\n")]
    assert clock.getDelayedCalls() == [] and upper.transport is None


def test_lent_buffers_both_ways(pair: Any) -> None:
    """What is lent may change as soon as the call is over."""
    near, far, wire = pair()
    wire.run()
    memory = bytearray(b"x" * 100_000)
    assert near.transport.send_buffer(memoryview(memory))
    memory[:] = b"y" * 100_000
    sealed = bytes(wire.ends[0].queue)
    wire.ends[0].queue.clear()
    lent = bytearray(sealed)
    wire.ends[1].protocol.buffer_received(memoryview(lent))
    lent[:] = bytes(len(lent))
    wire.run()
    assert far.received == b"x" * 100_000
    near.transport.loseConnection()
    assert near.transport.send_buffer(b"too late")
    wire.run()
    assert far.received == b"x" * 100_000


def test_what_was_lent_to_who_pauses_is_kept(pair: Any) -> None:
    near, far, wire = pair()
    wire.run()
    far.on_data = lambda: far.transport.pauseProducing()
    sent = bytes(range(256)) * (3 * READ_SIZE // 256)
    assert near.transport.send_buffer(sent)
    lent = bytearray(wire.ends[0].queue)
    wire.ends[0].queue.clear()
    wire.ends[1].protocol.buffer_received(memoryview(lent))
    lent[:] = bytes(len(lent))
    assert 0 < len(far.received) < len(sent)
    far.on_data = None
    far.transport.resumeProducing()
    wire.run()
    assert far.received == sent


@pytest.mark.parametrize("kept", [True, False])
def test_what_a_transport_keeps_stays_as_it_is(pair: Any, kept: bool) -> None:
    """A transport that cannot send all at once keeps the memory, and the next gets another."""
    near, far, wire = pair()
    wire.run()
    for end, upper, other in zip(wire.ends, (near, far), (far, near), strict=True):
        lent: list[Any] = []
        copies: list[bytes] = []

        def send_buffer(data: Any, lent: Any = lent, copies: Any = copies) -> bool:
            lent.append(data)
            copies.append(bytes(data))
            return not kept

        end.send_buffer = send_buffer
        sizes = (1, 300_000, 1_000_000, 5)  # one of them more than any buffer has room for
        for number, size in enumerate(sizes):
            assert upper.transport.send_buffer(memoryview(bytes([number]) * size))
        if kept:
            assert [bytes(data) for data in lent] == copies
        for copy in copies:
            end.queue += copy
        wire.run()
        assert other.received == b"".join(bytes([n]) * size for n, size in enumerate(sizes))


@pytest.mark.parametrize("able", [True, False])
def test_pieces_that_leave_apart_are_records_of_their_own(pair: Any, able: bool) -> None:
    near, far, wire = pair()
    wire.run()
    end = wire.ends[0]
    given: list[bytes] = []
    if able:
        end.send_apart = given.extend
    near.transport.send_apart([b"one", b"two", bytes(700)])
    if able:
        assert [record[0] for record in given] == [0x17] * 3
        assert [5 + int.from_bytes(record[3:5], "big") for record in given] == [*map(len, given)]
        end.queue += b"".join(given)
    wire.run()
    assert far.received == b"onetwo" + bytes(700)
    near.transport.loseConnection()
    given.clear()
    near.transport.send_apart([b"too late"])
    wire.run()
    assert far.received == b"onetwo" + bytes(700)
