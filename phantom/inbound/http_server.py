"""The HTTP proxy's side towards an application: order, bounds and time.

What a request asks for is decided above, in `phantom.inbound.http`; how it and its answer are
written is known below, in `phantom.inbound.http_framing`.  Requests that come before their turn
wait, at first in a bounded buffer and then unread.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from enum import Enum
from typing import Any, Final

from twisted.internet.interfaces import (
    IDelayedCall,
    IHalfCloseableProtocol,
    IProtocol,
    IPushProducer,
    ITCPTransport,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from phantom.core.httphead import Field, HeadError, HeadFinder, RequestHead, parse_request_head
from phantom.core.httpproxy import wants_upgrade
from phantom.errors import RemoteProtocolError
from phantom.inbound.http_forward import Exchange
from phantom.inbound.http_framing import Framing, rejection
from phantom.inbound.http_origin import OriginConnection
from phantom.inbound.pages import Page, error_page
from phantom.layer import switch_protocol
from phantom.runtime import Runtime
from phantom.telemetry import make_logger

#: Seconds between two requests.  Browsers keep idle connections for up to 5 minutes, most
#: servers for 5 to 75 s; a minute saves nearly all of the handshakes.
KEEP_ALIVE_TIMEOUT: Final = 60.0
#: Seconds without an octet either way before a request is given up: long polls and slow
#: reports take minutes (Squid's read_timeout is the same quarter of an hour).
EXCHANGE_TIMEOUT: Final = 900.0
#: The same once the client has ended its side: that is what a client looks like that is
#: gone, and one that waits still has half a minute for each part of its answer.
HALF_CLOSED_TIMEOUT: Final = 30.0
#: Seconds for which a client is listened to after the last answer, because closing with
#: unread input resets the connection and the reset can overtake the answer (RFC 9112,
#: section 9.6); nginx's lingering_time.
LINGER: Final = 30.0
#: Octets received before their turn that are kept; reading stops there.
MAX_PENDING: Final = 64 * 1024

log = make_logger()


class Phase(Enum):
    """Where the connection stands."""

    HEAD = "waiting for a request"
    BODY = "the request's body is still coming"
    ANSWER = "the request is complete, its answer is not"
    TUNNEL = "a CONNECT is under way"
    LINGER = "the last answer is sent, the client may not know yet"
    OVER = "somebody else's, or closed"


@implementer(IProtocol, IHalfCloseableProtocol, IPushProducer)
class HttpServerProtocol(ABC):
    """One application's connection, until it ends or a relay takes it over.

    As a producer it is the source of what its own transport writes.

    Args:
        runtime: For timers.
        greeting_timeout: Seconds for a head.

    Attributes:
        phase: Where the connection stands.
        exchange: The plain request under way, if any.
        write_blocked: Whether the transport wants no more for now.
    """

    # Any: TCP, a unix socket, or a layer over either.
    transport: Any = None
    _framing: Framing

    def __init__(self, runtime: Runtime, greeting_timeout: float) -> None:
        self._runtime = runtime
        self._greeting_timeout = greeting_timeout
        self.phase = Phase.HEAD
        self.exchange: Exchange | None = None
        self.write_blocked = False
        self._inbox = bytearray()
        self._finder = HeadFinder(request=True)
        self._idle_origin: OriginConnection | None = None
        self._timer: IDelayedCall | None = None
        self._patience = 0.0  # what the timer was set to
        self._head_timed = True  # whether the timer is that of a head, not of an idle wait
        self._flushed = False  # whether our FIN has left
        self._advancing = False
        self._paused = False
        self._eof = False

    # -- for the class above ------------------------------------------------------------------

    @abstractmethod
    def request_received(self, head: RequestHead) -> None:
        """Do what a request asks for; a body may follow.

        Raises:
            HeadError: It cannot be done; the client is told and the connection closed.
        """

    @abstractmethod
    def tunnel_expired(self) -> None:
        """Give the CONNECT under way up: it takes too long."""

    def take_idle_origin(self) -> OriginConnection | None:
        """Return the connection that the last exchange has left, which is the caller's now."""
        idle, self._idle_origin = self._idle_origin, None
        return idle

    def released(self) -> None:
        """The connection is over, or somebody else's: hold on to nothing more."""
        self.phase = Phase.OVER
        self._disarm()
        if (idle := self.take_idle_origin()) is not None:
            idle.close()

    # -- from the transport -------------------------------------------------------------------

    def makeConnection(self, transport: Any) -> None:
        """Start listening to the application."""
        self.transport = transport
        if ITCPTransport.providedBy(transport):
            transport.setTcpNoDelay(True)
        transport.registerProducer(self, True)
        self._arm(self._greeting_timeout)

    def connectionMade(self) -> None:  # noqa: B027  (Twisted calls it)
        """Do nothing: `makeConnection` has done it."""

    def dataReceived(self, data: bytes) -> None:
        """Take octets in, and do what they now allow."""
        if self.phase is Phase.LINGER or self.phase is Phase.OVER:
            return
        self._inbox += data
        self.advance()

    def readConnectionLost(self) -> None:
        """The client has sent all it will; what it has asked for is still answered."""
        if self._eof:
            return
        self._eof = True
        if self.phase is Phase.LINGER:
            self._close()
        elif self.phase is not Phase.OVER:
            if self.phase is Phase.ANSWER:
                self._arm(HALF_CLOSED_TIMEOUT)
            self.advance()

    def writeConnectionLost(self) -> None:
        """The last answer and our FIN have left: the client has its time to notice."""
        if self.phase is Phase.LINGER:
            self._flushed = True
            self._arm(LINGER)

    def connectionLost(self, reason: Failure) -> None:
        """Give up what is under way."""
        self.released()
        self._abandon_exchange()

    # -- IPushProducer: what we write ---------------------------------------------------------

    def pauseProducing(self) -> None:
        """The client does not keep up with the answers."""
        self.write_blocked = True
        if self.exchange is not None:
            self.exchange.pause()

    def resumeProducing(self) -> None:
        """The client has caught up."""
        self.write_blocked = False
        if self.exchange is not None:
            self.touch()
            self.exchange.resume()
        self.advance()

    def stopProducing(self) -> None:  # noqa: B027  (Twisted calls it)
        """Do nothing: `connectionLost` follows."""

    # -- reading ------------------------------------------------------------------------------

    def advance(self) -> None:
        """Do all that the octets received, and the other side, allow now."""
        if self._advancing:
            return
        self._advancing = True
        try:
            while self._step():
                pass
        finally:
            self._advancing = False
        self._regulate()

    def _step(self) -> bool:
        """Do one thing; return whether there may be another."""
        if self.phase is Phase.HEAD:
            # One client must not have its answers pile up by never reading them.
            return not self.write_blocked and self._read_head()
        if self.phase is Phase.BODY:
            return (self.exchange is None or self.exchange.takes_body) and self._read_body()
        return False

    def _regulate(self) -> None:
        """Stop or start reading, by how much is waiting."""
        if self._eof or self.phase is Phase.OVER:
            return
        full = len(self._inbox) >= MAX_PENDING
        if full and not self._paused:
            self._paused = True
            self.transport.pauseProducing()
        elif self._paused and not full:
            self._paused = False
            self.transport.resumeProducing()

    def _read_head(self) -> bool:
        try:
            length = self._finder.find(self._inbox)
            if length is None:
                self._await_head()
                return False
            raw = bytes(self._inbox[:length])
            del self._inbox[:length]
            head = parse_request_head(raw)
            framing = Framing(head, raw)
        except HeadError as error:
            self._reject(error.status, error.problem)
            return False
        except RemoteProtocolError as error:
            self._reject(400, str(error))
            return False
        self._framing = framing
        self._arm(HALF_CLOSED_TIMEOUT if self._eof else EXCHANGE_TIMEOUT)
        self.phase = Phase.BODY if head.has_body else Phase.ANSWER
        try:
            self.request_received(head)
        except HeadError as error:
            self._reject(error.status, error.problem)
        return True

    def _await_head(self) -> None:
        """More of a head must come, or the first of it."""
        if self._eof:
            self._close()
        elif self._inbox and not self._head_timed:
            self._head_timed = True
            self._arm(self._greeting_timeout)

    def _read_body(self) -> bool:
        """Take what has come of the request's body."""
        if not self._inbox:
            if self._eof:  # cut short; nobody may take it for the whole
                self.abort()
            return False
        data = bytes(self._inbox)
        self._inbox.clear()
        self.touch()
        try:
            part = self._framing.take_body(data)
        except RemoteProtocolError:
            self._malformed_body()
            return False
        exchange = self.exchange
        if part.data and exchange is not None:
            exchange.send_body(part.data)
        if part.trailers is not None:
            self._inbox += part.rest
            self.phase = Phase.ANSWER
            if self._eof:
                self._arm(HALF_CLOSED_TIMEOUT)
            if exchange is not None:
                exchange.send_end(part.trailers)
            elif self._framing.answered:
                self._after_response()
        return True

    def _malformed_body(self) -> None:
        if self.exchange is None or self.exchange.response_started:
            self.abort()
        else:
            self._abandon_exchange()
            self._reject(400, "the request's body is malformed")

    # -- ClientSide: answering ------------------------------------------------------------------

    @property
    def upload_pending(self) -> bool:
        """Whether some of the request has not been received yet."""
        return self.phase is Phase.BODY

    def touch(self) -> None:
        """Note that something moved."""
        if self._timer is not None and self._timer.active():
            self._timer.reset(self._patience)

    def send_interim(self, status: int, reason: bytes, fields: list[Field]) -> None:
        """Send a 1xx response."""
        self.transport.write(self._framing.interim(status, reason, fields))

    def send_response(
        self, status: int, reason: bytes, fields: list[Field], *, close: bool
    ) -> None:
        """Send the head of the final response; see `Framing.response`."""
        head = self._framing.head
        if self._inbox and (head.method == b"CONNECT" or wants_upgrade(head)):
            # Sent ahead in the protocol that was refused: it must not be read as requests.
            close = True
        self.transport.write(self._framing.response(status, reason, fields, close=close))

    def send_body(self, data: bytes) -> None:
        """Send some of its body."""
        self.transport.write(self._framing.body(data))

    def send_end(self, trailers: list[Field]) -> None:
        """End the response to a forwarded request; trailers only go with chunks."""
        data = self._framing.end(trailers)
        if data:
            self.transport.write(data)
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            self._idle_origin = exchange.left
        self._after_response()

    def answer(self, page: Page, *, close: bool = False) -> None:
        """Send a page of our own for a response.

        Args:
            page: What to say.
            close: Whether to close the connection after it.
        """
        self.exchange = None
        fields = list(page.fields)
        if page.status != 204:
            fields.append((b"Content-Length", b"%d" % len(page.body)))
        close = close or (self.phase is Phase.BODY and not self._framing.body_can_be_skipped)
        self.send_response(page.status, page.reason, fields, close=close)
        if page.body and self._framing.head.method != b"HEAD":
            self.send_body(page.body)
        self._framing.end([])  # nothing to write behind a Content-Length
        self._after_response()

    def _after_response(self) -> None:
        """Go on to the next request, if there can be one."""
        if self._framing.connection_ends:
            self._finish()
            return
        if self.phase is Phase.ANSWER:
            self.phase = Phase.HEAD
            self._head_timed = False
            self._arm(KEEP_ALIVE_TIMEOUT)
        self.advance()  # to the next request, or through what is left of this one's body

    def _reject(self, status: int, problem: str) -> None:
        """Answer what is no acceptable request, and close."""
        log.debug("an HTTP request was refused: {status}", status=status)
        page = error_page(status, f"The proxy cannot accept this request: {problem}.")
        self.transport.write(rejection(page))
        self._finish()

    # -- the end ------------------------------------------------------------------------------

    def hand_over(self, near: Any, far_transport: Any, rest: bytes = b"") -> None:
        """Leave the connection to a relay.

        What was read ahead is written here and not given to the relay, which may be handed
        what comes next from within the switch, where it resumes a paused transport.

        Args:
            near: The relay's side for the client.
            far_transport: What the other side is connected by; it gets what was read ahead.
            rest: What the client gets before all that the other side sends from now on.
        """
        self.released()
        self.exchange = None
        transport = self.transport
        transport.unregisterProducer()
        if rest:
            transport.write(rest)
        if self._inbox:
            far_transport.write(bytes(self._inbox))
            self._inbox.clear()
        switch_protocol(transport, near)
        if self._eof:
            near.readConnectionLost()

    def abort(self) -> None:
        """Break the connection off, so that what was sent does not look complete."""
        self.released()
        self._abandon_exchange()
        self.transport.abortConnection()

    def _finish(self) -> None:
        """Close after the last answer, in a way that lets it arrive."""
        if self._eof:
            self._close()
            return
        if (idle := self.take_idle_origin()) is not None:
            idle.close()
        self.phase = Phase.LINGER
        self._inbox.clear()
        self._arm(EXCHANGE_TIMEOUT)  # until all is written; then see `writeConnectionLost`
        self.transport.unregisterProducer()
        self.transport.loseWriteConnection()
        self._regulate()

    def _close(self) -> None:
        """Close once what was written has left.

        Until then the connection is held on to, and timed: it counts as long as it is open,
        and a client that takes nothing must not keep it for ever.
        """
        if (idle := self.take_idle_origin()) is not None:
            idle.close()
        self.phase = Phase.OVER
        self._arm(EXCHANGE_TIMEOUT)
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    def _abandon_exchange(self) -> None:
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            exchange.abandon()

    # -- time ---------------------------------------------------------------------------------

    def _arm(self, seconds: float) -> None:
        self._disarm()
        self._patience = seconds
        self._timer = self._runtime.call_later(seconds, self._expired)

    def _disarm(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

    def _expired(self) -> None:
        log.debug("an HTTP connection took too long: {phase}", phase=self.phase.value)
        if self.phase is Phase.HEAD:
            if self._inbox and not self.write_blocked:
                self._reject(408, "it took too long to arrive")
            elif self.write_blocked:
                self.abort()
            else:
                self._close()
        elif self.phase is Phase.TUNNEL:
            self.tunnel_expired()
        elif self.phase is Phase.LINGER and self._flushed:
            self._close()
        elif self.exchange is not None:
            self.exchange.expire()
        else:
            self.abort()
