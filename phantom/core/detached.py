"""What sessions without a link may keep, and which of them go when they keep more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping
from typing import Final, TypeVar

import attrs

S = TypeVar("S", bound=Hashable)

#: Seconds a session may wait for a new link, by default: a laptop that is carried from one room
#: to another, and not one that stays closed overnight.
DETACHED_TIMEOUT: Final = 300.0
#: Bytes that waiting sessions may hold by default, one client's and all together (as much as
#: eight such clients).
DETACHED_MEMORY_PER_CLIENT: Final = 64 * 1024 * 1024
DETACHED_MEMORY: Final = 512 * 1024 * 1024


@attrs.frozen(slots=True, kw_only=True)
class DetachedLimits:
    """What sessions without a link may keep.

    Attributes:
        timeout: Seconds until such a session is given up.
        memory_per_client: Bytes that one client's may hold together.
        memory: Bytes that all of them may hold together.
    """

    timeout: float = DETACHED_TIMEOUT
    memory_per_client: int = DETACHED_MEMORY_PER_CLIENT
    memory: int = DETACHED_MEMORY


@attrs.frozen(slots=True)
class Holding:
    """What one session holds.

    Attributes:
        client: Whose it is.
        size: Bytes.
    """

    client: bytes | None
    size: int


def too_many(sessions: Mapping[S, Holding], limits: DetachedLimits) -> list[S]:
    """Return the sessions that have to end.

    A client's own oldest goes first, then the one that holds most.

    Args:
        sessions: Those without a link, the longest without one first.
        limits: What they may hold.
    """
    by_client: Counter[bytes | None] = Counter()
    for holding in sessions.values():
        by_client[holding.client] += holding.size
    gone = []
    for session, holding in sessions.items():
        if by_client[holding.client] > limits.memory_per_client:
            by_client[holding.client] -= holding.size
            gone.append(session)
    left = sorted(sessions.keys() - set(gone), key=lambda session: sessions[session].size)
    total = sum(by_client.values())
    while total > limits.memory:
        total -= sessions[left[-1]].size
        gone.append(left.pop())
    return gone
