"""The direct outbound in memory: to one address, and to a name."""

from __future__ import annotations

import errno
import socket
from typing import Any

import attrs
import pytest
from support.direct_outbound import REFUSAL, V4, World
from support.transports import ByteTransport
from twisted.internet import error
from twisted.internet.defer import fail
from twisted.internet.protocol import Protocol

from phantom.address import Destination
from phantom.core.egress import EgressPolicy, EgressRule
from phantom.errors import Outcome, RelayError
from phantom.outbound.direct import ATTEMPT_TIMEOUT, RESOLVE_TIMEOUT, DirectOutbound
from phantom.outbound.race import connect_outcome
from phantom.relay import relay_pair

LOOPBACK = EgressPolicy([EgressRule.parse("127.0.0.0/8"), EgressRule.parse("::1")])

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


def test_failing_resolver_is_not_left_unhandled() -> None:
    world = World()
    runtime = attrs.evolve(world.runtime, resolve=lambda _: fail(OSError("no")))
    DirectOutbound(runtime, EgressPolicy()).connect(
        Destination("example.com", 1), Protocol()
    ).addErrback(lambda failure: failure.trap(RelayError))
