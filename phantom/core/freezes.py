"""What was learned about a path on which links die after a few kilobytes.

Some censors let 16 to 20 KB of a connection through, or about 25 packets, and then nothing,
without a reset (reported from Russia, 2025); others send a reset.  When links die so, again and
again, the next ones add nothing to what they carry.  Where they fall silent, they are also replaced
before they reach that point, and the stall does not happen; a reset is noticed at once, and may
have come for another reason than what the link carried.
"""

from __future__ import annotations

#: A link that brought more bytes than this does not suffer from it: the tightest rule known
#: stops at 16 KB, and eight times that leaves room for laxer ones.
SUSPECT = 128 * 1024
#: A link that brought less than this, and sent more than `SUSPECT`, was not stopped by it either:
#: the rules known count what comes (15 to 20 KB), or packets either way.
TIGHTEST = 12 * 1024
#: How many links in a row must fall silent before the next ones are replaced in time: one
#: alone may be a network that went away.
ENOUGH = 2
#: A link that is reset at this age, in seconds, or later has not been reset for what it carried:
#: 20 KB take a second on the slowest path that anything can be done on.
YOUNG = 20.0
#: Part of what came through last time after which a link is replaced: the new one's
#: handshake has to fit what is left.
SHARE = 0.6
#: Least allowance, bytes and records: a link that has just been attached has that behind it.
LEAST = (2048, 4)
#: Links replaced in time before one is left alone, to see whether that is still needed; twice as
#: many after each such trial that froze, up to the second number.  Two networks that went away
#: look the same as a path that freezes, and would otherwise be taken for one for good.
TRIAL = (16, 4096)


class Freezes:
    """Counts links that died early, on one network."""

    __slots__ = ("_bytes", "_count", "_records", "_replaced", "_silent", "_trying",
                 "_until_trial")  # fmt: skip

    def __init__(self) -> None:
        self._count = 0
        self._bytes = 0
        self._records = 0
        self._replaced = 0
        self._silent = False
        self._trying = False
        self._until_trial = TRIAL[0]

    def link_replaced(self) -> None:
        """Count a link that had a successor in time; now and then, let the next one run on."""
        if not self._silent:
            self._count = 0  # it grew old, and was not reset
        if self._count < ENOUGH:
            return
        self._replaced += 1
        if self._replaced >= self._until_trial:
            self._replaced = 0
            self._until_trial = min(2 * self._until_trial, TRIAL[1])
            self._count = ENOUGH - 1
            self._trying = True

    def link_lost(
        self,
        received: int,
        records: int,
        *,
        sent: int = 0,
        fell_silent: bool,
        reset: bool = False,
    ) -> bool:
        """Learn from a link's end.

        Args:
            received: Bytes it had brought.
            records: Records it had carried, either way.
            sent: Bytes it had taken along.
            fell_silent: Whether it was given up because nothing came any more.
            reset: Whether it was reset when it was `YOUNG` and at work.

        Returns:
            Whether it has shown that the path lets much through.
        """
        self._trying = False
        if received >= SUSPECT:
            self._count = 0
            self._until_trial = TRIAL[0]
            return True
        if sent >= SUSPECT and received < TIGHTEST:
            pass  # whatever ended it
        elif fell_silent or reset:
            self._silent = fell_silent
            self._count += 1
            self._bytes, self._records = received, records
        elif not self._silent:
            self._count = 0
        return False

    @property
    def suspected(self) -> bool:
        """Whether silence should be judged sooner than elsewhere."""
        return self._count > 0 and self._silent

    @property
    def lean(self) -> bool:
        """Whether links should add nothing to what they carry."""
        return self._trying or self._count >= ENOUGH

    @property
    def allowance(self) -> tuple[int, int] | None:
        """Bytes received and records after which a link is to be replaced; None for never."""
        if self._count < ENOUGH or not self._silent:
            return None
        return max(LEAST[0], int(self._bytes * SHARE)), max(LEAST[1], int(self._records * SHARE))
