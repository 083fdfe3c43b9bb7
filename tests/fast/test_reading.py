"""How much is read at once, and who is told, over real sockets."""

from __future__ import annotations

from typing import Any

from support.quick import Buffers, Wire

from phantom.core.session import BATCH_RECORDS
from phantom.fast.sockets import READ_SIZE, VISITOR_READ_SIZE
from phantom.tunnel.noise import FULL_SEALED


def test_a_read_has_room_for_what_a_protocol_may_ask() -> None:
    assert 65_535 + (BATCH_RECORDS - 1) * FULL_SEALED <= READ_SIZE
    assert BATCH_RECORDS * FULL_SEALED <= READ_SIZE


def test_a_visitor_is_not_read_like_a_link(wire: Wire) -> None:
    receiver = wire.serve(Buffers())
    receiver.read_size = READ_SIZE
    wire.peer.sendall(b"x" * 100_000)
    wire.until(lambda: len(receiver.data) == 100_000)
    assert max(map(len, receiver.views)) <= VISITOR_READ_SIZE < 100_000


def test_no_more_is_read_at_once_than_wanted(wire: Wire) -> None:
    receiver = wire.serve(Buffers())
    receiver.read_size = 100
    wire.quick.most_read = 60
    wire.peer.sendall(b"x" * 150)
    wire.until(lambda: len(receiver.data) == 150)
    assert list(map(len, receiver.views)) == [60, 60, 30]


class Gathering:
    """Stands for a `phantom.fast.gathering.Gatherer`; writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def read(self, size: int) -> None:
        self.told.append(size)

    def paused(self) -> None:
        self.told.append("paused")

    def resumed(self) -> None:
        self.told.append("resumed")


def test_reads_are_told_after_they_were_dealt_with(wire: Wire) -> None:
    gathering: Any = Gathering()
    wire.quick.gatherer = gathering
    heard = wire.serve(Buffers())
    wire.peer.sendall(b"x" * 1500)
    wire.until(lambda: len(heard.data) == 1500)
    assert gathering.told == [1000, 500]
    wire.quick.pauseProducing()
    wire.peer.sendall(b"y")
    wire.turn(3)
    assert gathering.told == [1000, 500, "paused"]
    wire.quick.resumeProducing()
    wire.until(lambda: heard.data.endswith(b"y"))
    assert gathering.told == [1000, 500, "paused", "resumed", 1]
