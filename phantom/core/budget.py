"""A token bucket: how often a peer may make us work for nothing."""

from __future__ import annotations


class TokenBucket:
    """Allows bursts up to `burst`, and `rate` a second in the long run.

    Args:
        rate: Tokens that come back a second.
        burst: Tokens in a full bucket; it starts full.
    """

    __slots__ = ("_rate", "_since", "_tokens", "burst")

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self.burst = burst
        self._tokens = burst
        self._since: float | None = None

    def spend(self, now: float, cost: float = 1.0) -> bool:
        """Take `cost` tokens; return False, and take none, when they are not there.

        Args:
            now: Seconds on a clock that does not go back.
            cost: Tokens wanted.
        """
        if self._since is not None and now > self._since:
            self._tokens = min(self.burst, self._tokens + (now - self._since) * self._rate)
        self._since = now
        if self._tokens < cost:
            return False
        self._tokens -= cost
        return True
