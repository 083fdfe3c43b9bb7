from __future__ import annotations

import errno
import socket
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.runtime import ScriptedResolver, fake_runtime
from support.transports import ByteTransport
from twisted.internet import error
from twisted.internet.defer import Deferred, fail
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from phantom.address import Destination
from phantom.core.egress import EgressPolicy, EgressRule
from phantom.core.eyeballs import ATTEMPT_DELAY
from phantom.core.limits import Limits
from phantom.errors import Outcome, RelayError
from phantom.outbound import direct
from phantom.outbound.direct import (
    ATTEMPT_TIMEOUT,
    CONNECT_TIMEOUT,
    RESOLVE_TIMEOUT,
    DirectOutbound,
)
from phantom.outbound.lookups import AT_ONCE_PER_CLIENT
from phantom.outbound.own_addresses import own_addresses
from phantom.outbound.race import connect_outcome
from phantom.relay import relay_pair
from phantom.runtime import RESOLVER_THREADS

LOOPBACK = EgressPolicy([EgressRule.parse("127.0.0.0/8"), EgressRule.parse("::1")])
REFUSAL = error.getConnectError((errno.ECONNREFUSED, "Connection refused"))
V4, V4B = "93.184.216.34", "93.184.216.35"
V6, V6B = "2606:4700::1", "2606:4700::2"


class Connector:
    """What `connectTCP` returns, as far as Twisted's own goes; the test is the network."""

    def __init__(self, host: str, port: int, factory: Any, timeout: float | None) -> None:
        self.host, self.port, self.factory = host, port, factory
        self.timeout = timeout
        self.state = "connecting"
        self.transport: Any = None

    def up(self) -> ByteTransport:
        assert self.state == "connecting"
        self.state = "connected"
        self.transport = transport = ByteTransport(self.factory.buildProtocol(None))
        transport.connect()
        return transport

    def down(self, reason: Exception) -> None:
        assert self.state == "connecting"
        self.state = "disconnected"
        self.factory.clientConnectionFailed(self, Failure(reason))

    def lost(self) -> None:
        """The connection ends."""
        assert self.state == "connected"
        transport, self.state = self.transport, "disconnected"
        transport.lose()
        self.factory.clientConnectionLost(self, Failure(error.ConnectionDone()))

    def disconnect(self) -> None:
        if self.state == "connecting":
            self.down(error.UserError())
        elif self.state == "connected":
            self.transport.loseConnection()


class Reactor:
    """Records what is connected to."""

    def __init__(self) -> None:
        self.connectors: list[Connector] = []
        self.fail_at_once: Exception | None = None

    def connectTCP(self, host: str, port: int, factory: Any, timeout: float | None = 30) -> Any:
        connector = Connector(host, port, factory, timeout)
        self.connectors.append(connector)
        factory.startedConnecting(connector)
        if self.fail_at_once is not None:
            connector.down(self.fail_at_once)
        return connector

    @property
    def hosts(self) -> list[str]:
        return [connector.host for connector in self.connectors]

    @property
    def live(self) -> list[str]:
        return [c.host for c in self.connectors if c.state == "connecting"]


class Recorder(Protocol):
    def __init__(self) -> None:
        self.events: list[Any] = []

    def connectionMade(self) -> None:
        self.events.append("made")

    def dataReceived(self, data: bytes) -> None:
        self.events.append(data)


