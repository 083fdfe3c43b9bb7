"""Lane: those of a session's streams that leave by one link, and who of them is next.

A session has the main lane, on which everything begins, and while bulk needs it the bulk lane
(`phantom.tunnel.lanes`).  Each has a `phantom.tunnel.session.Session` of its own below it: numbers,
a log, acknowledgements, and links that come and go.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.python.failure import Failure

from phantom.core.scheduler import SMALL, Scheduler
from phantom.core.session import FULL_PAYLOAD, SendLog
from phantom.core.wire import FrameType
from phantom.errors import RemoteProtocolError
from phantom.tunnel.stream_sending import SendingStream

if TYPE_CHECKING:
    from phantom.tunnel.mux import MultiplexerProtocol
    from phantom.tunnel.session import Session

#: The part of a batch that a stream puts into the log at a time when several wait: four records
#: towards a peer that is near, two otherwise.  With one or two towards a near one 16 streams cost
#: more CPU time (doc/adr/0020-the-fast-path.md), with more a late stream waits longer.
SHARED_PART = 2
#: What may come by the bulk lane besides DATA: the end of what a stream says, and credit for what
#: came by it.  A stream's other frames need no order among these, and come by the main lane.
BY_BULK_LANE = frozenset({FrameType.HALF_CLOSE, FrameType.STREAM_CLOSE, FrameType.WINDOW_UPDATE})
#: What may not: the rest of what has a meaning, or may get one that cannot be skipped.
ELSEWHERE = (frozenset(range(0x40)) | frozenset(FrameType)) - BY_BULK_LANE
#: Streams after which those that are over are forgotten.
USED_LOOK = 64


class Lane:
    """What sends by one link.

    Attributes:
        session: What carries the streams, None before and after.
        typed: Whether a stream that brings little has brought something; whoever looks sets it
            back.
    """

    def __init__(self) -> None:
        self.session: Session | None = None
        self.typed = False
        self._scheduler: Scheduler[SendingStream] = Scheduler()

    def activate(self, stream: SendingStream) -> None:
        """Queue a stream that has something to send."""
        stream.queued = True
        if 0 < stream.waiting <= SMALL and not stream.watched:
            self.typed = True
        self._scheduler.add(stream, stream.waiting or stream.last_read, stream.sent)
        session = self.session
        if session is not None and not session.flush_due:
            session.wake()

    def produce(self, send_log: SendLog) -> None:
        """Append about one batch of what the streams want to send."""
        scheduler = self._scheduler
        while scheduler.waiting and send_log.unsent < send_log.batch and send_log.has_room:
            stream = scheduler.take()
            stream.queued = False
            # What lies in the log is not overtaken, so of a slow link's batch less likewise.
            batch = send_log.batch
            if scheduler.waiting and batch > FULL_PAYLOAD:
                batch //= SHARED_PART
            stream.emit(send_log, batch)
            if not stream.queued and stream.ready:
                self.activate(stream)

    def remove(self, stream: SendingStream) -> None:
        """Let a stream wait no more."""
        if stream.queued:
            stream.queued = False
            self._scheduler.remove(stream)

    def clear(self) -> None:
        """Forget every stream."""
        self.session = None
        self._scheduler.clear()


class Between(Lane):
    """Where a stream is that has left one lane, until what it sent there has arrived."""

    def activate(self, stream: SendingStream) -> None:
        """Let it wait: it is looked after when it gets to the other lane."""


class BulkLane(Lane):
    """The lane for bulk, and what its session gets its frames from.

    Args:
        mux: Whose streams they are.

    Attributes:
        open: Whether the peer has it as well.
    """

    def __init__(self, mux: MultiplexerProtocol) -> None:
        super().__init__()
        self._mux = mux
        self.open = False
        # Streams that send by this lane, and such whose data comes by it; some are over by now.
        self._leaving: set[int] = set()
        self._coming: set[int] = set()
        self._look_at = USED_LOOK

    def use(self, stream: SendingStream) -> None:
        """Let a stream send by this lane."""
        stream.lane = self
        self._leaving &= self._mux.streams.keys()
        self._leaving.add(stream.stream_id)

    def brings(self, stream_id: int) -> bool:
        """Whether data of a stream comes by this lane."""
        return stream_id in self._coming

    def senders(self) -> list[SendingStream]:
        """Return the live streams that send by this lane."""
        streams = self._mux.streams
        return [streams[stream_id] for stream_id in self._leaving if stream_id in streams]

    def left(self) -> None:
        """Note that no stream sends by it any more, and that nothing comes."""
        self._leaving.clear()
        self._coming.clear()

    def _comes(self, stream_id: int) -> None:
        self._coming.add(stream_id)
        if len(self._coming) > self._look_at:
            self._coming &= self._mux.streams.keys()
            self._look_at = 2 * len(self._coming) + USED_LOOK

    # -- from its session (FrameSource) ----------------------------------------------------

    def session_made(self, session: Session) -> None:
        """Start on a session."""
        self.session = session

    def frame_received(self, kind: int, stream_id: int, payload: memoryview) -> None:
        """Take a frame that is not DATA.

        Raises:
            RemoteProtocolError: It breaks a rule; the session must end.
        """
        if kind in ELSEWHERE:
            raise RemoteProtocolError("a frame that does not belong on the bulk lane")
        self._mux.frame_received(kind, stream_id, payload)

    def data_received(self, frames: list[tuple[int, memoryview]]) -> None:
        """Take DATA frames.

        Raises:
            RemoteProtocolError: One breaks a rule; the session must end.
        """
        coming = self._coming
        for stream_id, _payload in frames:
            if stream_id not in coming:
                self._comes(stream_id)
        self._mux.data_received(frames)

    def frames_done(self) -> None:
        """Let streams deliver what came."""
        self._mux.frames_done()

    def session_lost(self, reason: Failure) -> None:
        """Nothing comes or leaves by this lane any more."""
        self.clear()
        self._mux.lanes.bulk_lost(reason)

    @property
    def expects(self) -> bool:
        """Whether a stream uses it."""
        streams = self._mux.streams
        return any(stream_id in streams for stream_id in self._leaving | self._coming)

    @property
    def finished(self) -> bool:
        """Never: without streams and without a link it waits for the next."""
        return False

    @property
    def held_bytes(self) -> int:
        """None: what waits in streams counts once, for the session itself."""
        return 0
