"""MultiplexerProtocol: many streams over one session.

It opens and accepts streams, routes frames to them, lets the scheduler decide who sends,
and holds a hostile peer to its limits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs
from twisted.python.failure import Failure

from phantom.address import Destination
from phantom.core.budget import TokenBucket
from phantom.core.session import SendLog
from phantom.core.stream import State
from phantom.core.window import DEFAULT_WINDOW_LIMIT, CreditPool, ReceiveWindow, add_credit
from phantom.core.wire import (
    INITIAL_CREDIT,
    MAX_STREAM_ID,
    FrameType,
    GoawayReason,
    decode_goaway,
    decode_open,
    decode_open_reply,
    decode_reset,
    decode_window_update,
    encode_goaway,
    encode_open,
    encode_open_reply,
    encode_window_update,
)
from phantom.errors import (
    Outcome,
    RelayError,
    RemoteProtocolError,
    SessionError,
    StreamError,
)
from phantom.fast.gathering import gather
from phantom.fast.room import give_room
from phantom.fast.sockets import QuickConnection
from phantom.runtime import Runtime
from phantom.telemetry import make_logger
from phantom.tunnel.closing import ClosingStreams
from phantom.tunnel.lanes import Lanes
from phantom.tunnel.stream import Stream
from phantom.tunnel.stream_base import StreamBase
from phantom.tunnel.stream_receiving import ReceivingStream
from phantom.tunnel.stream_sending import HIGH_WATER

if TYPE_CHECKING:
    from phantom.tunnel.session import Session

log = make_logger()

#: Bytes the kernel is to keep of a source that is near and brings much: one batch.  Linux sizes
#: the buffer by what its reader takes in a round trip; where that is microseconds, and others have
#: their turn between, it stays at 93 KiB, which is then all that a read brings (doc/adr/0020).
#: What it really takes for that is twice as much.
SOURCE_ROOM = 512 * 1024
#: ... and of those of one session that come together: 16 sources have one each, of a crowd nobody
#: has more than by itself, so that who stops reading everything holds little more of the machine's
#: memory (64 that come one by one, each with its share of then, have 19 MiB, which is the most).
SOURCES_ROOM = 8 * 1024 * 1024
#: Less than this is no more than what the kernel keeps anyway.
LEAST_SOURCE_ROOM = 128 * 1024
#: Opens and other control frames a peer may send at once and a second.  A saturated
#: 2-core machine opens about 5,000 streams a second with four control frames each.
CONTROL_BURST = 80_000
CONTROL_RATE = 40_000.0
#: Control frames that are counted together, to look at the clock less often.
CONTROLS_AT_ONCE = 16
#: Frames for streams that are closed here.  Up to a window of them is in flight when we
#: reset a stream, so the burst is large; in the long run they are rare.
STRAY_BURST = 65_536
STRAY_RATE = 8_192.0
#: GOAWAY frames in a session's life: one per reason, and a repetition.
MAX_GOAWAYS = 8
#: Announcements (ENDPOINTS and SCHEME) a server may push at once, and a second: a new one costs
#: the client a signature to verify and a file that is written to the disk.  Ours come when a
#: session begins and when an operator reloads.
ANNOUNCEMENT_BURST = 64
ANNOUNCEMENT_RATE = 1.0
#: Part of the ids after which a fresh session should take over (doc/spec/wire.md).
EXHAUSTED = int(MAX_STREAM_ID * 0.9)

#: Bytes that all streams of a session may keep unsent together; each of them may hold one
#: read of its source beyond its share.
OUTBOX_MEMORY = 16 * 1024 * 1024
#: ... of which a stream always has this much: less would cost a pause for each small write.
LEAST_HIGH_WATER = 4096

Acceptor = Callable[[Stream, Destination], None]


@attrs.frozen(slots=True, kw_only=True)
class MuxLimits:
    """What one session may hold.

    Attributes:
        max_streams: Concurrent streams the peer may open (and we, on the client).
        session_memory: Bytes that received data and promised credit may take.
        window: Largest window of one stream, in bytes.
    """

    max_streams: int = 1024
    session_memory: int = 64 * 1024 * 1024
    window: int = DEFAULT_WINDOW_LIMIT


class MultiplexerProtocol:
    """One side of a session's streams.

    Args:
        runtime: Clock.
        limits: See `MuxLimits`.
        client: Whether this side opens odd ids.
        acceptor: Called with each stream the peer opens and its destination; it answers by
            `Stream.accept` or `Stream.refuse`, now or later.  None refuses them all.
        on_goaway: Called with each GOAWAY's reason.
        on_endpoints: Called with each list of endpoints that the server pushes.
        on_scheme: Called with each padding scheme that it pushes.
        on_lane: Client: called when a link for bulk would help.

    Attributes:
        session: What carries the streams on the main lane, None before and after.
        lanes: By what they are sent.
        streams: Live streams by id.
        undelivered: Those closed on the wire that are still read here, in order of their closing.
        draining: Whether either side has said GOAWAY.
    """

    def __init__(
        self,
        runtime: Runtime,
        limits: MuxLimits,
        *,
        client: bool,
        acceptor: Acceptor | None = None,
        on_goaway: Callable[[MultiplexerProtocol, int], None] | None = None,
        on_endpoints: Callable[[MultiplexerProtocol, bytes], None] | None = None,
        on_scheme: Callable[[bytes], None] | None = None,
        on_lane: Callable[[MultiplexerProtocol], None] | None = None,
    ) -> None:
        self._runtime = runtime
        self._limits = limits
        self._client = client
        self._acceptor = acceptor
        self._on_goaway = on_goaway
        self._on_endpoints = on_endpoints
        self._on_scheme = on_scheme
        self._on_lane = on_lane
        self._pool = CreditPool(limits.session_memory, limits.max_streams)
        # Streams that have pieces of the records in hand yet to deliver.
        self._gathering: list[ReceivingStream] = []
        self.streams: dict[int, Stream] = {}
        self.session: Session | None = None
        self.lanes = Lanes(runtime, self)
        self.undelivered: dict[int, Stream] = {}
        self._closing = ClosingStreams(runtime)
        self._next_id = 1 if client else 2
        self._highest_peer_id = 0
        self._peer_streams = 0
        self._control = TokenBucket(CONTROL_RATE, CONTROL_BURST)
        # Control frames since the bucket was last asked.
        self._controls = 0
        self._stray = TokenBucket(STRAY_RATE, STRAY_BURST)
        self._announcements = TokenBucket(ANNOUNCEMENT_RATE, ANNOUNCEMENT_BURST)
        self._goaways = 0
        self.high_water = HIGH_WATER
        self.draining = False
        self._goaway_sent = False

    # -- from the session (FrameSource) ---------------------------------------------------

    def session_made(self, session: Session) -> None:
        """Start on a session."""
        self.session = self.lanes.main.session = session

    def session_lost(self, reason: Failure) -> None:
        """End every stream that is not yet over."""
        self.session = None
        self.lanes.main.clear()
        self.draining = True
        self._gathering.clear()
        self._closing.stop()
        for stream in list(self.streams.values()):
            stream.session_lost(reason)
        self.streams.clear()
        self.lanes.close(reason)

    @property
    def expects(self) -> bool:
        """Whether a stream is open."""
        return bool(self.streams)

    @property
    def finished(self) -> bool:
        """Whether the peer or we have said GOAWAY and no stream is left."""
        if not self.draining or self.streams:
            return False
        # A client that has said GOAWAY gives up what is on its way to it.
        return self.lanes.idle or (not self._client and self._goaways > 0)

    @property
    def held_bytes(self) -> int:
        """Bytes that wait in streams, either way."""
        streams = (*self.streams.values(), *self.undelivered.values())
        return sum(stream.waiting + stream.window.buffered for stream in streams)

    def produce(self, send_log: SendLog) -> None:
        """Append about one batch of what the streams want to send."""
        self.lanes.main.produce(send_log)

    def data_received(self, frames: list[tuple[int, memoryview]]) -> None:
        """Route DATA frames, stream id and payload of each.

        Raises:
            RemoteProtocolError: One breaks a rule; the session must end.
        """
        streams = self.streams
        for stream_id, payload in frames:
            if not payload:
                raise RemoteProtocolError("an empty DATA frame")
            stream = streams.get(stream_id)
            if stream is not None:
                stream.data_received(payload)
            elif self.session is not None:  # ended by what an earlier one brought
                self._stray_frame(stream_id)

    def frame_received(self, kind: int, stream_id: int, payload: memoryview) -> None:
        """Route one sequenced frame that is not DATA.

        Raises:
            RemoteProtocolError: It breaks a rule; the session must end.
        """
        stream = self.streams.get(stream_id)
        if stream is not None and stream.gathered is not None:
            stream.deliver_gathered()  # what came before comes before
        self._controls += 1
        if self._controls == CONTROLS_AT_ONCE:
            self._spend_controls()
        if kind == FrameType.STREAM_OPEN:
            self._open_received(stream_id, payload)
        elif kind == FrameType.GOAWAY:
            self._goaway_received(payload)
        elif kind >= 0x40:
            self._advice_received(kind, bytes(payload))
        elif stream is None:
            self._stray_frame(stream_id)
        elif kind == FrameType.WINDOW_UPDATE:
            stream.credit_received(decode_window_update(payload))
        elif kind == FrameType.OPEN_REPLY:
            stream.reply_received(*decode_open_reply(payload))
        elif kind == FrameType.RESET:
            stream.reset_received(decode_reset(payload))
        elif payload:
            raise RemoteProtocolError("a closing frame with a payload")
        elif kind == FrameType.HALF_CLOSE:
            stream.half_close_received()
        elif kind == FrameType.STREAM_CLOSE:
            stream.close_received()
        else:
            raise RemoteProtocolError("a frame type that has no meaning here")

    def _spend_controls(self) -> None:
        controls, self._controls = self._controls, 0
        if not self._control.spend(self._runtime.clock.seconds(), controls):
            raise RemoteProtocolError("a flood of control frames")

    def _advice_received(self, kind: int, payload: bytes) -> None:
        """Take what may be skipped, and is where nobody asked for it."""
        if kind not in (FrameType.ENDPOINTS, FrameType.SCHEME, FrameType.LANE):
            return
        if kind == FrameType.LANE and (payload or not self._client):
            raise RemoteProtocolError("a wish for a lane that makes no sense")
        if not self._announcements.spend(self._runtime.clock.seconds()):
            raise RemoteProtocolError("a flood of announcements")
        if kind == FrameType.SCHEME:
            if self._on_scheme is not None:
                self._on_scheme(payload)
        elif kind == FrameType.LANE:
            if self._on_lane is not None:
                self._on_lane(self)
        elif self._on_endpoints is not None:
            self._on_endpoints(self, payload)

    def wish_lane(self) -> None:
        """Say that a second link would help, which the client dials."""
        if not self._client:
            self.send_frame(FrameType.LANE, 0)
        elif self._on_lane is not None:
            self._on_lane(self)

    # -- opening ------------------------------------------------------------------------

    @property
    def exhausted(self) -> bool:
        """Whether the ids run out and a fresh session should take new streams."""
        return self._next_id > EXHAUSTED

    def open(self, destination: Destination, on_outcome: Callable[[Outcome], None]) -> Stream:
        """Open a stream to `destination`.

        Args:
            destination: Where it leads.
            on_outcome: Called once with the destination's outcome, or `SESSION_LOST`.

        Raises:
            RelayError: There is no session, it drains, or too many streams are open.
        """
        if self.session is None or self.draining or self._next_id > MAX_STREAM_ID:
            raise RelayError(Outcome.SESSION_LOST)
        if len(self.streams) >= self._limits.max_streams:
            raise RelayError(Outcome.LIMIT)
        stream_id = self._next_id
        self._next_id += 2
        window = ReceiveWindow(self._pool, self._limits.window)
        stream = Stream(self, stream_id, State.OPENING, window)
        stream.on_outcome = on_outcome
        self.streams[stream_id] = stream
        self._share_outbox()
        self.session.send(
            FrameType.STREAM_OPEN, stream_id, encode_open(destination, window.grant())
        )
        return stream

    def gather(self, stream: ReceivingStream) -> None:
        """Have `stream` deliver its pieces when all frames that came together were taken."""
        self._gathering.append(stream)

    def frames_done(self) -> None:
        """Let the streams deliver: the records' memory is about to be used again."""
        if self._gathering:
            gathering, self._gathering = self._gathering, []
            for stream in gathering:
                stream.deliver_gathered()

    def _is_ours(self, stream_id: int) -> bool:
        return (stream_id & 1 == 1) == self._client

    def _open_received(self, stream_id: int, payload: memoryview) -> None:
        if self._is_ours(stream_id):
            raise RemoteProtocolError("a stream opened with an id of the other parity")
        if stream_id <= self._highest_peer_id:
            raise RemoteProtocolError("a stream id was used twice")
        self._highest_peer_id = stream_id
        destination, credit = decode_open(payload)
        outcome = None
        if self._acceptor is None:
            outcome = Outcome.FORBIDDEN
        elif self._goaway_sent:
            outcome = Outcome.SHUTTING_DOWN
        elif self._peer_streams >= self._limits.max_streams:
            outcome = Outcome.LIMIT
        if outcome is not None:
            self.send_frame(FrameType.OPEN_REPLY, stream_id, encode_open_reply(outcome, 0))
            return
        window = ReceiveWindow(self._pool, self._limits.window, granted=INITIAL_CREDIT)
        stream = Stream(self, stream_id, State.PENDING, window)
        stream.credit = add_credit(0, credit)
        self.streams[stream_id] = stream
        self._share_outbox()
        self._peer_streams += 1
        assert self._acceptor is not None
        try:
            self._acceptor(stream, destination)
        except Exception:
            # As with a stream's protocol: its end, not everybody's.
            log.failure("a stream could not be accepted")
            stream.refuse(Outcome.FAILED)

    def _stray_frame(self, stream_id: int) -> None:
        """Drop a frame of a stream that is closed here; refuse one of a stream that never was."""
        known = self._next_id if self._is_ours(stream_id) else self._highest_peer_id + 1
        if stream_id >= known:
            raise RemoteProtocolError("a frame on a stream that was never opened")
        if not self._stray.spend(self._runtime.clock.seconds()):
            raise RemoteProtocolError("a flood of frames on closed streams")

    # -- ending ---------------------------------------------------------------------------

    def goaway(self, reason: GoawayReason) -> None:
        """Take no new streams from now on; live ones go on."""
        if self.session is not None and not self._goaway_sent:
            self._goaway_sent = self.draining = True
            self.send_frame(FrameType.GOAWAY, 0, encode_goaway(reason, self._highest_peer_id))

    def _goaway_received(self, payload: memoryview) -> None:
        self._goaways += 1
        if self._goaways > MAX_GOAWAYS:
            raise RemoteProtocolError("a flood of GOAWAY")
        reason, last = decode_goaway(payload)
        self.draining = True
        # Streams the peer has not seen: it will never answer them.
        for stream in [s for i, s in self.streams.items() if self._is_ours(i) and i > last]:
            gone = Failure(StreamError("the peer takes no new streams", Outcome.SHUTTING_DOWN))
            stream.give_up(Outcome.SHUTTING_DOWN, gone)
        if self._on_goaway is not None:
            self._on_goaway(self, reason)

    def close(self, reason: Failure | None = None) -> None:
        """Reset what is still open, tell the peer, and end the session.

        Without the resets the peer would take the lost link for an accident, and keep the
        session for the next one.
        """
        session = self.session
        if session is None:
            return
        if reason is None:
            # Not ConnectionDone: what a stream still lacks must not look complete.
            reason = Failure(SessionError("the tunnel is closed"))
        self.goaway(GoawayReason.SHUTDOWN)
        for stream in list(self.streams.values()):
            stream.give_up(Outcome.SHUTTING_DOWN, reason)
        if self.session is session:  # a stream's producer may have called this, too
            session.finish(reason)

    def _share_outbox(self) -> None:
        """Let a crowd of streams keep less each of what they have not sent."""
        share = OUTBOX_MEMORY // max(1, len(self.streams))
        self.high_water = max(LEAST_HIGH_WATER, min(HIGH_WATER, share))

    # -- for streams ------------------------------------------------------------------------

    def send_frame(self, kind: FrameType, stream_id: int, payload: bytes = b"") -> None:
        """Send a control frame."""
        if self.session is not None:
            self.session.send(kind, stream_id, payload)

    def measure(self, window: ReceiveWindow) -> None:
        """Let a window follow the path's bandwidth and round trip."""
        round_trip = self.session.least_round_trip if self.session is not None else None
        window.measure(self._runtime.clock.seconds(), round_trip)

    def send_credit(self, stream: StreamBase, grant: int) -> None:
        """Tell the peer that it may send `grant` bytes more."""
        session = self.lanes.by_which(stream.stream_id)
        if session is not None:
            session.send(FrameType.WINDOW_UPDATE, stream.stream_id, encode_window_update(grant))

    def send_open_reply(self, stream: Stream, outcome: Outcome) -> None:
        """Answer a STREAM_OPEN, with the rest of the first window when it is accepted."""
        credit = 0
        if outcome is Outcome.CONNECTED:
            credit = INITIAL_CREDIT + stream.window.grant()
        if self.session is not None:
            payload = encode_open_reply(outcome, credit)
            self.session.send(FrameType.OPEN_REPLY, stream.stream_id, payload)

    def much_comes(self, source: QuickConnection) -> None:
        """Have a source that brings much bring more at a time, or less often if it is far away."""
        near = gather(self._runtime.clock, source)
        room = min(SOURCE_ROOM, SOURCES_ROOM // max(1, len(self.streams)))
        if near and room >= LEAST_SOURCE_ROOM:
            give_room(source.getHandle(), room)

    def later(self, call: Callable[[], object]) -> None:
        """Call at the end of the reactor's turn."""
        self._runtime.at_turn_end(call)

    def stream_closing(self, stream: Stream) -> None:
        """A stream is closed here, and has something yet to send: not for ever."""
        if self.session is not None:
            self._closing.add(stream, self.session)

    def stream_closed(self, stream: Stream, *, draining: bool) -> None:
        """A stream is over on the wire; its id is free of state from now on."""
        self._closing.discard(stream)
        if self.streams.pop(stream.stream_id, None) is None:
            return
        if (stream.stream_id & 1 == 1) != self._client:
            self._peer_streams -= 1
        if draining:
            self.undelivered[stream.stream_id] = stream
            if len(self.undelivered) > self._limits.max_streams:
                # Bounded like live streams, but apart from them: a stalled reader must not
                # keep its memory and its place for ever.
                # Out of here at once: it lets go at the end of the turn only, and until then
                # every further one would find the same oldest.
                oldest = next(iter(self.undelivered))
                self.undelivered.pop(oldest).abortConnection()
