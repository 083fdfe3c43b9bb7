"""How many of something may be in use at once: in all, and by any one holder."""

from __future__ import annotations

from collections.abc import Hashable


class Limits:
    """Counts what is in use.

    Holders that hold nothing take no memory, so the table is never longer than `total`.

    Args:
        total: How many may be in use at once.
        per_key: How many of these by one key.

    Attributes:
        total: As given; may be changed while running, what is in use stays.
        per_key: Likewise.
        used: How many are in use now.
    """

    __slots__ = ("_held", "per_key", "total", "used")

    def __init__(self, total: int, per_key: int) -> None:
        self.total = total
        self.per_key = per_key
        self.used = 0
        self._held: dict[Hashable, int] = {}

    def acquire(self, key: Hashable) -> bool:
        """Take one for `key`; False, and nothing taken, if a limit is reached."""
        held = self._held.get(key, 0)
        if self.used >= self.total or held >= self.per_key:
            return False
        self.used += 1
        self._held[key] = held + 1
        return True

    def release(self, key: Hashable) -> None:
        """Give back one that `acquire` granted to `key`.

        Raises:
            ValueError: `key` holds none.
        """
        held = self._held.get(key, 0)
        if not held:
            raise ValueError("released more often than acquired")
        self.used -= 1
        if held == 1:
            del self._held[key]
        else:
            self._held[key] = held - 1

    def held(self, key: Hashable) -> int:
        """Return how many `key` holds."""
        return self._held.get(key, 0)
