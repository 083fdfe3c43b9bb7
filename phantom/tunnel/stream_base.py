"""What both directions of a stream share: where it stands, and its protocol."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure

from phantom.core.stream import TRANSITIONS, Event, State
from phantom.core.window import ReceiveWindow
from phantom.core.wire import INITIAL_CREDIT, FrameType
from phantom.errors import LocalProtocolError, Outcome, RemoteProtocolError
from phantom.fast.sockets import QuickConnection
from phantom.telemetry import make_logger

if TYPE_CHECKING:
    from phantom.tunnel.mux import MultiplexerProtocol

log = make_logger()

#: One for all orderly ends, as the reactor itself has one for its connections.
DONE = Failure(ConnectionDone())


class StreamBase:
    """A stream's state.  The rest is `phantom.tunnel.stream.Stream` and its two directions.

    Each is derived from the one before, not `Stream` from both: a compiled class has one base.

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
        queued: Whether the lane's scheduler holds it.
        lane: What it sends by.
        waited: Whether it had to wait for its turn, lately; whoever looks sets it back.
        watched: Whether it may be bulk, which is looked at, or was found to be.
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
        "lane",
        "last_read",
        "on_outcome",
        "queued",
        "sent",
        "state",
        "stream_id",
        "waited",
        "waiting",
        "watched",
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
        self.lane = mux.lanes.main
        self.watched = False
        self.waited = False
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

    def _advance(self, event: Event) -> None:
        try:
            self.state = TRANSITIONS[self.state, event]
        except KeyError:
            text = f"{event.name} in state {self.state.name}"
            if event.name.startswith("RECEIVE"):
                raise RemoteProtocolError(text) from None
            raise LocalProtocolError(text) from None

    def abortConnection(self) -> None:
        """Reset: drop everything, at once."""
        raise NotImplementedError

    def give_up(self, outcome: Outcome, reason: Failure) -> None:
        """Break the stream off, and tell whoever waits for a reply that none will come."""
        raise NotImplementedError

    def loseConnection(self) -> None:
        """Close once everything written is sent; deliver nothing more."""
        raise NotImplementedError

    def _ended(self, reason: Failure, drop: bool = False, later: bool = False) -> None:
        """The stream is over on the wire."""
        raise NotImplementedError

    def _tell_end(self) -> None:
        """Tell the protocol, once, and let go of everything."""
        raise NotImplementedError
