"""Streams over a session, in memory: how they open, what they carry, and how they end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.pipes import drawn_split
from support.quick import Producer
from support.tunnel import SOMEWHERE, Joined, Recorder
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.python.failure import Failure

from phantom.errors import Outcome, RelayError, SessionError, StreamError
from phantom.tunnel.closing import STREAM_DRAIN_TIMEOUT
from phantom.tunnel.stream_receiving import JOINED

MIB = 1024 * 1024


def test_a_stream_carries_bytes_both_ways() -> None:
    joined = Joined(delay=0.01)
    stream, protocol = joined.open()
    joined.run()
    assert joined.accepted[0][1] == SOMEWHERE
    assert joined.outcomes == {1: Outcome.CONNECTED}
    stream.write(b"question")
    joined.server_protocols[1].transport.write(b"answer")
    joined.run()
    assert joined.server_protocols[1].data == b"question"
    assert protocol.data == b"answer"


@given(
    cuts=st.lists(st.integers(1, 3000), max_size=40),
    pieces=st.lists(st.integers(1, 70_000), min_size=1, max_size=8),
)
def test_every_chunking_below_gives_the_same_bytes(cuts: list[int], pieces: list[int]) -> None:
    joined = Joined(split=drawn_split(cuts))
    stream, _ = joined.open()
    sent = b"".join(bytes([i % 251]) * n for i, n in enumerate(pieces))
    position = 0
    for n in pieces:
        stream.write(sent[position : position + n])
        position += n
    stream.loseWriteConnection()
    joined.run()
    server = joined.server_protocols[1]
    assert server.data == sent
    assert server.read_ended == 1


def test_a_half_close_lets_the_other_direction_go_on() -> None:
    joined = Joined()
    stream, protocol = joined.open()
    joined.run()
    stream.write(b"request")
    stream.loseWriteConnection()
    joined.run()
    server = joined.server_protocols[1]
    assert (server.data, server.read_ended, server.lost) == (b"request", 1, None)
    assert protocol.write_ended == 1
    server.transport.write(b"late answer")
    server.transport.loseWriteConnection()
    joined.run()
    assert protocol.data == b"late answer"
    assert protocol.clean and server.clean
    assert not joined.mux.streams and not joined.server_mux.streams


def test_a_reset_is_a_reset_and_drops_what_waits() -> None:
    joined = Joined()
    stream, protocol = joined.open()
    joined.run()
    stream.write(b"never sent")
    stream.abortConnection()
    joined.run()
    server = joined.server_protocols[1]
    assert server.lost is not None and server.lost.check(StreamError)
    assert server.lost.value.outcome is Outcome.CANCELLED
    assert protocol.lost is not None and protocol.lost.check(ConnectionAborted)


def test_aborting_inside_a_call_is_told_after_it() -> None:
    joined = Joined()
    stream, protocol = joined.open()
    joined.run()

    def abort(_data: bytes) -> None:
        stream.abortConnection()
        assert protocol.lost is None

    protocol.on_data = abort
    joined.server_protocols[1].transport.write(b"x")
    joined.run()
    assert protocol.lost is not None


def test_losing_the_connection_sends_everything_first() -> None:
    joined = Joined()
    stream, protocol = joined.open()
    joined.run()
    stream.write(b"a" * MIB)
    stream.loseConnection()
    joined.run()
    server = joined.server_protocols[1]
    assert len(server.data) == MIB
    assert server.clean and protocol.clean


def test_two_ends_that_close_on_one_anothers_data_do_not_wait_for_ever() -> None:
    joined = Joined()
    free = joined.mux._pool.free
    stream, protocol = joined.open()
    joined.run()
    server = joined.server_protocols[1]
    for side in (stream, server.transport):
        side.pauseProducing()
        side.write(bytes(8 * MIB))
    joined.run(5)
    stream.loseConnection()
    server.transport.loseConnection()
    joined.run(3 * STREAM_DRAIN_TIMEOUT)
    for mux in (joined.mux, joined.server_mux):
        assert not mux.streams and not mux.undelivered
        assert mux._pool.free == free
    assert protocol.lost is not None and not protocol.clean
    assert server.lost is not None and not server.clean


def test_a_producer_may_end_the_tunnel_when_its_stream_is_given_up() -> None:
    joined = Joined()
    producer = Producer()
    producer.on_resume = joined.mux.close
    streams = [joined.open()[0] for _ in range(3)]
    joined.run()
    for server in joined.server_protocols.values():
        server.transport.pauseProducing()
    for stream in streams:
        stream.write(bytes(8 * MIB))
        stream.registerProducer(producer, True)
    joined.run(5)
    for stream in streams:
        stream.loseConnection()
    joined.run(3 * STREAM_DRAIN_TIMEOUT)
    assert joined.mux.session is None and not joined.mux.streams
    assert not joined.mux._closing._seen and joined.mux._closing._timer is None


def test_a_stream_that_a_producer_closes_meanwhile_has_its_own_time() -> None:
    joined = Joined()
    first, second = joined.open()[0], joined.open()[0]
    closed: list[float] = []

    def close_the_second() -> None:
        second.loseConnection()
        closed.append(joined.clock.seconds())

    producer = Producer()
    producer.on_resume = close_the_second
    joined.run()
    for server in joined.server_protocols.values():
        server.transport.pauseProducing()
    for stream in (first, second):
        stream.write(bytes(8 * MIB))
    first.registerProducer(producer, True)
    joined.run(5)
    first.loseConnection()
    joined.run(3 * STREAM_DRAIN_TIMEOUT)
    assert closed
    left = closed[0] + 1.9 * STREAM_DRAIN_TIMEOUT - joined.clock.seconds()
    joined.run(left)
    assert second.stream_id in joined.mux.streams
    joined.run(0.2 * STREAM_DRAIN_TIMEOUT)
    assert not joined.mux.streams


def test_a_slow_reader_gets_all_of_a_closed_stream() -> None:
    joined = Joined()
    stream, protocol = joined.open()
    joined.run()
    server = joined.server_protocols[1]
    server.transport.pauseProducing()
    stream.write(bytes(2 * MIB))
    stream.loseConnection()
    for _ in range(30):
        joined.run(0.9 * STREAM_DRAIN_TIMEOUT)
        server.transport.resumeProducing()
        joined.run(0.001)
        server.transport.pauseProducing()
    server.transport.resumeProducing()
    joined.run()
    assert len(server.data) == 2 * MIB and server.clean and protocol.clean


@pytest.mark.parametrize("by_session", [False, True])
def test_nothing_that_waited_is_delivered_behind_the_end(by_session: bool) -> None:
    """A protocol that ends its stream, or all of them, while it is given what had waited."""
    joined = Joined()
    pool = joined.server_mux._pool
    free = pool.free
    stream, _ = joined.open()
    joined.run()
    server = joined.server_protocols[1]
    transport = server.transport
    transport.pauseProducing()
    for letter in b"abc":
        stream.write(bytes([letter]) * JOINED)  # pieces of their own
        joined.run()
    heard: list[bytes] = []

    def taken(data: bytes) -> None:
        heard.append(bytes(data[:1]))
        if by_session:
            joined.server_session.end(Failure(SessionError("enough")))
        else:
            transport.abortConnection()

    server.dataReceived = taken  # type: ignore[method-assign]
    transport.resumeProducing()
    joined.run()
    assert heard == [b"a"]
    assert pool.free == free


def test_a_refusal_carries_its_reason() -> None:
    joined = Joined(accept=False)
    joined.open()
    joined.run()
    joined.accepted[0][0].refuse(Outcome.REFUSED)
    joined.run()
    assert joined.outcomes == {1: Outcome.REFUSED}
    assert not joined.mux.streams and not joined.server_mux.streams


def test_giving_up_before_the_reply_tells_the_other_side() -> None:
    joined = Joined(accept=False)
    stream, _ = joined.open()
    joined.run()
    told: list[Outcome] = []
    joined.accepted[0][0].on_outcome = told.append
    stream.on_outcome = None
    stream.abortConnection()
    joined.run()
    assert told == [Outcome.CANCELLED]


def test_data_before_the_reply_waits_for_the_protocol() -> None:
    joined = Joined(accept=False)
    stream, _protocol = joined.open(early=True)
    stream.write(b"e" * 40_000)
    stream.loseWriteConnection()
    joined.run()
    pending = joined.accepted[0][0]
    assert pending.window.buffered == 16 * 1024
    server = Recorder()
    pending.accept(server)
    joined.run()
    assert server.data == b"e" * 40_000
    assert server.read_ended == 1


@pytest.mark.parametrize("half", [False, True])
def test_data_written_before_the_reply_arrives_although_the_opener_closes(half: bool) -> None:
    joined = Joined(accept=False)
    stream, protocol = joined.open(early=True)
    stream.write(b"a line for the log")
    if half:
        stream.loseWriteConnection()
        joined.run(1)
    stream.loseConnection()
    joined.run(1)
    server = Recorder()
    joined.accepted[0][0].accept(server)
    joined.run(1)
    assert server.data == b"a line for the log"
    assert server.clean and protocol.clean
    assert not joined.mux.streams and not joined.server_mux.streams


def test_closing_before_the_reply_without_a_word_gives_the_connection_up() -> None:
    joined = Joined(accept=False)
    stream, _ = joined.open(early=True)
    joined.run()
    given_up: list[Outcome] = []
    joined.accepted[0][0].on_outcome = given_up.append
    stream.loseConnection()
    joined.run()
    assert given_up == [Outcome.CANCELLED]


def test_a_failure_after_an_early_success_is_no_clean_end() -> None:
    joined = Joined(accept=False)
    _, protocol = joined.open(early=True)
    joined.run()
    joined.accepted[0][0].refuse(Outcome.TIMED_OUT)
    joined.run()
    assert protocol.lost is not None and not protocol.clean


def test_a_lost_session_resets_every_stream_with_the_reason() -> None:
    joined = Joined()
    _, protocol = joined.open()
    _, early = joined.open(early=True)
    joined.run()
    server = joined.server_protocols[1]
    joined.server_session.end(Failure(SessionError("gone")))
    joined.run()
    joined.relink()
    joined.run()
    for lost in (protocol.lost, early.lost, server.lost):
        assert lost is not None and lost.check(SessionError)
    assert len(joined.registry) == 0
    with pytest.raises(RelayError):
        joined.open()


def test_a_link_that_is_closed_in_good_order_ends_no_download_in_good_order() -> None:
    """A FIN is forged as easily as a reset: what a stream lacks then must not look complete."""
    joined = Joined()
    _, protocol = joined.open()
    joined.run()
    server = joined.server_protocols[1]
    server.transport.write(b"the first half")
    joined.run()
    joined.registry.shut_down(60.0)
    joined.run()
    for end in (joined.server_end, joined.client_end):
        end.readConnectionLost()  # as for a FIN
    joined.run()
    assert len(joined.registry) == 0
    assert server.lost is not None and not server.clean
    joined.session.end(joined.detached[0])  # as a dialler does with one that is draining
    joined.run()
    assert joined.detached[0].check(ConnectionDone)
    assert protocol.lost is not None and not protocol.clean


@pytest.mark.parametrize("read", [False, True])
def test_closing_the_tunnel_ends_no_download_in_good_order(read: bool) -> None:
    joined = Joined()
    _, protocol = joined.open()
    joined.run()
    if not read:
        protocol.transport.pauseProducing()
    joined.server_protocols[1].transport.write(b"the first half")
    joined.run()
    joined.mux.close()
    joined.run()
    assert protocol.lost is not None and not protocol.clean
    assert not joined.server_protocols[1].clean
