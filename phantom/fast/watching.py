"""Connections that tell epoll themselves what they wait for, and end in one step.

Twisted's ``startReading`` and ``stopReading`` reach the kernel by way of four methods each, which
look for cases that a TCP connection is never in: a file that epoll refuses, a descriptor that is
gone.  Its ``connectionLost`` asks four times more.  A short connection begins and ends waiting
two to four times on each side.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.error import ConnectionAborted
from twisted.python.failure import Failure

from phantom.fast.sockets import QuickConnection


class DirectlyWatched(QuickConnection):
    """A quick connection on Twisted's own epoll reactor (`phantom.fast.turns.is_epoll`) only."""

    reactor: Any

    def startReading(self) -> None:
        """Wait for input."""
        reactor = self.reactor
        number = self.fileno()
        reads = reactor._reads
        if number not in reads:
            if number in reactor._writes:
                reactor._poller.modify(number, reactor._POLL_IN | reactor._POLL_OUT)
            else:
                reactor._poller.register(number, reactor._POLL_IN)
                reactor._selectables[number] = self
            reads.add(number)

    def stopReading(self) -> None:
        """Wait for input no more."""
        reactor = self.reactor
        number = self.fileno()  # one that is closed has -1, which is not waited for
        reads = reactor._reads
        if number in reads:
            if number in reactor._writes:
                reactor._poller.modify(number, reactor._POLL_OUT)
            else:
                del reactor._selectables[number]
                reactor._poller.unregister(number)
            reads.remove(number)

    def connectionLost(self, reason: Failure) -> None:
        """End the connection, and tell the protocol."""
        if not hasattr(self, "socket"):
            return  # it is done: an abort may meet an error
        self.disconnected = 1
        self.connected = 0
        producer, self.producer = self.producer, None
        if producer is not None:
            producer.stopProducing()
        reactor, number = self.reactor, self.fileno()
        if reactor._selectables.pop(number, None) is not None:
            # Though closing would do it: with a child that is being started, which has copies
            # of all descriptors for a moment, it would not.
            reactor._poller.unregister(number)
            reactor._reads.discard(number)
            reactor._writes.discard(number)
        self._closeSocket(not isinstance(reason.value, ConnectionAborted))
        protocol = self.protocol
        del self.protocol, self.socket, self.fileno
        protocol.connectionLost(reason)
