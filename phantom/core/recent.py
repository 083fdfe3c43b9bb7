"""Destinations that were reached a moment ago.

An application is answered early, before the server has dialled, where the answer is as
good as known.  A wrong guess costs a misleading error, never a wrong connection; so the
memory is short, small, and lost with the process.
"""

from __future__ import annotations

from typing import Final

from phantom.address import Destination

#: A few browsers' worth of sites at about 300 bytes each.
DEFAULT_CAPACITY: Final = 1024
#: Seconds.  Long enough for a visit to a site, short enough that a service that went down
#: is noticed by the next one.
DEFAULT_LIFETIME: Final = 600.0


class RecentDestinations:
    """A bounded set of destinations that forgets.

    The caller remembers a destination when the server reports it connected, forgets it on
    any failure, and never remembers one that was forbidden.

    Args:
        capacity: How many are kept; beyond it the least recently remembered or asked for
            goes.  0 keeps none.
        lifetime: Seconds from `remember` until a destination is forgotten by itself.
    """

    __slots__ = ("_capacity", "_expiry", "_lifetime")

    def __init__(
        self, capacity: int = DEFAULT_CAPACITY, lifetime: float = DEFAULT_LIFETIME
    ) -> None:
        self._capacity = capacity
        self._lifetime = lifetime
        # In order of use, the latest at the end.
        self._expiry: dict[Destination, float] = {}

    def __len__(self) -> int:
        """Return how many are held, those included whose time has run out unnoticed."""
        return len(self._expiry)

    def remember(self, destination: Destination, now: float) -> None:
        """Note that `destination` was reached.

        Args:
            destination: Where a connection was just made to.
            now: Seconds on any clock that does not go backwards; the same one each time.
        """
        self._expiry.pop(destination, None)
        self._expiry[destination] = now + self._lifetime
        if len(self._expiry) > self._capacity:
            del self._expiry[next(iter(self._expiry))]

    def forget(self, destination: Destination) -> None:
        """Forget `destination`, if it is known."""
        self._expiry.pop(destination, None)

    def knows(self, destination: Destination, now: float) -> bool:
        """Return whether `destination` was reached less than the lifetime ago.

        Asking keeps it from being the first to go, but does not lengthen its time.
        """
        expiry = self._expiry.pop(destination, None)
        if expiry is None or now >= expiry:
            return False
        # The caller's own object is the key from now on: found by identity when this connection
        # is remembered, where comparing addresses takes a microsecond each time.
        self._expiry[destination] = expiry
        return True
