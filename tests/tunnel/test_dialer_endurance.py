"""The dialer over weeks: sleep, paths that freeze, sessions that drain, and stopping amid it."""

from __future__ import annotations

from typing import Any

import attrs
from support.stack import Stack
from support.tunnel import SOMEWHERE, Recorder
from twisted.python.failure import Failure

from phantom.address import Destination
from phantom.core.wire import GoawayReason
from phantom.errors import Outcome, RelayError
from phantom.tunnel.dialer import LONG_DRAIN
from phantom.tunnel.mux import EXHAUSTED


def up(**settings: Any) -> Stack:
    stack = Stack()
    stack.dialer._settings = attrs.evolve(stack.dialer._settings, **settings)
    stack.dialer.start()
    stack.run()
    return stack


def connected(stack: Stack) -> Recorder:
    protocol = Recorder()
    stack.outbound.connect(SOMEWHERE, protocol)
    stack.run()
    assert protocol.transport is not None
    return protocol


def test_stopping_does_not_wait_for_a_session_that_drains_for_long() -> None:
    stack = up()
    protocol = connected(stack)
    mux = stack.dialer.mux
    assert mux is not None
    mux._next_id = EXHAUSTED | 1
    mux._next_id += 2
    stack.dialer.when_ready()
    stack.run()
    assert protocol.lost is None and stack.dialer.mux not in (None, mux)
    done = stack.dialer.stop()
    stack.run(stack.dialer._settings.drain_timeout + 1)
    assert done.called and protocol.lost is not None
    assert LONG_DRAIN > 60


def test_nobody_waits_for_a_tunnel_that_is_stopped() -> None:
    stack = up()
    connected(stack)
    stack.pipes[-1].cut()
    stack.run(0.001)
    failures: list[Failure] = []
    stack.dialer.when_ready().addErrback(failures.append)
    first, second = stack.dialer.stop(), stack.dialer.stop()
    stack.dialer.when_ready().addErrback(failures.append)
    stack.run(3)
    assert len(failures) == 2 and first.called and second.called


def test_nights_of_sleep_do_not_make_a_path_suspicious() -> None:
    stack = up()
    protocol = connected(stack)
    for _ in range(4):
        stack.run(300)
        stack.pipes[-1].stall()
        stack.time.sleep(8 * 3600)
        stack.run(20)
    pipes = len(stack.pipes)
    for _ in range(30):
        protocol.transport.write(bytes(20_000))
        stack.run(1)
    assert len(stack.pipes) == pipes


def test_a_path_that_froze_once_is_trusted_again() -> None:
    stack = up()
    protocol = connected(stack)
    for _ in range(3):
        protocol.transport.write(b"x")
        stack.run(0.005)
        stack.pipes[-1].stall()
        stack.run(15)
    for _ in range(60):
        protocol.transport.write(bytes(20_000))
        stack.run(1)
    pipes = len(stack.pipes)
    for _ in range(30):
        protocol.transport.write(bytes(20_000))
        stack.run(1)
    assert len(stack.pipes) - pipes <= 1


def test_links_that_freeze_do_not_make_the_client_storm_its_server() -> None:
    stack = up()
    protocol = connected(stack)
    for _ in range(3):
        protocol.transport.write(b"x")
        stack.run(0.005)
        stack.pipes[-1].stall()
        stack.run(15)
    stack.refuse = True
    attempts = len(stack.attempts)
    for _ in range(600):
        protocol.transport.write(b"x")
        stack.run(0.1)
    assert len(stack.attempts) - attempts < 60


def test_a_session_that_drains_does_not_stop_the_next_attempt() -> None:
    stack = Stack(delay=0.5)
    stack.dialer.start()
    stack.run(5)
    dialer = stack.dialer
    session = dialer._session
    assert session is not None
    dialer._renewal.now()
    stack.run_until(lambda: session._proposed is not None)
    dialer._retire(GoawayReason.IDS_EXHAUSTED, LONG_DRAIN)
    dialer._redial.failures = 8
    dialer._redial.after_failure()
    stack.run(1.5)
    assert session.epoch == 2 and session._proposed is None, "it was answered only now"
    stack.run(60)
    assert dialer.mux is not None


def test_requests_without_an_answer_get_one_when_the_client_stops() -> None:
    stack = up()
    failures: list[Failure] = []
    slow = Destination("slow.example", 443)
    stack.outbound.connect(slow, Recorder()).addErrback(failures.append)
    stack.run()
    stack.dialer.stop()
    stack.run(3)
    assert failures and failures[0].check(RelayError)
    assert failures[0].value.outcome is Outcome.SHUTTING_DOWN
    assert stack.destinations.cancelled == 1


def test_a_server_that_stops_gives_its_dials_up() -> None:
    stack = up()
    failures: list[Failure] = []
    slow = Destination("slow.example", 443)
    stack.outbound.connect(slow, Recorder()).addErrback(failures.append)
    stack.run()
    done = stack.registry.shut_down(1)
    stack.run(2)
    assert done.called and stack.destinations.cancelled == 1
    assert failures[0].value.outcome is Outcome.SHUTTING_DOWN
