"""Sessions outlive their links: nothing is lost, repeated or out of order."""

from __future__ import annotations

from typing import Any

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st
from support.keys import CLIENT_PUBLIC
from support.pipes import byte_by_byte, step
from support.stack import Stack
from support.tunnel import SOMEWHERE, Joined, Recorder
from twisted.python.failure import Failure

from phantom.address import Destination
from phantom.core.detached import DetachedLimits
from phantom.core.wire import FrameType
from phantom.errors import Outcome, RelayError, SessionError

SLOW = Destination("slow.example", 443)
MIB = 1024 * 1024


def connected(stack: Stack, destination: Destination = SOMEWHERE) -> Recorder:
    protocol = Recorder()
    stack.outbound.connect(destination, protocol)
    stack.run()
    assert protocol.transport is not None
    return protocol


def up(**settings: Any) -> Stack:
    stack = Stack(**settings)
    stack.dialer.start()
    stack.run()
    return stack


def numbered(size: int) -> bytes:
    return b"".join(i.to_bytes(4, "big") for i in range(size // 4))


def test_a_transfer_survives_many_cuts() -> None:
    stack = up()
    protocol = connected(stack)
    data = numbered(2 * MIB)
    for start in range(0, len(data), 64 * 1024):
        protocol.transport.write(data[start : start + 64 * 1024])
        stack.run(0.03)
        if start % (256 * 1024) == 0:
            stack.pipes[-1].cut()
    stack.run(5)
    assert stack.destinations.transports[0].received == data
    assert protocol.data == data
    assert len(stack.pipes) >= 6 and len(stack.registry) == 1


@settings(max_examples=40)
@given(cuts=st.lists(st.floats(0.0, 0.4), min_size=1, max_size=12), seed=st.integers(0, 999))
def test_cut_at_any_moment_everything_arrives_once(cuts: list[float], seed: int) -> None:
    joined = Joined(delay=0.02)
    stream, protocol = joined.open()
    joined.run()
    server = joined.server_protocols[1]
    up, down = numbered(300_000), numbered(200_000 + 4 * seed)
    stream.write(up)
    stream.loseWriteConnection()
    server.transport.write(down)
    server.transport.loseWriteConnection()
    for moment in cuts:
        joined.run(moment)
        joined.pipe.cut()
        joined.run(0.0)
        joined.relink()
    joined.run(5)
    assert server.data == up and protocol.data == down
    assert protocol.clean and server.clean
    assert joined.session._log.size == joined.server_session._log.size == 0


class Exchange:
    """A question and its answer, byte by byte, cut after some byte if told so."""

    def __init__(self, cut_after: int | None) -> None:
        self.joined = joined = Joined(split=byte_by_byte)
        self.start = sum(joined.pipe.carried)
        stream, self.protocol = joined.open(early=True)
        stream.write(b"question")
        stream.loseWriteConnection()
        self.answered = False
        while joined.clock.seconds() < 1 and (cut_after is None or self.carried < cut_after):
            step(joined.clock)
            self.answer()

    @property
    def carried(self) -> int:
        return sum(self.joined.pipe.carried) - self.start

    def answer(self) -> None:
        server = self.joined.server_protocols.get(1)
        if server is not None and server.read_ended and not self.answered:
            self.answered = True
            server.transport.write(b"answer")
            server.transport.loseConnection()


def test_cut_at_every_byte_of_a_small_exchange() -> None:
    total = Exchange(None).carried
    assert total > 60
    for cut_after in range(total):
        exchange = Exchange(cut_after)
        joined = exchange.joined
        joined.pipe.cut()
        joined.run(0.0)
        joined.relink()
        joined.run()
        exchange.answer()
        joined.run()
        server = joined.server_protocols[1]
        assert server.data == b"question", f"cut after byte {cut_after}"
        assert exchange.protocol.data == b"answer", f"cut after byte {cut_after}"
        assert joined.outcomes == {1: Outcome.CONNECTED}


def test_streams_opened_while_the_link_is_down_are_queued() -> None:
    joined = Joined()
    joined.pipe.cut()
    joined.run(0.0)
    stream, protocol = joined.open()
    stream.write(b"waiting")
    joined.run(5)
    assert not joined.outcomes
    joined.relink()
    joined.run()
    assert joined.outcomes == {1: Outcome.CONNECTED}
    assert joined.server_protocols[1].data == b"waiting"
    assert protocol.transport is stream


def test_half_closes_and_resets_survive() -> None:
    joined = Joined(delay=0.05)
    first, _ = joined.open()
    second, _ = joined.open()
    joined.run()
    first.write(b"last words")
    first.loseWriteConnection()
    second.abortConnection()
    joined.run(0.01)
    joined.pipe.cut()
    joined.run(0.0)
    joined.relink()
    joined.run()
    servers = joined.server_protocols
    assert (servers[1].data, servers[1].read_ended) == (b"last words", 1)
    assert servers[3].lost is not None and not servers[3].clean


def test_a_frozen_path_is_noticed_in_seconds_while_somebody_waits() -> None:
    stack = up()
    protocol = connected(stack)
    stack.run(10)
    protocol.transport.write(b"before")
    stack.run(0.005)
    stack.pipes[-1].stall()
    frozen = stack.clock.seconds()
    stack.run_until(lambda: len(stack.pipes) == 2, 10)
    assert stack.clock.seconds() - frozen < 6.5
    stack.run(1)
    assert protocol.data == b"before"


def test_a_quiet_stream_costs_one_ping_and_then_the_keepalive() -> None:
    stack = up()
    protocol = connected(stack)
    protocol.transport.write(b"x")
    stack.run(5)
    before = sum(stack.pipes[0].carried)
    stack.run(10)
    assert sum(stack.pipes[0].carried) - before < 700
    stack.run(600)
    assert len(stack.pipes) == 1


def test_the_server_is_restarted() -> None:
    stack = up()
    protocol = connected(stack)
    failures: list[Failure] = []
    stack.outbound.connect(SLOW, Recorder()).addErrback(failures.append)
    stack.run()
    stack.restart_server()
    stack.run(2)
    assert protocol.lost is not None
    assert "restarted" in protocol.lost.getErrorMessage()
    assert failures[0].check(RelayError) and failures[0].value.outcome is Outcome.SESSION_LOST
    assert stack.dialer.mux is not None and len(stack.registry) == 1
    again = connected(stack)
    again.transport.write(b"fresh")
    stack.run()
    assert again.data == b"fresh"


def test_a_first_link_lost_before_its_answer_loses_nothing() -> None:
    stack = Stack(delay=0.2)
    stack.dialer.start()
    protocol = Recorder()
    stack.outbound.connect(SOMEWHERE, protocol)
    stack.run_until(lambda: stack.dialer.mux is not None)
    stack.pipes[0].cut()  # ATTACH and STREAM_OPEN are on their way
    stack.run(3)
    assert protocol.transport is not None
    assert len(stack.destinations.asked) == 1


def test_a_session_without_a_link_is_given_up_in_time() -> None:
    stack = up()
    protocol = connected(stack)
    stack.refuse = True
    stack.pipes[-1].cut()
    stack.run(290)
    assert len(stack.registry) == 1 and protocol.lost is None
    stack.run(20)
    assert len(stack.registry) == 0
    assert protocol.lost is not None and "too long" in protocol.lost.getErrorMessage()
    assert stack.destinations.transports[0].aborted
    stack.refuse = False
    stack.run(31)
    assert stack.dialer.mux is not None


def test_a_client_that_comes_too_late_is_told() -> None:
    stack = up()
    stack.dialer._settings = attrs.evolve(stack.dialer._settings, detached_timeout=10_000)
    protocol = connected(stack)
    stack.refuse = True
    stack.pipes[-1].cut()
    stack.run(400)
    assert len(stack.registry) == 0
    stack.refuse = False
    stack.run(40)
    assert protocol.lost is not None and "does not know" in protocol.lost.getErrorMessage()
    stack.run_until(lambda: stack.dialer.mux is not None)


def test_sessions_without_links_are_bounded_in_memory() -> None:
    joined = Joined()
    joined.registry._detached_limits = DetachedLimits(memory_per_client=100_000)
    stream, _ = joined.open()
    joined.run()
    server = joined.server_protocols[1]
    joined.pipe.stall()
    server.transport.write(bytes(300_000))
    joined.run(0.1)
    joined.server_link.abort()
    joined.run(0.1)
    assert len(joined.registry) == 0
    assert server.lost is not None
    del stream


def test_a_clients_own_oldest_session_gives_way() -> None:
    joined = Joined(max_links=1)
    joined.pipe.cut()
    joined.run()
    old = joined.server_session
    other = Joined.__new__(Joined)
    other.__dict__.update(joined.__dict__)
    second = type(joined.session)(
        joined.runtime,
        b"N" * 16,
        type(joined.mux)(joined.runtime, joined.limits, client=True),
        joined.session._log._pool,
        on_detached=lambda s, r: None,
        on_end=lambda s, r: None,
    )
    joined._link(second.begin)
    joined.run()
    assert old.ended and len(joined.registry) == 1


def test_a_fresh_link_takes_over_without_a_hiccup() -> None:
    stack = Stack()
    stack.dialer._settings = attrs.evolve(stack.dialer._settings, link_max_age=60)
    stack.dialer.start()
    stack.run()
    protocol = connected(stack)
    sent = b""
    for i in range(3000):
        piece = i.to_bytes(4, "big")
        sent += piece
        protocol.transport.write(piece)
        stack.run(0.1)
        assert len(sent) - len(protocol.data) <= 4 * 4, "never more than an instant behind"
    stack.run()
    assert protocol.data == sent
    ages = [b - a for a, b in zip(stack.attempts, stack.attempts[1:], strict=False)]
    assert len(ages) >= 2 and all(30 <= age <= 91 for age in ages)
    assert len({round(age) for age in ages}) > 1


def test_a_fresh_link_that_cannot_be_had_leaves_the_old_one() -> None:
    stack = Stack()
    stack.dialer._settings = attrs.evolve(stack.dialer._settings, link_max_age=60)
    stack.dialer.start()
    stack.run()
    protocol = connected(stack)
    stack.refuse = True
    stack.run(300)
    protocol.transport.write(b"still")
    stack.run()
    assert protocol.data == b"still" and len(stack.pipes) == 1


def test_another_network_is_noticed() -> None:
    stack = up()
    protocol = connected(stack)
    stack.run(30)
    stack.pipes[-1].stall()
    stack.time.local_address = "203.0.113.9"
    stack.run(5 + 4)
    assert len(stack.pipes) == 2
    protocol.transport.write(b"elsewhere")
    stack.run()
    assert protocol.data == b"elsewhere"


def test_late_frames_of_the_old_link_count_once() -> None:
    joined = Joined(delay=0.2)
    stream, _ = joined.open()
    joined.run()
    stream.write(numbered(40_000))
    joined.run(0.05)
    joined.relink()  # the old link is alive, and its data on the way
    joined.run(0.3)
    stream.write(b"more")
    joined.run(5)
    assert joined.server_protocols[1].data == numbered(40_000) + b"more"


def test_two_links_at_once_resolve_to_the_newer() -> None:
    joined = Joined(delay=0.1)
    joined.open()
    joined.run()
    joined.relink()
    joined.relink()
    joined.run(5)
    assert joined.server_session.link is joined.server_link
    assert joined.session.epoch == joined.server_session.epoch == 3
    assert not joined.ended and len(joined.registry) == 1


def test_an_acknowledgement_costs_little() -> None:
    joined = Joined(capacity=4 * MIB)
    stream, _ = joined.open()
    joined.run()
    before = joined.pipe.carried
    stream.write(bytes(16 * MIB))
    joined.run()
    back = joined.pipe.carried[1] - before[1]
    assert back < 16 * MIB / 1000, "window updates included"


def test_a_removed_client_is_told_not_to_wait() -> None:
    stack = up()
    protocol = connected(stack)
    stack.gate.allowed = frozenset()
    stack.registry.revoke(lambda key: key != CLIENT_PUBLIC)
    stack.run(1)
    assert protocol.lost is not None and protocol.lost.check(SessionError)
    assert "removed" in protocol.lost.getErrorMessage()


def test_no_timer_is_left_when_all_is_over() -> None:
    stack = up()
    protocol = connected(stack)
    stack.pipes[-1].cut()
    stack.run(2)
    protocol.transport.abortConnection()
    stack.run()
    stack.dialer.stop()
    stack.registry.shut_down(1)
    stack.run(90)
    assert not stack.clock.calls, stack.clock.calls
    assert FrameType.DATA == 0
