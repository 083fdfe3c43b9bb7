from __future__ import annotations

import gc

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from support.transports import ByteTransport
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IHalfCloseableProtocol, IProtocol, IPushProducer
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from phantom.errors import Outcome, StreamError
from phantom.fast.timeouts import Timeouts
from phantom.relay import HALF_CLOSED_TIMEOUT, RelayProtocol, relay_pair


class Ended:
    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


def connected_pair() -> tuple[ByteTransport, ByteTransport, Ended]:
    ended = Ended()
    left, right = (ByteTransport(side) for side in relay_pair(ended))
    left.connect()
    right.connect()
    return left, right, ended


def test_interfaces() -> None:
    side, _ = relay_pair()
    for interface in (IProtocol, IHalfCloseableProtocol, IPushProducer):
        assert verifyObject(interface, side)


def test_bytes_cross_both_ways() -> None:
    left, right, _ = connected_pair()
    left.deliver(b"ping")
    right.deliver(b"pong")
    assert (right.take(), left.take()) == (b"ping", b"pong")
    left.protocol.dataReceived(memoryview(b"view"))
    assert right.take() == b"view"


def test_first_side_waits_for_the_second() -> None:
    near, far = relay_pair()
    left, right = ByteTransport(near).connect(), ByteTransport(far)
    near.dataReceived(memoryview(bytearray(b"read ")))
    assert not left.reading
    near.dataReceived(b"already")  # on its way when it paused
    right.connect()
    assert right.take() == b"read already"
    assert left.reading
    left.deliver(b"more")
    assert right.take() == b"more"


def test_what_was_held_is_a_copy() -> None:
    near, far = relay_pair()
    ByteTransport(near).connect()
    scratch = bytearray(b"abc")
    near.dataReceived(memoryview(scratch))
    scratch[:] = b"xyz"
    assert ByteTransport(far).connect().take() == b"abc"


def test_transport_paused_beforehand_is_resumed() -> None:
    near, far = relay_pair()
    left, right = ByteTransport(near), ByteTransport(far)
    left.pauseProducing()
    right.pauseProducing()
    left.connect()
    right.connect()
    assert left.reading
    assert right.reading


def test_congested_transport_keeps_the_source_paused() -> None:
    near, far = relay_pair()
    left, right = ByteTransport(near), ByteTransport(far)
    right.congest()
    left.connect()
    right.connect()
    assert not left.reading
    right.relieve()
    assert left.reading


def test_back_pressure() -> None:
    left, right, _ = connected_pair()
    right.congest()
    assert not left.reading
    assert right.reading, "the other direction goes on"
    left.deliver(b"later")
    assert right.take() == b""
    right.relieve()
    assert right.take() == b"later"


def timed_pair() -> tuple[Clock, ByteTransport, ByteTransport]:
    clock = Clock()
    left, right = (
        ByteTransport(side) for side in relay_pair(None, Timeouts(clock, HALF_CLOSED_TIMEOUT))
    )
    left.connect()
    right.connect()
    return clock, left, right


def test_a_half_closed_pair_that_stays_silent_is_given_up() -> None:
    clock, left, right = timed_pair()
    clock.advance(10 * HALF_CLOSED_TIMEOUT)
    left.end()
    clock.advance(HALF_CLOSED_TIMEOUT - 1)
    right.deliver(b"still here")
    assert left.take() == b"still here"
    clock.advance(HALF_CLOSED_TIMEOUT - 1)
    assert not right.aborted
    clock.advance(1)
    assert right.aborted
    right.flush()
    left.flush()
    assert left.aborted
    assert not clock.getDelayedCalls()


def test_a_half_closed_pair_is_not_given_up_for_a_slow_reader() -> None:
    clock, left, right = timed_pair()
    left.end()
    left.congest()
    clock.pump([HALF_CLOSED_TIMEOUT] * 3)
    assert not right.aborted
    left.relieve()
    right.deliver(b"rest")
    assert left.take() == b"rest"
    clock.advance(HALF_CLOSED_TIMEOUT)
    assert right.aborted


def test_no_timer_outlives_a_half_closed_pair() -> None:
    for finish in (
        lambda left, right: right.end(),
        lambda left, right: right.lose(ConnectionDone()),
        lambda left, right: right.lose(ConnectionLost()),
        lambda left, right: left.lose(ConnectionLost()),
    ):
        clock, left, right = timed_pair()
        left.end()
        assert clock.getDelayedCalls()
        finish(left, right)
        left.flush()
        right.flush()
        assert not clock.getDelayedCalls()


