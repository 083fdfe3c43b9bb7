"""What bare TCP shows a stranger: nothing, for as long as they like.

A server that closes after so many bytes, or so many seconds, is recognised by that number
(Frolov and others, NDSS 2020); one that never answers and never closes is one of many.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IDelayedCall, IHalfCloseableProtocol, IProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from phantom.carriers.strangers import Strangers
from phantom.layer import switch_protocol
from phantom.runtime import Runtime

#: Seconds for which a visitor who has closed its own half is still kept.  Silence goes on for
#: one who listens, and one who is gone gives the descriptor back; 60 s is among the times at
#: which other silent hosts close.
HALF_CLOSED_TIME = 60.0


@implementer(IProtocol, IHalfCloseableProtocol)
class _Silence:
    """Reads, and does nothing else."""

    __slots__ = ("_drain", "_timer", "transport")

    transport: Any

    def __init__(self, drain: SilentDrain) -> None:
        self._drain = drain
        self._timer: IDelayedCall | None = None

    def makeConnection(self, transport: Any) -> None:
        self.transport = transport

    def connectionMade(self) -> None:
        pass

    def dataReceived(self, data: bytes) -> None:
        pass

    def readConnectionLost(self) -> None:
        # Whether the visitor is gone or still listens cannot be told from here.
        self._timer = self._drain.runtime.call_later(HALF_CLOSED_TIME, self._close)

    def _close(self) -> None:
        self._timer = None
        self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        pass

    def connectionLost(self, reason: Failure) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._drain.release(self.transport)


class SilentDrain:
    """A `phantom.interfaces.StrangerPolicy`: read on, never answer, never close first.

    Args:
        runtime: Timers.
        limit: How many visitors at once; see `phantom.core.admission.place_limits`.
        per_prefix: How many of one /24 or /56.  When either is reached the oldest is
            aborted, which to that visitor looks like a host under load.

    Attributes:
        runtime: Timers.
    """

    def __init__(self, runtime: Runtime, limit: int, per_prefix: int) -> None:
        self.runtime = runtime
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
