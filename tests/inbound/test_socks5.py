"""The SOCKS inbound in memory: connecting an application, and the end of either side."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.socks_inbound import (
    CONNECTED_5,
    DESTINATION,
    HELLO,
    REQUEST,
    REQUEST_4A,
    ScriptedOutbound,
    World,
    waiting_world,
)
from support.transports import ByteTransport
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.protocol import Protocol

from phantom.address import Destination
from phantom.errors import Outcome, RelayError
from phantom.inbound.socks5 import MAX_EARLY_DATA


class ImmediateOutbound(ScriptedOutbound):
    """An outbound that is connected before `connect` returns."""

    def __init__(self) -> None:
        super().__init__()
        self.far: Any = None

    def connect(self, destination: Destination, protocol: Any) -> Deferred[Any]:
        attempt = super().connect(destination, protocol)
        self.far = self.succeed()
        return attempt


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
