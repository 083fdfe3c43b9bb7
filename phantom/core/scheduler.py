"""Which stream sends next.

Streams whose unsent data is little go first, so that a keystroke overtakes a download;
bulk streams share round-robin.  A few bulk turns are guaranteed however many small ones
wait, so that no crowd of small streams starves a download.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

#: A stream with at most this much waiting is interactive: a keystroke, a request, the head
#: of an answer.  4 KiB is a page of text or a large HTTP header block.
SMALL = 4096
#: A stream that has sent less than this in all is new, and treated like a small one: page
#: loads are many short answers, of about this median size.
NEW = 16 * 1024
#: After this many interactive turns in a row one bulk stream is served: a bulk stream then
#: still gets most of the bytes, as its turns are 16 or more times larger.
URGENT_RUN = 16

S = TypeVar("S")


class Scheduler(Generic[S]):
    """Two queues of streams that have something to send.

    A stream is in at most one queue, once; the caller keeps that (a flag on the stream).

    Attributes:
        waiting: How many streams are queued.
    """

    __slots__ = ("_bulk", "_run", "_urgent", "waiting")

    def __init__(self) -> None:
        self._urgent: deque[S] = deque()
        self._bulk: deque[S] = deque()
        self._run = 0
        self.waiting = 0

    @property
    def bulk_streams(self) -> int:
        """How many bulk streams wait."""
        return len(self._bulk)

    def add(self, stream: S, waiting: int, sent: int) -> None:
        """Queue a stream.

        Args:
            stream: Not queued yet.
            waiting: Bytes it wants to send now.
            sent: Bytes it has sent since it was opened.
        """
        self.waiting += 1
        if waiting <= SMALL or sent < NEW:
            self._urgent.append(stream)
        else:
            self._bulk.append(stream)

    def take(self) -> S:
        """Remove and return the stream whose turn it is; one must be `waiting`."""
        self.waiting -= 1
        if self._urgent and (self._run < URGENT_RUN or not self._bulk):
            self._run += 1
            return self._urgent.popleft()
        self._run = 0
        return self._bulk.popleft()

    def remove(self, stream: S) -> None:
        """Forget a stream that is queued."""
        queue = self._bulk if stream in self._bulk else self._urgent
        queue.remove(stream)
        self.waiting -= 1

    def clear(self) -> None:
        """Forget every queued stream."""
        self._urgent.clear()
        self._bulk.clear()
        self.waiting = 0
