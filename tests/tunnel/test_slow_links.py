"""A link with a gauge: small records where it is slow, and what comes next is not kept waiting."""

from __future__ import annotations

from typing import Any

import pytest
from support.tunnel import Joined, LengthPrefixed, sizes_written

from phantom.core.session import BATCH, BATCH_RECORDS, FULL_PAYLOAD, HALF_BATCH
from phantom.core.window import DEFAULT_WINDOW
from phantom.core.wire import MAX_RECORD_PLAINTEXT, FrameType, pack_frame
from phantom.fast.gathering import PLENTY
from phantom.fast.sockets import READ_SIZE
from phantom.layer import bottom
from phantom.tunnel.frame_receiver import DeadEnd
from phantom.tunnel.mux import MuxLimits
from phantom.tunnel.session_sending import (
    BESIDE,
    BESIDE_RECORDS,
    BESIDE_ROOM,
    FAR_BESIDE_RECORDS,
    NEAR_ROOM,
)

LIMIT = 4096


class Gauge:
    def __init__(self, record_limit: int, round_trip: float | None = None) -> None:
        self.record_limit = record_limit
        self.round_trip = round_trip
        self.fulls = 0
        self.stopped = False

    def full(self) -> None:
        self.fulls += 1

    def stop(self) -> None:
        self.stopped = True

    def least_round_trip(self) -> float | None:
        return self.round_trip

    def segments_lost(self) -> int | None:
        return None

    def segments_under_way(self) -> int | None:
        return None


def gauged(joined: Joined, gauge: Gauge, *, server: bool = False) -> None:
    """Let the session go on by a link with a gauge, as a carrier leaves one on its transport."""
    connect = LengthPrefixed.makeConnection

    def make_connection(layer: LengthPrefixed, transport: Any) -> None:
        if layer is (joined.server_end if server else joined.client_end):
            bottom(transport).link_gauge = gauge
        connect(layer, transport)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LengthPrefixed, "makeConnection", make_connection)
        joined.relink()
        joined.run(0.1)


def trusted(round_trip: float) -> tuple[Joined, Any]:
    """Return a session whose link has shown what it carries, and a stream of it."""
    joined = Joined(delay=0.01, capacity=1 << 30)
    gauged(joined, Gauge(MAX_RECORD_PLAINTEXT, round_trip))
    stream, _ = joined.open()
    joined.run(0.1)
    stream.write(b"x" * 200_000)  # makes the link trusted
    joined.run()
    return joined, stream


def test_records_follow_the_gauge(monkeypatch: pytest.MonkeyPatch) -> None:
    joined = Joined(delay=0.01)
    gauge = Gauge(LIMIT)
    gauged(joined, gauge)
    stream, _ = joined.open()
    joined.run(0.1)
    sizes = sizes_written(joined, monkeypatch)
    stream.write(b"x" * 200_000)  # more than makes a link trusted
    joined.run()
    stream.write(b"y" * 200_000)
    joined.run()
    assert max(sizes) == LIMIT
    gauge.record_limit = 16_384
    stream.write(b"z" * 200_000)
    joined.run()
    assert max(sizes) == 16_384
    assert len(joined.server_protocols[1].data) == 600_000
    assert gauge.fulls


def test_a_keystroke_waits_for_no_more_than_the_link_holds() -> None:
    """What one keystroke finds before it: the link's buffer and a record, nothing in the log."""
    joined = Joined(delay=0.01, capacity=LIMIT)
    gauged(joined, Gauge(LIMIT))
    bulk, _ = joined.open()
    typed, _ = joined.open()
    joined.run(0.1)
    bulk.write(b"x" * 1_000_000)
    joined.run(0.005)
    assert joined.client_link.congested
    assert not joined.session._log.has_unsent
    typed.write(b"k")
    server = joined.server_protocols
    while not server[3].data:
        joined.run(0.001)
    assert len(server[1].data) < 200_000
    joined.run(30)
    assert len(server[1].data) == 1_000_000


def test_a_gauge_is_told_of_the_end() -> None:
    joined = Joined()
    gauge = Gauge(LIMIT)
    gauged(joined, gauge)
    assert not gauge.stopped
    joined.client_link.abort()
    joined.run(0.1)
    assert gauge.stopped


