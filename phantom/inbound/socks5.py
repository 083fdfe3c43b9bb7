"""SOCKS5, SOCKS4 and SOCKS4a for the applications of this machine or network.

One connection's life::

    accept -> greeting, password, request -> waiting for the outbound -> the relay's

The parsing is `phantom.core.socks5`; here are time, bounds and the handing over.  Once the
outbound has connected, the transport belongs to the relay and this module sees no byte more.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IHalfCloseableProtocol,
    ITCPTransport,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from phantom.core.socks5 import (
    GENERAL_FAILURE,
    SUCCEEDED,
    Reason,
    Rejected,
    Reply,
    Request,
    SocksServer,
    build_reply,
)
from phantom.errors import EXPLANATIONS, RelayError
from phantom.fast.sockets import QuickConnection, quicken
from phantom.fast.timeouts import Timeouts
from phantom.interfaces import Outbound
from phantom.layer import switch_protocol
from phantom.reach import Cancel, reach
from phantom.relay import HALF_CLOSED_TIMEOUT, RelayProtocol, relay_pair
from phantom.runtime import Runtime
from phantom.telemetry import make_logger

#: Seconds from accept to a complete request.  Applications send it at once; half a minute
#: forgives a machine that is swapping.
DEFAULT_GREETING_TIMEOUT: Final = 30.0
#: Connections at once, those the relay has included.  Four times the server's default of
#: streams, so that the true limit, which has an answer of its own, is met first.
DEFAULT_MAX_CONNECTIONS: Final = 4096
#: Octets kept of what an application sends before it has its answer.  Reading stops with
#: the first of them, so this is one read (at most 256 KiB) and what a transport may still
#: have in its hands.
MAX_EARLY_DATA: Final = 1 << 20
#: Seconds that a close may take.  A refused application that is still sending is listened
#: to meanwhile, because closing with unread input resets the connection and the reset can
#: overtake the reply (RFC 9112, section 9.6, on the same problem in HTTP).
LINGER: Final = 2.0
#: Seconds between two equal lines of advice: a browser with a wrong setting tries
#: hundreds of times a minute.
ADVICE_INTERVAL: Final = 60.0

_ADVICE: Final = {
    Reason.HTTP: "set the application's proxy type to SOCKS5",
    Reason.TLS: "set the application's proxy type to SOCKS5",
    Reason.NO_METHOD: "give the application the user name and password, or neither if none is set",
    Reason.NO_PASSWORD_IN_SOCKS4: "set the application's proxy type to SOCKS5",
    Reason.WRONG_PASSWORD: "compare the application's with the configured ones",
}

log = make_logger()


@implementer(IHalfCloseableProtocol)
class Socks5Protocol(Protocol):
    """One application's connection, until the relay takes it over.

    Args:
        factory: What it belongs to.
    """

    # Any: TCP, a unix socket, or a layer over either.
    transport: Any = None

    def __init__(self, factory: Socks5Factory) -> None:
        self.factory: Socks5Factory = factory
        self._parser = SocksServer(factory.credentials)
        self._version = 0  # of the complete request; 0 before
        self._timer: IDelayedCall | None = None
        self._give_up: Cancel | None = None
        self._near: RelayProtocol | None = None  # what the relay has of us, once connected
        self._quick: QuickConnection | None = None
        self._early: list[bytes] = []  # received behind the request
        self._early_size = 0
        self._paused = False
        self._half_closed = False
        self._over = False

    # -- from the transport -----------------------------------------------------------------

    def connectionMade(self) -> None:
        """Start listening to the application."""
        if ITCPTransport.providedBy(self.transport):
            self.transport.setTcpNoDelay(True)
        self._quick = quicken(self.transport)
        self.factory.waiting.add(self)
        self.factory.greetings.start(self, self._expired)

    def dataReceived(self, data: bytes) -> None:
        """Parse up to the request; keep what comes behind it."""
        if self._over:
            return
        if self._version:
            self._keep_early(data)
            return
        parser = self._parser
        parser.receive_data(data)
        while parser.buffered and not self._over and (event := parser.next_event()) is not None:
            if isinstance(event, Reply):
                self._write(event.data)
            elif isinstance(event, Request):
                self._start(event)
            else:
                self._reject(event)

    def readConnectionLost(self) -> None:
        """Note the application's half-close for the relay; without a request it is the end."""
        self._half_closed = True
        if self._over or not self._version:
            self._close()

    def writeConnectionLost(self) -> None:
        """Nothing: our half-close comes before a close, which follows by itself."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Give up what is under way."""
        self._over = True
        self._end()
        if self._give_up is not None:
            self._give_up()

    # -- the request --------------------------------------------------------------------------

    def _start(self, request: Request) -> None:
        factory = self.factory
        factory.greetings.stop(self)
        self._version = request.version
        if self._parser.buffered:
            self._keep_early(self._parser.take_trailing_data())
        # Reading goes on while nothing comes: a reset shall be noticed, and an application
        # that waits for its answer, as nearly all do, costs no system call for it.
        near, far = relay_pair(factory.relay_ended, factory.half_closed)
        self._near = near
        give_up = reach(factory.outbound, request.destination, far, self._reached)
        if self._waits:
            self._give_up = give_up

    @property
    def _waits(self) -> bool:
        return self._near is not None

    def _reached(self, result: Any) -> None:
        """Take what the outbound says: the transport, or why there is none."""
        self._give_up = None
        near, self._near = self._near, None
        try:
            if isinstance(result, Failure):
                self._failed(result)
            elif near is not None:
                self._connected(result, near)
        except Exception:
            # A bug on this side: neither side is left hanging.
            log.failure("handing a connection over failed")
            self.transport.abortConnection()

    def _keep_early(self, data: bytes) -> None:
        self._early.append(bytes(data))  # a memoryview would be good for this call only
        self._early_size += len(data)
        if not self._paused:
            self._paused = True
            self.transport.pauseProducing()
        elif self._early_size > MAX_EARLY_DATA:  # a transport that does not pause
            self.transport.abortConnection()

    def _connected(self, far_transport: Any, near: RelayProtocol) -> None:
        if self._over:  # connected in spite of being cancelled
            far_transport.abortConnection()
            return
        factory = self.factory
        factory.waiting.discard(self)
        self._write(build_reply(self._version, SUCCEEDED))
        if self._early:
            # Written here and not given to `near`: the relay may be handed what comes next
            # from within the switch, where it resumes a paused transport.
            far_transport.write(b"".join(self._early))
            self._early.clear()
        self._over = True
        factory.relayed += 1
        switch_protocol(self.transport, near)
        if self._half_closed:
            near.readConnectionLost()

    def _failed(self, failure: Failure) -> None:
        if self._over:
            return
        code = GENERAL_FAILURE
        if isinstance(failure.value, RelayError):
            outcome = failure.value.outcome
            code = EXPLANATIONS[outcome].socks
            log.debug("SOCKS request failed: {outcome}", outcome=outcome.name)
        else:
            log.failure("the outbound failed unexpectedly", failure=failure)
        self._refuse(build_reply(self._version, code))

    # -- the end --------------------------------------------------------------------------------

    def _reject(self, event: Rejected) -> None:
        self.factory.explain(event.reason)
        self._refuse(event.reply)

    def _refuse(self, reply: bytes) -> None:
        """Say no and close, in a way that lets the answer arrive."""
        self._over = True
        self._early.clear()
        if reply:
            self._write(reply)
        if self._paused and not self._half_closed:
            # There is unread input.  The FIN tells the application; its own ends it.
            self._arm(LINGER)
            self.transport.loseWriteConnection()
            self.transport.resumeProducing()
        else:
            self._close()

    def _close(self) -> None:
        """Close once the reply has left."""
        self._over = True
        self._arm(LINGER)
        self.transport.loseConnection()

    def _write(self, data: bytes) -> None:
        """Write, and where that can be at once; Twisted's TCP would wait for its next turn."""
        if self._quick is not None:
            self._quick.send_now(data)
        else:
            self.transport.write(data)

    def _end(self) -> None:
        self._disarm()
        self.factory.waiting.discard(self)

    def _arm(self, seconds: float) -> None:
        self._disarm()
        self._timer = self.factory.runtime.call_later(seconds, self._expired)

    def _disarm(self) -> None:
        self.factory.greetings.stop(self)
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

    def _expired(self) -> None:
        log.debug("a SOCKS connection took too long")
        self.transport.abortConnection()


