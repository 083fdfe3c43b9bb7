r"""The HTTP proxy for the applications of this machine or network.

One connection's life::

    accept -> HEAD -> TUNNEL ------------------------> the relay's
               ^  \-> BODY -> ANSWER --- 101 --------> the relay's
               |                |  \---> LINGER -> closed
               +----------------+

`phantom.core.httpproxy` says what a request asks for, `phantom.inbound.http_server` reads
and answers, `phantom.inbound.http_forward` deals with plain requests; here a request is
allowed and sent its way.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IAddress,
    IHalfCloseableProtocol,
    IProtocol,
    IPushProducer,
)
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure
from zope.interface import implementer

from phantom.address import Destination
from phantom.core.httphead import RequestHead
from phantom.core.httpproxy import Forward, Local, Tunnel, is_authorized, max_forwards, route
from phantom.errors import EXPLANATIONS, Outcome, RelayError
from phantom.fast.timeouts import Timeouts
from phantom.inbound.http_forward import Exchange
from phantom.inbound.http_server import HttpServerProtocol, Phase
from phantom.inbound.pages import (
    Page,
    error_page,
    own_page,
    seen_address,
    seen_socks,
    unauthorized_page,
)
from phantom.interfaces import Outbound
from phantom.relay import HALF_CLOSED_TIMEOUT, relay_pair
from phantom.runtime import Runtime
from phantom.telemetry import make_logger

#: Seconds from the first octet of a head to its last.  Applications send it at once; half a
#: minute forgives a machine that is swapping.
DEFAULT_GREETING_TIMEOUT: Final = 30.0
#: Connections at once, relayed ones included.  Browsers open 6 to each site and 32 to a
#: proxy for http, so this is some dozens of them.
DEFAULT_MAX_CONNECTIONS: Final = 1024
#: Seconds between two warnings that there are too many: browsers try again at once.
WARNING_INTERVAL: Final = 60.0

log = make_logger()


@implementer(IProtocol, IHalfCloseableProtocol, IPushProducer)
class HttpProxyProtocol(HttpServerProtocol):
    """One application's connection, until it ends or the relay takes it over.

    Args:
        factory: What it belongs to.

    Attributes:
        factory: What it belongs to.
    """

    def __init__(self, factory: HttpProxyFactory) -> None:
        super().__init__(factory.runtime, factory.greeting_timeout)
        self.factory = factory
        self._attempt: Deferred[Any] | None = None

    def makeConnection(self, transport: Any) -> None:
        """Start listening to the application."""
        self.factory.waiting.add(self)
        super().makeConnection(transport)

    def released(self) -> None:
        """The connection is over, or somebody else's: hold on to nothing more."""
        super().released()
        self.factory.waiting.discard(self)
        attempt, self._attempt = self._attempt, None
        if attempt is not None:
            attempt.cancel()

    def hand_over(self, near: Any, far_transport: Any, rest: bytes = b"") -> None:
        """Leave the connection to a relay; see `HttpServerProtocol.hand_over`."""
        self.factory.relayed += 1
        super().hand_over(near, far_transport, rest)

    @property
    def half_closed(self) -> Timeouts:
        """What ends relays of which one direction has ended, see `phantom.relay`."""
        return self.factory.half_closed

    def relay_ended(self) -> None:
        """Count the relayed connection off; the relay calls this, once."""
        self.factory.relayed -= 1

    def request_received(self, head: RequestHead) -> None:
        """Allow a request and send it its way.

        Raises:
            HeadError: See `phantom.core.httpproxy.route`.
        """
        target = route(head)
        hops = max_forwards(head)
        factory = self.factory
        if isinstance(target, Local):
            # Without a password: a browser asked for its own proxy's address has none to
            # give, and there is nothing secret here.
            self.answer(self._own_page(head, target))
        elif factory.credentials is not None and not is_authorized(head, factory.credentials):
            log.debug("an HTTP request had no valid credentials")
            self.answer(unauthorized_page())
        elif isinstance(target, Tunnel):
            self._open_tunnel(target)
        elif hops == 0:  # this is its last recipient (RFC 9110, section 7.6.2)
            self.answer(own_page(head.method, b"*", self._own_address(), None))
        else:
            self._forward(head, target)

    def _forward(self, head: RequestHead, target: Forward) -> None:
        factory = self.factory
        exchange = Exchange(self, head, target, factory.outbound, factory.runtime)
        self.exchange = exchange
        exchange.start(self.take_idle_origin())

    # -- requests to the proxy itself -----------------------------------------------------------

    def _own_page(self, head: RequestHead, target: Local) -> Page:
        hosts = [value for name, value in head.fields if name.lower() == b"host"]
        proxy = seen_address(hosts[0] if hosts else b"", self._own_address())
        socks = seen_socks(self.factory.socks_address, proxy)
        return own_page(head.method, target.path, proxy, socks)

    def _own_address(self) -> Destination:
        own = self.transport.getHost()
        try:
            return Destination.parse(str(own.host).partition("%")[0], own.port)
        except (AttributeError, ValueError):  # a unix socket has neither
            return Destination("localhost", 80)

    # -- CONNECT --------------------------------------------------------------------------------

    def _open_tunnel(self, target: Tunnel) -> None:
        self.phase = Phase.TUNNEL
        near, far = relay_pair(self.relay_ended, self.half_closed)
        self._attempt = attempt = self.factory.outbound.connect(target.destination, far)
        attempt.addCallbacks(self._tunnel_open, self._tunnel_refused, callbackArgs=(near,))
        attempt.addErrback(self._broken)

    def _tunnel_open(self, far_transport: Any, near: Any) -> None:
        self._attempt = None
        if self.phase is not Phase.TUNNEL:  # connected in spite of being cancelled
            far_transport.abortConnection()
            return
        self.transport.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        self.hand_over(near, far_transport)

    def _tunnel_refused(self, failure: Failure) -> None:
        self._attempt = None
        if self.phase is not Phase.TUNNEL:
            return
        outcome = Outcome.FAILED
        if isinstance(failure.value, RelayError):
            outcome = failure.value.outcome
        else:
            log.failure("the outbound failed unexpectedly", failure=failure)
        self._refuse_tunnel(outcome)

    def tunnel_expired(self) -> None:
        """Give the CONNECT under way up: it takes too long."""
        attempt, self._attempt = self._attempt, None
        self._refuse_tunnel(Outcome.TIMED_OUT)
        if attempt is not None:
            attempt.cancel()

    def _refuse_tunnel(self, outcome: Outcome) -> None:
        log.debug("CONNECT failed: {outcome}", outcome=outcome.name)
        self.phase = Phase.ANSWER
        explanation = EXPLANATIONS[outcome]
        # What the client may be sending into the tunnel already must not be read as requests.
        self.answer(error_page(explanation.http, explanation.advice), close=True)

    def _broken(self, failure: Failure) -> None:
        """A bug on this side: neither side is left hanging."""
        log.failure("handing a connection over failed", failure=failure)
        self.abort()


