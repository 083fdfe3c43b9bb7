"""The client keeps its link, whatever happens to it."""

from __future__ import annotations

import itertools

import attrs
import pytest
from support.keys import CLIENT_PUBLIC
from support.runtime import fake_runtime
from support.stack import Stack, at
from support.tunnel import SOMEWHERE, Recorder
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure

from phantom.carriers.registry import client_endpoint
from phantom.core.backoff import LONGEST
from phantom.core.handshake import Mode
from phantom.core.wire import MAX_STREAM_ID, GoawayReason
from phantom.errors import HandshakeError, Outcome, RelayError, SessionError
from phantom.tunnel.mux import EXHAUSTED


def linked(stack: Stack) -> bool:
    return stack.dialer.mux is not None


@pytest.mark.parametrize("mode", list(Mode))
def test_it_dials_at_once(mode: Mode) -> None:
    stack = Stack(mode=mode)
    stack.dialer.start()
    stack.run()
    assert linked(stack) and len(stack.registry) == 1
    assert len(stack.attempts) == 1


def test_it_tries_for_ever_with_growing_pauses() -> None:
    stack = Stack()
    stack.refuse = True
    stack.dialer.start()
    stack.run(1800)
    pauses = [b - a for a, b in zip(stack.attempts, stack.attempts[1:], strict=False)]
    assert len(pauses) > 50
    assert min(pauses) >= 0.5 and max(pauses) <= LONGEST + 0.1
    assert max(pauses[:2]) < 3 < 10 < max(pauses[6:])
    assert len({round(p, 3) for p in pauses}) > 40, "jitter"
    stack.refuse = False
    stack.run_until(lambda: linked(stack), 31)


def test_a_request_after_a_pause_dials_at_once() -> None:
    stack = Stack()
    stack.refuse = True
    stack.dialer.start()
    stack.run(300)
    while stack.clock.seconds() - stack.attempts[-1] < 2:
        stack.run(0.5)
    stack.refuse = False
    made = stack.outbound.connect(SOMEWHERE, Recorder())
    stack.run(0.5)
    assert made.called and linked(stack)


def test_impatient_requests_do_not_storm_the_server() -> None:
    stack = Stack()
    stack.refuse = True
    stack.dialer.start()
    for _ in range(200):
        stack.outbound.connect(SOMEWHERE, Recorder()).addErrback(lambda f: None)
        stack.run(0.1)
    assert len(stack.attempts) < 25
    stack.run(20)


def test_a_lost_link_is_dialled_anew() -> None:
    stack = Stack()
    stack.dialer.start()
    stack.run(20)
    first = stack.dialer.mux
    stack.pipes[0].cut()
    stack.run(0.01)
    assert not linked(stack)
    stack.run_until(lambda: linked(stack), 2)
    assert stack.dialer.mux is first, "the session is the same"
    assert len(stack.registry) == 1


def test_a_link_that_dies_at_once_again_and_again_backs_off() -> None:
    stack = Stack()
    stack.dialer.start()
    for _ in range(600):
        stack.run(0.1)
        stack.pipes[-1].cut()
    # Quick redials run out; then half a second or more lies between two.
    assert len(stack.attempts) < 20 + 60 * 0.5 + 60 / 0.5
    assert len(stack.attempts) < 130


def cut_in_the_handshake(stack: Stack) -> None:
    count = len(stack.pipes)
    stack.run_until(lambda: len(stack.pipes) > count, 60)
    stack.run(0.02)
    stack.pipes[-1].cut()


def test_cuts_in_the_handshake_of_a_redial_do_not_add_up() -> None:
    """A path that cuts links cuts new ones too; streams wait meanwhile."""
    stack = Stack(delay=0.05)
    stack.dialer.start()
    stack.run(20)
    began = stack.clock.seconds()
    stack.pipes[-1].cut()
    for _ in range(3):
        cut_in_the_handshake(stack)
    stack.run_until(lambda: linked(stack), 20)
    assert stack.clock.seconds() - began < 1.5


def test_handshakes_that_are_always_cut_back_off() -> None:
    stack = Stack(delay=0.05)
    stack.dialer.start()
    stack.run(20)
    stack.pipes[-1].cut()
    for _ in range(10):
        cut_in_the_handshake(stack)
    pauses = [b - a for a, b in itertools.pairwise(stack.attempts[-5:])]
    assert max(pauses) > 3, pauses


def test_an_attempt_that_fell_silent_with_the_link_is_not_waited_for() -> None:
    """It began on the path that then froze; its own time-outs are far longer."""
    stack = Stack(delay=0.05)
    stack.dialer.start()
    protocol = Recorder()
    stack.outbound.connect(SOMEWHERE, protocol)
    stack.run(20)
    protocol.transport.write(b"x")
    stack.dialer._renewal.now()
    stack.run(0.07)
    old, new = stack.pipes
    old.stall()
    new.stall()
    began = stack.clock.seconds()
    stack.run_until(lambda: not linked(stack), 20)
    assert stack.clock.seconds() - began < 5
    stack.run_until(lambda: linked(stack), 20)
    assert stack.clock.seconds() - began < 7
    assert len(stack.pipes) == 3 and protocol.lost is None


