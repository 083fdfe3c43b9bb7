"""Session: what outlives links.

It numbers what the multiplexer sends, keeps it until the peer has it, and hands received
frames up once and in order.  Links come and go beneath it: when one dies, the next one's
ATTACH says what each side has, and only what is missing is sent again.  At any time it
sends by at most one link.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from phantom.core.blocks import BlockPool
from phantom.core.budget import TokenBucket
from phantom.core.freshness import Freshness
from phantom.core.received import LinkCursor, ReceiveLog
from phantom.core.session import BATCH, FULL_RECORD, SMALL_RECORD, SendLog
from phantom.core.shaping import PACED
from phantom.core.wire import (
    HEADER_SIZE,
    SEQUENCED,
    Attach,
    AttachStatus,
    FrameType,
    decode_ack,
    encode_ack,
    pack_frame,
)
from phantom.errors import RemoteProtocolError, SessionError
from phantom.runtime import Runtime
from phantom.telemetry import make_logger
from phantom.tunnel.acknowledge import ACK_BYTES, LEAN_ACK_BYTES, Acknowledger, StallWatch
from phantom.tunnel.frame import DeadEnd, FrameProtocol

log = make_logger()

#: Acknowledgements a peer may send at once, and a second: at 256 KiB each that is more than
#: 10 GB/s, and ours come no faster than records do.
ACK_BURST = 65_536
ACK_RATE = 40_000.0
#: Seconds that a superseded link is still read, and what it brings dropped.
SUPERSEDED_LINGER = 3.0
#: Seconds that the server may take to answer an ATTACH.  What comes by the link before counts
#: no more from then on, so a link that is up and carries nothing would be a stall.
PROPOSAL_TIMEOUT = 10.0
#: Seconds between two records that leave in small packets: the acknowledgement of a peer that is
#: near is back by then, and makes room in the congestion window.
PACE = 0.001
#: Batches written in one go before the reactor gets its turn: an unbounded loop would never
#: read the acknowledgements that free its memory.
BATCHES_A_TURN = 8
#: Seconds of round trip below which the peer is near: on this machine, or beside it.
NEAR = 0.001
#: Bytes that may be kept unacknowledged towards a peer that is near.  More is no more in flight,
#: it lies in the peer's socket, where nothing overtakes it; less would have us wait for
#: acknowledgements.  Measured on loopback, a ping beside one download at 10 to 11 Gbit/s, p50
#: and p99: 0.9 and 2.8 ms with this, 2.5 and 7.9 without.
NEAR_ROOM = 4 * BATCH
#: And while a small stream finds more than this before it: a ping beside one or four downloads
#: then takes 0.9 and 2.3 ms in place of 1.2 and 3, inside TLS 1.6 and 3.4 in place of 2.3 and 4.1.
#: It costs the downloads a fifth to a quarter of their rate meanwhile.
BESIDE_ROOM = 2 * BATCH
#: Seconds after the last such one.
BESIDE = 1.0
#: Bytes of a record below which an acknowledgement joins it.  Where much comes in, that and a
#: window update are due for every read; each record costs the receiver a tenth of its CPU time.
WITH_ACK = 1024


class FrameSource(Protocol):
    """Who produces a session's frames and takes the peer's: the multiplexer."""

    def session_made(self, session: Session) -> None:
        """The session is there; frames may be sent, and are kept until a link comes."""

    def produce(self, send_log: SendLog) -> None:
        """Append about one batch of the streams' waiting data to the log."""

    def frame_received(self, kind: int, stream_id: int, payload: memoryview) -> None:
        """Take one new sequenced frame.

        Raises:
            RemoteProtocolError: It breaks a rule.
        """

    def frames_done(self) -> None:
        """The payloads of all frames taken so far are about to become invalid."""

    def data_received(self, frames: list[tuple[int, memoryview]]) -> None:
        """Take new DATA frames, stream id and payload of each.

        Raises:
            RemoteProtocolError: One breaks a rule.
        """

    def session_lost(self, reason: Failure) -> None:
        """The session is over, for good."""

    @property
    def expects(self) -> bool:
        """Whether a stream waits for data."""
        ...

    @property
    def finished(self) -> bool:
        """Whether no stream is left and none will come."""
        ...

    @property
    def held_bytes(self) -> int:
        """Bytes that wait in streams, either way."""
        ...


