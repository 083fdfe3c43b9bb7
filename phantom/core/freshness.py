"""How large the records of a link may be: small ones first, until it shows what it carries."""

from __future__ import annotations

import math

from phantom.core.blocks import MAX_RETAINED_BYTES
from phantom.core.session import FULL_PAYLOAD, FULL_RECORD, SMALL_PAYLOAD, SMALL_RECORD

#: Bytes a link carries in small records, and sees acknowledged, before it is trusted with
#: large ones: four times what the tightest censor known lets through (see SMALL_RECORD).
FRESH_BYTES = 64 * 1024
#: ... and the seconds within which that must happen: on a slower link a large record would
#: stand before a keystroke for seconds, and nothing be heard of the peer meanwhile.
FRESH_TIME = 2.0
#: Bytes that may be kept unacknowledged meanwhile.  What is kept goes again first on the next
#: link, and on a path that lets a few kilobytes of each through, a window update behind
#: megabytes of it would come after minutes.  Twice `FRESH_BYTES`, so that a good link does not
#: stand still while the first half is acknowledged.
FRESH_ROOM = 2 * FRESH_BYTES
#: Bytes in flight on a link whose path lets a few kilobytes of each through, at most: a reset takes
#: along what has arrived and was not read yet, and all of that has to go again.  Two records, so
#: that one is on its way while the other is acknowledged.
LEAN_FLIGHT = 2 * SMALL_RECORD


class Freshness:
    """Watches a link from its first record until it is trusted; slow ones never are.

    Args:
        now: Seconds on a clock that does not go back.
        lean: Whether links die young on this path.

    Attributes:
        trusted: Whether large records may be sent.
        flight: Bytes in flight at which no more may be sent: few on a path where links die
            young, until this one has carried `FRESH_BYTES`.
    """

    __slots__ = ("_lean_left", "_left", "_since", "_until", "flight", "trusted")

    def __init__(self, now: float, *, lean: bool = False) -> None:
        self.trusted = False
        self.flight: float = LEAN_FLIGHT if lean else math.inf
        self._lean_left = FRESH_BYTES
        self._restart(now)

    def _restart(self, now: float) -> None:
        self._left = FRESH_BYTES
        self._since = now
        self._until: int | None = None

    @property
    def record_limit(self) -> int:
        """Most bytes of plaintext in the next record."""
        return FULL_RECORD if self.trusted else SMALL_RECORD

    @property
    def frame_limit(self) -> int:
        """Most bytes of payload in the next frames."""
        return FULL_PAYLOAD if self.trusted else SMALL_PAYLOAD

    @property
    def room(self) -> int:
        """Bytes kept unacknowledged above which no data may be added."""
        return MAX_RETAINED_BYTES if self.trusted else FRESH_ROOM

    def sent(self, size: int, sequence: int, now: float) -> None:
        """Note a record of an untrusted link.

        Args:
            size: Its plaintext's bytes.
            sequence: The number behind its last frame.
            now: Seconds.
        """
        if self._until is not None:
            return
        if self._left == FRESH_BYTES or now - self._since > FRESH_TIME:
            self._restart(now)  # an idle link is not a slow one
        self._left -= size
        if self._left <= 0:
            self._until = sequence

    def acknowledged(self, received: int, now: float, size: int = 0) -> bool:
        """Note that the peer has the frames below `received`.

        Args:
            received: The number behind the last of them.
            now: Seconds.
            size: Bytes of those that it had not acknowledged before.

        Returns:
            Whether the link is trusted now.
        """
        self._lean_left -= size
        if self._lean_left <= 0:
            self.flight = math.inf
        if self._until is None or received < self._until:
            return self.trusted
        if now - self._since <= FRESH_TIME:
            self.trusted = True
        else:
            self._restart(now)
        return self.trusted
