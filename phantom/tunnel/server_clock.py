"""The server's time, as far as a client whose own clock is wrong can know it.

A first message whose timestamp is two minutes off is refused like any other that is false.
Inside TLS the refused client meets the server's web site, whose answer has a Date.  It is believed
because the certificate was verified, or pinned, before a byte was sent; there is no such witness
on bare TCP.  All it can do is choose the timestamp of first messages, which have no effect anyway,
and only of those to itself: who has got hold of one endpoint's name, and a certificate for it,
could keep a client from all of the others otherwise.
"""

from __future__ import annotations

from phantom.errors import HandshakeError

#: Seconds by which the Date must be off to be worth another attempt: half of the window, since
#: a Date has whole seconds and may come out of a cache or over a slow path.
WORTH_CORRECTING = 60.0
#: Seconds that a Date may be behind the clock it was taken from, being cut to whole ones.  Rather
#: ahead than behind: a server that has just started refuses timestamps from before its start.
GRANULARITY = 1.0


class WrongClockError(HandshakeError):
    """This machine's clock is wrong, and what it says has been corrected by the server's Date.

    Args:
        ahead: Seconds by which the clock is ahead of the server's.
    """

    def __init__(self, ahead: float) -> None:
        way = "ahead of" if ahead > 0 else "behind"
        super().__init__(
            f"this machine's clock is {abs(ahead):.0f} s {way} the server's; please set it"
        )


class ServerClock:
    """This machine's clock, set right by the Date of the server's web site.

    One for all links of a client to one endpoint.
    """

    __slots__ = ("_correction",)

    def __init__(self) -> None:
        self._correction = 0.0

    def time(self, wall: float) -> float:
        """Return the server's time.

        Args:
            wall: This machine's, in seconds since the Unix epoch.
        """
        return wall + self._correction

    def refused(self, date: float, wall: float) -> WrongClockError | None:
        """Learn from the answer of the server's web site to a first message.

        Args:
            date: Its Date, in seconds since the Unix epoch.
            wall: This machine's time now.

        Returns:
            The error, if the timestamp may have been why and another attempt makes sense.
            None if it was not: any correction is given up then, for perhaps the Date is wrong.
        """
        if abs(date - self.time(wall)) <= WORTH_CORRECTING:
            self._correction = 0.0
            return None
        self._correction = date + GRANULARITY - wall
        return WrongClockError(wall - date)
