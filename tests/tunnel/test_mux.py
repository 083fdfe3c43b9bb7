"""Streams over a session, in memory: what an application sees."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.pipes import drawn_split
from support.tunnel import SOMEWHERE, Joined, Recorder
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.python.failure import Failure

from phantom.core.stream import State
from phantom.core.wire import FrameType, encode_open, pack_frame
from phantom.errors import Outcome, RelayError, SessionError, StreamError
from phantom.fast.gathering import Unhurried
from phantom.tunnel.frame import DeadEnd
from phantom.tunnel.mux import STREAM_DRAIN_TIMEOUT, MuxLimits
from phantom.tunnel.stream import Stream
from phantom.tunnel.stream_receiving import JOINED
from phantom.tunnel.stream_sending import BULK

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


def test_a_failing_acceptor_refuses_the_stream_only(logged_failures: Any) -> None:
    joined = Joined()
    _, protocol = joined.open()
    joined.run()
    joined.server_mux._acceptor = explode
    failing, _ = joined.open()
    joined.run()
    assert joined.outcomes[failing.stream_id] is Outcome.FAILED
    joined.server_protocols[1].transport.write(b"y")
    joined.run()
    assert protocol.data == b"y"
    assert len(logged_failures.flush(RuntimeError)) == 1


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


def test_tiny_frames_for_a_stalled_reader_cost_what_they_hold() -> None:
    joined = Joined()
    joined.client_link.receiver = DeadEnd()
    joined.inject(pack_frame(FrameType.STREAM_OPEN, 1, encode_open(SOMEWHERE, 0)))
    stream, server = joined.accepted[0][0], joined.server_protocols[1]
    stream.pauseProducing()
    record = pack_frame(FrameType.DATA, 1, b"ab") * 8000
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(12):
            joined.inject(record)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert stream.window.buffered == 192_000
    assert after - before < 2 * 192_000
    stream.resumeProducing()
    assert server.data == b"ab" * 96_000


def test_a_failure_after_an_early_success_is_no_clean_end() -> None:
    joined = Joined(accept=False)
    _, protocol = joined.open(early=True)
    joined.run()
    joined.accepted[0][0].refuse(Outcome.TIMED_OUT)
    joined.run()
    assert protocol.lost is not None and not protocol.clean


def test_a_stalled_reader_costs_its_window_and_delays_nobody() -> None:
    limits = MuxLimits(window=256 * 1024)
    joined = Joined(limits=limits)
    stalled, stalled_protocol = joined.open()
    quick, quick_protocol = joined.open()
    joined.run()
    stalled.pauseProducing()
    server = joined.server_protocols
    server[1].transport.write(b"s" * 4 * MIB)
    server[3].transport.write(b"q" * 4 * MIB)
    joined.run()
    assert len(quick_protocol.data) == 4 * MIB
    assert not stalled_protocol.data
    assert stalled.window.buffered == 256 * 1024
    stalled.resumeProducing()
    joined.run()
    assert len(stalled_protocol.data) == 4 * MIB
    quick.abortConnection()


def test_the_window_grows_for_a_reader_that_takes() -> None:
    joined = Joined(capacity=16 * MIB)
    stream, _protocol = joined.open()
    joined.run()
    first = stream.window.target
    joined.server_protocols[1].transport.write(b"g" * 32 * MIB)
    joined.run()
    assert first == 256 * 1024
    assert stream.window.target == 4 * MIB


def test_many_stalled_readers_stay_within_the_session_memory() -> None:
    limits = MuxLimits(max_streams=256, session_memory=8 * MIB)
    joined = Joined(limits=limits)
    streams = [joined.open()[0] for _ in range(256)]
    joined.run()
    for stream in streams:
        stream.pauseProducing()
    for protocol in joined.server_protocols.values():
        protocol.transport.write(b"m" * MIB)
    joined.run()
    held = sum(s.window.buffered + s.window.outstanding for s in streams)
    assert held <= 8 * MIB
    assert min(s.window.buffered for s in streams) >= 16 * 1024


def test_a_producer_is_paused_and_resumed() -> None:
    class Producer:
        def __init__(self) -> None:
            self.calls: list[str] = []

        def pauseProducing(self) -> None:
            self.calls.append("pause")

        def resumeProducing(self) -> None:
            self.calls.append("resume")

        def stopProducing(self) -> None:
            self.calls.append("stop")

    joined = Joined()
    stream, _ = joined.open()
    joined.run()
    producer = Producer()
    stream.registerProducer(producer, True)
    stream.write(b"p" * 200_000)
    assert producer.calls == ["pause"]
    joined.run()
    assert producer.calls == ["pause", "resume"]


class Puller:
    """A pull producer, which knows no pause (`IPullProducer`)."""

    def __init__(self, stream: Stream, pieces: list[bytes]) -> None:
        self.stream = stream
        self.pieces = pieces
        self.stopped = 0

    def resumeProducing(self) -> None:
        if self.pieces:
            self.stream.write(self.pieces.pop(0))

    def stopProducing(self) -> None:
        self.stopped += 1


def test_a_pull_producer_is_asked_and_never_paused() -> None:
    joined = Joined()
    stream, _ = joined.open()
    joined.run()
    stream.registerProducer(Puller(stream, [bytes(300_000)] * 3), False)
    joined.run(5)
    assert len(joined.server_protocols[1].data) == 900_000


def test_a_pull_producer_is_stopped_when_its_stream_ends() -> None:
    joined = Joined()
    stream, _ = joined.open()
    joined.run()
    puller = Puller(stream, [])
    stream.registerProducer(puller, False)
    joined.mux.close()
    joined.run()
    assert puller.stopped == 1


def test_a_keystroke_overtakes_a_bulk_transfer() -> None:
    joined = Joined(capacity=65536, delay=0.001)
    bulk, _ = joined.open()
    key, _ = joined.open()
    joined.run()
    bulk.write(b"b" * 8 * MIB)
    joined.run(0.002)
    before = len(joined.server_protocols[1].data)
    key.write(b"k")
    while not joined.server_protocols[3].data:
        joined.run(0.001)
    # What was in flight and in the transport's buffer, and one record more.
    assert len(joined.server_protocols[1].data) - before < 512 * 1024


def test_streams_share_the_link_evenly() -> None:
    joined = Joined(delay=0.001)
    streams = [joined.open()[0] for _ in range(4)]
    joined.run()
    for stream in streams:
        stream.write(b"f" * MIB)
    joined.run(0.008)
    counts = [len(p.data) for p in joined.server_protocols.values()]
    assert min(counts) > 0
    assert max(counts) - min(counts) <= 128 * 1024


def test_the_limit_of_streams_is_told() -> None:
    joined = Joined(limits=MuxLimits(max_streams=4), server_limits=MuxLimits(max_streams=2))
    for _ in range(4):
        joined.open()
    joined.run()
    assert list(joined.outcomes.values()) == [Outcome.CONNECTED] * 2 + [Outcome.LIMIT] * 2
    joined.open()
    joined.open()
    with pytest.raises(RelayError) as caught:
        joined.open()
    assert caught.value.outcome is Outcome.LIMIT


def test_thousands_of_streams_leave_nothing_behind() -> None:
    joined = Joined(limits=MuxLimits(max_streams=8))
    free = joined.mux._pool.free
    for _ in range(3000):
        stream, _protocol = joined.open()
        stream.write(b"hello")
        stream.loseWriteConnection()
        joined.run(0.0)
        last = joined.server_protocols.pop(stream.stream_id)
        last.transport.write(b"bye")
        last.transport.loseWriteConnection()
        joined.run(0.0)
    joined.run()
    for mux in (joined.mux, joined.server_mux):
        assert not mux.streams and not mux.undelivered and not mux._scheduler.waiting
        assert mux._pool.free == free
    assert joined.session._log.size == 0 and joined.server_session._log.size == 0


def test_an_exception_in_a_protocol_ends_its_stream_only(logged_failures: Any) -> None:
    joined = Joined()
    stream, protocol = joined.open()
    _other, other_protocol = joined.open()
    joined.run()

    def explode(_data: bytes) -> None:
        raise RuntimeError("bug")

    protocol.on_data = explode
    joined.server_protocols[1].transport.write(b"x")
    joined.server_protocols[3].transport.write(b"y")
    joined.run()
    assert stream.state is State.CLOSED
    assert other_protocol.data == b"y"
    assert joined.ended == []
    assert len(logged_failures.flush(RuntimeError)) == 1


def explode(*_: Any) -> None:
    raise RuntimeError("bug")


@pytest.mark.parametrize(
    "call", ["makeConnection", "readConnectionLost", "writeConnectionLost", "connectionLost"]
)
def test_whatever_call_fails_no_other_stream_is_hurt(call: str, logged_failures: Any) -> None:
    joined = Joined()
    protocol = Recorder()
    setattr(protocol, call, explode)

    def connected(_outcome: Outcome) -> None:
        stream.attach(protocol)
        if call == "writeConnectionLost":
            stream.loseWriteConnection()

    stream = joined.mux.open(SOMEWHERE, connected)
    _, other = joined.open()
    joined.run()
    server = joined.server_protocols[1].transport
    if call == "readConnectionLost":
        server.loseWriteConnection()
    elif call == "connectionLost":
        server.abortConnection()
    joined.run()
    joined.server_protocols[3].transport.write(b"y")
    joined.run()
    assert stream.state is State.CLOSED
    assert other.data == b"y"
    assert joined.ended == []
    assert len(logged_failures.flush(RuntimeError)) == 1


def test_a_protocol_that_fails_at_the_end_does_not_hide_it_from_others(
    logged_failures: Any,
) -> None:
    joined = Joined()
    _, first = joined.open()
    _, second = joined.open()
    joined.run()
    first.connectionLost = explode  # type: ignore[method-assign]
    joined.session.end(Failure(SessionError("gone")))
    joined.run()
    assert second.lost is not None
    assert joined.ended
    assert len(logged_failures.flush(RuntimeError)) == 1


def test_a_producer_that_fails_stops_nobody_else(logged_failures: Any) -> None:
    joined = Joined()
    stream, _ = joined.open()
    other, _ = joined.open()
    joined.run()
    puller = Puller(stream, [bytes(200_000)])
    stream.registerProducer(puller, False)
    puller.resumeProducing = explode  # type: ignore[method-assign]
    other.write(bytes(200_000))
    joined.run(5)
    assert stream.state is State.CLOSED
    assert len(joined.server_protocols[3].data) == 200_000
    assert len(logged_failures.flush(RuntimeError)) == 1


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


def test_streams_that_end_unread_in_one_turn_keep_to_their_number() -> None:
    joined = Joined(limits=MuxLimits(max_streams=8))
    for _round in range(4):
        streams = [joined.open()[0] for _ in range(8)]
        joined.run()
        for stream in streams:
            joined.server_protocols[stream.stream_id].transport.pauseProducing()
            stream.write(b"unread")
            stream.loseConnection()
        joined.run()
    assert len(joined.server_mux.undelivered) == 8
    lost = [p for p in joined.server_protocols.values() if p.lost is not None]
    assert len(lost) == 24 and not any(p.clean for p in lost)


def test_a_crowd_of_streams_keeps_less_each() -> None:
    joined = Joined(limits=MuxLimits(max_streams=1024))
    assert joined.mux.high_water == 128 * 1024
    streams = [joined.open()[0] for _ in range(1024)]
    joined.run()
    assert joined.mux.high_water == joined.server_mux.high_water == 16 * 1024
    for stream in streams[:-2]:
        stream.abortConnection()
    joined.run()
    streams[-1].write(b"x")
    joined.open()
    assert joined.mux.high_water == 128 * 1024


class Source:
    """A connection that a stream reads; whether somebody waits for it is all that counts."""

    reader: Any = None
    read_end = None
    waits = True

    def resumeProducing(self) -> None:
        self.waits = True

    def pauseProducing(self) -> None:
        self.waits = False

    def read_into(self, buffers: Any) -> int:
        buffers[0][:4] = b"late"
        return 4


def sourced(source: Any) -> tuple[Joined, Stream]:
    """Return a stream that reads the source, and what it is part of."""
    joined = Joined()
    stream, _ = joined.open()
    joined.run()
    stream.registerProducer(source, True)
    stream.use_source(source)
    return joined, stream


def test_a_source_let_go_while_others_are_sent_is_not_parked(monkeypatch: Any) -> None:
    """Making room for what it brings sends what waits, and that may end anything."""
    source: Any = Source()
    joined, stream = sourced(source)
    open_log = joined.session.open_log

    def lets_go(**options: bool) -> Any:
        stream.unregisterProducer()
        return open_log(**options)

    monkeypatch.setattr(joined.session, "open_log", lets_go)
    assert stream.read_from(source) is None
    joined.run()
    assert source.waits, "nobody would ever read it again"
    assert joined.server_protocols[1].data == b""


class Bulk(Source):
    """Brings as much as there is room for."""

    gatherer: Any = None

    def read_into(self, buffers: Any) -> int:
        return sum(map(len, buffers))


@pytest.mark.parametrize("far", [False, True])
def test_a_source_of_bulk_from_far_away_is_told_of_its_reads(monkeypatch: Any, far: bool) -> None:
    told: list[int] = []

    class Gatherer:
        def read(self, size: int) -> None:
            told.append(size)

    def gather(_clock: Any, connection: Any) -> None:
        connection.gatherer = Gatherer() if far else Unhurried()

    monkeypatch.setattr("phantom.tunnel.mux.gather", gather)
    source: Any = Bulk()
    joined, stream = sourced(source)
    while source.gatherer is None:
        assert stream.sent <= 2 * BULK
        assert stream.read_from(source) is None
        joined.run()
    assert stream.sent > BULK
    stream.read_from(source)
    joined.run()
    assert not told, "there was more than what was read"
    monkeypatch.setattr(Bulk, "read_into", lambda source, buffers: 1000)
    stream.credit = 1 << 20
    stream.read_from(source)
    joined.run()
    assert told == ([1000] if far else [])
