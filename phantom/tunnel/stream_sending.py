"""What a stream sends: what is written to it, or what a socket brings that it reads itself."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

from phantom.core.scheduler import SMALL
from phantom.core.session import FULL_PAYLOAD, SendLog
from phantom.core.stream import SENDING, TRANSITIONS, Event, State
from phantom.core.window import add_credit
from phantom.core.wire import FrameType
from phantom.fast.sockets import QuickConnection
from phantom.tunnel.stream_base import DONE, StreamBase

#: Unsent bytes above which the local producer is paused, and at half of which it is resumed:
#: two of Twisted's 64 KiB reads, so that a bulk stream always has a record's worth waiting,
#: and no more.  A crowd of streams has less each (`MultiplexerProtocol.high_water`).
HIGH_WATER = 128 * 1024
#: Bytes from which on a source brings much (`MultiplexerProtocol.much_comes`): most connections
#: never bring so many, and it takes calls of the system.
BULK = 256 * 1024

_UNDECIDED = frozenset({State.OPENING, State.OPENING_HALF})
_CLOSABLE = frozenset(state for state in State if (state, Event.SEND_CLOSE) in TRANSITIONS)


class SendingStream(StreamBase):
    """The direction to the peer: an IConsumer for the local protocol."""

    __slots__ = ()

    def write(self, data: bytes | memoryview) -> None:
        """Queue bytes; they are sent at the end of the reactor's turn, as credit allows."""
        if not data or self._finish is not None or self.state is State.CLOSED:
            return
        if self._outbox is None:
            self._outbox = deque()
        self._outbox.append(data)
        self.waiting += len(data)
        self.activate()
        if self.waiting > self._mux.high_water and self._streaming and not self._producer_paused:
            self._producer_paused = True
            self._producer.pauseProducing()

    def writeSequence(self, data: Iterable[bytes | memoryview]) -> None:
        """Queue several pieces."""
        for piece in data:
            self.write(piece)

    def loseWriteConnection(self) -> None:
        """Half-close once everything written is sent; go on receiving."""
        if self._finish is None and self.state is not State.CLOSED:
            self._finish = FrameType.HALF_CLOSE
            self._finish_soon()

    # -- IConsumer -----------------------------------------------------------------------

    def registerProducer(self, producer: Any, streaming: object) -> None:
        """Let this stream pause and resume `producer`."""
        if self._producer is not None:
            raise RuntimeError("a producer is registered already")
        if self.state is State.CLOSED:
            producer.stopProducing()
            return
        self._producer = producer
        self._streaming = bool(streaming)  # Twisted's own code passes 0 and 1
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
        session = self.lane.session
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
            self.activate()
            return None
        limit = self._read_limit(send_log.batch)
        size = self._read(connection, send_log, limit)
        if not size:
            return connection.read_end
        if size >= send_log.frame_limit // 2:
            session.flush()
        elif not session.flush_due:
            session.wake()
        if connection.gatherer is not None and size < limit:  # otherwise there is more already
            connection.gatherer.read(size)
        return None

    def _read_limit(self, limit: int) -> int:
        """Return how much to read: one frame only if there was little last time."""
        if self.last_read < FULL_PAYLOAD // 2:
            return min(self.credit, limit, FULL_PAYLOAD)
        if limit > self.credit:  # whole records, if it can be one
            return self.credit // FULL_PAYLOAD * FULL_PAYLOAD or self.credit
        return limit

    def _read(self, connection: QuickConnection, send_log: SendLog, limit: int) -> int:
        """Read once, at most `limit` bytes."""
        room = send_log.reserve(limit)
        size = connection.read_into(room)
        send_log.commit(self.stream_id, room, size)
        self.credit -= size
        self.sent += size
        if size <= SMALL and 0 < self.last_read <= SMALL and not self.watched:
            self.lane.typed = True
        # What fills its room is bulk, however small that is on a slow link.
        self.last_read = size if size < limit else max(size, FULL_PAYLOAD // 2)
        if connection.gatherer is None and self.sent > BULK:
            self._mux.much_comes(connection)
        return size

    def _release_source(self) -> None:
        """Let the source's own connection read it again."""
        source, self._source = self._source, None
        if source is not None:
            source.reader = None
            if self._parked:
                self._parked = False
                source.resumeProducing()

    # -- called by the multiplexer ---------------------------------------------------------

    def credit_received(self, grant: int) -> None:
        """Take a WINDOW_UPDATE."""
        self.credit = add_credit(self.credit, grant)
        self.activate()

    def activate(self) -> None:
        """Queue it on its lane, if it has something that may be sent."""
        if not self.queued and self.ready:
            self.lane.activate(self)

    @property
    def ready(self) -> bool:
        """Whether there is something that may be sent now."""
        if (self.waiting or self._parked) and self.state in SENDING:
            return self.credit > 0
        return self._finish is not None and self._may_finish

    def emit(self, send_log: SendLog, limit: int) -> None:
        """Append up to `limit` bytes of data, or the frame that ends our direction."""
        if self.state is State.CLOSED:
            return
        self.waited = True
        if self.sent > BULK and not self.watched:
            self._mux.lanes.watch(self)
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

    # -- inner ---------------------------------------------------------------------------

    @property
    def _may_finish(self) -> bool:
        """Whether the frame that ends our direction may follow what was sent."""
        if self._finish is not FrameType.STREAM_CLOSE:
            return self._finish is not None and self.state in SENDING
        # A half-closed side may still have to say that it closes for good.  But while the
        # reply is outstanding a close gives the connection up, and whoever wrote something
        # and then closed wants it delivered.
        return self.state in _CLOSABLE and not (self.sent and self.state in _UNDECIDED)

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
        session = self.lane.session
        if session is None or self.waiting or self._parked or self.queued or not self._may_finish:
            self.activate()
            return
        send_log = session.open_log()
        if send_log is None:
            self.activate()
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
                self._ended(DONE, later=later)
            elif self._half_closes:
                self._tell(self._protocol.writeConnectionLost)
        elif kind is FrameType.STREAM_CLOSE and self.state is not State.CLOSED:
            send_log.append(FrameType.STREAM_CLOSE, self.stream_id)
            self._advance(Event.SEND_CLOSE)
            self._ended(DONE, later=later)

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