@pytest.mark.parametrize(("round_trip", "grown"), [(0.5, True), (None, False)])
def test_windows_follow_the_gauges_round_trip(
    round_trip: float | None, grown: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = MuxLimits(session_memory=512 * 1024 * 1024)
    joined = Joined(limits=limits, delay=0.001)
    gauged(joined, Gauge(65_519, round_trip), server=True)
    stream, _ = joined.open()
    joined.run(0.1)
    monkeypatch.setattr(joined.server_protocols[1], "dataReceived", lambda data: None)
    for _ in range(12):
        stream.write(b"x" * 2_000_000)
        joined.run(0.1)
    [accepted] = joined.server_mux.streams.values()
    assert (accepted.window.target > DEFAULT_WINDOW) == grown


@pytest.mark.parametrize(("round_trip", "most"), [(0.0002, NEAR_ROOM), (0.02, None)])
def test_little_is_under_way_to_a_peer_that_is_near(round_trip: float, most: int | None) -> None:
    """What a near peer has not acknowledged lies in its socket, and delays what comes next."""
    joined, stream = trusted(round_trip)
    stream.credit = 1 << 30
    joined.session.link.receiver = DeadEnd()  # no acknowledgement is heard from now on
    for _ in range(100):
        stream.write(b"y" * 100_000)
        joined.run(0.01)
    held = joined.session._log.size
    if most is None:
        assert held > NEAR_ROOM + 1_000_000
    else:
        assert NEAR_ROOM <= held <= NEAR_ROOM + BATCH


def test_less_is_under_way_while_somebody_types_beside_it() -> None:
    joined, stream = trusted(0.0002)
    session, send_log = joined.session, joined.session._log
    session.make_way()
    assert send_log.room == NEAR_ROOM, "there is nothing beside it"
    assert send_log.batch == BATCH and joined.client_end.at_once == BATCH_RECORDS
    stream.credit = 1 << 30
    for _ in range(20):
        stream.write(b"y" * 100_000)
    joined.run(0.001)
    assert send_log.size >= BESIDE_ROOM
    session.make_way()
    assert send_log.room == BESIDE_ROOM
    joined.run(BESIDE / 2)
    assert send_log.room == BESIDE_ROOM
    assert send_log.batch == BESIDE_RECORDS * FULL_PAYLOAD
    assert joined.client_end.at_once == BESIDE_RECORDS
    joined.run(BESIDE)
    stream.write(b"z" * 1_000_000)
    joined.run(0.1)
    assert send_log.room == NEAR_ROOM
    assert send_log.batch == BATCH and joined.client_end.at_once == BATCH_RECORDS


def bring(joined: Joined, records: int) -> None:
    """Have one read of the client's bring so many records."""
    record = pack_frame(FrameType.PADDING, 0, bytes(60_000))
    joined.client_end.dataReceived((len(record).to_bytes(4, "big") + record) * records)


@pytest.mark.parametrize(
    ("round_trip", "records"), [(0.0002, BESIDE_RECORDS), (0.02, FAR_BESIDE_RECORDS)]
)
def test_less_is_read_at_once_while_somebody_types_beside_what_comes_in(
    round_trip: float, records: int
) -> None:
    """From far away as much as needs no waiting for more."""
    joined = Joined()
    gauged(joined, Gauge(MAX_RECORD_PLAINTEXT, round_trip))
    joined.open()
    joined.run(0.1)
    session, end, room = joined.session, joined.client_end, joined.session._log.room
    session.make_way()
    assert end.at_once == BATCH_RECORDS, "little comes in"
    bring(joined, 4)
    session.make_way()
    assert end.at_once == records
    assert session._log.room == room, "nothing much is sent"
    for _ in range(3):  # as long as somebody types: what a read brings now is still much
        joined.run(BESIDE / 2)
        acknowledged = session.acknowledged
        joined.open()
        joined.run(0.4)
        assert session.acknowledged > acknowledged
        assert end.at_once == records, "for a while"
        bring(joined, records)
        session.make_way()
    joined.run(2 * BESIDE)
    joined.open()
    joined.run(0.4)
    assert end.at_once == BATCH_RECORDS


def test_a_read_from_far_away_beside_which_somebody_types_is_not_waited_after() -> None:
    """As the link's gatherer would, after each: 500 Mbit/s would be all that it carries."""
    assert FAR_BESIDE_RECORDS * READ_SIZE // BATCH_RECORDS > PLENTY


def test_batches_to_a_peer_that_is_far_are_half_as_large() -> None:
    joined, stream = trusted(0.02)
    stream.write(b"x" * 200_000)
    joined.run()
    assert joined.session._log.batch == HALF_BATCH
