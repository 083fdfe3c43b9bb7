"""One port for SOCKS and HTTP."""

from __future__ import annotations

import socket
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.runtime import fake_runtime, real_runtime
from support.transports import PEER, ByteTransport
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.utils import getProcessOutputAndValue
from twisted.web import resource, server
from zope.interface import implementer

from phantom.address import Destination
from phantom.errors import Outcome, RelayError
from phantom.inbound.shared import SharedPortFactory
from phantom.inbound.socks5 import Socks5Factory


class Recorder(Protocol):
    """Notes what it hears."""

    def __init__(self) -> None:
        self.data = b""
        self.heard: list[str] = []

    def connectionMade(self) -> None:
        self.heard.append("made")

    def dataReceived(self, data: bytes) -> None:
        self.data += data

    def connectionLost(self, reason: Any = None) -> None:
        self.heard.append("lost")


@implementer(IHalfCloseableProtocol)
class HalfCloseableRecorder(Recorder):
    def readConnectionLost(self) -> None:
        self.heard.append("read lost")

    def writeConnectionLost(self) -> None:
        self.heard.append("write lost")


class RecorderFactory(Factory[Recorder]):
    """Makes recorders and keeps them; makes none when `full`."""

    noisy = False

    def __init__(self, kind: type[Recorder] = HalfCloseableRecorder) -> None:
        self.kind = kind
        self.made: list[Recorder] = []
        self.addresses: list[Any] = []
        self.full = False
        self.events: list[str] = []

    def buildProtocol(self, addr: Any) -> Recorder | None:
        if self.full:
            return None
        self.addresses.append(addr)
        self.made.append(self.kind())
        return self.made[-1]

    def startFactory(self) -> None:
        self.events.append("start")

    def stopFactory(self) -> None:
        self.events.append("stop")


class World:
    def __init__(self, kind: type[Recorder] = HalfCloseableRecorder, **options: Any) -> None:
        self.clock = Clock()
        self.socks = RecorderFactory(kind)
        self.http = RecorderFactory(kind)
        self.factory = SharedPortFactory(
            self.socks, self.http, fake_runtime(self.clock), 10.0, **options
        )
        self.app = self.accept()

    def accept(self) -> ByteTransport:
        return ByteTransport(self.factory.buildProtocol(PEER)).connect()


@pytest.mark.parametrize("first", range(256))
def test_the_first_octet_decides_and_arrives(first: int) -> None:
    world = World()
    world.app.deliver(bytes([first]))
    world.app.deliver(b"rest")
    chosen, other = world.http, world.socks
    if first in (4, 5):
        chosen, other = other, chosen
    assert [recorder.data for recorder in chosen.made] == [bytes([first]) + b"rest"]
    assert chosen.made[0].transport is world.app
    assert chosen.addresses == [PEER]
    assert other.made == []
    assert not world.clock.getDelayedCalls()
    assert not world.factory.silent


@given(st.binary(min_size=1, max_size=40), st.lists(st.integers(0, 40), max_size=5))
@settings(max_examples=60)
def test_every_chunking_arrives_whole(data: bytes, places: list[int]) -> None:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    world = World()
    for start, end in pairwise(edges):
        if end > start:
            world.app.deliver(data[start:end])
    (recorder,) = world.http.made + world.socks.made
    assert recorder.data == data
    assert bool(world.socks.made) == (data[0] in (4, 5))


def test_nothing_sent_times_out() -> None:
    world = World()
    world.clock.advance(9.9)
    assert not world.app.aborted
    world.clock.advance(0.2)
    assert world.app.aborted
    world.app.flush()
    assert not world.factory.silent
    assert not world.clock.getDelayedCalls()


def test_the_chosen_protocol_is_not_timed_here() -> None:
    world = World()
    world.app.deliver(b"G")
    world.clock.advance(1000.0)
    assert not world.app.disconnecting


def test_half_close_before_anything_is_the_end() -> None:
    world = World()
    world.app.end()
    world.app.flush()
    assert not world.app.connected
    assert not world.factory.silent
    assert not world.clock.getDelayedCalls()


def test_half_close_and_end_reach_the_chosen_protocol() -> None:
    world = World()
    world.app.deliver(b"\x05")
    world.app.end()
    (recorder,) = world.socks.made
    assert recorder.heard == ["made", "read lost"]
    world.app.loseWriteConnection()
    world.app.flush()
    world.app.lose(ConnectionLost())
    assert recorder.heard == ["made", "read lost", "write lost", "lost"]


def test_a_protocol_that_knows_no_half_close_is_ended_by_it() -> None:
    world = World(Recorder)
    world.app.deliver(b"G")
    world.app.end()
    assert world.http.made[0].heard == ["made", "lost"]


def test_lost_before_anything_leaves_nothing() -> None:
    world = World()
    world.app.lose(ConnectionLost())
    assert not world.factory.silent
    assert not world.clock.getDelayedCalls()
    assert world.http.made == world.socks.made == []


def test_a_full_factory_closes_the_connection() -> None:
    world = World()
    world.http.full = True
    world.app.deliver(b"G")
    assert world.app.disconnecting
    world.app.flush()
    assert not world.clock.getDelayedCalls()


def test_silent_connections_are_limited_and_aborted_at_the_stop() -> None:
    world = World(max_silent=2)
    second = world.accept()
    assert world.factory.buildProtocol(PEER) is None
    second.deliver(b"G")
    third = world.accept()
    world.factory.abort_silent()
    assert (world.app.aborted, second.aborted, third.aborted) == (True, False, True)


def test_both_factories_are_started_and_stopped() -> None:
    world = World()
    world.factory.doStart()
    world.factory.doStart()
    world.factory.doStop()
    assert world.socks.events == world.http.events == ["start"]
    world.factory.doStop()
    assert world.socks.events == world.http.events == ["start", "stop"]


class RefusingOutbound:
    """Refuses and remembers."""

    def __init__(self) -> None:
        self.asked: list[Destination] = []

    def connect(self, destination: Destination, protocol: Any) -> Deferred[Any]:
        self.asked.append(destination)
        refused: Deferred[Any] = Deferred()
        refused.errback(RelayError(Outcome.REFUSED))
        return refused


class Page(resource.Resource):
    isLeaf = True

    def render_GET(self, request: Any) -> bytes:
        return b"a page"


async def test_real_clients_of_both_kinds(reactor: Any) -> None:
    runtime = real_runtime(reactor)
    outbound = RefusingOutbound()
    site = server.Site(Page())
    site.noisy = False
    factory = SharedPortFactory(Socks5Factory(runtime, outbound), site, runtime, 10.0)
    port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(factory)
    address = f"127.0.0.1:{port.getHost().port}"
    common = ["-sS", "--noproxy", "", "--max-time", "10"]
    try:
        output, _, status = await getProcessOutputAndValue(
            "curl", [*common, f"http://{address}/"], env={}
        )
        assert (status, output) == (0, b"a page")
        for option in ("--socks5-hostname", "--socks4a"):
            _, errors, status = await getProcessOutputAndValue(
                "curl", [*common, option, address, "http://a.example:99/"], env={}
            )
            assert status == 97, errors
        assert outbound.asked == [Destination("a.example", 99)] * 2
        silent = socket.create_connection(("127.0.0.1", port.getHost().port))
        silent.shutdown(socket.SHUT_WR)
        silent.close()
    finally:
        await port.stopListening()
    assert not factory.silent
