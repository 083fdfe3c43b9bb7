"""The PROXY protocol on a listener: believed from trusted proxies, from nobody else."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any

from twisted.internet.address import IPv4Address as TwistedIPv4Address
from twisted.internet.address import IPv6Address as TwistedIPv6Address
from twisted.internet.address import UNIXAddress
from twisted.internet.interfaces import IAddress, IDelayedCall, IProtocolFactory
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure

from phantom.core.proxyprotocol import Endpoint, ProxyHeader, ProxyHeaderParser
from phantom.errors import RemoteProtocolError
from phantom.layer import Layer
from phantom.runtime import Runtime
from phantom.telemetry import make_logger

log = make_logger()

#: Seconds a proxy has for its header, which it sends first of all; haproxy's own receiving
#: side waits for at most its ``timeout client-fin``, and 3 s covers a lost segment.
HEADER_TIMEOUT = 5.0

Network = IPv4Network | IPv6Network


def _twisted_address(endpoint: Endpoint) -> TwistedIPv4Address | TwistedIPv6Address:
    if isinstance(endpoint.host, IPv4Address):
        return TwistedIPv4Address("TCP", str(endpoint.host), endpoint.port)
    return TwistedIPv6Address("TCP", str(endpoint.host), endpoint.port)


class _ProxiedLayer(Layer):
    """Takes the header off and then only tells other addresses."""

    def __init__(self, factory: ProxyProtocolFactory, address: IAddress | None) -> None:
        super().__init__(None)
        self._factory = factory
        self._address = address
        self._parser: ProxyHeaderParser | None = ProxyHeaderParser()
        self._timer: IDelayedCall | None = None
        self._header: ProxyHeader | None = None

    def connectionMade(self) -> None:
        self._timer = self._factory.runtime.call_later(HEADER_TIMEOUT, self._refuse)

    def dataReceived(self, data: bytes) -> None:
        if self._parser is None:
            if self.upper is not None:
                self.upper.dataReceived(data)
            return
        try:
            header = self._parser.feed(data)
        except RemoteProtocolError:
            self._refuse()
            return
        if header is None:
            return
        rest, self._parser = self._parser.rest, None
        self._cancel_timer()
        self._header = header
        source = self._address if header.source is None else _twisted_address(header.source)
        self.upper = self._factory.inner.buildProtocol(source)
        if self.upper is None:
            self.transport.abortConnection()
            return
        self.start_upper()
        if rest:
            self.upper.dataReceived(rest)

    def readConnectionLost(self) -> None:
        if self.upper is None:
            self.transport.loseConnection()
        else:
            super().readConnectionLost()

    def writeConnectionLost(self) -> None:
        if self.upper is not None:
            super().writeConnectionLost()

    def connectionLost(self, reason: Failure) -> None:
        self._cancel_timer()
        if self.upper is not None:
            super().connectionLost(reason)

    def getPeer(self) -> Any:
        if self._header is not None and self._header.source is not None:
            return _twisted_address(self._header.source)
        return super().getPeer()

    def getHost(self) -> Any:
        if self._header is not None and self._header.destination is not None:
            return _twisted_address(self._header.destination)
        return super().getHost()

    def _refuse(self) -> None:
        """End a proxy that does not say who it speaks for (section 2 of the protocol)."""
        log.warn("a trusted proxy sent no PROXY header; does it have send-proxy set?")
        self._timer = None if self._parser is None else self._timer
        self._cancel_timer()
        self.transport.abortConnection()

    def _cancel_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()


class ProxyProtocolFactory(Factory):
    """Reads PROXY headers from trusted proxies for another factory.

    From a trusted proxy the header is required: without it the proxy's own address would be
    taken for every visitor's.  From anyone else such bytes are passed on like any others.

    Args:
        runtime: Timers.
        inner: Builds the protocols; it is given the address in the header.
        trusted: Networks whose hosts are proxies.  Anything in it that is not a network
            stands for the local socket this factory listens on, all of whose peers are.

    Attributes:
        runtime: Timers.
        inner: The factory above.
    """

    noisy = False

    def __init__(
        self, runtime: Runtime, inner: IProtocolFactory, trusted: Iterable[object]
    ) -> None:
        self.runtime = runtime
        self.inner: Any = inner
        entries = list(trusted)
        self._networks = [
            entry for entry in entries if isinstance(entry, IPv4Network | IPv6Network)
        ]
        self._local = len(self._networks) < len(entries)

    def doStart(self) -> None:
        """Start the factory above with this one."""
        self.inner.doStart()

    def doStop(self) -> None:
        """Stop the factory above with this one."""
        self.inner.doStop()

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """Return the inner protocol, or one that reads a header first."""
        if self._is_trusted(addr):
            return _ProxiedLayer(self, addr)
        return self.inner.buildProtocol(addr)

    def _is_trusted(self, address: IAddress | None) -> bool:
        if isinstance(address, UNIXAddress):
            return self._local
        try:
            host = ip_address(getattr(address, "host", ""))
        except ValueError:
            return False
        if isinstance(host, IPv6Address) and host.ipv4_mapped is not None:
            host = host.ipv4_mapped
        return any(
            host.version == network.version and host in network for network in self._networks
        )
