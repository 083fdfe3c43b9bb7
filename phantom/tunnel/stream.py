"""Stream: one relayed connection, as the transport of an ordinary Twisted protocol.

It half-closes, aborts, pauses and is paused like a TCP transport, so whatever runs over TCP
runs over it.  There is no Deferred and no Factory in it: thousands exist at a time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from twisted.internet.address import HostnameAddress
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.interfaces import (
    IConsumer,
    IHalfCloseableProtocol,
    IPushProducer,
    ITransport,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from phantom.core.scheduler import SMALL
from phantom.core.session import FULL_PAYLOAD, SendLog
from phantom.core.stream import RECEIVING, SENDING, TRANSITIONS, Event, State
from phantom.core.window import ReceiveWindow, add_credit
from phantom.core.wire import INITIAL_CREDIT, FrameType
from phantom.errors import LocalProtocolError, Outcome, RemoteProtocolError, StreamError
from phantom.fast.sockets import QuickConnection
from phantom.telemetry import make_logger

if TYPE_CHECKING:
    from phantom.tunnel.mux import MultiplexerProtocol

log = make_logger()

#: Unsent bytes above which the local producer is paused, and at half of which it is resumed:
#: two of Twisted's 64 KiB reads, so that a bulk stream always has a record's worth waiting,
#: and no more.  A crowd of streams has less each (`MultiplexerProtocol.high_water`).
HIGH_WATER = 128 * 1024
#: Bytes from which on it is looked whether a source is far away: most connections never bring so
#: many, and it takes a call of the system.
BULK = 256 * 1024
#: Received pieces that must wait are joined until they have this size.
JOINED = 32 * 1024

#: Where a stream's `getPeer` and `getHost` point: the destination is known to the other
#: end only, and addresses end up in logs.
ADDRESS = HostnameAddress(b"tunnel", 0)

# One for all orderly ends, as the reactor itself has one for its connections.
_DONE = Failure(ConnectionDone())


@implementer(ITransport, IConsumer, IPushProducer)
class Stream:
    """One stream.  Made by the multiplexer.

    Args:
        mux: The multiplexer it belongs to.
        stream_id: Its id.
        state: OPENING or PENDING.
        window: What the peer may send.

    Attributes:
        stream_id: Its id.
        state: Where it stands on the wire.
        window: What the peer may send.
        credit: What we may send.
        waiting: Bytes written and not yet sent.
        sent: Bytes sent in all.
        last_read: About how many bytes its source brings at a time.
        gathered: What was received and is yet to be delivered, or kept, or dropped; None where
            nothing is.
        queued: Whether the scheduler holds it.
        on_outcome: Called once when the fate of an opening or pending stream is known: with the
            destination's `Outcome` on the opener's side; on the other side only when the
            opener gives up before the reply.
    """

    __slots__ = (
        "_closing",
        "_delivering",
        "_end_reason",
        "_finish",
        "_half_closes",
        "_inbox",
        "_mux",
        "_outbox",
        "_parked",
        "_paused",
        "_producer",
        "_producer_paused",
        "_protocol",
        "_read_ended",
        "_source",
        "_streaming",
        "_takes_pieces",
        "_views",
        "credit",
        "gathered",
        "last_read",
        "on_outcome",
        "queued",
        "sent",
        "state",
        "stream_id",
        "waiting",
        "window",
    )

    def __init__(
        self, mux: MultiplexerProtocol, stream_id: int, state: State, window: ReceiveWindow
    ) -> None:
        self._mux = mux
        self.stream_id = stream_id
        self.state = state
        self.window = window
        # The opener may send this before the reply; the other side gets its credit from
        # the STREAM_OPEN.
        self.credit = INITIAL_CREDIT if state is State.OPENING else 0
        self.waiting = 0
        self.sent = 0
        self.queued = False
        self.on_outcome: Callable[[Outcome], None] | None = None
        # Each only while there is something in it: an empty deque takes 0.7 KB, and most streams
        # are idle most of the time.
        self._outbox: deque[bytes | memoryview] | None = None
        self._inbox: deque[bytearray] | None = None
        self._protocol: Any = None
        self._half_closes = False
        self._views = False
        # Views of the records in hand, for a protocol that takes several pieces in one call.
        self.gathered: list[memoryview] | None = None
        self._takes_pieces = False
        self._paused = False
        self._delivering = False
        self._producer: Any = None
        self._streaming = False
        self._producer_paused = False
        # A socket that is read straight into the session's log; while parked nobody waits for
        # it to become readable: it is read when it is this stream's turn.
        self._source: QuickConnection | None = None
        self._parked = False
        self.last_read = 0
        # What to do when everything written is sent: HALF_CLOSE or STREAM_CLOSE.
        self._finish: FrameType | None = None
        # loseConnection was called: nothing more is delivered.
        self._closing = False
        # The peer's end of data, told to the protocol after the inbox is empty.
        self._read_ended = False
        # Set when the stream is over on the wire; told after the inbox is empty.
        self._end_reason: Failure | None = None

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
        self._views = getattr(protocol, "accepts_views", False)
        self._takes_pieces = hasattr(protocol, "pieces_received")
        self._protocol = protocol

    def accept(self, protocol: Any) -> None:
        """Tell the peer that its destination is connected, and attach the protocol."""
        if self.state is State.CLOSED:
            raise LocalProtocolError("the stream is closed")
        self._advance(Event.SEND_ACCEPT)
        self._mux.send_open_reply(self, Outcome.CONNECTED)
        self._activate()
        self.attach(protocol)

    def refuse(self, outcome: Outcome) -> None:
        """Tell the peer why its destination could not be connected, and close."""
        if self.state in (State.PENDING, State.PENDING_HALF):
            self._mux.send_open_reply(self, outcome)
            self.state = State.CLOSED
            self._ended(Failure(StreamError("refused", outcome)), drop=True)

    # -- ITransport ----------------------------------------------------------------------

    def write(self, data: bytes | memoryview) -> None:
        """Queue bytes; they are sent at the end of the reactor's turn, as credit allows."""
        if not data or self._finish is not None or self.state is State.CLOSED:
            return
        if self._outbox is None:
            self._outbox = deque()
        self._outbox.append(data)
        self.waiting += len(data)
        self._activate()
        if self.waiting > self._mux.high_water and self._streaming and not self._producer_paused:
            self._producer_paused = True
            self._producer.pauseProducing()

    def writeSequence(self, data: Iterable[bytes]) -> None:
        """Queue several pieces."""
        for piece in data:
            self.write(piece)

    def loseWriteConnection(self) -> None:
        """Half-close once everything written is sent; go on receiving."""
        if self._finish is None and self.state is not State.CLOSED:
            self._finish = FrameType.HALF_CLOSE
            self._finish_soon()

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

    def setTcpNoDelay(self, enabled: bool) -> None:
        """Accept and ignore."""

    def setTcpKeepAlive(self, enabled: bool) -> None:
        """Accept and ignore."""

    # -- IConsumer -----------------------------------------------------------------------

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Let this stream pause and resume `producer`."""
        if self._producer is not None:
            raise RuntimeError("a producer is registered already")
        if self.state is State.CLOSED:
            producer.stopProducing()
            return
        self._producer = producer
        self._streaming = streaming
        self._producer_paused = False
        if not streaming:
            producer.resumeProducing()
        elif self.waiting > self._mux.high_water:
            self._producer_paused = True
            producer.pauseProducing()

    def unregisterProducer(self) -> None:
        """Forget the producer."""
        self._producer = None
        self._streaming = False
        if self._source is not None:
            self._release_source()

    # -- a source that is read into the session's log -----------------------------------

    def use_source(self, source: QuickConnection) -> None:
        """Read the registered producer's socket from here, without a copy in between.

        What it brings is sent as if it had been written; pausing is this stream's own affair.

        Args:
            source: The socket's connection; `unregisterProducer` ends it.
        """
        if self._producer is not None:
            self._source = source
            source.reader = self

    def read_from(self, connection: QuickConnection) -> Exception | None:
        """Read the source, which is readable, if what it has can be sent now."""
        session = self._mux.session
        send_log = None
        if (
            session is not None
            and self.credit > 0
            and not self.waiting
            and not self.queued
            and self.state in SENDING
        ):
            send_log = session.open_log(small=self.last_read < FULL_PAYLOAD // 2)
            if 0 < self.last_read <= SMALL:
                session.make_way()  # not before: what calls for it must not wait for it
        if self._source is not connection:
            return None  # let go of meanwhile, by what was sent: it reads by itself again
        if session is None or send_log is None:
            self._parked = True
            connection.pauseProducing()
            self._activate()
            return None
        limit = self._read_limit(send_log.batch)
        size = self._read(connection, send_log, limit)
        if not size:
            return connection.read_end
        if size >= send_log.frame_limit // 2:
            session.flush()
        elif not session.flush_due:
            session.wake()
        if connection.gatherer is not None:
            if size < limit:  # otherwise there is more already
                connection.gatherer.read(size)
        elif self.sent > BULK:
            self._mux.spare_reads(connection)
        return None

    def _read_limit(self, limit: int) -> int:
        """Return how much to read: a source that brought little last time gets one frame only."""
        if self.last_read < FULL_PAYLOAD // 2 or limit > self.credit:
            return min(self.credit, limit, FULL_PAYLOAD)
        return limit

    def _read(self, connection: QuickConnection, send_log: SendLog, limit: int) -> int:
        """Read once, at most `limit` bytes."""
        room = send_log.reserve(limit)
        size = connection.read_into(room)
        send_log.commit(self.stream_id, room, size)
        self.credit -= size
        self.sent += size
        # What fills its room is bulk, however small that is on a slow link.
        self.last_read = size if size < limit else max(size, FULL_PAYLOAD // 2)
        return size

    def _release_source(self) -> None:
        """Let the source's own connection read it again."""
        source, self._source = self._source, None
        if source is not None:
            source.reader = None
            if self._parked:
                self._parked = False
                source.resumeProducing()

    # -- IPushProducer -------------------------------------------------------------------

    def pauseProducing(self) -> None:
        """Deliver nothing for now; the window then holds the peer back."""
        self._paused = True

    def resumeProducing(self) -> None:
        """Deliver again."""
        self._paused = False
        if self._protocol is not None and (
            self._inbox or self._read_ended or self._end_reason is not None
        ):
            self._deliver()

    def stopProducing(self) -> None:
        """Close."""
        self.loseConnection()

    # -- sending, called by the multiplexer ------------------------------------------------

    def _activate(self) -> None:
        if not self.queued and self.ready:
            self._mux.activate(self)

    @property
    def ready(self) -> bool:
        """Whether there is something that may be sent now."""
        if (self.waiting or self._parked) and self.state in SENDING:
            return self.credit > 0
        return self._finish is not None and self._may_finish

    @property
    def _may_finish(self) -> bool:
        """Whether the frame that ends our direction may follow what was sent."""
        if self._finish is not FrameType.STREAM_CLOSE:
            return self._finish is not None and self.state in SENDING
        # A half-closed side may still have to say that it closes for good.  But while the
        # reply is outstanding a close gives the connection up, and whoever wrote something
        # and then closed wants it delivered.
        return self.state in _CLOSABLE and not (self.sent and self.state in _UNDECIDED)

    def emit(self, send_log: SendLog, limit: int) -> None:
        """Append up to `limit` bytes of data, or the frame that ends our direction."""
        if self.state is State.CLOSED:
            return
        if self.waiting and self.state in SENDING:
            size = min(self.waiting, self.credit, limit, send_log.frame_limit)
            if size:
                send_log.append_parts(FrameType.DATA, self.stream_id, self._take(size), size)
                self.credit -= size
                self.sent += size
        elif self._parked and self._source is not None and self.state in SENDING:
            if self.credit and not self._read(self._source, send_log, self._read_limit(limit)):
                # Empty, or ended: the reactor tells us which.
                self._parked = False
                self._source.resumeProducing()
            return
        if self._finish is not None and (not self.waiting or self.state not in SENDING):
            if self._may_finish:
                self._send_finish(send_log)
        elif self.waiting <= self._mux.high_water // 2 and self._producer is not None:
            if self._producer_paused:
                self._producer_paused = False
                self._tell(self._producer.resumeProducing)
            elif not self._streaming and not self.waiting:
                self._tell(self._producer.resumeProducing)

    def _take(self, size: int) -> list[bytes | memoryview]:
        outbox = self._outbox
        assert outbox is not None  # as something waits
        self.waiting -= size
        if not self.waiting:
            self._outbox = None
        parts: list[bytes | memoryview] = []
        while size:
            piece = outbox[0]
            if len(piece) > size:
                view = memoryview(piece)
                outbox[0] = view[size:]
                parts.append(view[:size])
                break
            parts.append(piece)
            outbox.popleft()
            size -= len(piece)
        return parts

    def _finish_soon(self) -> None:
        """Send the frame that ends our direction: now, if there is nothing before it."""
        session = self._mux.session
        if session is None or self.waiting or self._parked or self.queued or not self._may_finish:
            self._activate()
            return
        send_log = session.open_log()
        if send_log is None:
            self._activate()
            return
        self._send_finish(send_log, later=True)
        if not session.flush_due:
            session.wake()

    def _send_finish(self, send_log: SendLog, *, later: bool = False) -> None:
        """Append the frame that ends our direction.

        Args:
            send_log: Where.
            later: Whether the protocol hears of the stream's end when the turn is over.
        """
        kind = self._finish
        if kind is FrameType.HALF_CLOSE and self.state in SENDING:
            send_log.append(FrameType.HALF_CLOSE, self.stream_id)
            self._advance(Event.SEND_HALF_CLOSE)
            if self.state is State.CLOSED:
                self._ended(_DONE, later=later)
            elif self._half_closes:
                self._tell(self._protocol.writeConnectionLost)
        elif kind is FrameType.STREAM_CLOSE and self.state is not State.CLOSED:
            send_log.append(FrameType.STREAM_CLOSE, self.stream_id)
            self._advance(Event.SEND_CLOSE)
            self._ended(_DONE, later=later)

    # -- receiving, called by the multiplexer ----------------------------------------------

    def data_received(self, data: memoryview) -> None:
        """Take one DATA payload.

        Raises:
            RemoteProtocolError: The window is overrun, or the peer had ended its direction.
        """
        if self.state not in RECEIVING:
            raise RemoteProtocolError("data on a stream that may not receive")
        self.window.received(len(data))
        if self._closing:
            self._took(len(data))
            return
        waits = self._paused or self._inbox
        if self._takes_pieces and not waits:
            if self.gathered is None:
                self.gathered = []
                self._mux.gather(self)
            self.gathered.append(data)
            return
        if self.gathered:
            # The protocol was paused or replaced since; what came before comes before.
            self.deliver_gathered()
            waits = self._paused or self._inbox
        if waits or self._protocol is None:
            self._keep(data)
        else:
            self._delivering = True
            self._hand_over(data)
            self._delivering = False

    def deliver_gathered(self) -> None:
        """Hand over what was gathered, which is valid for this call only."""
        pieces, self.gathered = self.gathered, None
        if not pieces:
            return
        if self._closing:
            self._took(sum(map(len, pieces)))
        elif self._paused or self._inbox or not self._takes_pieces:
            for piece in pieces:
                self._keep(piece)
            self._deliver()
        else:
            self._delivering = True
            try:
                self._protocol.pieces_received(pieces)
            except Exception:
                self._protocol_failed()
            self._delivering = False
            self._took(sum(map(len, pieces)))

    def _keep(self, data: memoryview) -> None:
        """Put received data into the inbox."""
        inbox = self._inbox
        if inbox is None:
            inbox = self._inbox = deque()
        if inbox and len(inbox[-1]) < JOINED:
            # Joined, or a peer's frames of a byte each would cost fifty times their size.
            inbox[-1] += data
        else:
            inbox.append(bytearray(data))

    def credit_received(self, grant: int) -> None:
        """Take a WINDOW_UPDATE."""
        self.credit = add_credit(self.credit, grant)
        self._activate()

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
            self._activate()
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
            self._ended(_DONE)
        elif self._protocol is not None:
            self._deliver()

    def close_received(self) -> None:
        """Take the peer's close: it sends no more and reads no more."""
        self._advance(Event.RECEIVE_CLOSE)
        if self.on_outcome is not None:
            self._tell_outcome(Outcome.CANCELLED)
        self._ended(_DONE)

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

    def _tell_outcome(self, outcome: Outcome) -> None:
        on_outcome, self.on_outcome = self.on_outcome, None
        if on_outcome is not None:
            on_outcome(outcome)

    def _tell(self, call: Callable[..., object], *args: Any) -> None:
        """Call the local protocol or producer.

        Whatever that of an embedding program raises is its stream's end, not the link's and
        with it everybody's.
        """
        try:
            call(*args)
        except Exception:
            self._protocol_failed()

    def _protocol_failed(self) -> None:
        """End the stream, from where the failure was caught."""
        log.failure("a stream's protocol failed; the stream is reset")
        self.abortConnection()

    def _hand_over(self, data: memoryview) -> None:
        self._tell(self._protocol.dataReceived, data if self._views else bytes(data))
        self._took(len(data))

    def _advance(self, event: Event) -> None:
        try:
            self.state = TRANSITIONS[self.state, event]
        except KeyError:
            text = f"{event.name} in state {self.state.name}"
            if event.name.startswith("RECEIVE"):
                raise RemoteProtocolError(text) from None
            raise LocalProtocolError(text) from None

    def _deliver(self) -> None:
        """Hand over what waits, until the protocol pauses us; then tell of the end."""
        if self._delivering:
            return
        inbox = self._inbox
        self._delivering = True
        while inbox and not self._paused and not self._closing:
            self._hand_over(memoryview(inbox.popleft()))
        self._delivering = False
        if not self._inbox:
            self._inbox = None
        if self._protocol is None or self._paused or (inbox and not self._closing):
            return
        if self._read_ended and not self._closing and self._end_reason is None:
            self._read_ended = False
            if self._half_closes:
                self._tell(self._protocol.readConnectionLost)
            else:
                self.loseConnection()
        if self._end_reason is not None:
            self._tell_end()

    def _took(self, size: int) -> None:
        # The room is free, and granted again, only now that the consumer took the bytes.
        if self.window.taken(size):
            self._mux.measure(self.window)
        if self.state in RECEIVING and not self._closing:
            grant = self.window.grant()
            if grant:
                self._mux.send_credit(self, grant)

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

    def _release_producer(self) -> None:
        """Let go of the producer, from which nothing is taken any more."""
        self._release_source()
        producer, self._producer = self._producer, None
        streaming, self._streaming = self._streaming, False
        if producer is None:
            return
        if not streaming:
            self._tell(producer.stopProducing)  # it would wait for ever to be asked
        elif self._producer_paused:
            self._tell(producer.resumeProducing)

    def _discard_inbox(self) -> None:
        if self.gathered:
            size = sum(map(len, self.gathered))
            self.gathered = None
            self._took(size)
        if self._inbox:
            size = sum(len(data) for data in self._inbox)
            self._inbox = None
            self._took(size)

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


_UNDECIDED = frozenset({State.OPENING, State.OPENING_HALF})
_CLOSABLE = frozenset(state for state in State if (state, Event.SEND_CLOSE) in TRANSITIONS)
