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

from phantom.core.budget import TokenBucket
from phantom.core.shaping import (
    CUT_BURST,
    CUT_PAUSE,
    CUT_RATE,
    DELAYS,
    MOST_HELD,
    PIECE,
    Delays,
    Padding,
    PaddingPolicy,
    Said,
    Scheme,
    Timing,
    padding_policy,
)
from phantom.core.wire import HEADER_SIZE, MAX_RECORD_PLAINTEXT, FrameType, pack_frame
from phantom.crypto.records import OVERHEAD
from phantom.runtime import Runtime

#: What is held back by timing obfuscation: what people and programs say.  A window update that
#: came late would slow a download, and an acknowledgement tells nothing of what was said.
_SPEECH = frozenset(
    {FrameType.DATA, FrameType.STREAM_OPEN, FrameType.OPEN_REPLY, FrameType.HALF_CLOSE}
)


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
        policy = padding_policy(self.padding, client=self.client, scheme=self.scheme())
        cuts = self.client and self.bare and self.padding is Padding.DEFAULT
        return Shaper(runtime, policy, DELAYS.get(self.timing), cuts=cuts)


class ShapedLink(Protocol):
    """What a shaper needs of its link."""

    transport: Any
    congested: bool
    records: int

    @property
    def record_limit(self) -> int:
        """Most bytes of plaintext that a record should have now."""
        ...


class Shaper:
    """One link's.

    Args:
        runtime: Clock and entropy.
        padding: How much is added; None for nothing.
        delays: What is held back and covered; None for nothing.
        cuts: Whether small pieces are sent apart, padding too.

    Attributes:
        cuts: As given.
        below: Records of at least so many bytes of plaintext go past it, for now.
    """

    __slots__ = ("_cover", "_cut", "_delays", "_held", "_held_size", "_padding", "_pieces",
                 "_release", "_runtime", "_said", "_seen", "_stopped", "_whole", "_whole_until",
                 "below", "cuts", "link")  # fmt: skip

    #: Set before anything is sent.
    link: ShapedLink

    def __init__(
        self,
        runtime: Runtime,
        padding: PaddingPolicy | None,
        delays: Delays | None = None,
        *,
        cuts: bool = False,
    ) -> None:
        self._runtime = runtime
        self._padding = padding
        self._delays = delays
        self._held: list[bytes] = []
        self._held_size = 0
        self._release: IDelayedCall | None = None
        self._cover: IDelayedCall | None = None
        self._seen = -1
        self.cuts = cuts
        self._cut = TokenBucket(CUT_RATE, CUT_BURST)
        self._whole_until = 0.0
        self._whole = MAX_RECORD_PLAINTEXT
        self._said = self._pieces = 0
        self._stopped = False
        self.below = 0
        self._set_below()

    def _set_below(self) -> None:
        """While something is held back everything has to come by here, or it would overtake."""
        padded = 0 if self._padding is None else self._padding.below
        small = 0 if self._delays is None else self._delays.below
        self.below = MAX_RECORD_PLAINTEXT + 1 if self._held else max(padded, small)

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

    def _send(self, records: Sequence[bytes | memoryview]) -> None:
        if self.cuts:
            self._send_apart(records)
            return
        last = records[-1]
        if len(last) < self.below and self._padding is not None:
            before = sum(map(len, records)) - len(last)
            padding = self._padding_for(len(last), before, self._padding)
            if padding:
                records = [*records[:-1], b"".join((last, padding))]
        if len(records) == 1:
            self.link.transport.write(records[0])
        else:
            self.link.transport.write_records([memoryview(record) for record in records])

    def _padding_for(self, size: int, before: int, policy: PaddingPolicy) -> bytes:
        """Return the frame that goes with the last record of what leaves, if any."""
        if size >= policy.below:
            return b""
        link = self.link
        now = self._runtime.clock.seconds()
        said = Said(size, before, link.transport.received, now)
        wanted = policy.pad(said, self._runtime.randint)
        self._set_below()
        if not wanted or size + wanted > link.record_limit:
            return b""  # also on slow links: there it would keep a keystroke waiting
        return pack_frame(FrameType.PADDING, 0, bytes(wanted - HEADER_SIZE))

    # -- in small pieces ------------------------------------------------------------------

    def limit(self, whole: int) -> int:
        """Return the most bytes of plaintext that a record should have now, cut small or not.

        Args:
            whole: What the link can do.
        """
        self._whole = whole
        if self._runtime.clock.seconds() < self._whole_until:
            return whole
        return min(whole, self._runtime.randint(*PIECE))

    def _send_apart(self, records: Sequence[bytes | memoryview]) -> None:
        """Send each record by itself, and what it takes to fill them up after this turn."""
        now = self._runtime.clock.seconds()
        if not self._said:
            self._runtime.at_turn_end(self._fill)
        for record in records:
            self.link.transport.write(record)
            self._said += len(record)
            self._pieces += 1
            self._spend(now, len(record))

    def _spend(self, now: float, size: int) -> bool:
        """Count what is sent apart; return whether there may be more of it now."""
        if not self._cut.spend(now, size):
            self._whole_until = now + CUT_PAUSE
        return now >= self._whole_until

    def _fill(self) -> None:
        extra = (self._pieces - 1) * OVERHEAD
        said = self._said + extra
        self._said = self._pieces = 0
        now = self._runtime.clock.seconds()
        # A peer counts records that carry nothing, and ends the session for too many.  In a large
        # transfer there is an acknowledgement in every turn, so these are limited too.
        if self._stopped or self._padding is None or now < self._whole_until:
            return
        link = self.link
        wanted = self._padding.pad(
            Said(said, 0, link.transport.received, now, extra), self._runtime.randint
        )
        if wanted > self._whole:
            return  # a slow link
        while wanted >= HEADER_SIZE and self._spend(now, OVERHEAD + min(wanted, PIECE[1])):
            size = min(wanted, self._runtime.randint(*PIECE))
            wanted -= size + OVERHEAD
            link.transport.write(pack_frame(FrameType.PADDING, 0, bytes(size - HEADER_SIZE)))

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
            link.transport.write(pack_frame(FrameType.PADDING, 0, bytes(size - HEADER_SIZE)))
        self._cover_later(delays)

    def stop(self) -> None:
        """Drop what is held back: the link is gone."""
        for timer in (self._release, self._cover):
            if timer is not None and timer.active():
                timer.cancel()
        self._release = self._cover = None
        self._stopped = True
        self._held.clear()
        self._held_size = 0
