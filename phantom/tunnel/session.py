"""Session: what outlives links.

It numbers what the multiplexer sends, keeps it until the peer has it, and hands received
frames up once and in order.  At any time it is carried by at most one link (later: one a
lane); `attach` gives it one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from phantom.core.session import BlockPool, LinkCursor, ReceiveLog, SendLog
from phantom.core.wire import (
    Attach,
    AttachStatus,
    FrameType,
    decode_ack,
    encode_ack,
    is_sequenced,
    pack_frame,
)
from phantom.errors import RemoteProtocolError, SessionError
from phantom.runtime import Runtime
from phantom.telemetry import make_logger
from phantom.tunnel.frame import FrameProtocol

log = make_logger()

#: Acknowledge after this many received bytes: measured at no cost beside less frequent
#: ones, and it keeps the peer's log within a few blocks (doc/adr/0003).
ACK_BYTES = 256 * 1024
#: ... or after this many seconds: long enough that a ping-pong is not doubled in records,
#: short enough that the peer's memory is not held for an idle stream.
ACK_DELAY = 0.02
#: ... or after this many frames, so that a peer with tiny frames never meets its frame cap.
ACK_FRAMES = 4096
#: Seconds without any acknowledgement of sent frames after which a link that is silent counts
#: as dead ...
STALL_TIMEOUT = 30.0
#: ... and one on which the peer is heard: at 600 bytes a second a whole record takes as long.
STALL_LIMIT = 4 * STALL_TIMEOUT
#: Records written in one go before the reactor gets its turn: an unbounded loop would never
#: read the acknowledgements that free its memory.
RECORDS_A_TURN = 8


class FrameSource(Protocol):
    """Who produces a session's frames and takes the peer's: the multiplexer."""

    def session_made(self, session: Session) -> None:
        """The session is there; frames may be sent, and are kept until a link comes."""

    def produce(self, send_log: SendLog) -> None:
        """Append about one record of the streams' waiting data to the log."""

    def frame_received(self, kind: int, stream_id: int, payload: memoryview) -> None:
        """Take one new sequenced frame.

        Raises:
            RemoteProtocolError: It breaks a rule.
        """

    def session_lost(self, reason: Failure) -> None:
        """The session is over, for good."""


