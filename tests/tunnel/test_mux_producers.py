"""What a stream sends from: producers, and connections that it reads itself."""

from __future__ import annotations

from typing import Any

import pytest
from support.compiled import replaces
from support.tunnel import Joined, Puller, Recorder, sizes_written

from phantom.core.session import BATCH, FULL_PAYLOAD, HALF_BATCH, SMALL_RECORD
from phantom.fast.gathering import Unhurried
from phantom.tunnel.mux import SOURCE_ROOM, SOURCES_ROOM
from phantom.tunnel.stream import Stream
from phantom.tunnel.stream_sending import BULK


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


@replaces
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
    connected = True

    def getHandle(self) -> Any:
        return self

    def read_into(self, buffers: Any) -> int:
        return sum(map(len, buffers))


@replaces
@pytest.mark.parametrize("far", [False, True])
def test_a_source_of_bulk_is_told_of_its_reads_if_it_is_far_away_and_else_has_room(
    monkeypatch: Any, far: bool
) -> None:
    told: list[int] = []
    rooms: list[int] = []

    class Gatherer:
        def read(self, size: int) -> None:
            told.append(size)

    def gather(_clock: Any, connection: Any) -> bool:
        connection.gatherer = Gatherer() if far else Unhurried()
        return not far

    monkeypatch.setattr("phantom.tunnel.mux.gather", gather)
    monkeypatch.setattr("phantom.tunnel.mux.give_room", lambda _handle, size: rooms.append(size))
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
    assert rooms == ([] if far else [SOURCE_ROOM]), "once"


@replaces
@pytest.mark.parametrize(
    ("streams", "room"),
    [(1, SOURCE_ROOM), (16, SOURCE_ROOM), (17, SOURCES_ROOM // 17), (64, 128 * 1024), (65, None)],
)
def test_bulk_that_waited_for_its_turn_has_room_too(
    monkeypatch: pytest.MonkeyPatch, streams: int, room: int | None
) -> None:
    """Of several sources hardly one is ever read when the reactor says that it is readable."""
    rooms: list[int] = []
    monkeypatch.setattr("phantom.tunnel.mux.gather", lambda _clock, _connection: True)
    monkeypatch.setattr("phantom.tunnel.mux.give_room", lambda _handle, size: rooms.append(size))
    source: Any = Bulk()
    joined, stream = sourced(source)
    joined.mux.streams |= {-number: stream for number in range(1, streams)}
    stream.sent = BULK
    stream.credit = 1 << 20
    stream._parked = True
    stream.emit(joined.session._log, FULL_PAYLOAD)
    assert rooms == ([] if room is None else [room])


@pytest.mark.parametrize(
    ("batch", "most"), [(BATCH, 4), (HALF_BATCH, 2), (FULL_PAYLOAD, 1), (1000, 0)]
)
def test_each_of_several_sources_has_half_a_batch_at_its_turn(
    monkeypatch: pytest.MonkeyPatch, batch: int, most: int
) -> None:
    sources: list[Any] = [Bulk(), Bulk()]
    joined, first = sourced(sources[0])
    second, _ = joined.open()
    joined.run()
    second.registerProducer(sources[1], True)
    second.use_source(sources[1])
    send_log = joined.session._log
    send_log.batch = batch
    for stream, source in zip((first, second), sources, strict=True):
        source.connected = False
        stream.credit = 1 << 24
        stream.last_read = FULL_PAYLOAD
        stream._parked = True
        joined.mux.lanes.main.activate(stream)
    sizes: list[int] = []
    for source in sources:
        monkeypatch.setattr(
            source, "read_into", lambda room: sizes.append(sum(map(len, room))) or sizes[-1]
        )
    joined.mux.produce(send_log)
    assert sizes[0] == (most * FULL_PAYLOAD or batch)


@pytest.mark.parametrize("records", [1, 2, 4])
def test_as_many_whole_records_are_read_as_there_is_credit_for(records: int) -> None:
    """Not one, because there is no credit for a whole batch."""
    source: Any = Bulk()
    source.connected = False  # nobody looks how far away it is
    joined, stream = sourced(source)
    stream.read_from(source)
    joined.run()
    joined.session._log.batch = BATCH
    stream.credit = records * FULL_PAYLOAD + 1000
    sent = stream.sent
    stream.read_from(source)
    assert stream.sent - sent == records * FULL_PAYLOAD


def test_a_batch_of_a_new_link_is_one_record(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not one and a few bytes in another, for which there was no room any more."""
    source: Any = Bulk()
    source.connected = False
    joined, stream = sourced(source)
    sizes = sizes_written(joined, monkeypatch)
    for _ in range(6):
        stream.read_from(source)
        joined.run(0.01)
    assert sizes == [SMALL_RECORD] * 6


def test_a_stream_takes_what_twisted_passes() -> None:
    """Twisted's own protocols say 0 and 1, and pieces need not be `bytes`."""

    class Viewing(Recorder):
        accepts_views = 1

    joined = Joined()
    stream, _ = joined.open()
    joined.run()
    source: Any = Source()
    for streaming in (0, 1):
        stream.registerProducer(source, streaming)
        stream.unregisterProducer()
    stream.setTcpNoDelay(1)
    stream.setTcpKeepAlive(0)
    stream.protocol = Viewing()
    stream.writeSequence([b"one ", memoryview(b"two")])
    joined.run()
    assert joined.server_protocols[1].data == b"one two"
