"""One port for SOCKS and HTTP: the first octet tells which it is."""

from __future__ import annotations

from typing import Any, Final

from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IHalfCloseableProtocol,
    IProtocolFactory,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from phantom.core.socks5 import VERSION_4, VERSION_5
from phantom.layer import switch_protocol
from phantom.runtime import Runtime
from phantom.telemetry import make_logger

#: Connections that may have sent nothing yet; browsers open a few ahead of need.
DEFAULT_MAX_SILENT: Final = 1024

#: No HTTP method begins with these: they are no letters (RFC 9110, section 5.6.2).
_SOCKS_VERSIONS: Final = frozenset((VERSION_4, VERSION_5))

log = make_logger()


@implementer(IHalfCloseableProtocol)
class SharedPortProtocol(Protocol):
    """Waits for the first octets and gives way to the protocol they belong to.

    Args:
        factory: What it belongs to.
        address: Where the connection comes from, for the chosen factory.
    """

    transport: Any = None
    _timer: IDelayedCall

    def __init__(self, factory: SharedPortFactory, address: Any) -> None:
        self.factory: SharedPortFactory = factory
        self._address = address

    def connectionMade(self) -> None:
        """Start waiting."""
        factory = self.factory
        factory.silent.add(self)
        self._timer = factory.runtime.call_later(factory.greeting_timeout, self._expired)

    def dataReceived(self, data: bytes) -> None:
        """Choose, and replay what was received."""
        if self not in self.factory.silent:
            return  # no room there: on the way out
        self._end()
        factory = self.factory
        chosen = factory.socks_factory if data[0] in _SOCKS_VERSIONS else factory.http_factory
        protocol = chosen.buildProtocol(self._address)
        if protocol is None:
            self.transport.loseConnection()
            return
        switch_protocol(self.transport, protocol)
        protocol.dataReceived(data)

    def readConnectionLost(self) -> None:
        """Close: nothing was asked for."""
        self._end()
        self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        """Nothing: this side never half-closes."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Forget the connection."""
        self._end()

    def _end(self) -> None:
        self.factory.silent.discard(self)
        if self._timer.active():
            self._timer.cancel()

    def _expired(self) -> None:
        log.debug("a connection to the shared port sent nothing")
        self.transport.abortConnection()


class SharedPortFactory(Factory[SharedPortProtocol]):
    """Serves SOCKS and HTTP on one port.

    Args:
        socks_factory: For connections that begin with a version of SOCKS.
        http_factory: For all others.
        runtime: For timers.
        greeting_timeout: Seconds until the first octet; the chosen protocol's own time
            begins then.
        max_silent: Connections that have sent nothing yet; more are closed on accept.

    Attributes:
        silent: Those connections.
    """

    noisy = False

    def __init__(
        self,
        socks_factory: IProtocolFactory,
        http_factory: IProtocolFactory,
        runtime: Runtime,
        greeting_timeout: float,
        max_silent: int = DEFAULT_MAX_SILENT,
    ) -> None:
        self.socks_factory = socks_factory
        self.http_factory = http_factory
        self.runtime = runtime
        self.greeting_timeout = greeting_timeout
        self.max_silent = max_silent
        self.silent: set[SharedPortProtocol] = set()

    def startFactory(self) -> None:
        """Start both factories: they hear of no port of their own."""
        self.socks_factory.doStart()
        self.http_factory.doStart()

    def stopFactory(self) -> None:
        """Stop both factories."""
        self.socks_factory.doStop()
        self.http_factory.doStop()

    def buildProtocol(self, addr: IAddress | None) -> SharedPortProtocol | None:
        """Return a protocol, or None, which closes the connection, when there are too many."""
        if len(self.silent) >= self.max_silent:
            log.debug("too many silent connections: {count}", count=len(self.silent))
            return None
        return SharedPortProtocol(self, addr)

    def abort_silent(self) -> None:
        """Abort the connections that have sent nothing yet, for a stop of the service."""
        for protocol in list(self.silent):
            protocol.transport.abortConnection()