class Session:
    """A session on either side.

    Args:
        runtime: Clock.
        session_id: 16 bytes.
        source: The multiplexer.
        pool: Blocks for the log, shared by the process.
        on_end: Called once with the session when it is over.

    Attributes:
        session_id: 16 bytes, chosen by the client.
        epoch: Of the link it has or had last; 0 before the first.
        peer_key: The peer's static key, None before the first link.
        link: The link that carries it now, if any.
    """

    def __init__(
        self,
        runtime: Runtime,
        session_id: bytes,
        source: FrameSource,
        pool: BlockPool,
        on_end: Callable[[Session, Failure], None],
    ) -> None:
        self._runtime = runtime
        self.session_id = session_id
        self.epoch = 0
        self.peer_key: bytes | None = None
        self.link: FrameProtocol | None = None
        self.ended = False
        self._source = source
        self._on_end = on_end
        self._log = SendLog(pool)
        self._received = ReceiveLog()
        self._cursor: LinkCursor | None = None
        self._flush_due = False
        self._unacked_bytes = 0
        self._acked = 0
        self._ack_timer: IDelayedCall | None = None
        self._stall_timer: IDelayedCall | None = None
        self._stall_mark = 0
        self._stall_since = 0.0
        self._stall_received = 0
        source.session_made(self)

    # -- links ------------------------------------------------------------------------

    def begin(self, link: FrameProtocol) -> None:
        """Client: carry this new session by its first link.

        Nothing was sent before, so frames may follow the ATTACH without waiting for the
        server's.
        """
        self.epoch = 1
        self.peer_key = link.peer_key
        self.link = link
        link.receiver = self
        link.send_record(pack_frame(FrameType.ATTACH, 0, self._attach_payload(AttachStatus.OK)))
        self._flush()

    def attach(self, link: FrameProtocol, attach: Attach) -> None:
        """Server: carry this session by `link`, whose ATTACH has been received.

        Raises:
            RemoteProtocolError: The numbers do not fit what this side knows.
        """
        cursor = self._received.begin(attach.next_sequence)
        self._log.rewind(attach.received)
        self._cursor = cursor  # not before: the present link goes on when this one is refused
        self.epoch = attach.epoch
        self.peer_key = link.peer_key
        self.link = link
        link.receiver = self
        link.send_record(pack_frame(FrameType.ATTACH, 0, self._attach_payload(AttachStatus.OK)))
        self._flush()

    def _attach_payload(self, status: AttachStatus) -> bytes:
        return Attach(
            session_id=self.session_id,
            epoch=self.epoch,
            lane=0,
            status=status,
            next_sequence=self._log.sent,
            received=self._received.received,
        ).encode()

    # -- from the link (FrameReceiver) --------------------------------------------------

    def link_made(self, link: FrameProtocol) -> None:
        """Unused: a session is given links that are up."""

    def frame_received(
        self, link: FrameProtocol, kind: int, stream_id: int, payload: memoryview
    ) -> None:
        """Take a frame of the present link; anything of a superseded one is dropped."""
        if link is not self.link:
            return
        if self._cursor is None:
            # Client, new session: the server's ATTACH opens its direction.
            self._server_attached(kind, payload)
            return
        if is_sequenced(kind):
            if self._cursor.accept():
                self._unacked_bytes += len(payload)
                self._source.frame_received(kind, stream_id, payload)
        elif kind == FrameType.ACK:
            self._log.acknowledge(decode_ack(payload))
        else:
            raise RemoteProtocolError("an ATTACH in the middle of a link")

    def _server_attached(self, kind: int, payload: memoryview) -> None:
        if kind != FrameType.ATTACH:
            raise RemoteProtocolError("a link that does not begin with ATTACH")
        answer = Attach.decode(payload)
        if answer.status != AttachStatus.OK:
            reason = _REFUSALS.get(answer.status, "the server refused the session")
            self.end(Failure(SessionError(reason)))
            return
        if answer.session_id != self.session_id or answer.epoch != self.epoch:
            raise RemoteProtocolError("an ATTACH for another session")
        self._cursor = self._received.begin(answer.next_sequence)
        self._log.acknowledge(answer.received)

    def record_done(self, link: FrameProtocol) -> None:
        """Acknowledge when enough has come in, and send what the record set free."""
        if link is not self.link or self.ended:
            return
        due = self._received.received - self._acked
        if due:
            if self._unacked_bytes >= ACK_BYTES or due >= ACK_FRAMES:
                self._send_ack()
            elif self._ack_timer is None:
                self._ack_timer = self._runtime.call_later(ACK_DELAY, self._ack_due)
        if self._log.has_unsent:
            self.wake()

    def link_ready(self, link: FrameProtocol) -> None:
        """Send on: the link has drained."""
        if link is self.link:
            self._flush()

    def protocol_failed(self, link: FrameProtocol, error: RemoteProtocolError) -> None:
        """End the session: its peer breaks the rules, and a new link would not help."""
        log.warn("session ended: the peer broke the protocol: {error}", error=str(error))
        if link is self.link:
            self.end(Failure(error))
        else:
            link.abort()

    def link_lost(self, link: FrameProtocol, reason: Failure) -> None:
        """The link died.  Until sessions resume, so does the session."""
        if link is self.link:
            self.link = None
            self.end(Failure(SessionError("the link was lost")))

    # -- for the multiplexer --------------------------------------------------------------

    def send(self, kind: int, stream_id: int, payload: bytes = b"") -> None:
        """Queue one sequenced frame, now, in front of the streams' waiting data."""
        if not self.ended:
            self._log.append(kind, stream_id, payload)
            self.wake()

    def wake(self) -> None:
        """Send what waits, at the end of this turn of the reactor."""
        if not self._flush_due:
            self._flush_due = True
            self._runtime.at_turn_end(self._turn_end)

    @property
    def has_room(self) -> bool:
        """Whether the log takes more data."""
        return self._log.has_room

    @property
    def next_sequence(self) -> int:
        """The number of the next frame."""
        return self._log.next_sequence

    @property
    def acknowledged(self) -> int:
        """The number of the first frame the peer does not have yet."""
        return self._log.acknowledged

    @property
    def idle(self) -> bool:
        """Whether everything sent has arrived."""
        return self._log.acknowledged == self._log.next_sequence

    def _turn_end(self) -> None:
        self._flush_due = False
        self._flush()

    def _flush(self) -> None:
        link = self.link
        send_log = self._log
        records = 0
        while link is not None and not link.congested and not self.ended:
            if records == RECORDS_A_TURN:
                self.wake()
                break
            if send_log.has_room:
                self._source.produce(send_log)
                link = self.link  # producing calls streams, and they may end anything
                if link is None:
                    break
            record = send_log.take()
            if record is None:
                break
            link.send_record(record)
            records += 1
        if self.ended:
            return
        if send_log.overflowing:
            self.end(Failure(SessionError("the peer acknowledges nothing")))
        elif records and self._stall_timer is None:
            self._watch_stall()

    # -- acknowledgement and stall --------------------------------------------------------

    def _ack_due(self) -> None:
        self._ack_timer = None
        if self._received.received != self._acked:
            self._send_ack()

    def _send_ack(self) -> None:
        if self._ack_timer is not None:
            self._ack_timer.cancel()
            self._ack_timer = None
        self._acked = self._received.received
        self._unacked_bytes = 0
        if self.link is not None:
            self.link.send_record(pack_frame(FrameType.ACK, 0, encode_ack(self._acked)))

    def _watch_stall(self) -> None:
        self._stall_mark = self._log.acknowledged
        self._stall_since = self._runtime.clock.seconds()
        self._stall_received = self.link.received if self.link is not None else 0
        self._stall_timer = self._runtime.call_later(STALL_TIMEOUT, self._stall_due)

    def _stall_due(self) -> None:
        self._stall_timer = None
        if not self._log.unacknowledged:
            return
        if self._log.acknowledged != self._stall_mark:
            self._watch_stall()
        elif self.link is not None:
            waited = self._runtime.clock.seconds() - self._stall_since
            received, before = self.link.received, self._stall_received
            if received != before and waited < STALL_LIMIT:
                self._stall_received = received
                self._stall_timer = self._runtime.call_later(STALL_TIMEOUT, self._stall_due)
                return
            log.info("link dead: nothing acknowledged for {seconds:.0f} s", seconds=waited)
            self.link.abort()

    # -- the end ------------------------------------------------------------------------

    def end(self, reason: Failure) -> None:
        """End the session and everything in it.  Ending twice is harmless."""
        if self.ended:
            return
        self.ended = True
        for timer in (self._ack_timer, self._stall_timer):
            if timer is not None:
                timer.cancel()
        self._ack_timer = self._stall_timer = None
        link, self.link = self.link, None
        self._source.session_lost(reason)
        self._log.close()
        if link is not None:
            link.receiver = DeadEnd()
            link.lose()
        self._on_end(self, reason)


_REFUSALS: dict[int, str] = {
    AttachStatus.SESSION_LOST: "the server does not know the session any more",
    AttachStatus.LIMIT: "the server takes no more sessions of this client",
    AttachStatus.SHUTTING_DOWN: "the server is shutting down",
}


class DeadEnd:
    """A `FrameReceiver` for links whose session is over: takes nothing, minds nothing."""

    def link_made(self, link: FrameProtocol) -> None:
        """Ignore."""

    def frame_received(self, link: Any, kind: int, stream_id: int, payload: memoryview) -> None:
        """Ignore."""

    def record_done(self, link: FrameProtocol) -> None:
        """Ignore."""

    def link_ready(self, link: FrameProtocol) -> None:
        """Ignore."""

    def protocol_failed(self, link: FrameProtocol, error: RemoteProtocolError) -> None:
        """Drop the link."""
        link.abort()

    def link_lost(self, link: FrameProtocol, reason: Failure) -> None:
        """Ignore."""
