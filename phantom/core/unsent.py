"""How much may wait unsent in front of a link, by the rate the link was seen to carry.

Whatever waits in the kernel or in the link's transport cannot be overtaken any more: a
keystroke that comes then is late by the time all of it takes.  128 KiB are 5 ms at
200 Mbit/s and 105 ms at 10 Mbit/s, so the bound is a time, and the bytes follow the rate.
"""

from __future__ import annotations

from collections import deque

from phantom.core.wire import MAX_RECORD_PLAINTEXT

#: Seconds that what waits unsent may take to leave.  The target is less than 50 ms of delay
#: for a keystroke beside a download; the rest is for the queue in the network, which BBR keeps
#: at about a quarter of a round trip.
UNSENT_TIME = 0.02
#: Most bytes, whatever the rate: more gains nothing at 10 Gbit/s.
MOST_UNSENT = 128 * 1024
#: What a link begins with: 26 ms at 10 Mbit/s, and two of TCP's first windows.  It is wider by
#: as much as the first sample says, and at once where the peer is near.
FIRST_UNSENT = 32 * 1024
#: Seconds of round trip below which a link begins with `MOST_UNSENT`: what is so near is fast.
NEAR = 0.005
#: Least bytes: two full segments and a record in hand, or the link would run dry.
LEAST_UNSENT = 8 * 1024
#: Samples whose fastest counts: on a lossy path, or while BBR drains, some are slow.  As they
#: are taken every 0.1 s, a path that becomes slower is believed after a second.
SAMPLES = 10
#: Samples before a verdict that makes the bound smaller: a link that starts is slow at first.
LEAST_SAMPLES = 5


class UnsentBound:
    """Follows the rate of one link.

    Args:
        near: Whether the peer is: its round trip is less than `NEAR`.

    Attributes:
        size: Bytes that may wait unsent in all; a power of two, so that it changes rarely.
    """

    __slots__ = ("_rates", "size")

    def __init__(self, *, near: bool = True) -> None:
        self.size = MOST_UNSENT if near else FIRST_UNSENT
        self._rates: deque[float] = deque(maxlen=SAMPLES)

    @property
    def low_water(self) -> int:
        """Unsent bytes above which the kernel should take no more (``TCP_NOTSENT_LOWAT``)."""
        return self.size if self.size == MOST_UNSENT else self.size // 2

    @property
    def record_limit(self) -> int:
        """Most bytes of plaintext in one record.

        A slow link's are a quarter of the bound: one may lie in the kernel beyond its mark,
        and one wait for it.
        """
        return MAX_RECORD_PLAINTEXT if self.size == MOST_UNSENT else self.size // 4

    def observe(self, rate: float, *, starved: bool) -> bool:
        """Take one sample of a link that has more to send than it carries.

        Args:
            rate: Bytes a second that arrived since the last one.
            starved: Whether the kernel had nothing left to send all the same.  It may be we who
                were too slow to refill it, so the bound is one step wider then: if that makes
                the link faster, the next samples widen it further.

        Returns:
            Whether the bound has changed.
        """
        old = self.size
        self._rates.append(rate)
        wanted = max(1, int(max(self._rates) * UNSENT_TIME))
        # Rounded down to a power of two, so that it changes rarely.
        rounded = 1 << wanted.bit_length() - 1 + starved
        if len(self._rates) < LEAST_SAMPLES and rounded < self.size:
            return False
        self.size = max(LEAST_UNSENT, min(MOST_UNSENT, rounded))
        return self.size != old
