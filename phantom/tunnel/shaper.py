"""Gives a link's small records their size and their time, as `phantom.core.shaping` decides.

It stands between `FrameProtocol` and the records below, and only small records ever get here:
what is as long as `Shaper.below` goes past it.  Frames keep their order, with one exception:
an ACK has no place in it and may overtake.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import attrs
from twisted.internet.interfaces import IDelayedCall

from phantom.core.shaping import (
    AMID_BULK,
    CROWD,
    CUT_BURST,
    CUT_OPENING,
    CUT_PAUSE,
    CUT_RATE,
    DELAYS,
    LEAST_PACKETS,
    MOST_HELD,
    OPENING_PACKETS,
    PACKET,
    SILENT_ACKS,
    UNEVEN,
    WATCHED_PACKETS,
    Delays,
    Padding,
    PaddingPolicy,
    Said,
    Scheme,
    Timing,
    padding_policy,
    pieces,
)
from phantom.core.wire import (
    HEADER_SIZE,
    MAX_RECORD_PLAINTEXT,
    FrameType,
    pack_frame,
    parse_frames,
)
from phantom.crypto.records import OVERHEAD
from phantom.runtime import Runtime

#: What is held back by timing obfuscation: what people and programs say.  A window update that
#: came late would slow a download, and an acknowledgement tells nothing of what was said.
_SPEECH = frozenset(
    {FrameType.DATA, FrameType.STREAM_OPEN, FrameType.OPEN_REPLY, FrameType.HALF_CLOSE}
)

#: Bytes of plaintext that leave on bare TCP in one packet when they need not leave in four.
_ONE_PACKET = int(PACKET / (1 + UNEVEN)) - OVERHEAD

#: What a download is answered with, and the bytes it is looked for in: some for every stream.
_ACKNOWLEDGES = frozenset({FrameType.ACK, FrameType.WINDOW_UPDATE})
_ACKNOWLEDGEMENTS = 512


@attrs.frozen(slots=True, kw_only=True)
class Shaping:
    """How the links of one client, or of one server, are shaped.

    Attributes:
        padding: The strategy.
        timing: Whether times are blurred too.
        client: Which side this is.
        bare: Whether the links have no TLS around them.
        scheme: Returns the figures for the next link: a server may push others meanwhile.
    """

    padding: Padding
    timing: Timing
    client: bool
    bare: bool = False
    scheme: Callable[[], Scheme] = Scheme

    def shaper(self, runtime: Runtime) -> Shaper:
        """Return what shapes one new link."""
        scheme = self.scheme()
        policy = padding_policy(self.padding, client=self.client, scheme=scheme)
        cut = None
        if self.client and self.padding is Padding.DEFAULT:
            cut = Cut(PACKET, None) if self.bare else Cut(None, scheme.low)
        return Shaper(runtime, policy, DELAYS.get(self.timing), cut)


@attrs.frozen(slots=True)
class Cut:
    """What leaves in pieces, packets of their own.

    Attributes:
        most: The most bytes of a piece, None for any.
        below: Bytes of plaintext from which on things leave whole, None for never.
    """

    most: int | None
    below: int | None


class ShapedLink(Protocol):
    """What a shaper needs of its link.

    Attributes:
        transport: Takes records.
        congested: Whether what is written waits.
        records: Records either way.
    """

    transport: Any
    congested: bool
    records: int

    @property
    def separates(self) -> bool:
        """Whether packets that wait in the kernel stay apart."""
        ...

    @property
    def record_limit(self) -> int:
        """Most bytes of plaintext that a record should have now."""
        ...


def _only_acknowledges(records: Sequence[bytes | memoryview]) -> bool:
    """Return whether there is nothing in them but what a download is answered with."""
    return (
        len(records) == 1
        and records[0][0] in _ACKNOWLEDGES
        and len(records[0]) <= _ACKNOWLEDGEMENTS
        and all(kind in _ACKNOWLEDGES for kind, _, _ in parse_frames(memoryview(records[0])))
    )


class Shaper:
    """One link's.

    Args:
        runtime: Clock and entropy.
        padding: How much is added; None for nothing.
        delays: What is held back and covered; None for nothing.
        cut: What leaves in pieces; None for nothing.

    Attributes:
        below: Records of at least so many bytes of plaintext go past it, for now.
    """

    __slots__ = ("_acks", "_cover", "_crowd", "_cut", "_cut_at", "_cut_left", "_delays", "_heard",
                 "_held", "_held_size", "_padding", "_pause", "_release", "_runtime", "_said_at",
                 "_seen", "_sent", "_watched", "below", "link")  # fmt: skip

    #: Set before anything is sent.
    link: ShapedLink

    def __init__(
        self,
        runtime: Runtime,
        padding: PaddingPolicy | None,
        delays: Delays | None = None,
        cut: Cut | None = None,
    ) -> None:
        self._runtime = runtime
        self._padding = padding
        self._delays = delays
        self._cut = cut
        self._cut_left = float(CUT_BURST)  # bytes that may still be cut ...
        self._cut_at = runtime.clock.seconds()  # ... by what was known then
        self._pause: IDelayedCall | None = None  # meanwhile nothing is cut
        self._sent = 0  # bytes sent when it began
        self._acks = 0  # in a row, with nothing said between
        self._watched = WATCHED_PACKETS  # so many more may somebody count, or know a handshake by
        self._crowd = 0  # small packets that the kernel may join: those ...
        self._heard = -1  # ... since so many bytes were received
        self._said_at = 0  # bytes received when something was said last
        self._held: list[bytes] = []
        self._held_size = 0
        self._release: IDelayedCall | None = None
        self._cover: IDelayedCall | None = None
        self._seen = -1
        self.below = 0
        self._set_below()

    def _set_below(self) -> None:
        """While something is held back everything has to come by here, or it would overtake."""
        padded = 0 if self._padding is None or self._watched <= 0 else self._padding.below
        small = 0 if self._delays is None else self._delays.below
        everything = self._held or self.apart
        self.below = MAX_RECORD_PLAINTEXT + 1 if everything else max(padded, small)

    def stream_opened(self) -> None:
        """Note that a stream begins, and perhaps a handshake in it."""
        self._watched = min(WATCHED_PACKETS, max(0, self._watched) + OPENING_PACKETS)
        self._cut_left = min(CUT_BURST, self._cut_left + CUT_OPENING)
        self._acks = 0
        self._set_below()

    def add_nothing(self) -> None:
        """Pad nothing and cut nothing on this link: it may not carry much."""
        self._padding = self._cut = None
        self._set_below()

    def send(self, records: Sequence[bytes | memoryview]) -> None:
        """Send records, padded, now or in a moment.

        Args:
            records: Each is whole frames, valid during the call.
        """
        delays = self._delays
        if delays is None:
            self._send(records)
            return
        if self._cover is None:
            # Not before: a server says nothing until its client has proven itself live.
            self._cover_later(delays)
        last = records[-1]
        kind = last[0]
        if kind == FrameType.ACK:
            self._send(records)
        elif (
            len(records) == 1
            and kind in _SPEECH
            and len(last) < delays.below
            and self._held_size + len(last) <= MOST_HELD
        ):
            self._hold(bytes(last), delays)
        else:
            self.flush()
            self._send(records)

    def send_aside(self, record: bytes) -> None:
        """Send a ping, a pong or cover: as it is, but on bare TCP in small packets."""
        if self._cut is not None and self._cut.most is not None:
            self._send_apart([record], self._cut.most, 1)
        else:
            self.link.transport.write(record)

    def _send(self, records: Sequence[bytes | memoryview]) -> None:
        last = records[-1]
        before = sum(map(len, records)) - len(last)
        silent = _only_acknowledges(records)
        self._acks = self._acks + 1 if silent else 0
        if self._watched <= 0 or (self._acks > SILENT_ACKS and self._cut is not None):
            self._send_unwatched(records, before + len(last))
            return
        if (
            self._padding is not None
            and len(last) < self._padding.below
            and not self._amid_bulk(silent)
        ):
            padding = self._padding_for(len(last), before, self._padding)
            if padding:
                last = b"".join((last, padding))
                records = [*records[:-1], last]
        if self._cut is not None and self._may_cut(before + len(last), self._cut):
            packets = self._send_apart(
                records, self._cut.most, max(1, LEAST_PACKETS + 1 - len(records))
            )
            if not silent:
                self._watched -= packets
                if self._watched <= 0:
                    self._set_below()
        else:
            self._send_whole(records)

    def _send_unwatched(self, records: Sequence[bytes | memoryview], size: int) -> None:
        """Send with no padding; on bare TCP in packets that are small, but no more than needed."""
        cut = self._cut
        if cut is None or cut.most is None:
            self._send_whole(records)
            return
        if len(records) == 1 and size <= _ONE_PACKET:
            self._note_packets(1)
            self.link.transport.write_apart(records[0], ())
        elif self._may_cut(size, cut):
            self._send_apart(records, cut.most, 1)
        else:
            self._send_whole(records)

    def _send_whole(self, records: Sequence[bytes | memoryview]) -> None:
        if len(records) == 1:
            self.link.transport.write(records[0])
        else:
            self.link.transport.write_records([memoryview(record) for record in records])

    def _amid_bulk(self, silent: bool) -> bool:
        """Whether this only acknowledges much of the peer's, at a time when such leaves whole."""
        received = self.link.transport.received
        heard, self._said_at = received - self._said_at, received
        return heard >= AMID_BULK and silent and self._pause is not None

    def _padding_for(self, size: int, before: int, policy: PaddingPolicy) -> bytes:
        """Return the frame that goes with the last record of what leaves, if any."""
        link = self.link
        now = self._runtime.clock.seconds()
        said = Said(size, before, link.transport.received, now)
        wanted = policy.pad(said, self._runtime.randint)
        self._set_below()
        if not wanted or size + wanted > link.record_limit:
            return b""  # also on slow links: there it would keep a keystroke waiting
        return pack_frame(FrameType.PADDING, 0, bytes(wanted - HEADER_SIZE))

    # -- in small pieces ------------------------------------------------------------------

    @property
    def apart(self) -> bool:
        """Whether all that is said leaves in small packets now."""
        return self._cut is not None and self._cut.below is None and self._pause is None

    @property
    def crowded(self) -> bool:
        """Whether so many small packets have left that the next should wait for a millisecond."""
        return self._crowd >= CROWD and not self.link.separates and self.apart

    def _may_cut(self, size: int, cut: Cut) -> bool:
        """Return whether so many bytes of plaintext should leave in pieces."""
        if self._pause is not None or (cut.below is not None and size >= cut.below):
            return False
        now = self._runtime.clock.seconds()
        quiet = now - self._cut_at
        if quiet > CUT_PAUSE[0]:
            self._cut_left = min(CUT_BURST, self._cut_left + quiet * CUT_RATE)
        self._cut_at = now
        if size + OVERHEAD <= self._cut_left:
            self._cut_left -= size + OVERHEAD
            return True
        self._begin_pause(size)
        return False

    def _begin_pause(self, about_to_leave: int) -> None:
        seconds = self._runtime.uniform(*CUT_PAUSE)
        self._sent = self.link.transport.sent + about_to_leave
        self._pause = self._runtime.call_later(seconds, self._pause_over, seconds)
        self._set_below()

    def _pause_over(self, seconds: float) -> None:
        self._pause = None
        if self.link.transport.sent - self._sent > CUT_RATE * seconds:
            self._begin_pause(0)  # the upload goes on
        else:
            self._set_below()

    def _send_apart(
        self, records: Sequence[bytes | memoryview], most: int | None, packets: int
    ) -> int:
        """Send records in pieces: each in `packets` at least, none of more than `most` bytes.

        Returns:
            How many they were.
        """
        made = 0
        for record in records:
            sizes = pieces(len(record) + OVERHEAD, packets, most, self._runtime.randint)
            made += len(sizes) + 1
            self._note_packets(len(sizes) + 1)
            self.link.transport.write_apart(record, sizes)
        return made

    def _note_packets(self, count: int) -> None:
        """Count small packets that are under way."""
        received = self.link.transport.received
        if received != self._heard:
            self._heard = received
            self._crowd = 0  # an answer says that what was sent has left the congestion window
        self._crowd += count

    # -- timing ---------------------------------------------------------------------------

    def _hold(self, record: bytes, delays: Delays) -> None:
        self._held.append(record)
        self._held_size += len(record)
        if self._release is None:
            wait = self._runtime.uniform(0.0, delays.most)
            self._release = self._runtime.call_later(wait, self._release_due)
            self._set_below()

    def _release_due(self) -> None:
        self._release = None
        self.flush()

    def flush(self) -> None:
        """Send what is held back."""
        if self._release is not None:
            self._release.cancel()
            self._release = None
        held, self._held = self._held, []
        self._held_size = 0
        self._set_below()
        limit = self.link.record_limit if held else 0
        joined: list[bytes] = []
        size = 0
        for record in held:
            if joined and size + len(record) > limit:
                self._send([b"".join(joined)])
                joined, size = [], 0
            joined.append(record)
            size += len(record)
        if joined:
            self._send([b"".join(joined)])

    def _cover_later(self, delays: Delays) -> None:
        self._seen = self.link.records
        self._cover = self._runtime.call_later(
            self._runtime.uniform(*delays.idle), self._cover_due, delays
        )

    def _cover_due(self, delays: Delays) -> None:
        link = self.link
        size = self._runtime.randint(*delays.cover)
        if link.records == self._seen and not link.congested and size <= link.record_limit:
            self.send_aside(pack_frame(FrameType.PADDING, 0, bytes(size - HEADER_SIZE)))
        self._cover_later(delays)

    def stop(self) -> None:
        """Drop what is held back: the link is gone."""
        for timer in (self._release, self._cover, self._pause):
            if timer is not None and timer.active():
                timer.cancel()
        self._release = self._cover = self._pause = None
        self._held.clear()
        self._held_size = 0
