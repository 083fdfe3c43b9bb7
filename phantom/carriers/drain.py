"""What bare TCP shows a stranger: nothing, for as long as they like.

A server that closes after so many bytes, or so many seconds, is recognised by that number
(Frolov and others, NDSS 2020); one that never answers and never closes is one of many.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IHalfCloseableProtocol, IProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from phantom.carriers.strangers import Strangers
from phantom.layer import switch_protocol
from phantom.runtime import Runtime


@implementer(IProtocol, IHalfCloseableProtocol)
class _Silence:
    """Reads, and does nothing else."""

    __slots__ = ("_drain", "transport")

    transport: Any

    def __init__(self, drain: SilentDrain) -> None:
        self._drain = drain

    def makeConnection(self, transport: Any) -> None:
        self.transport = transport

    def connectionMade(self) -> None:
        pass

    def dataReceived(self, data: bytes) -> None:
        pass

    def readConnectionLost(self) -> None:
        # A half-closed visitor still has a reading side to keep silent to.
        pass

    def writeConnectionLost(self) -> None:
        pass

    def connectionLost(self, reason: Failure) -> None:
        self._drain.release(self.transport)


class SilentDrain:
    """A `phantom.interfaces.StrangerPolicy`: read on, never answer, never close first.

    Args:
        runtime: Unused for now; every policy is handed one.
        limit: How many visitors at once; see `phantom.core.admission.place_limits`.
        per_prefix: How many of one /24 or /56.  When either is reached the oldest is
            aborted, which to that visitor looks like a host under load.
    """

    def __init__(self, runtime: Runtime, limit: int, per_prefix: int) -> None:
        self._strangers = Strangers(limit, per_prefix)

    def __len__(self) -> int:
        """Return how many are being drained."""
        return len(self._strangers)

    def __call__(self, transport: Any, received: bytes) -> None:
        """Take a visitor over for good."""
        self._strangers.admit(transport)
        switch_protocol(transport, _Silence(self))
        transport.resumeProducing()

    def release(self, transport: Any) -> None:
        """Forget a visitor who is gone."""
        self._strangers.release(transport)
