"""Name lookups, shared out so that no client can take every thread of the resolver."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from twisted.internet.defer import maybeDeferred
from twisted.python.failure import Failure

from phantom.core.limits import Limits
from phantom.runtime import RESOLVER_THREADS, Resolve

IPAddress = IPv4Address | IPv6Address
OnAnswer = Callable[[list[IPAddress] | Failure], None]

#: Lookups of one client that may be with the resolver.  A lookup that asks a dead name server
#: holds its thread for up to half a minute, so a client with a hundred dead names (a file
#: sharing program, say) would stop everybody's; this leaves half of the threads to others.
AT_ONCE_PER_CLIENT: Final = RESOLVER_THREADS // 2


class Lookups:
    """Asks the resolver for a client's names, a few at once and the rest in turn.

    Args:
        resolve: The resolver.
        limits: Bound the lookups by client, those that wait included.
        at_once: Lookups of one client that may be with the resolver.
    """

    __slots__ = ("_at_once", "_limits", "_resolve", "_running", "_waiting")

    def __init__(self, resolve: Resolve, limits: Limits, at_once: int = AT_ONCE_PER_CLIENT) -> None:
        self._resolve = resolve
        self._limits = limits
        self._at_once = at_once
        # Neither holds a client that has none.
        self._running: dict[Hashable, int] = {}
        self._waiting: dict[Hashable, deque[tuple[str, OnAnswer]]] = {}

    def ask(self, key: Hashable, name: str, on_answer: OnAnswer) -> bool:
        """Look a name up, now or in its turn.

        Args:
            key: The client.
            name: The name.
            on_answer: Called once with the addresses or the failure, unless `forget` comes
                first.

        Returns:
            False, and nothing is done, if a limit is reached.
        """
        if not self._limits.acquire(key):
            return False
        if self._running.get(key, 0) < self._at_once:
            self._begin(key, name, on_answer)
        else:
            self._waiting.setdefault(key, deque()).append((name, on_answer))
        return True

    def forget(self, key: Hashable, name: str, on_answer: OnAnswer) -> None:
        """Give up a lookup, if its turn has not come.

        One that is with the resolver goes on: its thread is stuck in getaddrinfo and stays
        stuck, and only while it counts as in use do the limits bound what waits for threads.
        """
        waiting = self._waiting.get(key)
        if waiting is None or (name, on_answer) not in waiting:
            return
        waiting.remove((name, on_answer))
        if not waiting:
            del self._waiting[key]
        self._limits.release(key)

    def _begin(self, key: Hashable, name: str, on_answer: OnAnswer) -> None:
        self._running[key] = self._running.get(key, 0) + 1
        maybeDeferred(self._resolve, name).addBoth(self._answered, key, on_answer)

    def _answered(
        self, result: list[IPAddress] | Failure, key: Hashable, on_answer: OnAnswer
    ) -> None:
        self._limits.release(key)
        self._running[key] -= 1
        if not self._running[key]:
            del self._running[key]
        if (waiting := self._waiting.get(key)) is not None:
            turn = waiting.popleft()
            if not waiting:
                del self._waiting[key]
            self._begin(key, *turn)
        on_answer(result)
