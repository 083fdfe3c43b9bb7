"""How far the frames of a session's peer have arrived, whatever links brought them."""

from __future__ import annotations

from phantom.errors import RemoteProtocolError


class ReceiveLog:
    """How far the peer's frames have arrived.

    Attributes:
        received: How many sequenced frames have arrived in order; the number of the next.
    """

    __slots__ = ("received",)

    def __init__(self) -> None:
        self.received = 0

    def begin(self, announced: int, next_sequence: int) -> LinkCursor:
        """Start counting the frames of a new link.

        The peer begins with the frame that our ATTACH asked for.  Frames that came by an
        older link since then come again, and are dropped.

        Args:
            announced: What our ATTACH on that link said we had received.
            next_sequence: What the peer's ATTACH said it would send first, at the latest.

        Raises:
            RemoteProtocolError: The peer has let go of frames that we do not have.
        """
        if next_sequence > announced:
            raise RemoteProtocolError("frames were lost between two links")
        return LinkCursor(self, announced)


class LinkCursor:
    """Numbers the sequenced frames of one link."""

    __slots__ = ("_log", "_next")

    def __init__(self, log: ReceiveLog, next_sequence: int) -> None:
        self._log = log
        self._next = next_sequence

    def accept(self) -> bool:
        """Number the next frame; return whether it is new, so that it is dealt with once.

        Raises:
            RemoteProtocolError: The number is ahead of what is expected.  On a link that
                was superseded this cannot happen unless the peer misnumbers.
        """
        return not self.accept_row(1)

    def accept_row(self, count: int) -> int:
        """Number the next `count` frames; return how many, at the front, are not new.

        Raises:
            RemoteProtocolError: As `accept`.
        """
        number = self._next
        self._next = end = number + count
        log = self._log
        old = log.received - number
        if old < 0:
            raise RemoteProtocolError("a gap in the sequence")
        if old >= count:
            return count
        log.received = end
        return old
