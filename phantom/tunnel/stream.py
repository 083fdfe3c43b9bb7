"""Stream: one relayed connection, as the transport of an ordinary Twisted protocol.

It half-closes, aborts, pauses and is paused like a TCP transport, so whatever runs over TCP
runs over it.  There is no Deferred and no Factory in it: thousands exist at a time.  Its two
directions are `phantom.tunnel.stream_sending` and `phantom.tunnel.stream_receiving`; here is how
it begins and ends.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.address import HostnameAddress
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.interfaces import (
    IConsumer,
    IHalfCloseableProtocol,
    IPushProducer,
    ITransport,
)
from twisted.python.failure import Failure
from zope.interface import classImplements

from phantom.core.stream import Event, State
from phantom.core.wire import INITIAL_CREDIT, FrameType
from phantom.errors import LocalProtocolError, Outcome, RemoteProtocolError, StreamError
from phantom.tunnel.stream_base import DONE
from phantom.tunnel.stream_receiving import ReceivingStream

#: Where a stream's `getPeer` and `getHost` point: the destination is known to the other
#: end only, and addresses end up in logs.
ADDRESS = HostnameAddress(b"tunnel", 0)


class Stream(ReceivingStream):
    """One stream.  Made by the multiplexer; arguments and attributes as `StreamBase`."""

    __slots__ = ()

    # -- the local protocol -------------------------------------------------------------

    def attach(self, protocol: Any) -> None:
        """Connect the protocol that uses this stream; what has arrived is delivered then.

        Args:
            protocol: An IProtocol.  One with a true attribute ``accepts_views`` gets
                ``memoryview`` objects, valid during the call, instead of copies; one with
                a method ``pieces_received`` gets lists of them instead of single ones.
        """
        self.protocol = protocol
        try:
            protocol.makeConnection(self)
        except Exception:
            self._protocol_failed()
        if self._inbox or self._read_ended or self._end_reason is not None:
            self._deliver()

    @property
    def protocol(self) -> Any:
        """The protocol that uses this stream; assigning replaces it, as on Twisted's TCP."""
        return self._protocol

    @protocol.setter
    def protocol(self, protocol: Any) -> None:
        self._half_closes = IHalfCloseableProtocol.providedBy(protocol)
        self._views = bool(getattr(protocol, "accepts_views", False))
        self._takes_pieces = hasattr(protocol, "pieces_received")
        self._protocol = protocol

    def accept(self, protocol: Any) -> None:
        """Tell the peer that its destination is connected, and attach the protocol."""
        if self.state is State.CLOSED:
            raise LocalProtocolError("the stream is closed")
        self._advance(Event.SEND_ACCEPT)
        self._mux.send_open_reply(self, Outcome.CONNECTED)
        self.activate()
        self.attach(protocol)

    def refuse(self, outcome: Outcome) -> None:
        """Tell the peer why its destination could not be connected, and close."""
        if self.state in (State.PENDING, State.PENDING_HALF):
            self._mux.send_open_reply(self, outcome)
            self.state = State.CLOSED
            self._ended(Failure(StreamError("refused", outcome)), drop=True)

    # -- ITransport ----------------------------------------------------------------------

    def loseConnection(self) -> None:
        """Close once everything written is sent; deliver nothing more."""
        if self._closing:
            return
        self._closing = True
        self._discard_inbox()
        if self.state is State.CLOSED:
            self._mux.later(self._tell_end)
            return
        self._finish = FrameType.STREAM_CLOSE
        self._finish_soon()
        if self._end_reason is None and (self.waiting or not self._may_finish):
            self._mux.stream_closing(self)

    def abortConnection(self) -> None:
        """Reset: drop everything, at once."""
        self.reset(Outcome.CANCELLED, Failure(ConnectionAborted()))

    def reset(self, outcome: Outcome, reason: Failure) -> None:
        """Break the stream off.

        Args:
            outcome: What the peer is told.
            reason: What the local protocol is told.
        """
        if self.state is State.CLOSED:
            if self._end_reason is not None:
                # Over on the wire, but the protocol had not read everything yet.
                self._end_reason = reason
                self._discard_inbox()
                self._mux.later(self._tell_end)
            return
        self._mux.send_frame(FrameType.RESET, self.stream_id, bytes((outcome,)))
        self.state = State.CLOSED
        self._ended(reason, drop=True, later=True)

    def give_up(self, outcome: Outcome, reason: Failure) -> None:
        """Break the stream off, and tell whoever waits for a reply that none will come.

        Args:
            outcome: What the peer and the opener are told.
            reason: What the local protocol is told.
        """
        self.reset(outcome, reason)
        self._tell_outcome(outcome)

    def getPeer(self) -> HostnameAddress:
        """Return a placeholder: the destination's address is known to the other end only."""
        return ADDRESS

    def getHost(self) -> HostnameAddress:
        """Return a placeholder."""
        return ADDRESS

    # Asked of TCP transports; a stream is never delayed for joining, nor kept alive.

    def setTcpNoDelay(self, enabled: object) -> None:
        """Accept and ignore."""

    def setTcpKeepAlive(self, enabled: object) -> None:
        """Accept and ignore."""

    # -- called by the multiplexer ---------------------------------------------------------

    def reply_received(self, outcome: Outcome, credit: int) -> None:
        """Take the OPEN_REPLY.

        Raises:
            RemoteProtocolError: There is a reply already.
        """
        if self.state not in (State.OPENING, State.OPENING_HALF):
            raise RemoteProtocolError("a second reply to a STREAM_OPEN")
        if outcome is Outcome.CONNECTED:
            self._advance(Event.RECEIVE_ACCEPT)
            self.credit += credit - INITIAL_CREDIT
            self.activate()
        else:
            self.state = State.CLOSED
        self._tell_outcome(outcome)
        if outcome is not Outcome.CONNECTED:
            self._ended(Failure(StreamError("the destination was not reached", outcome)), drop=True)

    def half_close_received(self) -> None:
        """Take the peer's half-close."""
        self._advance(Event.RECEIVE_HALF_CLOSE)
        self._read_ended = True
        if self.state is State.CLOSED:
            self._ended(DONE)
        elif self._protocol is not None:
            self._deliver()

    def close_received(self) -> None:
        """Take the peer's close: it sends no more and reads no more."""
        self._advance(Event.RECEIVE_CLOSE)
        if self.on_outcome is not None:
            self._tell_outcome(Outcome.CANCELLED)
        self._ended(DONE)

    def reset_received(self, outcome: Outcome) -> None:
        """Take the peer's reset."""
        self._advance(Event.RECEIVE_RESET)
        self._tell_outcome(outcome)
        self._ended(Failure(StreamError("reset by the other end", outcome)), drop=True)

    def session_lost(self, reason: Failure) -> None:
        """The session is over: so is the stream, whatever it held."""
        if self.state is State.CLOSED:
            return  # draining: everything has arrived, let the protocol read it
        if reason.check(ConnectionDone):
            # The link was closed in good order, by whoever can send a FIN; this stream was not.
            reason = Failure(StreamError("the session is lost", Outcome.SESSION_LOST))
        self.state = State.CLOSED
        self._tell_outcome(Outcome.SESSION_LOST)
        self._ended(reason, drop=True)

    # -- inner ---------------------------------------------------------------------------

    def _ended(self, reason: Failure, drop: bool = False, later: bool = False) -> None:
        """The stream is over on the wire.

        Args:
            reason: What the protocol is told.
            drop: Whether what it has not read yet is dropped.
            later: Whether it is told at the end of the turn: as with TCP, a protocol that
                aborts does not hear of it inside its own call.
        """
        self._end_reason = reason
        self._outbox = None
        self.waiting = 0
        if drop:
            self._discard_inbox()
        if self._producer is not None or self._source is not None:
            self._release_producer()
        self._mux.stream_closed(self, draining=bool(self._inbox))
        if later:
            self._mux.later(self._tell_end)
        elif drop or self._protocol is None:
            self._tell_end()
        elif not self._delivering:
            self._deliver()

    def _tell_end(self) -> None:
        """Tell the protocol, once, and let go of everything."""
        reason, self._end_reason = self._end_reason, None
        protocol, self._protocol = self._protocol, None
        self.window.close()
        self._mux.undelivered.pop(self.stream_id, None)
        if protocol is not None and reason is not None:
            if self._read_ended and self._half_closes and isinstance(reason.value, ConnectionDone):
                self._read_ended = False
                self._tell(protocol.readConnectionLost)
            try:
                protocol.connectionLost(reason)
            except Exception:
                self._protocol_failed()


# Behind the class: with a decorator it would not be compiled (decision 28).
classImplements(Stream, ITransport, IConsumer, IPushProducer)
