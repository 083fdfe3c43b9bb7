"""One connection to an origin, over which requests of one client go one after another.

Origins are as hostile as anyone: every head is checked by `phantom.core.httphead` before
h11 reads it, and whatever is not well-formed ends the connection.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

import h11
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHalfCloseableProtocol, IProtocol, IPushProducer
from twisted.python.failure import Failure
from zope.interface import implementer

from phantom.address import Destination
from phantom.core.httphead import (
    MAX_HEAD,
    Field,
    HeadError,
    HeadFinder,
    ResponseHead,
    parse_response_head,
)
from phantom.errors import Outcome, SessionError, StreamError

#: Interim responses to one request.  One or two (100, 103) are usual; without a limit an
#: origin could keep a client waiting with them for ever.
MAX_INTERIM: Final = 32


class OriginListener(Protocol):
    """What hears of a response; an `phantom.inbound.http_forward.Exchange`.

    Of `response_ended`, `protocol_switched` and `origin_failed` exactly one comes, last.
    """

    def upload_resumed(self) -> None:
        """The origin takes more of the request's body."""

    def interim_received(self, head: ResponseHead) -> None:
        """A 1xx came, other than 101."""

    def response_received(self, head: ResponseHead) -> None:
        """The head of the final response came."""

    def body_received(self, data: bytes) -> None:
        """Some of the response's body came."""

    def response_ended(self, trailers: list[Field]) -> None:
        """The response is complete."""

    def protocol_switched(self, head: ResponseHead, rest: bytes) -> None:
        """A 101 came, and `rest` behind it in the new protocol."""

    def origin_failed(self, outcome: Outcome, *, malformed: bool) -> None:
        """The connection broke off, or (`malformed`) was broken off for what came over it."""


