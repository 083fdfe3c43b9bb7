"""Reads a busy connection from far away once a millisecond, not whenever something comes.

Over a road whose packets come one by one, a few of them wake the process: 2,800 times a second at
25 MB/s, each time with a turn of the reactor, a read and half a record.  Who waits a millisecond
finds some twenty packets, and deals with what they carry in one go.  Over 200 Mbit/s and 100 ms
both ends together take 7.5 CPU-s/GB in place of 14.2, inside TLS 9.2 in place of 19.1
(doc/adr/0026-reading-a-busy-road.md).

Nothing waits where little comes: a window decides by what came in the one before it.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.internet.main import CONNECTION_DONE

from phantom.fast.tcp_info import read_state

#: Seconds between two reads of a busy connection.  What is added to a keystroke beside a download
#: is at most this and the resolution of epoll's timeout, a millisecond too.
PAUSE = 0.001
#: Seconds after which it is decided whether a connection is busy.
WINDOW = 0.004
#: Bytes in a window that make it busy: 33 Mbit/s, below which packets are as far apart as reads.
BUSY_BYTES = 16 * 1024
#: Reads in a window that make it busy, if it was not: two in a `PAUSE`.
BUSY_READS = 8
#: Bytes in one read that need no more gathering.
PLENTY = 64 * 1024
#: Seconds of round trip from which a connection may wait: within a machine or a house a
#: millisecond is much, and what comes there comes in large pieces.
FAR = 0.005


class Gatherer:
    """Decides when a connection is read next.

    Args:
        clock: Timers.
        connection: A `phantom.fast.sockets.QuickConnection`, which says what happens to it.
    """

    def __init__(self, clock: IReactorTime, connection: Any) -> None:
        self._clock = clock
        self._connection = connection
        self._paused = False
        self._waits = False
        self._busy = False
        self._since = 0.0
        self._bytes = 0
        self._reads = 0

    def paused(self) -> None:
        """Somebody else wants nothing read for now."""
        self._paused = True

    def resumed(self) -> None:
        """And wants it read again."""
        self._paused = False

    def read(self, size: int) -> None:
        """Bytes have been read, and dealt with: wait, if many more are about to come."""
        self._bytes += size
        self._reads += 1
        now = self._clock.seconds()
        elapsed = now - self._since
        if elapsed >= WINDOW:
            self._busy = (
                elapsed < 2 * WINDOW
                and self._bytes >= BUSY_BYTES
                and (self._busy or self._reads >= BUSY_READS)
            )
            self._since = now
            self._bytes = self._reads = 0
        if not self._busy or size >= PLENTY or self._paused or self._waits:
            return
        connection = self._connection
        # While something waits to be sent epoll goes on telling of the connection's end, and
        # Twisted would not read what came before it.
        if connection.connected and not (connection.disconnecting or connection.dataBuffer):
            self._waits = True
            connection.stopReading()
            self._clock.callLater(PAUSE, self._go_on)

    def _go_on(self) -> None:
        self._waits = False
        connection = self._connection
        if (
            connection.connected
            and not (self._paused or connection.disconnecting)
            # Somebody may have paused and resumed it meanwhile, and the end was told then.
            and connection.read_end is not CONNECTION_DONE
        ):
            connection.startReading()


class Unhurried:
    """Stands for a `Gatherer` where nothing is gathered."""

    def paused(self) -> None:
        """Nothing to do."""

    def resumed(self) -> None:
        """Nothing to do."""

    def read(self, size: int) -> None:
        """Nothing to do."""


_UNHURRIED = Unhurried()


def gather(clock: IReactorTime, connection: Any) -> bool:
    """Give a connection a `Gatherer`, if its peer is far away as far as the kernel knows.

    Args:
        clock: Timers.
        connection: A TCP transport; one that is not quick has no use for it.

    Returns:
        Whether it is known to be near.
    """
    if not connection.connected:
        return False  # what it brought may have ended it, and its socket is gone
    state = read_state(connection.getHandle())
    far = state is not None and state.least_round_trip >= FAR
    connection.gatherer = Gatherer(clock, connection) if far else _UNHURRIED
    return state is not None and not far
