"""What a censor on the path sees of a connection: who sent how many bytes, which, and when."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import takewhile
from operator import attrgetter
from typing import NamedTuple

import attrs

#: Bytes of TCP payload in a full segment on an Ethernet path with timestamps: 1500 less 20 for
#: IP, 20 for TCP and 12 for the option.  Loopback carries up to 64 KB at once, which no censor
#: on a real path ever sees.
SEGMENT = 1448


class Segment(NamedTuple):
    """Payload that crossed the path at once.

    Attributes:
        time: Seconds, from any origin.
        up: Whether the client sent it.
        data: At least one byte.
    """

    time: float
    up: bool
    data: bytes


@attrs.define(slots=True)
class Flow:
    """One TCP connection.

    Attributes:
        client: Something that tells one client address and port from another.
        server: Likewise for the server.
        segments: In the order they crossed the path.
        label: What the connection was made for, in a live run.
        round_trip: Seconds from SYN to SYN and ACK, where seen.
        began: When it was opened; the first segment's time where that was not seen.
        ended: When it was closed, where seen.
    """

    client: str = ""
    server: str = ""
    segments: list[Segment] = attrs.field(factory=list)
    label: str = ""
    round_trip: float | None = None
    began: float | None = None
    ended: float | None = None

    def first(self, up: bool = True) -> bytes:
        """Return the first packet that one side sent, empty when there is none."""
        found = next((segment.data for segment in self.segments if segment.up == up), b"")
        return found[:SEGMENT]

    def opening(self) -> bytes:
        """Return what the client sends before the server says anything."""
        return b"".join(segment.data for segment in takewhile(attrgetter("up"), self.segments))

    def stream(self, up: bool) -> bytes:
        """Return all that one side sent."""
        return b"".join(segment.data for segment in self.segments if segment.up == up)

    def pieces(self, up: bool) -> list[bytes]:
        """Return what one side sent, segment by segment."""
        return [segment.data for segment in self.segments if segment.up == up]

    @property
    def start(self) -> float:
        """When the connection was opened."""
        if self.began is not None:
            return self.began
        return self.segments[0].time if self.segments else 0.0

    @property
    def end(self) -> float:
        """When it was closed, or last heard of."""
        if self.ended is not None:
            return self.ended
        return self.segments[-1].time if self.segments else self.start

    @property
    def is_tls(self) -> bool:
        """Whether it begins as TLS does: a handshake record (RFC 8446, section 5.1)."""
        return self.first()[:2] == b"\x16\x03"


def cut(segments: Iterable[Segment], size: int = SEGMENT) -> list[Segment]:
    """Return the segments as a path with packets of ordinary size would carry them.

    Args:
        segments: As captured.
        size: The most bytes in one.
    """
    return [
        Segment(segment.time, segment.up, segment.data[offset : offset + size])
        for segment in segments
        for offset in range(0, len(segment.data), size)
    ]


def spoken(flows: Iterable[Flow]) -> list[Flow]:
    """Return the flows in which the client said anything."""
    return [flow for flow in flows if flow.first()]


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value below which `share` of the others lie; `values` must not be empty."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
