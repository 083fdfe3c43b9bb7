"""How many connections and lookups the direct outbound has at once, per client and in all."""

from __future__ import annotations

import errno

import pytest
from support.direct_outbound import REFUSAL, V4, World
from twisted.internet import error

from phantom.core.limits import Limits
from phantom.errors import Outcome
from phantom.outbound import direct
from phantom.outbound.lookups import AT_ONCE_PER_CLIENT
from phantom.runtime import RESOLVER_THREADS


def test_connections_are_limited_per_client_and_in_all() -> None:
    world = World(connections=Limits(3, 2))
    for key in (b"a", b"a", b"a", b"b", b"c"):
        world.connect(f"{V4}:443", key)
    refused = [result.value.outcome for result in world.results]
    assert refused == [Outcome.LIMIT, Outcome.LIMIT]
    assert len(world.reactor.connectors) == 3
    world.reactor.connectors[0].down(REFUSAL)
    world.connect(f"{V4}:443", b"c")
    assert len(world.reactor.connectors) == 4
    world.reactor.connectors[1].up()
    world.connect(f"{V4}:443", b"d")
    assert len(world.reactor.connectors) == 4, "an open connection counts"
    world.reactor.connectors[1].lost()
    world.connect(f"{V4}:443", b"d")
    assert len(world.reactor.connectors) == 5


def test_lookups_are_limited_per_client_and_in_all() -> None:
    world = World(lookups=Limits(3, 2))
    world.resolver.holding = True
    world.resolver.names["example.com"] = [V4]
    waiting = [world.connect("example.com:443", key) for key in (b"a", b"a", b"a", b"b", b"c")]
    assert [result.value.outcome for result in world.results] == [Outcome.LIMIT] * 2
    waiting[0].cancel()
    world.connect("example.com:443", b"a")
    assert len(world.resolver.asked) == 3, "cancelling does not free the resolver's thread"
    world.resolver.release()
    assert len(world.reactor.connectors) == 2
    assert world.outbound.lookups.used == 0
    world.connect(f"{V4}:443", b"a")
    assert len(world.reactor.connectors) == 3, "a literal takes no lookup"


def test_a_client_with_dead_names_leaves_threads_to_the_others() -> None:
    world = World()
    world.resolver.holding = True
    for number in range(64):
        world.connect(f"dead{number}.example:443", b"a")
    assert len(world.resolver.asked) == AT_ONCE_PER_CLIENT < RESOLVER_THREADS
    world.connect("example.com:443", b"b")
    assert world.resolver.asked[-1] == "example.com"


def test_names_that_wait_are_looked_up_in_turn_unless_given_up() -> None:
    world = World()
    world.resolver.holding = True
    world.resolver.names.update({f"n{number}.example": [V4] for number in range(40)})
    attempts = [world.connect(f"n{number}.example:443", b"a") for number in range(40)]
    attempts[20].cancel()
    assert world.outbound.lookups.used == 39, "what has not begun takes no thread"
    while world.resolver.held:
        world.resolver.release()
    expected = [f"n{number}.example" for number in range(40) if number != 20]
    assert sorted(world.resolver.asked) == sorted(expected)
    assert len(world.reactor.connectors) == 39
    assert world.outbound.lookups.used == 0


def test_a_name_may_be_given_up_before_its_turn_by_time_alone() -> None:
    world = World()
    world.resolver.holding = True
    for number in range(40):
        world.connect(f"n{number}.example:443", b"a")
    world.clock.advance(world.outbound.resolve_timeout)
    assert len(world.results) == 40
    assert world.outbound.lookups.used == AT_ONCE_PER_CLIENT, "those the resolver still has"
    world.resolver.release()
    assert world.nothing_left()


def test_exhaustion_is_logged_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(direct.log, "warn", lambda text, **values: lines.append(text))
    world = World()
    world.reactor.fail_at_once = error.ConnectBindError(errno.EMFILE, "Too many open files")
    for _ in range(5):
        world.connect(f"{V4}:443")
    assert [result.value.outcome for result in world.results] == [Outcome.LIMIT] * 5
    assert len(lines) == 1
    world.clock.advance(61)
    world.connect(f"{V4}:443")
    assert len(lines) == 2
