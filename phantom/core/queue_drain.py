"""Empties the queue that BBR leaves in the network in front of a slow link.

BBR overestimates a path's rate by a percent when data goes the other way as well, so that its
queue grows until the window stops it, at a whole round trip's worth and more (measured at 10
Mbit/s and 40 ms, beside a download: 21 ms in the mean, 41 at the most, then losses, for each of
which every stream waits a round trip).  While there is a queue the path is full, and sending a
little more slowly for a moment costs no throughput: it only empties the queue.

Where others fill the queue that gains nothing and would give them our share, so what does not
help soon is given up, for longer each time.
"""

from __future__ import annotations

from collections import deque

#: Seconds of queue from which it is emptied, and the part of the least round trip, if that is
#: more: BBR's own probing queues a quarter.
QUEUE_LEAST = 0.01
QUEUE_PART = 0.25
#: The part of such a queue that may be left.
LEFT = 0.5
#: How fast to send meanwhile, as a part of what arrives: 40 ms of queue are gone in 0.3 s.
PACE = 0.88
#: Seconds, and round trips besides, after which it should be empty.
PATIENCE = 0.6
PATIENCE_ROUND_TRIPS = 4.0
#: Samples whose fastest says what arrives: half a second.  Something must have arrived in each, or
#: the path stands still, and what the kernel still says of its queue is of before.
SAMPLES = 5
#: Bytes a second, the least limit: a segment takes 0.1 s.  The kernel books the time of each one
#: that it sends in advance, retransmissions too, and lifting the limit takes nothing back: at a
#: byte a second that was 24 minutes for one, and the link was mute (tried with Linux 6.18).
LEAST_LIMIT = 16 * 1024
#: Seconds without a further try after one in vain, and the factor for each one more.
PENALTY = 10.0
PENALTY_FACTOR = 4.0
#: Most factors in a row: 3 hours.
MOST_VAIN = 5


class QueueDrain:
    """Watches one link.

    Attributes:
        limit: The bytes a second that the link should not exceed now; None for no limit.
    """

    __slots__ = ("_barred_until", "_rates", "_until", "_vain", "limit")

    def __init__(self) -> None:
        self.limit: int | None = None
        self._rates: deque[float] = deque(maxlen=SAMPLES)
        self._until = 0.0
        self._barred_until = float("-inf")
        self._vain = 0

    def observe(self, now: float, *, rate: float, round_trip: float, least: float) -> bool:
        """Take one sample of a link that has more to send than it carries.

        Args:
            now: Seconds on a clock that does not go back.
            rate: Bytes a second that arrived since the last sample.
            round_trip: Seconds, as the kernel smooths it.
            least: The least round trip seen, in seconds.

        Returns:
            Whether `limit` has changed.
        """
        self._rates.append(rate)
        queue = round_trip - least
        full = max(QUEUE_LEAST, QUEUE_PART * least)
        if self.limit is None:
            if queue <= full or now < self._barred_until or len(self._rates) < SAMPLES:
                return False
            if min(self._rates) <= 0:
                return False
            self.limit = max(LEAST_LIMIT, int(max(self._rates) * PACE))
            self._until = now + PATIENCE + PATIENCE_ROUND_TRIPS * least
            return True
        if queue <= LEFT * full:
            self._vain = 0
        elif now < self._until:
            return False
        else:
            self._barred_until = now + PENALTY * PENALTY_FACTOR**self._vain
            self._vain = min(self._vain + 1, MOST_VAIN)
        return self.pause()

    def pause(self) -> bool:
        """Forget the samples so far: the link had nothing to send, or is not slow any more.

        Returns:
            Whether `limit` has changed.
        """
        changed = self.limit is not None
        self.limit = None
        self._rates.clear()
        return changed