class World:
    """A direct outbound in a world that the test makes up."""

    def __init__(self, policy: EgressPolicy | None = None, **options: Any) -> None:
        self.clock = Clock()
        self.reactor = Reactor()
        self.resolver = ScriptedResolver()
        self.runtime = fake_runtime(self.clock, reactor=self.reactor, resolve=self.resolver)
        self.outbound = DirectOutbound(self.runtime, policy or EgressPolicy(), **options)
        self.protocol = Recorder()
        self.results: list[Any] = []

    def connect(self, text: str, key: bytes | None = None) -> Deferred[Any]:
        outbound: Any = self.outbound if key is None else self.outbound.for_client(key)
        deferred = outbound.connect(Destination.parse(text), self.protocol)
        deferred.addBoth(self.results.append)
        return deferred

    @property
    def outcome(self) -> Outcome:
        (result,) = self.results
        assert isinstance(result, Failure), result
        assert result.type is RelayError
        return result.value.outcome

    def nothing_left(self) -> bool:
        return (
            not self.clock.getDelayedCalls()
            and not self.reactor.live
            and self.outbound.connections.used == 0
            and self.outbound.lookups.used == 0
        )


# -- one address ----------------------------------------------------------------------------


def test_literal() -> None:
    world = World()
    world.connect(f"{V4}:443")
    assert world.reactor.hosts == [V4]
    assert world.reactor.connectors[0].port == 443
    assert world.results == []
    assert len(world.clock.getDelayedCalls()) == 1, "one timer, no race"
    transport = world.reactor.connectors[0].up()
    assert world.results == [transport]
    assert world.protocol.events == ["made"]
    assert transport.no_delay
    assert transport.keep_alive
    transport.deliver(b"banner")
    assert world.protocol.events == ["made", b"banner"]
    assert world.clock.getDelayedCalls() == []
    assert world.resolver.asked == []
    assert world.outbound.connections.used == 1
    world.reactor.connectors[0].lost()
    assert world.nothing_left()


def test_the_callbacks_run_before_any_byte() -> None:
    world = World()
    seen: list[Any] = []
    deferred = world.connect(f"{V4}:443")
    deferred.addCallback(lambda _: seen.append(list(world.protocol.events)))
    world.reactor.connectors[0].up()
    assert seen == [["made"]]


def test_relay_without_its_other_side_reads_once() -> None:
    world = World()
    near, far = relay_pair()
    world.protocol = far  # type: ignore[assignment]
    world.connect(f"{V4}:443")
    transport = world.reactor.connectors[0].up()
    transport.deliver(b"welcome")
    assert not transport.reading
    assert ByteTransport(near).connect().take() == b"welcome"
    assert transport.reading


@pytest.mark.parametrize(
    "text", ["127.0.0.1:80", "[::1]:80", "10.0.0.1:443", "169.254.169.254:80", "[::ffff:7f00:1]:1"]
)
def test_forbidden_literal(text: str) -> None:
    world = World()
    world.connect(text)
    assert world.outcome is Outcome.FORBIDDEN
    assert world.reactor.connectors == []
    assert world.nothing_left()


def test_policy_may_be_replaced() -> None:
    world = World()
    world.outbound.policy = LOOPBACK
    world.connect("127.0.0.1:80")
    assert world.reactor.hosts == ["127.0.0.1"]
    world.reactor.connectors[0].down(REFUSAL)


@pytest.mark.parametrize(
    ("number", "outcome"),
    [
        (errno.ECONNREFUSED, Outcome.REFUSED),
        (errno.ENETUNREACH, Outcome.NETWORK_UNREACHABLE),
        (errno.EHOSTUNREACH, Outcome.HOST_UNREACHABLE),
        (errno.ETIMEDOUT, Outcome.TIMED_OUT),
        (errno.ECONNRESET, Outcome.RESET),
        (errno.EMFILE, Outcome.LIMIT),
        (errno.ENFILE, Outcome.LIMIT),
        (errno.EACCES, Outcome.FORBIDDEN),
        (errno.EAFNOSUPPORT, Outcome.NETWORK_UNREACHABLE),
        (errno.EINVAL, Outcome.FAILED),
    ],
)
@pytest.mark.parametrize("at_once", [False, True])
def test_outcomes(number: int, outcome: Outcome, at_once: bool) -> None:
    world = World()
    reason = error.getConnectError((number, "text"))
    if at_once:
        world.reactor.fail_at_once = reason
    world.connect(f"{V4}:443")
    if not at_once:
        world.reactor.connectors[0].down(reason)
    assert world.outcome is outcome
    assert world.nothing_left()


