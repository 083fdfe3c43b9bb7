"""Credit arithmetic: how much may be sent, how much may still come, and from what memory.

The receiver alone decides.  Each stream has a window of its own; there is no session credit
on the wire, because a handful of stalled readers would freeze every stream.  Instead the
receiver hands out credit from a `CreditPool`, so that what it may have to hold stays within
``session_memory`` whatever its readers do (doc/spec/wire.md).
"""

from __future__ import annotations

from phantom.core.wire import INITIAL_CREDIT, MAX_CREDIT
from phantom.errors import RemoteProtocolError

#: Every stream may count on this much, whatever the others hold: it is what an opener may
#: send before the reply, so it is promised before anyone is asked.
BASE_CREDIT = INITIAL_CREDIT
#: A new stream's window when there is room: above the bandwidth-delay product of most
#: paths' first round trips, and 1/16 of the default limit.
FIRST_WINDOW = 256 * 1024
#: A new stream takes at most this part of what the pool has left, so that a crowd shrinks
#: first windows gradually and the last comer still finds something.
CROWD_SHARE = 32
#: What the only active stream gets without being measured: enough for 300 Mbit/s at 100 ms.
DEFAULT_WINDOW = 4 * 1024 * 1024
#: ... and what a measured one may grow to by default: 1.3 Gbit/s at 100 ms, as much as a session
#: keeps unacknowledged.
DEFAULT_WINDOW_LIMIT = 16 * 1024 * 1024
#: A window holds this many bandwidth-delay products: one in flight; one in the path's queues,
#: or in flight again (BBR, draft-ietf-ccwg-bbr, keeps up to two); one that stands still behind
#: a loss for a round trip; and one for credit that is on its way.
DELAY_PRODUCTS = 4
#: Credit is announced in steps of half a window, and at most of this: with half of a large
#: one a sender would see only half of it on a path it just fills (164 Mbit/s instead of 193
#: were measured with 4 MiB at 100 ms).
MOST_STEP = 256 * 1024
#: No stream grows beyond this part of what the others have left, itself included.  Readers
#: that stall keep what they hold, so whoever came first would otherwise leave the rest their
#: base: at 80 ms of round trip, sixteen paused videos made a download 25 times slower.  With
#: an eighth they cost it nothing, and the only stream still gets 6 MiB of the default memory.
STREAM_SHARE = 8
#: ... while it is no larger than `DEFAULT_WINDOW`.  One that was measured to need more may have
#: this part: a paused video did not need it.
FAST_SHARE = 3


class CreditPool:
    """The memory that the streams of one session may share beyond their base.

    Args:
        session_memory: Bytes the session may be made to hold.
        max_streams: Concurrent streams; each has `BASE_CREDIT` reserved.

    Raises:
        ValueError: The streams' base alone exceeds the memory.
    """

    __slots__ = ("free",)

    def __init__(self, session_memory: int, max_streams: int) -> None:
        self.free = session_memory - max_streams * BASE_CREDIT
        if self.free < 0:
            raise ValueError("session_memory is smaller than max_streams times 16 KiB")

    def first_window(self) -> int:
        """Return the window for a new stream: less when crowded, never below the base."""
        return max(BASE_CREDIT, min(FIRST_WINDOW, BASE_CREDIT + self.free // CROWD_SHARE))


class ReceiveWindow:
    """What the peer may still send on one stream, and what of it lies here undelivered.

    Invariant: ``outstanding + buffered`` beyond `BASE_CREDIT` is taken from the pool.

    Args:
        pool: Where credit beyond the base comes from.
        limit: The largest window this stream may grow to, in bytes.
        granted: What the peer was already promised outside this object's knowledge.

    Attributes:
        outstanding: Credit the peer holds, in bytes.
        buffered: Bytes received and not yet taken by the consumer.
        target: The window's present size.
    """

    __slots__ = (
        "_charged",
        "_pool",
        "_since",
        "_taken",
        "buffered",
        "limit",
        "outstanding",
        "target",
    )

    def __init__(self, pool: CreditPool, limit: int, granted: int = 0) -> None:
        self._pool = pool
        self.limit = max(limit, BASE_CREDIT)
        self.outstanding = granted
        self.buffered = 0
        self.target = min(pool.first_window(), self.limit)
        self._charged = 0
        self._taken = 0
        self._since: float | None = None

    def received(self, size: int) -> None:
        """Account for bytes that arrived.

        Raises:
            RemoteProtocolError: They exceed the credit.
        """
        if size > self.outstanding:
            raise RemoteProtocolError("the peer overran a stream's window")
        self.outstanding -= size
        self.buffered += size

    def taken(self, size: int) -> bool:
        """Account for bytes that the consumer took: their room may be granted again.

        A consumer that has taken a whole window shows that the window may be what limits it,
        so the window doubles, up to `DEFAULT_WINDOW`, and from there on by measure.

        Returns:
            Whether `measure` is due.
        """
        self.buffered -= size
        # As `_settle`; for each read of each stream.
        charge = self.outstanding + self.buffered - BASE_CREDIT
        if charge < 0:
            charge = 0
        self._pool.free += self._charged - charge
        self._charged = charge
        self._taken += size
        if self._taken < self.target or self.target >= self.limit:
            return False
        if self.target >= DEFAULT_WINDOW:
            return True
        self._taken = 0
        self.target = min(self.target * 2, self.limit)
        return False

    def measure(self, now: float, round_trip: float | None) -> None:
        """Grow if the path's bandwidth-delay product asks for it.

        Args:
            now: Seconds on a clock that does not go back.
            round_trip: The path's least round trip in seconds, None when unknown.
        """
        taken, self._taken = self._taken, 0
        since, self._since = self._since, now
        if since is None or round_trip is None or now <= since:
            return
        if taken / (now - since) * round_trip * DELAY_PRODUCTS > self.target:
            self.target = min(self.target * 2, self.limit)

    def grant(self) -> int:
        """Return the credit to announce now, 0 for none.

        Half a window must be due, or `MOST_STEP`: smaller grants would cost a frame each for
        little.
        """
        held = self.outstanding + self.buffered
        if held > self.target - MOST_STEP and held * 2 > self.target:
            return 0  # whatever the others leave: nearly every small read ends here
        part = STREAM_SHARE if self.target <= DEFAULT_WINDOW else FAST_SHARE
        share = BASE_CREDIT + (self._pool.free + self._charged) // part
        target = min(self.target, share)
        due = target - held
        if due < min(target // 2, MOST_STEP):
            return 0
        # What lies below the base is ours by reservation, the rest must be in the pool.
        free = max(0, BASE_CREDIT - held) + self._pool.free
        amount = min(due, free)
        # With the pool empty the base is the window, and half of it must be due likewise.
        if amount * 2 < min(self.target, BASE_CREDIT):
            return 0
        self.outstanding += amount
        self._settle()
        return amount

    def close(self) -> None:
        """Give everything back to the pool."""
        self.outstanding = self.buffered = 0
        self._settle()

    def _settle(self) -> None:
        charge = max(0, self.outstanding + self.buffered - BASE_CREDIT)
        self._pool.free += self._charged - charge
        self._charged = charge


def add_credit(credit: int, grant: int) -> int:
    """Return the sum of a send window and a grant.

    Raises:
        RemoteProtocolError: The sum is more than a window can hold (RFC 9113, 6.9.1, has
            the same rule).
    """
    total = credit + grant
    if total > MAX_CREDIT:
        raise RemoteProtocolError("a window was granted beyond its maximum")
    return total