def test_a_silent_server_is_given_up_and_tried_again() -> None:
    stack = Stack(allowed=frozenset())
    stack.dialer.start()
    stack.run(9)
    assert stack.dialer.last_failure is None
    stack.run(3)
    failure = stack.dialer.last_failure
    assert failure is not None and "server_public_key" in failure.getErrorMessage()
    stack.gate.allowed = frozenset({CLIENT_PUBLIC})
    stack.run_until(lambda: linked(stack), 60)


def test_a_wrong_clock_is_a_stranger() -> None:
    stack = Stack()
    stack.gate.runtime = attrs.evolve(
        stack.runtime, wall_time=lambda: stack.runtime.wall_time() + 121
    )
    stack.dialer.start()
    stack.run(9)
    assert not linked(stack)
    assert stack.meters.counts["handshake.stale"] == 1
    stack.run(2)
    assert stack.strangers.count >= 1


def test_waking_from_sleep_probes_the_link() -> None:
    stack = Stack()
    stack.dialer.start()
    stack.run(60)
    stack.pipes[0].stall()
    stack.time.sleep(3600)
    stack.run(5 + 3 + 1)
    assert len(stack.pipes) >= 2 or not linked(stack)
    stack.run_until(lambda: linked(stack), 10)


def test_waking_with_a_good_link_keeps_it() -> None:
    stack = Stack()
    stack.dialer.start()
    stack.run(60)
    first = stack.dialer.mux
    stack.time.sleep(3600)
    stack.run(30)
    assert stack.dialer.mux is first and len(stack.pipes) == 1


def test_a_server_that_goes_away_is_replaced_while_streams_finish() -> None:
    stack = Stack()
    stack.dialer.start()
    stack.run()
    protocol = Recorder()
    stack.outbound.connect(SOMEWHERE, protocol)
    stack.run()
    old = stack.dialer.mux
    for _session, mux in list(stack.registry._sessions.values()):
        mux.goaway(GoawayReason.SHUTDOWN)
    stack.run(0.2)
    assert stack.dialer.mux is None
    protocol.transport.write(b"still here")
    stack.run(0.3)
    assert protocol.data == b"still here"
    protocol.transport.loseConnection()
    stack.run_until(lambda: stack.dialer.mux not in (None, old), 10)
    stack.run(2)
    assert len(stack.registry) == 1


def test_ids_that_run_out_start_a_fresh_session() -> None:
    stack = Stack()
    stack.dialer.start()
    stack.run()
    old = stack.dialer.mux
    assert old is not None
    protocol = Recorder()
    stack.outbound.connect(SOMEWHERE, protocol)
    stack.run()
    old._next_id = EXHAUSTED | 1
    assert EXHAUSTED < MAX_STREAM_ID
    old._next_id += 2
    made = stack.outbound.connect(SOMEWHERE, Recorder())
    stack.run(0.5)
    assert made.called and stack.dialer.mux is not old
    protocol.transport.write(b"old one lives")
    stack.run(0.2)
    assert protocol.data == b"old one lives"


def test_stopping_closes_everything() -> None:
    stack = Stack()
    stack.dialer.start()
    stack.run()
    done = stack.dialer.stop()
    stack.run(3)
    assert done.called and len(stack.registry) == 0
    stack.run(600)
    assert len(stack.attempts) == 1
    assert not [c for c in stack.clock.calls if "dialer" in repr(c.func)]


def test_stopping_in_the_middle_of_an_attempt() -> None:
    stack = Stack(allowed=frozenset())
    stack.dialer.start()
    stack.run(1)
    lost: list[Failure] = []
    stack.dialer.when_ready().addErrback(lost.append)
    done = stack.dialer.stop()
    stack.run(100)
    assert done.called
    assert lost[0].check(SessionError)
    assert len(stack.attempts) == 1


@pytest.mark.parametrize("host", ["192.0.2.1", "example.com"])
def test_stopping_while_the_carrier_connects_is_quiet(host: str) -> None:
    stack = Stack()
    network = fake_runtime(MemoryReactorClock())
    connect = stack.dialer._connect
    stack.dialer._connect = lambda endpoint: (
        client_endpoint(network, host, 443, None),
        connect(endpoint)[1],
    )
    stack.dialer.start()
    stack.run(0.1)
    assert stack.dialer.stop().called
    stack.run(100)  # and `logged_failures` finds nothing


def test_one_request_may_cancel_another_when_the_link_comes() -> None:
    stack = Stack()
    first, second, third = (stack.dialer.when_ready() for _ in range(3))
    served: list[str] = []
    first.addCallback(lambda _mux: second.cancel())
    second.addErrback(lambda _failure: served.append("second cancelled"))
    third.addCallback(lambda _mux: served.append("third"))
    stack.dialer.start()
    stack.run()
    assert served == ["second cancelled", "third"]
    assert linked(stack)


def test_a_server_key_that_is_no_key_is_told_at_once() -> None:
    stack = Stack(endpoints=[at("server.example", bytes(32))])
    stack.dialer.start()
    stack.run(1)
    assert stack.dialer.last_failure is not None
    assert stack.dialer.last_failure.check(HandshakeError)


def test_requests_wait_for_the_link_and_then_get_a_clear_error() -> None:
    stack = Stack(link_wait=5)
    stack.refuse = True
    stack.dialer.start()
    stack.run()
    failures: list[Failure] = []
    stack.outbound.connect(SOMEWHERE, Recorder()).addErrback(failures.append)
    stack.run(4.5)
    assert not failures
    stack.run(1)
    assert failures[0].check(RelayError)
    assert failures[0].value.outcome is Outcome.NO_LINK
