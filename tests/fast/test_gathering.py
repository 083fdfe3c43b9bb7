"""When a busy connection from far away is read next."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from twisted.internet.task import Clock

from phantom.fast import gathering
from phantom.fast.gathering import BUSY_BYTES, BUSY_READS, PAUSE, PLENTY, WINDOW, Gatherer
from phantom.fast.tcp_info import ConnectionState

#: Seconds between two packets of 1448 bytes at 200 Mbit/s.
PACKET = 58e-6


class Connection:
    """Knows whether it is read."""

    def __init__(self) -> None:
        self.connected = True
        self.disconnecting = False
        self.dataBuffer = b""
        self.read_end: Exception | None = None
        self.reading = True

    def stopReading(self) -> None:
        self.reading = False

    def startReading(self) -> None:
        self.reading = True


class Road:
    """A connection by which packets come, and what reads them."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.clock.advance(100)
        self.connection = Connection()
        self.gatherer = Gatherer(self.clock, self.connection)
        self.reads: list[int] = []
        self.waiting = 0

    def carry(self, packets: int, apart: float, size: int = 1448) -> None:
        for _ in range(packets):
            self.clock.advance(apart)
            self.waiting += size
            if self.connection.reading:
                size_read, self.waiting = self.waiting, 0
                self.reads.append(size_read)
                self.gatherer.read(size_read)

    def carry_until_it_waits(self) -> None:
        """Carry bulk until the gatherer has stopped reading."""
        self.carry(500, PACKET)
        while self.connection.reading:
            self.carry(1, PACKET)


@pytest.fixture
def road() -> Road:
    return Road()


def test_bulk_is_read_once_a_millisecond(road: Road) -> None:
    road.carry(200, PACKET)  # 12 ms, in which it finds out
    road.reads.clear()
    road.carry(2000, PACKET)
    seconds = 2000 * PACKET
    assert len(road.reads) <= seconds / PAUSE
    assert sum(road.reads) + road.waiting == pytest.approx(2000 * 1448, abs=30_000)


def test_no_byte_waits_longer_than_the_pause(road: Road) -> None:
    road.carry(200, PACKET)
    assert not road.connection.reading or road.waiting == 0
    road.clock.advance(PAUSE)
    assert road.connection.reading


@pytest.mark.parametrize(
    ("apart", "size"),
    [(0.0012, 1448), (0.0005, 1448), (PACKET, 60), (0.05, 64), (PACKET, PLENTY)],
    ids=["10 Mbit/s", "24 Mbit/s", "many small ones", "keystrokes", "large reads"],
)
def test_what_is_not_worth_it_is_read_at_once(road: Road, apart: float, size: int) -> None:
    road.carry(500, apart, size)
    assert len(road.reads) == 500


def test_a_connection_that_was_busy_is_not_for_ever(road: Road) -> None:
    road.carry(500, PACKET)
    road.carry(3, 2 * WINDOW)
    road.reads.clear()
    road.carry(100, 0.003, 100)
    assert len(road.reads) == 100


def test_who_pauses_it_meanwhile_is_obeyed(road: Road) -> None:
    road.carry_until_it_waits()
    road.gatherer.paused()
    road.clock.advance(1)
    assert not road.connection.reading
    road.gatherer.resumed()
    road.connection.startReading()
    road.carry(500, PACKET)
    road.clock.advance(PAUSE)
    assert road.connection.reading


def test_who_pauses_while_a_read_is_dealt_with_is_obeyed(road: Road) -> None:
    road.carry(500, PACKET)
    road.clock.advance(PAUSE)
    road.gatherer.paused()
    road.connection.stopReading()
    road.gatherer.read(30_000)
    road.clock.advance(1)
    assert not road.connection.reading


def test_a_connection_with_something_to_send_is_read_at_once(road: Road) -> None:
    """epoll tells of its end then, and what came before that would be lost."""
    road.connection.dataBuffer = b"waits"
    road.carry(500, PACKET)
    assert len(road.reads) == 500


def test_an_end_that_was_read_meanwhile_is_not_read_again(road: Road) -> None:
    road.carry_until_it_waits()
    road.connection.read_end = CONNECTION_DONE  # somebody has paused and resumed it
    road.clock.advance(1)
    assert not road.connection.reading


def test_a_failure_that_was_seen_meanwhile_is_found_by_reading(road: Road) -> None:
    road.carry_until_it_waits()
    road.connection.read_end = CONNECTION_LOST
    road.clock.advance(1)
    assert road.connection.reading


@pytest.mark.parametrize("attribute", ["connected", "disconnecting"])
def test_a_connection_that_ends_is_left_alone(road: Road, attribute: str) -> None:
    road.carry_until_it_waits()
    setattr(road.connection, attribute, attribute == "disconnecting")
    road.clock.advance(1)
    assert not road.connection.reading
    assert not road.clock.getDelayedCalls()


def test_a_window_is_as_told() -> None:
    # 8 reads of 2 KB in 4 ms are the least that is gathered.
    road = Road()
    road.carry(1, 0, 0)
    road.carry(3 * BUSY_READS, WINDOW / BUSY_READS, BUSY_BYTES // BUSY_READS)
    assert len(road.reads) < 3 * BUSY_READS


def test_times_are_those_of_the_clock_it_was_given(road: Road) -> None:
    calls: list[Any] = []
    road.clock.callLater = lambda *call: calls.append(call)  # type: ignore[assignment, method-assign]
    road.carry(500, PACKET)
    assert calls and calls[0][0] == PAUSE


class Handle:
    """A connection with a socket."""

    connected = True
    gatherer: Any = None

    def getHandle(self) -> object:
        return self


@pytest.mark.parametrize(
    ("round_trip", "far"),
    [(None, False), (0.0, False), (0.0002, False), (0.0049, False), (0.02, True)],
)
def test_only_who_is_far_away_is_read_less(
    monkeypatch: pytest.MonkeyPatch, round_trip: float | None, far: bool
) -> None:
    state = None
    if round_trip is not None:
        state = ConnectionState(False, 1448, 1.0, round_trip, 0, 0, 0)
    monkeypatch.setattr(gathering, "read_state", lambda handle: state)
    connection = Handle()
    gathering.gather(Clock(), connection)
    assert isinstance(connection.gatherer, Gatherer) == far
    for _ in range(100):
        connection.gatherer.read(1000)  # where it is not, nothing happens
    connection.gatherer.paused()
    connection.gatherer.resumed()


def test_a_connection_that_is_gone_is_not_asked() -> None:
    connection = Handle()
    connection.connected = False
    gathering.gather(Clock(), connection)
    assert connection.gatherer is None