@pytest.mark.parametrize("early_end", [False, True])
def test_half_close_then_close(early_end: bool) -> None:
    ended = Ended()
    near, far = relay_pair(ended)
    left, right = ByteTransport(near).connect(), ByteTransport(far)
    near.dataReceived(b"request")
    if early_end:
        near.readConnectionLost()
        right.connect()
    else:
        right.connect()
        left.end()
    assert right.take() == b"request"
    assert right.write_closed
    assert not right.disconnecting
    right.deliver(b"answer")
    assert left.take() == b"answer"
    assert not left.write_closed
    right.end()
    assert left.disconnecting
    assert right.disconnecting
    left.flush()
    right.flush()
    assert not left.connected
    assert not right.connected
    assert not (left.aborted or right.aborted)
    assert ended.count == 1


def test_end_of_input_while_paused_does_not_wait_for_the_producer() -> None:
    left, right, _ = connected_pair()
    right.congest()
    left.protocol.readConnectionLost()  # a stream may say so while it is paused
    right.relieve()
    right.flush()
    assert right.write_closed
    assert right.producer is None
    assert not left.reading, "reading on would report the end a second time"


def test_end_of_input_twice_is_harmless() -> None:
    left, right, _ = connected_pair()
    left.protocol.readConnectionLost()
    left.protocol.readConnectionLost()
    left.protocol.dataReceived(b"after the end")
    assert right.take() == b""
    assert not right.disconnecting


@pytest.mark.parametrize(
    "reason",
    [ConnectionLost(), ConnectionAborted(), StreamError("lost", Outcome.RESET), ValueError()],
)
@pytest.mark.parametrize("half_closed", [False, True])
def test_reset_stays_a_reset(reason: Exception, half_closed: bool) -> None:
    left, right, ended = connected_pair()
    if half_closed:
        left.end()
    left.lose(reason)
    assert right.aborted
    right.flush()
    assert ended.count == 1


def test_clean_loss_flushes_the_other_side() -> None:
    left, right, ended = connected_pair()
    right.congest()
    left.lose(ConnectionDone())
    assert right.disconnecting
    assert not right.aborted
    assert right.producer is None, "the transport would wait for it"
    right.congested = False
    right.flush()
    assert ended.count == 1


@pytest.mark.parametrize("clean", [False, True])
def test_side_that_connects_after_the_end(clean: bool) -> None:
    ended = Ended()
    near, far = relay_pair(ended)
    left, right = ByteTransport(near).connect(), ByteTransport(far)
    near.dataReceived(b"last words")
    left.lose(ConnectionDone() if clean else ConnectionLost())
    assert ended.count == 0
    right.connect()
    assert right.disconnecting
    assert right.aborted is not clean
    assert right.take() == (b"last words" if clean else b"")
    right.flush()
    assert ended.count == 1


def test_producer_is_not_the_transport_itself() -> None:
    # Twisted tells the producer of a lost transport to stop before the protocol hears why.
    # Were that to close the other transport, a reset would go out as an orderly end.
    left, right, _ = connected_pair()
    right.write_closed = True
    left.producer.stopProducing()
    assert not right.disconnecting


def test_no_references_remain() -> None:
    left, right, _ = connected_pair()
    near, far = left.protocol, right.protocol
    left.lose()
    right.flush()
    for side in (near, far):
        assert not [o for o in gc.get_referents(side) if isinstance(o, RelayProtocol)]
        assert side.transport is None


class ClosesInside(ByteTransport):
    """Reports its loss from inside the call that closes it, as Twisted's does at times."""

    def loseConnection(self) -> None:
        already = self.disconnecting
        super().loseConnection()
        if not already:
            self.lose(ConnectionDone())

    def abortConnection(self) -> None:
        already = self.aborted
        super().abortConnection()
        if not already:
            self.lose(ConnectionAborted())


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("last", ["end", "lose"])
def test_loss_from_inside_a_call(first: int, last: str) -> None:
    ended = Ended()
    pair = [ClosesInside(side) for side in relay_pair(ended)]
    for transport in pair:
        transport.connect()
    pair[first].end()
    getattr(pair[1 - first], last)()
    assert not pair[0].connected
    assert not pair[1].connected
    assert ended.count == 1