def test_outcome_of_other_errors() -> None:
    assert connect_outcome(error.ConnectBindError(errno.EMFILE, "text")) is Outcome.LIMIT
    assert connect_outcome(error.TimeoutError()) is Outcome.TIMED_OUT
    assert connect_outcome(error.ConnectError(string="lost")) is Outcome.FAILED
    assert connect_outcome(ValueError()) is Outcome.FAILED
    assert connect_outcome(None) is Outcome.FAILED


def test_black_hole() -> None:
    world = World()
    world.connect(f"{V4}:443")
    world.clock.advance(ATTEMPT_TIMEOUT - 0.01)
    assert world.results == []
    world.clock.advance(0.02)
    assert world.outcome is Outcome.TIMED_OUT
    assert world.nothing_left()


def test_cancel_while_connecting() -> None:
    world = World()
    deferred = world.connect(f"{V4}:443")
    deferred.cancel()
    assert world.outcome is Outcome.CANCELLED
    assert world.reactor.connectors[0].state == "disconnected"
    assert world.nothing_left()


def test_cancel_after_success_does_nothing() -> None:
    world = World()
    deferred = world.connect(f"{V4}:443")
    transport = world.reactor.connectors[0].up()
    deferred.cancel()
    assert world.results == [transport]
    assert not transport.disconnecting


def test_cancel_from_inside_make_connection() -> None:
    world = World()
    deferred = world.connect(f"{V4}:443")
    world.protocol.makeConnection = lambda _: deferred.cancel()  # type: ignore[method-assign]
    transport = world.reactor.connectors[0].up()
    assert world.outcome is Outcome.CANCELLED
    assert transport.aborted
    world.reactor.connectors[0].lost()
    assert world.nothing_left()


def test_protocol_that_fails_to_connect(logged_failures: Any) -> None:
    world = World()

    def broken(_transport: Any) -> None:
        raise ZeroDivisionError

    world.protocol.makeConnection = broken  # type: ignore[method-assign]
    world.connect(f"{V4}:443")
    transport = world.reactor.connectors[0].up()
    assert world.outcome is Outcome.FAILED
    assert transport.aborted
    transport.protocol = Protocol()
    world.reactor.connectors[0].lost()
    assert world.nothing_left()
    assert logged_failures.flush(ZeroDivisionError)


# -- names ----------------------------------------------------------------------------------


def test_name_is_resolved_once_and_the_literal_connected() -> None:
    world = World()
    world.resolver.names["example.com"] = [V4]
    world.connect("example.com:443")
    assert world.resolver.asked == ["example.com"]
    assert world.reactor.hosts == [V4]
    assert world.outbound.lookups.used == 0
    world.reactor.connectors[0].up()
    assert world.protocol.events == ["made"]


@pytest.mark.parametrize(
    "failure",
    [
        socket.gaierror(socket.EAI_NONAME, "unknown"),
        socket.gaierror(socket.EAI_AGAIN, "later"),
        UnicodeError("label too long"),
        None,
    ],
)
def test_unresolved(failure: Exception | None) -> None:
    world = World()
    world.resolver.names["example.com"] = [] if failure is None else failure
    world.connect("example.com:443")
    assert world.outcome is Outcome.UNRESOLVED
    assert world.nothing_left()


def test_resolver_that_raises() -> None:
    def resolve(_name: str) -> Any:
        raise RuntimeError("can't start new thread")

    world = World()
    runtime = attrs.evolve(world.runtime, resolve=resolve)
    deferred = DirectOutbound(runtime, EgressPolicy()).connect(
        Destination.parse("example.com:1"), world.protocol
    )
    deferred.addBoth(world.results.append)
    assert world.outcome is Outcome.UNRESOLVED
    assert world.nothing_left()