class Session:
    """A session on either side.

    Args:
        runtime: Clock.
        session_id: 16 bytes.
        source: The multiplexer.
        pool: Blocks for the log, shared by the process.
        on_detached: Called when the last link is lost and the session waits for another.
        on_end: Called once with the session when it is over.
        may_tell: Given the peer's key, says whether there may be a line about it in the log.

    Attributes:
        session_id: 16 bytes, chosen by the client.
        epoch: Of the link it has or had last; 0 before the first.
        peer_key: The peer's static key, None before the first link.
        link: The link that carries what is sent now, if any.
        flush_due: Whether what waits is sent at the end of this turn anyway, so that nobody needs
            to call `wake`.
        ended: Whether it is over.
    """

    def __init__(
        self,
        runtime: Runtime,
        session_id: bytes,
        source: FrameSource,
        pool: BlockPool,
        *,
        on_detached: Callable[[Session, Failure], None],
        on_end: Callable[[Session, Failure], None],
        may_tell: Callable[[bytes | None], bool] = lambda _peer: True,
    ) -> None:
        self._runtime = runtime
        self.session_id = session_id
        self.epoch = 0
        self.peer_key: bytes | None = None
        self.link: FrameProtocol | None = None
        self.ended = False
        self._source = source
        self._on_detached = on_detached
        self._on_end = on_end
        self._may_tell = may_tell
        self._log = SendLog(pool)
        self._received = ReceiveLog()
        # The link whose frames count, with its own numbering.
        self._cursors: dict[FrameProtocol, LinkCursor] = {}
        # Client: the link whose ATTACH is not answered yet, and what that ATTACH announced.
        self._proposed: FrameProtocol | None = None
        self._announced = 0
        self._on_attached: Callable[[int], None] | None = None
        self._proposal_timer: IDelayedCall | None = None
        # The link before the present one, which is read on for a moment.
        self._superseded: FrameProtocol | None = None
        self.flush_due = False
        self._flushing = False
        self._pace: IDelayedCall | None = None
        self._near = False
        self._beside: float | None = None
        self._ack: int | None = None  # to be told with what leaves at the end of this turn
        self._finishing = False
        self._acks = TokenBucket(ACK_RATE, ACK_BURST)
        self._acknowledger = Acknowledger(runtime, self._received, self._send_ack)
        self._stall = StallWatch(runtime, self._log, lambda: self.link)
        self._fresh = Freshness(runtime.clock.seconds())
        source.session_made(self)

    # -- links ------------------------------------------------------------------------

    def begin(
        self, link: FrameProtocol, on_attached: Callable[[int], None] = lambda again: None
    ) -> None:
        """Client: carry this new session by its first link.

        Nothing was sent before, so frames may follow the ATTACH without waiting for the
        server's.

        Args:
            link: Up, and not used before.
            on_attached: As for `resume`; with 0.
        """
        self._propose(link)
        self._on_attached = on_attached
        self.link = link
        self._trust_anew()
        self._flush()

    def resume(self, link: FrameProtocol, on_attached: Callable[[int], None]) -> None:
        """Client: go on by a new link, beside the present one or in place of a lost one.

        Until the server has answered, frames go out by the present link, if there is one;
        what still comes in by it does not count any more.

        Args:
            link: Up, and not used before.
            on_attached: Called with the bytes that are sent again, once the link has taken
                over; not called when it is lost or refused.
        """
        self._propose(link)
        self._on_attached = on_attached

    def _propose(self, link: FrameProtocol) -> None:
        if self._proposed is not None:
            self._proposed.receiver = DeadEnd()  # one at a time: the newest counts
            self._proposed.abort()
        self._stop_proposal_timer()
        self._proposal_timer = self._runtime.call_later(PROPOSAL_TIMEOUT, self._proposal_due)
        self.epoch += 1
        self.peer_key = link.peer_key
        self._proposed = link
        # From here on nothing sequenced counts on the links before: the server numbers what
        # we lack anew, from exactly what we announce.
        self._announced = self._received.received
        self._cursors.clear()
        link.receiver = self
        self._send_attach(link, self._log.acknowledged)

    def _proposal_due(self) -> None:
        self._proposal_timer = None
        if self._proposed is not None:
            self._proposed.fail("no answer to an ATTACH")

    def _stop_proposal_timer(self) -> None:
        timer, self._proposal_timer = self._proposal_timer, None
        if timer is not None:
            timer.cancel()

    def attach(self, link: FrameProtocol, attach: Attach) -> int:
        """Server: carry this session by `link`, whose ATTACH has been received.

        Returns:
            The bytes that are sent again.

        Raises:
            RemoteProtocolError: The numbers do not fit what this side knows.
        """
        announced = self._received.received
        cursor = self._received.begin(announced, attach.next_sequence)
        again = self._log.rewind(attach.received)
        self.epoch = attach.epoch
        self.peer_key = link.peer_key
        link.receiver = self
        self._announced = announced
        self._send_attach(link, attach.received)
        self._take_over(link, cursor)
        return again

    def _send_attach(self, link: FrameProtocol, next_sequence: int) -> None:
        attach = Attach(
            session_id=self.session_id,
            epoch=self.epoch,
            lane=0,
            status=AttachStatus.OK,
            next_sequence=next_sequence,
            received=self._announced,
        )
        link.send_record(pack_frame(FrameType.ATTACH, 0, attach.encode()))

    def _take_over(self, link: FrameProtocol, cursor: LinkCursor) -> None:
        """Send by `link` from now on, and leave its predecessor."""
        old, self.link = self.link, link
        self._cursors = {link: cursor}
        self._trust_anew()
        self._acknowledger.announced(self._announced)
        if old is not None and old is not link:
            # Read on for a moment: closing over unread data would send a reset.  One at a time,
            # or a peer that resumes all the time has us keep all those links.
            old.receiver = DeadEnd()
            if self._superseded is not None:
                self._superseded.abort()
            self._superseded = old
            self._runtime.call_later(SUPERSEDED_LINGER, self._leave, old)
        self._flush()

    def _leave(self, link: FrameProtocol) -> None:
        if self._superseded is link:
            self._superseded = None
        link.lose()

    def _trust_anew(self) -> None:
        """A new link has yet to show that more than a few kilobytes pass, and quickly."""
        self._stop_pace()
        self._ack = None  # ATTACH tells the same
        lean = self.link is not None and self.link.lean
        self._fresh = Freshness(self._runtime.clock.seconds(), lean=lean)
        self._acknowledger.every = LEAN_ACK_BYTES if lean else ACK_BYTES
        self._set_limits()

    def _set_limits(self) -> None:
        self._log.room = self._fresh.room
        self._near = False
        self._beside = None
        if self._fresh.trusted and self.link is not None:
            least = self.link.least_round_trip
            if least is not None and least < NEAR:
                self._log.room = NEAR_ROOM
                self._near = True

    def _acknowledged(self, received: int) -> None:
        send_log, fresh = self._log, self._fresh
        before = send_log.in_flight
        was_full = not send_log.has_room or before >= fresh.flight
        send_log.acknowledge(received)
        if not fresh.trusted:
            now = self._runtime.clock.seconds()
            fresh.acknowledged(received, now, before - send_log.in_flight)
            self._set_limits()
        if self._beside is not None and self._runtime.clock.seconds() - self._beside > BESIDE:
            self._set_limits()
        if was_full and send_log.has_room:
            self.wake()  # all may have been sent, while the streams hold more

    # -- from the link (FrameReceiver) --------------------------------------------------

    @property
    def expects(self) -> bool:
        """Whether a stream is open, or something sent is not acknowledged."""
        return self._source.expects or not self.idle

    def link_made(self, link: FrameProtocol) -> None:
        """Unused: a session is given links that are up."""

    def frame_received(
        self, link: FrameProtocol, kind: int, stream_id: int, payload: memoryview
    ) -> None:
        """Take a frame of the link that counts; what others bring is dropped."""
        cursor = self._cursors.get(link)
        if cursor is None:
            if link is self._proposed:
                self._answered(link, kind, payload)
        elif kind in SEQUENCED:  # nearly every frame
            if cursor.accept():
                self._acknowledger.bytes += len(payload)
                if kind == FrameType.DATA:
                    self._source.data_received([(stream_id, payload)])
                else:
                    self._source.frame_received(kind, stream_id, payload)
        elif kind == FrameType.ACK:
            if not self._acks.spend(self._runtime.clock.seconds()):
                raise RemoteProtocolError("a flood of acknowledgements")
            self._acknowledged(decode_ack(payload))
        else:
            raise RemoteProtocolError("an ATTACH in the middle of a link")

    def data_received(self, link: FrameProtocol, frames: list[tuple[int, memoryview]]) -> None:
        """Take DATA frames in a row."""
        cursor = self._cursors.get(link)
        if cursor is None:
            if link is self._proposed:
                self._answered(link, FrameType.DATA, frames[0][1])
            return
        old = cursor.accept_row(len(frames))
        if old:
            del frames[:old]
        for _, payload in frames:
            self._acknowledger.bytes += len(payload)
        self._source.data_received(frames)

    def _answered(self, link: FrameProtocol, kind: int, payload: memoryview) -> None:
        """Client: the server's ATTACH opens its direction."""
        if kind != FrameType.ATTACH:
            raise RemoteProtocolError("a link that does not begin with ATTACH")
        answer = Attach.decode(payload)
        if answer.status != AttachStatus.OK:
            reason = _REFUSALS.get(answer.status, "the server refused the session")
            self.end(Failure(SessionError(reason)))
            return
        if answer.session_id != self.session_id or answer.epoch != self.epoch:
            raise RemoteProtocolError("an ATTACH for another session")
        cursor = self._received.begin(self._announced, answer.next_sequence)
        self._proposed = None
        self._stop_proposal_timer()
        if link is self.link:
            # The first link: frames were sent without waiting, and all of them count.
            self._cursors[link] = cursor
            self._log.acknowledge(answer.received)
            again = 0
        else:
            again = self._log.rewind(answer.received)
            self._take_over(link, cursor)
        on_attached, self._on_attached = self._on_attached, None
        if on_attached is not None:
            on_attached(again)

    def records_done(self, link: FrameProtocol) -> None:
        """Acknowledge when enough has come in, and send what the records set free."""
        self._source.frames_done()
        if self.ended:
            return
        self._acknowledger.records_done()
        if self._log.has_unsent:
            self.wake()

    def link_ready(self, link: FrameProtocol) -> None:
        """Send on: the link has drained."""
        if link is self.link:
            self._flush()

    def protocol_failed(self, link: FrameProtocol, error: RemoteProtocolError) -> None:
        """End the session: its peer breaks the rules, and a new link would not help."""
        write = log.warn if self._may_tell(self.peer_key) else log.debug
        write("session ended: the peer broke the protocol: {error}", error=str(error))
        self.end(Failure(error))
        link.abort()

    def link_lost(self, link: FrameProtocol, reason: Failure) -> None:
        """A link died.  Without another the session waits for one."""
        self._cursors.pop(link, None)
        if link is self._proposed:
            self._proposed = self._on_attached = None
            self._stop_proposal_timer()
            if self.link is not None and self.link is not link:
                # What it brought since was dropped.
                self.link.fail("its successor was lost", silent=False)
                return
        if link is self.link:
            self.link = None
            self._detached(reason)
        elif self.link is None:
            self._detached(reason)

    def _detached(self, reason: Failure) -> None:
        """Hold still until a new link comes; whoever made the session bounds how long."""
        self._acknowledger.stop()
        self._stall.stop()
        self._stop_pace()
        if self.ended:
            return
        if self._source.finished:
            self.end(reason)  # the peer has closed what there was nothing left in
        else:
            self._on_detached(self, reason)

    # -- for the multiplexer --------------------------------------------------------------

    def send(self, kind: int, stream_id: int, payload: bytes = b"") -> None:
        """Queue one sequenced frame, now, in front of the streams' waiting data."""
        if not self.ended:
            self._log.append_parts(kind, stream_id, (payload,), len(payload))
            if not self.flush_due:
                self.wake()

    def open_log(self, *, small: bool = False) -> SendLog | None:
        """Return the log if data may be put into it now, as it would be sent at once.

        Args:
            small: Whether it is little.  Then a batch that is full is sent first: having to wait
                for its turn costs a source more than its bytes do.
        """
        send_log = self._log
        if small and send_log.unsent >= send_log.batch and not self._flushing:
            self._flush()
        link = self.link
        if link is None or link.congested or send_log.unsent >= send_log.batch or self.ended:
            return None
        return send_log if send_log.has_room else None

    def make_way(self) -> None:
        """Keep less under way for a while, if much is: a keystroke comes after it."""
        if self._near and self._log.size >= BESIDE_ROOM:
            self._log.room = BESIDE_ROOM
            self._beside = self._runtime.clock.seconds()

    def flush(self) -> None:
        """Send what waits now: there is enough of it."""
        if not self._flushing:
            self._flush()

    def wake(self) -> None:
        """Send what waits, at the end of this turn of the reactor."""
        if not self.flush_due:
            self.flush_due = True
            self._runtime.at_turn_end(self._turn_end)

    @property
    def progress(self) -> int:
        """A number that grows with every frame that arrives on either side."""
        return self._log.acknowledged + self._received.received

    @property
    def held_bytes(self) -> int:
        """Memory kept for sending and resending, in bytes."""
        return self._log.memory + self._source.held_bytes

    @property
    def next_sequence(self) -> int:
        """The number of the next frame."""
        return self._log.next_sequence

    @property
    def acknowledged(self) -> int:
        """The number of the first frame the peer does not have yet."""
        return self._log.acknowledged

    @property
    def least_round_trip(self) -> float | None:
        """The least round trip that its link has seen, in seconds; None when unknown."""
        return self.link.least_round_trip if self.link is not None else None

    @property
    def idle(self) -> bool:
        """Whether everything sent has arrived."""
        return self._log.acknowledged == self._log.next_sequence

    def _turn_end(self) -> None:
        self.flush_due = False
        self._flush()

    def _flush(self) -> None:
        self._flushing = True
        sent = self._send_records()
        self._flushing = False
        if self.ended:
            return
        if self._ack is not None and self.link is not None:
            self.link.send_record(self._take_ack())
        if self._log.overflowing:
            self.end(Failure(SessionError("the peer acknowledges nothing")))
        elif sent:
            self._stall.sent()

    def _send_records(self) -> int:
        """Write batches until the link is full, nothing waits, or the turn's share is done."""
        link = self.link
        send_log = self._log
        batches = 0
        limit = SMALL_RECORD
        if self._pace is not None:
            return 0
        if link is not None:
            limit = self._limit_records(link)
        while link is not None and not link.congested and not self.ended:
            if batches == BATCHES_A_TURN:
                self.wake()
                break
            if send_log.in_flight >= self._fresh.flight:
                break  # an acknowledgement wakes us
            if send_log.has_room:
                self._source.produce(send_log)
                link = self.link  # producing calls streams, and they may end anything
                if link is None:
                    break
            records = send_log.take_batch(limit)
            if not records:
                break
            if self._ack is not None:
                records = self._with_ack(link, records)
            if not self._fresh.trusted:
                size = sum(map(len, records))
                self._fresh.sent(size, send_log.sent, self._runtime.clock.seconds())
            link.send_records(records)
            batches += 1
            if link.crowded and not self._finishing:
                self._pace = self._runtime.call_later(PACE, self._pace_due)
                break
        return batches

    def _pace_due(self) -> None:
        self._pace = None
        self._flush()

    def _stop_pace(self) -> None:
        pace, self._pace = self._pace, None
        if pace is not None:
            pace.cancel()

    def _limit_records(self, link: FrameProtocol) -> int:
        """Cut frames and records to what the link can do now; return the records' size."""
        send_log = self._log
        limit = min(self._fresh.record_limit, link.record_limit, FULL_RECORD)
        if link.paced:
            limit = min(limit, PACED)
        send_log.frame_limit = limit - HEADER_SIZE
        send_log.batch = BATCH if limit == FULL_RECORD else limit
        return limit

    def _send_ack(self, received: int) -> None:
        """Tell what has come in: with what is about to leave, if there is something."""
        self._ack = received
        if self.link is None:
            self._ack = None
        elif not (self.flush_due and self._log.has_unsent):
            self.link.send_record(self._take_ack())

    def _with_ack(self, link: FrameProtocol, records: list[memoryview]) -> list[memoryview]:
        """Return the records with the acknowledgement in them, or send it in front of them."""
        ack = self._take_ack()
        first = records[0]
        # What people say may be held back by timing obfuscation; a window update is not.
        if len(records) == 1 and first[0] == FrameType.WINDOW_UPDATE and len(first) < WITH_ACK:
            return [memoryview(b"".join((first, ack)))]
        link.send_record(ack)
        return records

    def _take_ack(self) -> bytes:
        received, self._ack = self._ack, None
        assert received is not None
        return pack_frame(FrameType.ACK, 0, encode_ack(received))

    # -- the end ------------------------------------------------------------------------

    def finish(self, reason: Failure) -> None:
        """Send what the link takes now, a GOAWAY for one, then end the session."""
        if self._flushing:
            self._runtime.at_turn_end(lambda: self.finish(reason))
            return
        self._finishing = True
        self._stop_pace()
        self._flush()
        self.end(reason)

    def end(self, reason: Failure) -> None:
        """End the session and everything in it.  Ending twice is harmless."""
        if self.ended:
            return
        self.ended = True
        self._stop_pace()
        self._acknowledger.stop()
        self._stall.stop()
        links = [*self._cursors]
        links += [x for x in (self.link, self._proposed) if x is not None and x not in links]
        self.link = self._proposed = self._on_attached = self._superseded = None
        self._cursors.clear()
        self._source.session_lost(reason)
        self._log.close()
        for link in links:
            link.receiver = DeadEnd()
            link.lose()
        self._on_end(self, reason)


_REFUSALS: dict[int, str] = {
    AttachStatus.SESSION_LOST: "the server does not know the session any more",
    AttachStatus.LIMIT: "the server takes no more sessions of this client",
    AttachStatus.SHUTTING_DOWN: "the server is shutting down",
}