class LosesOnWrite(ByteTransport):
    def write(self, data: bytes) -> None:
        super().write(data)
        self.lose(ConnectionLost())


def test_loss_while_the_pair_is_joined() -> None:
    ended = Ended()
    near, far = relay_pair(ended)
    left, right = ByteTransport(near).connect(), LosesOnWrite(far)
    near.dataReceived(b"held")
    near.readConnectionLost()
    right.connect()
    assert left.aborted
    left.flush()
    assert ended.count == 1


# -- every order of events ----------------------------------------------------------------


class RelayMachine(RuleBasedStateMachine):
    """Drives both transports at random; what each must have done follows from the other."""

    def __init__(self) -> None:
        super().__init__()
        self.ended = Ended()
        self.sides = [ByteTransport(side) for side in relay_pair(self.ended)]
        self.started = [False, False]
        self.sent = [b"", b""]
        self.fin = [False, False]  # the network's end of input
        self.over: list[str] = ["", ""]  # how the network broke it off: "clean" or "hard"

    def alive(self, n: int) -> bool:
        side = self.sides[n]
        return self.started[n] and side.connected and not side.disconnecting

    @rule(n=st.integers(0, 1))
    def connect(self, n: int) -> None:
        if not self.started[n]:
            self.started[n] = True
            self.sides[n].connect()

    @rule(n=st.integers(0, 1), data=st.binary(min_size=1, max_size=5))
    def deliver(self, n: int, data: bytes) -> None:
        if self.alive(n) and not self.fin[n]:
            self.sent[n] += data
            self.sides[n].deliver(data)

    @rule(n=st.integers(0, 1))
    def end(self, n: int) -> None:
        if self.alive(n) and not self.fin[n]:
            self.fin[n] = True
            self.sides[n].end()

    @precondition(lambda self: any(self.started))
    @rule(n=st.integers(0, 1), how=st.sampled_from(["clean", "hard"]))
    def lose(self, n: int, how: str) -> None:
        side = self.sides[n]
        if self.started[n] and side.connected:
            if not self.over[1 - n]:
                self.over[n] = how
            side.lose(ConnectionDone() if how == "clean" else ConnectionLost())

    @rule(n=st.integers(0, 1))
    def congest(self, n: int) -> None:
        self.sides[n].congest()

    @rule(n=st.integers(0, 1))
    def relieve(self, n: int) -> None:
        self.sides[n].relieve()

    @rule(n=st.integers(0, 1))
    def flush(self, n: int) -> None:
        side = self.sides[n]
        if self.started[n] and side.connected:
            aborted = side.aborted
            side.flush()
            if not side.connected and not self.over[1 - n]:
                self.over[n] = "hard" if aborted else "clean"

    @invariant()
    def each_follows_the_other(self) -> None:
        for n in (0, 1):
            side, other = self.sides[n], self.sides[1 - n]
            assert self.sent[1 - n].startswith(side.written), "nothing invented or reordered"
            if not self.started[n]:
                continue
            fate = self.over[1 - n]
            if side.connected and fate:
                assert side.disconnecting
                assert side.aborted is (fate == "hard")
                continue
            if not side.connected:
                continue
            assert not side.aborted
            taken = self.sent[1 - n][: len(self.sent[1 - n]) - len(other._undelivered)]
            assert side.written == taken, "what was read is written"
            heard = [t._ending and not t._undelivered and not t.reading for t in self.sides]
            if not all(self.started):
                assert not (side.reading and self.sent[n]), "nobody to read for"
            elif side.disconnecting:
                assert all(self.fin)
            else:
                assert not side.write_closed or heard[1 - n]
                assert side.reading is not (other.congested or heard[n])
                assert not (side.producer is None and not heard[1 - n])

    def teardown(self) -> None:
        for n in (0, 1):
            self.connect(n)
        for n in (0, 1):
            self.relieve(n)
            self.end(n)
        for _ in range(2):
            for n in (0, 1):
                self.flush(n)
        assert not any(side.connected for side in self.sides)
        assert self.ended.count == 1
        for side in self.sides:
            assert side.protocol._peer is None


def test_every_order_of_events() -> None:
    run_state_machine_as_test(
        RelayMachine, settings=settings(max_examples=300, stateful_step_count=30, deadline=None)
    )
