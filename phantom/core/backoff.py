"""How long to wait before the next attempt."""

from __future__ import annotations

#: Shortest and longest wait in seconds: short enough that a blip goes unnoticed, long
#: enough that a server that comes back is not stormed.
SHORTEST = 0.5
LONGEST = 30.0


def backoff(failures: int, random: float) -> float:
    """Return the seconds to wait after `failures` failures in a row.

    Full jitter: the wait is uniform up to an exponentially growing cap, so that clients
    that lost their server together do not come back together (Brooker, "Exponential
    Backoff And Jitter", 2015).

    Args:
        failures: At least 1.
        random: A number from 0 to 1.
    """
    cap = min(LONGEST, SHORTEST * 2.0 ** min(failures, 16))
    return SHORTEST + (cap - SHORTEST) * random