@implementer(IProtocol, IHalfCloseableProtocol, IPushProducer)
class OriginConnection:
    """One connection to an origin; give it to an outbound to connect.

    Args:
        destination: The origin.

    Attributes:
        destination: The origin.
        transport: None before the connection and after it.
        heard: Whether any octet of the response under way has come.
        write_blocked: Whether the transport wants no more for now.
        idle_since: When the last response ended, for whoever keeps the connection.
    """

    # Any: TCP or a stream of the tunnel.
    transport: Any = None
    _conn: h11.Connection

    def __init__(self, destination: Destination) -> None:
        self.destination = destination
        self.heard = False
        self.write_blocked = False
        self.idle_since = 0.0
        self._listener: OriginListener | None = None
        self._inbox = bytearray()
        self._finder = HeadFinder(request=False)
        self._in_head = True
        self._interim = 0
        self._eof = False
        self._successor: Any = None  # a relay's side, which has taken over

    # -- for the exchange -----------------------------------------------------------------

    @property
    def reusable(self) -> bool:
        """Whether another request may be sent."""
        return self.transport is not None and not self._eof and self._listener is None

    def start(self, listener: OriginListener, request: h11.Request, *, has_body: bool) -> None:
        """Send a request's head; the connection is connected and has none under way.

        A new h11 connection serves each request: it is the public way to see what is left
        of the input before h11 takes it for the next head.
        """
        self._listener = listener
        self._in_head = True
        self._interim = 0
        self.heard = False
        # The heads are bounded before h11 gets them; this bounds trailers.
        self._conn = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
        data = self._conn.send(request)
        if not has_body:
            data += self._conn.send(h11.EndOfMessage())
        self.transport.write(data)

    def send_body(self, data: bytes) -> None:
        """Send some of the request's body."""
        self.transport.write(self._conn.send(h11.Data(data=data)))

    def send_end(self, trailers: list[Field]) -> None:
        """End the request's body; trailers only go with a chunked one."""
        data = self._conn.send(h11.EndOfMessage(headers=trailers))
        if data:
            self.transport.write(data)

    def pause_reading(self) -> None:
        """Take no more of the response for now."""
        if self.transport is not None and not self._eof:
            self.transport.pauseProducing()

    def resume_reading(self) -> None:
        """Take more of the response."""
        # Reading past the end of input would make Twisted report that end once more.
        if self.transport is not None and not self._eof:
            self.transport.resumeProducing()

    def close(self) -> None:
        """Close in good order: the response is complete."""
        self._listener = None
        if self.transport is not None:
            self.transport.unregisterProducer()
            self.transport.loseConnection()

    def abort(self) -> None:
        """Close at once: nobody wants the rest."""
        self._listener = None
        if self.transport is not None:
            self.transport.abortConnection()

    def hand_over(self, far: Any) -> Any:
        """Leave the connection to a relay.

        What the transport says still comes here and is passed on: a stream of the tunnel,
        unlike a TCP transport, keeps its protocol for life.

        Args:
            far: The relay's side.

        Returns:
            The transport.
        """
        transport, self.transport = self.transport, None
        self._listener = None
        transport.unregisterProducer()
        self._successor = far
        far.makeConnection(transport)
        return transport

    # -- from the transport ---------------------------------------------------------------

    def makeConnection(self, transport: Any) -> None:
        """Accept the transport; a request follows by `start`."""
        self.transport = transport
        transport.registerProducer(self, True)

    def connectionMade(self) -> None:
        """Do nothing: `makeConnection` has done it."""

    def dataReceived(self, data: bytes) -> None:
        """Read some of the response."""
        if self._successor is not None:
            self._successor.dataReceived(data)
            return
        if self._listener is None:
            # Nothing was asked: whatever this is, the next request must not get it for an
            # answer (RFC 9112, section 9.2).
            self.abort()
            return
        self.heard = True
        if self._in_head:
            self._inbox += data
            self._read_heads()
        else:
            self._read_body(data)

    def readConnectionLost(self) -> None:
        """The origin has sent all it will; for a response without framing that is its end."""
        if self._successor is not None:
            self._successor.readConnectionLost()
            return
        if self._eof:
            return
        self._eof = True
        if self._listener is None:
            self.close()
        elif self._in_head:
            self._fail(malformed=False)
        else:
            self._read_body(b"")

    def writeConnectionLost(self) -> None:
        """Do nothing: this side never half-closes."""

    def connectionLost(self, reason: Failure) -> None:
        """The connection is gone; what it was doing has failed, unless it just ended."""
        if self._successor is not None:
            self._successor.connectionLost(reason)
            return
        if isinstance(reason.value, ConnectionDone):
            self.readConnectionLost()
        self._eof = True
        self.transport = None
        if self._listener is not None:
            self._fail(malformed=False, outcome=_lost_by(reason.value))

    # -- IPushProducer: the request's body ------------------------------------------------

    def pauseProducing(self) -> None:
        """The transport wants no more of the request's body for now."""
        self.write_blocked = True

    def resumeProducing(self) -> None:
        """The transport wants more."""
        self.write_blocked = False
        if self._listener is not None:
            self._listener.upload_resumed()

    def stopProducing(self) -> None:
        """Do nothing: `connectionLost` follows and tells why."""

    # -- inside ---------------------------------------------------------------------------

    def _read_heads(self) -> None:
        listener = self._listener
        # A listener may end the exchange, or us, from inside each call.
        while listener is not None and self._listener is listener:
            try:
                length = self._finder.find(self._inbox)
                if length is None:
                    return
                raw = bytes(self._inbox[:length])
                del self._inbox[:length]
                head = parse_response_head(raw)
                self._conn.receive_data(raw)
                event = self._conn.next_event()
            except (HeadError, h11.RemoteProtocolError):
                self._fail(malformed=True)
                return
            if isinstance(event, h11.InformationalResponse):
                self._interim += 1
                if self._interim > MAX_INTERIM:
                    self._fail(malformed=True)
                elif head.status == 101:
                    rest = bytes(self._inbox)
                    self._inbox.clear()
                    listener.protocol_switched(head, rest)
                else:
                    listener.interim_received(head)
                continue
            self._in_head = False
            rest = bytes(self._inbox)
            self._inbox.clear()
            listener.response_received(head)
            if self._listener is listener:
                self._read_body(rest, more=True)
            return

    def _read_body(self, data: bytes, *, more: bool = False) -> None:
        """Read some of a body.

        Args:
            data: What has come; empty for the end of input.
            more: That an empty `data` means nothing has come yet.
        """
        listener = self._listener
        if listener is None:
            return
        pieces: list[bytes] = []
        trailers: list[Field] | None = None
        try:
            if data or not more:
                self._conn.receive_data(data)
            while trailers is None:
                event = self._conn.next_event()
                if isinstance(event, h11.Data):
                    pieces.append(event.data)
                elif isinstance(event, h11.EndOfMessage):
                    trailers = event.headers.raw_items()
                else:
                    break
        except h11.RemoteProtocolError:
            # Cut short or badly framed: the listener has begun to pass it on either way.
            self._fail(malformed=True)
            return
        if pieces:
            # One write for what came in one read, however small the chunks were.
            listener.body_received(b"".join(pieces))
        if trailers is not None and self._listener is listener:
            self._end(listener, trailers)

    def _end(self, listener: OriginListener, trailers: list[Field]) -> None:
        self._listener = None
        conn = self._conn
        if conn.our_state not in (h11.DONE, h11.MUST_CLOSE):
            self.abort()  # the request is not complete and will not be
        elif conn.their_state is not h11.DONE or conn.trailing_data[0] or self._eof:
            self.close()
            self._eof = True
        listener.response_ended(trailers)

    def _fail(self, *, malformed: bool, outcome: Outcome = Outcome.RESET) -> None:
        listener = self._listener
        self.abort()
        self._eof = True
        if listener is not None:
            listener.origin_failed(outcome, malformed=malformed)


def _lost_by(error: BaseException | None) -> Outcome:
    """Return what the loss of a connection is called.

    A stream that was answered early may still turn out to lead nowhere, and tells why.
    """
    if isinstance(error, SessionError):
        return Outcome.SESSION_LOST
    # Cancelled is what the server says when the destination has reset its connection.
    if isinstance(error, StreamError) and error.outcome is not Outcome.CANCELLED:
        return error.outcome
    return Outcome.RESET
