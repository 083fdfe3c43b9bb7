"""The PROXY protocol on a listener: believed from trusted proxies, from nobody else.

A proxy may also have ended the visitor's TLS (a *front*).  Then what follows the header is what
was inside, one visitor to a connection, and `_ProxiedLayer` stands where TLS would.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any

import attrs
from twisted.internet.address import IPv4Address as TwistedIPv4Address
from twisted.internet.address import IPv6Address as TwistedIPv6Address
from twisted.internet.address import UNIXAddress
from twisted.internet.interfaces import IAddress, IDelayedCall, IProtocolFactory
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure

from phantom.core.budget import TokenBucket
from phantom.core.proxyprotocol import Endpoint, ProxyHeader, ProxyHeaderParser
from phantom.errors import RemoteProtocolError
from phantom.layer import Layer
from phantom.runtime import Runtime
from phantom.telemetry import make_logger

log = make_logger()

#: Seconds a proxy has for its header, which it sends first of all; haproxy's own receiving
#: side waits for at most its ``timeout client-fin``, and 3 s covers a lost segment.
HEADER_TIMEOUT = 5.0

#: Lines in the log about proxies and strangers at their door, at once and a second: whoever can
#: connect decides how often there would be one.
LINES = 10
LINE_RATE = 1 / 60

Network = IPv4Network | IPv6Network

#: The two protocols that a front may agree to (RFC 7301; HTTP/1.0 and older are like HTTP/1.1).
H2, HTTP1 = "h2", "http/1.1"


@attrs.frozen(slots=True, kw_only=True)
class Front:
    """What is known of a proxy that ends TLS.

    Attributes:
        alpn: The protocol that it agreed to, where its header does not say.
        h2: Whether it may agree to HTTP/2.
    """

    alpn: str
    h2: bool


def _twisted_address(endpoint: Endpoint) -> TwistedIPv4Address | TwistedIPv6Address:
    if isinstance(endpoint.host, IPv4Address):
        return TwistedIPv4Address("TCP", str(endpoint.host), endpoint.port)
    return TwistedIPv6Address("TCP", str(endpoint.host), endpoint.port)


def _protocol(alpn: bytes) -> str:
    """Return the protocol of an ALPN name, of which two are told apart."""
    return H2 if alpn == H2.encode() else HTTP1


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
        if not self._agrees(header):
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

    @property
    def alpn(self) -> str | None:
        """The application protocol that a front agreed to; None where TLS does not end there."""
        front = self._factory.front
        if front is None or self._header is None:
            return None
        return front.alpn if self._header.alpn is None else _protocol(self._header.alpn)

    def _agrees(self, header: ProxyHeader) -> bool:
        """Tell whether a header fits what the front is here for; otherwise end it."""
        front = self._factory.front
        if front is None:
            return True
        if header.tls is False:
            self._refuse("a front passes on connections without TLS; they are closed")
        elif header.alpn is not None and _protocol(header.alpn) == H2 and not front.h2:
            self._refuse("a front agrees to HTTP/2, and there is no decoy_h2c; it is closed")
        else:
            return True
        return False

    def _refuse(
        self, why: str = "a trusted proxy sent no PROXY header; does it have send-proxy set?"
    ) -> None:
        """End a proxy that does not say who it speaks for (section 2 of the protocol)."""
        self._factory.tell(why)
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
        front: What is known of proxies that end TLS; None where they do not.  Then others
            than `trusted` are closed: their bytes are nobody's.

    Attributes:
        runtime: Timers.
        inner: The factory above.
        front: As given.
    """

    noisy = False

    def __init__(
        self,
        runtime: Runtime,
        inner: IProtocolFactory,
        trusted: Iterable[object],
        *,
        front: Front | None = None,
    ) -> None:
        self.runtime = runtime
        self.inner: Any = inner
        self.front = front
        entries = list(trusted)
        self._networks = [
            entry for entry in entries if isinstance(entry, IPv4Network | IPv6Network)
        ]
        self._local = len(self._networks) < len(entries)
        self._lines = TokenBucket(LINE_RATE, LINES)

    def tell(self, why: str) -> None:
        """Warn of a connection that is refused, but not of every one in a flood of them."""
        write = log.warn if self._lines.spend(self.runtime.clock.seconds()) else log.debug
        write("{why}", why=why)

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
        if self.front is not None:
            self.tell("somebody who is none of trusted_proxies connects where only a front should")
            return None
        return self.inner.buildProtocol(addr)

    def _is_trusted(self, address: IAddress | None) -> bool:
        if isinstance(address, UNIXAddress):
            return self._local  # type: ignore[unreachable]  # it is an IAddress
        try:
            host = ip_address(getattr(address, "host", ""))
        except ValueError:
            return False
        if isinstance(host, IPv6Address) and host.ipv4_mapped is not None:
            host = host.ipv4_mapped
        return any(
            host.version == network.version and host in network for network in self._networks
        )
