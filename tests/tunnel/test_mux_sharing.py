"""Streams that share a session: its memory, its turns, and how many of them there may be."""

from __future__ import annotations

import tracemalloc

import pytest
from support.tunnel import SOMEWHERE, Joined

from phantom.core.wire import FrameType, encode_open, pack_frame
from phantom.errors import Outcome, RelayError
from phantom.tunnel.frame_receiver import DeadEnd
from phantom.tunnel.mux import MuxLimits

MIB = 1024 * 1024


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
        assert not mux.streams and not mux.undelivered and not mux.lanes.main._scheduler.waiting
        assert mux._pool.free == free
    assert joined.session._log.size == 0 and joined.server_session._log.size == 0


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