class Socks5Factory(Factory[Socks5Protocol]):
    """Makes a `Socks5Protocol` for each connection that is accepted.

    Args:
        runtime: For timers.
        outbound: What destinations are handed to.
        credentials: Passwords by user name; None asks for none.  See
            `phantom.core.socks5.SocksServer`.
        greeting_timeout: Seconds from accept to a complete request.  The wait for the
            outbound is the outbound's to limit.
        max_connections: Connections at once; more are closed on accept.

    Attributes:
        waiting: The connections that the relay does not have yet.
        relayed: How many the relay has.
        greetings: Ends connections whose request does not come.
        half_closed: Ends relays of which one direction has ended, see `phantom.relay`.
    """

    noisy = False

    def __init__(
        self,
        runtime: Runtime,
        outbound: Outbound,
        credentials: Mapping[str, str] | None = None,
        greeting_timeout: float = DEFAULT_GREETING_TIMEOUT,
        max_connections: int = DEFAULT_MAX_CONNECTIONS,
    ) -> None:
        self.runtime = runtime
        self.outbound = outbound
        self.credentials = credentials
        self.greetings = Timeouts(runtime.clock, greeting_timeout)
        self.half_closed = Timeouts(runtime.clock, HALF_CLOSED_TIMEOUT)
        self.max_connections = max_connections
        self.waiting: set[Socks5Protocol] = set()
        self.relayed = 0
        self._logged: dict[object, float] = {}

    def buildProtocol(self, addr: IAddress | None) -> Socks5Protocol | None:
        """Return a protocol, or None, which closes the connection, when there are too many."""
        if len(self.waiting) + self.relayed >= self.max_connections:
            if self._is_due("full"):
                log.warn("connections refused: {count} are open", count=self.max_connections)
            return None
        return Socks5Protocol(self)

    def explain(self, reason: Reason) -> None:
        """Log why a request was refused, with advice now and then where a setting is wrong."""
        advice = _ADVICE.get(reason)
        if advice is not None and self._is_due(reason):
            log.info("{reason}: {advice}", reason=reason.value, advice=advice)
        else:
            log.debug("SOCKS request refused: {reason}", reason=reason.value)

    def _is_due(self, line: object) -> bool:
        """Return whether `line` was last logged long enough ago, and note it if so."""
        now = self.runtime.clock.seconds()
        if now - self._logged.get(line, -ADVICE_INTERVAL) < ADVICE_INTERVAL:
            return False
        self._logged[line] = now
        return True

    def relay_ended(self) -> None:
        """Count a connection off; the relay calls this once both of its sides are lost."""
        self.relayed -= 1

    def abort_waiting(self) -> None:
        """Abort every connection that the relay does not have yet, for a stop of the service."""
        for protocol in list(self.waiting):
            protocol.transport.abortConnection()
