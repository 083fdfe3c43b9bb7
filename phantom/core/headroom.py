"""Notices a link on which BBR has stopped looking for bandwidth too early.

BBR leaves its start-up when three round trips brought no quarter more, and a few losses, or a
receiver whose buffer is still small, look just like a full path.  From then on it grows by a
quarter in eight round trips: at 200 ms, from 5 to 80 Mbit/s in 20 seconds (measured on a path
with 1 % of random loss; the same happens to plain TCP).  A path that is really full shows a
queue at least once in those eight round trips, when BBR probes; one that never does has
headroom, and its start-up is worth another try (Cardwell et al., "BBR: Congestion-Based
Congestion Control", 2016; Linux, net/ipv4/tcp_bbr.c).
"""

from __future__ import annotations

#: Seconds of round trip below which BBR's own probing is quick enough.
LEAST_ROUND_TRIP = 0.03
#: Round trips without a queue that prove headroom: more than a cycle of BBR's probing, eight.
PROOF = 12.0
#: A queue is this part of the least round trip, and at least these seconds: BBR's probing
#: queues a quarter; timers and interrupts on the way add a millisecond or two.
QUEUE_PART = 0.02
QUEUE_LEAST = 0.002
#: How much faster the link must have become for a restart to have been worth it: what BBR
#: itself takes for growth.
GAIN = 1.25
#: Seconds without a further try after one in vain, and the factor for each one more: on a path
#: whose limit drops packets in place of queueing them, a try costs some losses.
PENALTY = 60.0
PENALTY_FACTOR = 4.0


class Headroom:
    """Watches one link; see the module."""

    __slots__ = ("_barred_until", "_before", "_rate", "_since", "_vain")

    def __init__(self) -> None:
        self._since: float | None = None
        self._rate = 0.0
        self._before: float | None = None
        self._vain = 0
        self._barred_until = float("-inf")

    def observe(
        self, now: float, *, rate: float, round_trip: float, least: float, starved: bool
    ) -> bool:
        """Take one sample of a link that has more to send than it carries.

        Args:
            now: Seconds on a clock that does not go back.
            rate: Bytes a second that arrived since the last sample.
            round_trip: Seconds, as the kernel smooths it.
            least: The least round trip seen, in seconds.
            starved: Whether the kernel had nothing left to send.

        Returns:
            Whether the start-up should be tried again now.
        """
        queued = round_trip - least > max(QUEUE_LEAST, QUEUE_PART * least)
        if queued:
            self._before = None  # the path is full: the last try, if any, was right
        if queued or starved or least < LEAST_ROUND_TRIP:
            self.pause()
            return False
        if self._since is None:
            self._since = now
        self._rate = max(self._rate, rate)
        if now - self._since < PROOF * least:
            return False
        if self._before is not None and self._rate < GAIN * self._before:
            self._barred_until = now + PENALTY * PENALTY_FACTOR**self._vain
            self._vain += 1
        self._before, rate = None, self._rate
        self.pause()
        if now < self._barred_until:
            return False
        self._before = rate
        return True

    def pause(self) -> None:
        """Forget the samples so far: the link had nothing to send meanwhile."""
        self._since = None
        self._rate = 0.0
