"""Connections that an HTTP request turns into tunnels, by CONNECT or by an upgrade."""

from __future__ import annotations

import pytest
from support.http_inbound import CONNECT, ESTABLISHED, GET, OK, SENT, UPGRADE, World
from twisted.internet.error import ConnectionDone, ConnectionLost

from phantom.address import Destination
from phantom.errors import Outcome
from phantom.inbound.http_server import EXCHANGE_TIMEOUT, MAX_PENDING

# -- CONNECT --------------------------------------------------------------------------------


def test_connect_answers_only_when_the_outbound_has_and_passes_on_what_came_early() -> None:
    world = World()
    world.app.deliver(CONNECT + b"early ")
    world.app.deliver(b"bird")
    assert world.outbound.asked[0][0] == Destination("b.example", 443)
    assert world.app.take() == b""
    far = world.origin()
    assert world.app.take() == ESTABLISHED
    assert far.take() == b"early bird"
    far.deliver(b"one")
    world.app.deliver(b"GET / two")
    assert (world.app.take(), far.take()) == (b"one", b"GET / two")
    assert world.factory.relayed == 1
    world.app.lose(ConnectionDone())
    far.flush()
    assert world.factory.relayed == 0
    assert world.nothing_left()


def test_a_half_close_before_the_tunnel_opens_reaches_the_other_side() -> None:
    world = World()
    world.app.deliver(CONNECT + b"bye")
    world.app.end()
    far = world.origin()
    assert far.take() == b"bye"
    assert far.write_closed
    assert not world.app.disconnecting


def test_a_refused_tunnel_is_explained_and_what_was_meant_for_it_is_no_request() -> None:
    world = World()
    world.app.deliver(CONNECT + GET)
    world.fail(Outcome.FORBIDDEN)
    assert world.status() == 403
    assert world.app.written.count(b"HTTP/1.1") == 1
    assert world.lingering()
    world.app.deliver(GET)
    assert len(world.outbound.asked) == 1


def test_a_refused_tunnel_is_closed_even_before_anything_was_sent_for_it() -> None:
    world = World()
    world.app.deliver(CONNECT)
    world.fail(Outcome.TIMED_OUT)
    assert world.status() == 504
    assert world.lingering()
    world.app.deliver(GET)
    assert len(world.outbound.asked) == 1


def test_early_data_for_a_tunnel_is_bounded() -> None:
    world = World()
    world.app.deliver(CONNECT)
    world.app.deliver(bytes(MAX_PENDING))
    assert not world.app.reading
    far = world.origin()
    assert world.app.reading
    assert len(far.take()) == MAX_PENDING


@pytest.mark.parametrize("request_", [CONNECT, GET])
def test_a_client_that_goes_away_cancels_the_attempt(request_: bytes) -> None:
    world = World()
    world.app.deliver(request_)
    world.app.lose(ConnectionLost())
    assert world.outbound.cancelled == 1
    assert world.nothing_left()


def test_a_tunnel_that_takes_too_long_is_given_up() -> None:
    world = World()
    world.app.deliver(CONNECT)
    world.clock.advance(EXCHANGE_TIMEOUT)
    assert world.status() == 504
    assert world.outbound.cancelled == 1


# -- an upgrade ---------------------------------------------------------------------------------


def test_an_upgrade_joins_both_sides() -> None:
    world = World()
    origin = world.request(UPGRADE)
    assert b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n" in origin.take()
    world.app.deliver(b"early")
    switched = b"HTTP/1.1 101 Go\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
    origin.deliver(switched + b"hello")
    assert world.app.take() == switched + b"hello"
    assert origin.take() == b"early"
    world.app.deliver(b"GET")
    origin.deliver(b"HTTP")
    assert (origin.take(), world.app.take()) == (b"GET", b"HTTP")
    origin.lose(ConnectionLost())
    assert world.app.aborted
    world.app.flush()
    assert world.factory.relayed == 0
    assert world.nothing_left()


def test_a_refused_upgrade_is_an_ordinary_response() -> None:
    world = World()
    origin = world.request(UPGRADE)
    origin.take()
    origin.deliver(OK)
    assert world.app.take() == OK
    world.app.deliver(GET)
    assert origin.take() == SENT


def test_what_was_sent_for_a_refused_upgrade_is_no_request() -> None:
    world = World()
    origin = world.request(UPGRADE + GET)
    origin.deliver(OK)
    assert b"Connection: close" in world.app.written
    assert world.lingering()
