"""A shaper by itself, above a link that only notes what leaves."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.task import Clock

from phantom.core.shaping import LEAST_PACKETS, Padding, Timing
from phantom.core.wire import FrameType, pack_frame
from phantom.crypto.records import OVERHEAD
from phantom.tunnel.shaper import Shaper, Shaping
from support.runtime import fake_runtime


class Wire:
    """A record transport that notes what it is given.

    Attributes:
        records: Plaintexts.
        packets: Bytes of what left by itself, of whole records and of their pieces.
        apart: For each single record, whether it was given to `write_apart`.
    """

    def __init__(self) -> None:
        self.records: list[bytes] = []
        self.packets: list[int] = []
        self.apart: list[bool] = []
        self.received = 0
        self.total = 0  # of what went past, or was forgotten

    @property
    def sent(self) -> int:
        return self.total + sum(self.packets)

    def write(self, record: bytes | memoryview) -> None:
        self.records.append(bytes(record))
        self.packets.append(len(record) + OVERHEAD)
        self.apart.append(False)

    def write_apart(self, record: bytes | memoryview, sizes: Sequence[int]) -> None:
        self.records.append(bytes(record))
        self.packets += [*sizes, len(record) + OVERHEAD - sum(sizes)]
        self.apart.append(True)

    def write_records(self, records: list[memoryview]) -> None:
        self.records += map(bytes, records)
        self.packets.append(sum(len(record) + OVERHEAD for record in records))


class Link:
    record_limit = 65519
    congested = False
    records = 0
    separates = False

    def __init__(self) -> None:
        self.transport = Wire()


def data(size: int, fill: bytes = b"x") -> bytes:
    return pack_frame(FrameType.DATA, 1, fill * size)


def cut(*, bare: bool) -> tuple[Clock, Link, Shaper]:
    clock = Clock()
    link = Link()
    shaping = Shaping(padding=Padding.DEFAULT, timing=Timing.OFF, client=True, bare=bare)
    shaper = shaping.shaper(fake_runtime(clock, seed=6))
    shaper.link = link
    return clock, link, shaper


def type_until(packets: int, link: Link, shaper: Shaper, clock: Clock) -> None:
    """Say little things, each answered, until so many packets have left; all are to be cut."""
    sent = link.transport.packets
    sent.clear()
    while len(sent) < packets:
        before = len(sent)
        link.transport.received += 98
        shaper.send([data(64)])
        assert len(sent) >= before + LEAST_PACKETS
        clock.advance(0.05)
    sent.clear()