class HttpProxyFactory(Factory[HttpProxyProtocol]):
    """Makes a `HttpProxyProtocol` for each connection that is accepted.

    Args:
        runtime: For timers.
        outbound: What destinations are handed to.
        credentials: Passwords by user name; None asks for none, an empty mapping admits
            nobody.
        greeting_timeout: Seconds for a request's head.  The wait for the outbound is the
            outbound's to limit.
        socks_address: ``host:port`` of the SOCKS5 proxy beside this one, for the help page
            and the PAC file.
        max_connections: Connections at once; more are closed on accept.

    Raises:
        ValueError: `socks_address` is no address.

    Attributes:
        waiting: The connections that the relay does not have.
        relayed: How many the relay has.
        half_closed: Ends relays of which one direction has ended.
    """

    noisy = False

    def __init__(
        self,
        runtime: Runtime,
        outbound: Outbound,
        credentials: Mapping[str, str] | None = None,
        greeting_timeout: float = DEFAULT_GREETING_TIMEOUT,
        socks_address: str | None = None,
        max_connections: int = DEFAULT_MAX_CONNECTIONS,
    ) -> None:
        self.runtime = runtime
        self.outbound = outbound
        self.credentials = credentials
        self.greeting_timeout = greeting_timeout
        self.socks_address = Destination.parse(socks_address) if socks_address else None
        self.max_connections = max_connections
        self.half_closed = Timeouts(runtime.clock, HALF_CLOSED_TIMEOUT)
        self.waiting: set[HttpProxyProtocol] = set()
        self.relayed = 0
        self._warned_at = -WARNING_INTERVAL

    def buildProtocol(self, addr: IAddress | None) -> HttpProxyProtocol | None:
        """Return a protocol, or None, which closes the connection, when there are too many."""
        if len(self.waiting) + self.relayed >= self.max_connections:
            now = self.runtime.clock.seconds()
            if now - self._warned_at >= WARNING_INTERVAL:
                self._warned_at = now
                log.warn("HTTP connections refused: {count} are open", count=self.max_connections)
            return None
        return HttpProxyProtocol(self)

    def abort_waiting(self) -> None:
        """Abort every connection that the relay does not have, for a stop of the service."""
        for protocol in list(self.waiting):
            protocol.transport.abortConnection()
