"""The direct outbound in memory: a name of several addresses, tried beside each other."""

from __future__ import annotations

import errno
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from support.direct_outbound import REFUSAL, V4, V4B, V6, V6B, World
from twisted.internet import error

from phantom.core.eyeballs import ATTEMPT_DELAY
from phantom.errors import Outcome, RelayError
from phantom.outbound.direct import CONNECT_TIMEOUT, RESOLVE_TIMEOUT


def race(*addresses: str, **options: Any) -> World:
    world = World(**options)
    world.resolver.names["example.com"] = addresses
    world.connect("example.com:443")
    return world


def test_happy_eyeballs() -> None:
    world = race(V4, V4B, V6)
    assert world.reactor.hosts == [V6]
    world.clock.advance(ATTEMPT_DELAY - 0.01)
    assert world.reactor.hosts == [V6]
    world.clock.advance(0.02)
    assert world.reactor.hosts == [V6, V4]
    world.clock.advance(ATTEMPT_DELAY)
    assert world.reactor.live == [V6, V4, V4B]
    transport = world.reactor.connectors[1].up()
    assert world.results == [transport]
    assert world.reactor.live == []
    assert world.protocol.events == ["made"]
    assert world.clock.getDelayedCalls() == []
    world.reactor.connectors[1].lost()
    assert world.nothing_left()


def test_failure_starts_the_next_at_once() -> None:
    world = race(V4, V6)
    world.reactor.connectors[0].down(error.NoRouteError(errno.ENETUNREACH, "text"))
    assert world.reactor.live == [V4]
    world.clock.advance(ATTEMPT_DELAY * 3)
    assert world.reactor.hosts == [V6, V4]
    world.reactor.connectors[1].up()
    assert world.protocol.events == ["made"]
    assert world.clock.getDelayedCalls() == []


def test_all_fail_at_once() -> None:
    world = World()
    world.reactor.fail_at_once = error.getConnectError((errno.EHOSTUNREACH, "text"))
    world.resolver.names["example.com"] = [V4, V4B, V6, V6B]
    world.connect("example.com:443")
    assert world.reactor.hosts == [V6, V4, V6B, V4B]
    assert world.outcome is Outcome.HOST_UNREACHABLE
    assert world.nothing_left()


def test_the_most_telling_failure_is_reported() -> None:
    world = race(V4, V6)
    world.reactor.connectors[0].down(error.getConnectError((errno.ECONNREFUSED, "")))
    world.reactor.connectors[1].down(error.getConnectError((errno.ENETUNREACH, "")))
    assert world.outcome is Outcome.REFUSED


def test_an_attempt_times_out_alone() -> None:
    world = race(V4, V6, attempt_timeout=1.0, connect_timeout=5.0)
    world.clock.advance(ATTEMPT_DELAY)
    world.clock.advance(1.0 - ATTEMPT_DELAY)
    assert world.reactor.live == [V4]
    world.reactor.connectors[1].down(error.getConnectError((errno.ENETUNREACH, "")))
    assert world.outcome is Outcome.TIMED_OUT
    assert world.nothing_left()


def test_all_attempts_together_time_out() -> None:
    world = race(*(f"93.184.216.{n}" for n in range(8)), attempt_timeout=9.0, connect_timeout=2.0)
    for _ in range(7):
        world.clock.advance(ATTEMPT_DELAY)
    assert len(world.reactor.live) == 8
    world.clock.advance(0.25)
    assert world.outcome is Outcome.TIMED_OUT
    assert world.nothing_left()


def test_cancel_during_the_race() -> None:
    world = World()
    world.resolver.names["example.com"] = [V4, V6]
    deferred = world.connect("example.com:443")
    world.clock.advance(ATTEMPT_DELAY)
    deferred.cancel()
    assert world.outcome is Outcome.CANCELLED
    assert world.nothing_left()


@settings(max_examples=200)
@given(st.data())
def test_every_course_of_a_race_ends_once_and_leaves_nothing(data: st.DataObject) -> None:
    world = World()
    world.resolver.holding = data.draw(st.booleans())
    world.resolver.names["example.com"] = data.draw(
        st.lists(st.sampled_from([V4, V4B, V6, V6B, "127.0.0.1"]), max_size=6)
    )
    deferred = world.connect("example.com:443")
    winner = None
    for step in data.draw(st.lists(st.sampled_from("tTfwrc"), max_size=12)):
        live = [c for c in world.reactor.connectors if c.state == "connecting"]
        if step == "t":
            world.clock.advance(ATTEMPT_DELAY)
        elif step == "T":
            world.clock.advance(4.0)
        elif step == "r":
            world.resolver.release()
        elif step == "c":
            deferred.cancel()
        elif live and step == "f":
            data.draw(st.sampled_from(live)).down(REFUSAL)
        elif live and step == "w":
            winner = data.draw(st.sampled_from(live))
            winner.up()
        assert len(world.results) <= 1
        assert "127.0.0.1" not in world.reactor.hosts
        if world.results:
            assert not world.reactor.live
            assert not world.clock.getDelayedCalls()
    world.resolver.release()
    world.clock.pump([CONNECT_TIMEOUT, RESOLVE_TIMEOUT])
    (result,) = world.results
    if winner is not None:
        assert result is winner.transport
        winner.lost()
    else:
        assert result.type is RelayError
        assert world.protocol.events == []
    assert world.nothing_left()
