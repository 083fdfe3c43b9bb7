"""How much a server's log says of one client's sessions.

Each begin, loss, resumption and end is a line, and a client that holds a valid key decides how
often they come: without a bound, as often as the server can do handshakes.
"""

from __future__ import annotations

import attrs
from twisted.internet.interfaces import IReactorTime

from phantom.core.budget import TokenBucket
from phantom.telemetry import make_logger

log = make_logger()

#: Lines that one client's sessions get at once, and a second in the long run.  A day of somebody
#: on the move, with a lost link every few minutes, is told in full; the worst client fills a
#: megabyte a day.
LINES = 60
LINE_RATE = 0.1
#: Clients whose lines are counted, some 300 bytes each; beyond, the one that was not heard of for
#: the longest counts anew.
MAX_CLIENTS = 4096


@attrs.define(slots=True)
class _Told:
    """One client's lines: what it may have, and how many were left out since the last one."""

    budget: TokenBucket
    left_out: int = 0


class SessionLog:
    """Counts the lines about each client's sessions.

    Args:
        clock: The clock of timers.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        # The one heard of last is the last.
        self._clients: dict[bytes | None, _Told] = {}

    def allows(self, client: bytes | None) -> bool:
        """Whether there may be one more line about a client's sessions.

        A line that may be written is preceded by one about those that were left out.
        """
        told = self._clients.pop(client, None)
        if told is None:
            told = _Told(TokenBucket(LINE_RATE, LINES))
            if len(self._clients) >= MAX_CLIENTS:
                del self._clients[next(iter(self._clients))]
        self._clients[client] = told
        if not told.budget.spend(self._clock.seconds()):
            told.left_out += 1
            return False
        if told.left_out:
            log.info("{count} lines about one client's sessions were left out", count=told.left_out)
            told.left_out = 0
        return True
