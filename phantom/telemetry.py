"""Logging and counting.

Log lines carry counts and enumerated reasons; never bytes chosen by a peer, never secrets,
and by default neither destinations nor user names.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

import txaio

txaio.use_twisted()

#: The levels of ``[logging] level`` and ``--log-level``, quietest last.
LEVELS: Final = ("trace", "debug", "info", "warn", "error")

#: ``log = make_logger()`` at the top of a module makes its logger.  Calls below the level
#: in force are bound to a no-op, so a debug line in a hot path costs a call and no more.
make_logger = txaio.make_logger


def set_level(level: str) -> None:
    """Set the level of every phantom logger, those already made included.

    Args:
        level: One of `LEVELS`.
    """
    txaio.set_global_log_level(level)


class Meters:
    """Event counts of one service, by enumerated names: ``meters.count("link.up")``."""

    __slots__ = ("counts",)

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def count(self, name: str, amount: int = 1) -> None:
        """Add `amount` to the count called `name`."""
        self.counts[name] += amount