def test_lookup_without_descriptors_is_a_limit() -> None:
    world = World()
    world.resolver.names["example.com"] = OSError(errno.EMFILE, "Too many open files")
    world.connect("example.com:443")
    assert world.outcome is Outcome.LIMIT


@pytest.mark.parametrize("answers", [["127.0.0.1"], ["127.0.0.1", "::1"], ["10.0.0.1", "fd00::1"]])
def test_name_that_leads_inside(answers: list[str]) -> None:
    world = World()
    world.resolver.names["localhost"] = answers
    world.connect("localhost:80")
    assert world.outcome is Outcome.FORBIDDEN
    assert world.reactor.connectors == []
    assert world.nothing_left()


def test_every_address_is_judged() -> None:
    world = World()
    world.resolver.names["rebind.example"] = ["127.0.0.1", V4, "169.254.169.254", "::1"]
    world.connect("rebind.example:80")
    world.clock.advance(5)
    assert world.reactor.hosts == [V4]
    world.reactor.connectors[0].down(REFUSAL)
    assert world.outcome is Outcome.REFUSED


def test_slow_lookup() -> None:
    world = World()
    world.resolver.holding = True
    world.resolver.names["example.com"] = [V4]
    world.connect("example.com:443")
    world.clock.advance(RESOLVE_TIMEOUT + 0.01)
    assert world.outcome is Outcome.UNRESOLVED
    # The thread is busy still, so the lookup counts still.
    assert world.outbound.lookups.used == 1
    assert world.outbound.connections.used == 0
    world.resolver.release()
    assert world.reactor.connectors == []
    assert world.nothing_left()


@pytest.mark.parametrize("answer", [[V4], OSError("late")])
def test_cancel_during_the_lookup(answer: Any) -> None:
    world = World()
    world.resolver.holding = True
    world.resolver.names["example.com"] = answer
    world.connect("example.com:443").cancel()
    assert world.outcome is Outcome.CANCELLED
    assert world.clock.getDelayedCalls() == []
    assert world.outbound.connections.used == 0
    world.resolver.release()
    assert world.reactor.connectors == []
    assert world.nothing_left()


# -- several addresses ----------------------------------------------------------------------


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


# -- limits ---------------------------------------------------------------------------------


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


# -- own addresses --------------------------------------------------------------------------


def test_own_addresses_from_the_kernels_tables(tmp_path: Path) -> None:
    (tmp_path / "fib_trie").write_text(
        "Local:\n  +-- 0.0.0.0/0 3 0 5\n     +-- 203.0.113.0/24 2 0 2\n"
        "        |-- 203.0.113.0\n           /24 link UNICAST\n"
        "        |-- 203.0.113.9\n           /32 host LOCAL\n"
        "        |-- 203.0.113.255\n           /32 link BROADCAST\n"
    )
    (tmp_path / "if_inet6").write_text(
        "20010db8000000000000000000000001 02 40 00 80     eth0\nnonsense\n"
    )
    found = own_addresses(tmp_path)
    assert IPv4Address("203.0.113.9") in found
    assert IPv6Address("2001:db8::1") in found
    assert IPv4Address("203.0.113.255") not in found


def test_own_addresses_without_proc(tmp_path: Path) -> None:
    assert own_addresses(tmp_path / "absent") <= own_addresses() | {IPv4Address("127.0.0.1")}


def test_loopback_is_an_own_address() -> None:
    assert IPv4Address("127.0.0.1") in own_addresses()


def test_failing_resolver_is_not_left_unhandled() -> None:
    world = World()
    runtime = attrs.evolve(world.runtime, resolve=lambda _: fail(OSError("no")))
    DirectOutbound(runtime, EgressPolicy()).connect(
        Destination("example.com", 1), Protocol()
    ).addErrback(lambda failure: failure.trap(RelayError))
