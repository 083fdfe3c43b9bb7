"""What a session sends: batches of records, as much as its link and its peer take."""

from __future__ import annotations

from collections.abc import Callable

from twisted.python.failure import Failure

from phantom.core.session import (
    BATCH,
    BATCH_RECORDS,
    FULL_PAYLOAD,
    FULL_RECORD,
    HALF_BATCH,
    SMALL_RECORD,
    SendLog,
)
from phantom.core.shaping import PACED
from phantom.core.wire import HEADER_SIZE, FrameType, encode_ack, pack_frame
from phantom.errors import SessionError
from phantom.tunnel.frame import FrameProtocol
from phantom.tunnel.session_base import SessionBase

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
#: acknowledgements (three batches took 0.84 of the CPU time of four of half the size, two 0.98).
NEAR_ROOM = 3 * BATCH
#: And while a small stream finds more than this before it.  Less would have a sender wait for
#: acknowledgements, which come every 256 KiB.  What it gains and costs: doc/adr/0027.
BESIDE_ROOM = 6 * FULL_PAYLOAD
#: Records in a batch then, and in a read: both ends deal with one at a time, and look up.
BESIDE_RECORDS = 1
#: And in a read of what comes from a peer that is far: less would have the link wait a millisecond
#: for more after every read (`phantom.fast.gathering.PLENTY`).
FAR_BESIDE_RECORDS = BATCH_RECORDS // 2
#: Seconds after the last such one.
BESIDE = 1.0
#: Bytes in one read that say that much comes in: half of the least that a bulk read brings then.
MUCH = BESIDE_RECORDS * FULL_PAYLOAD // 2
#: Bytes of a record below which an acknowledgement joins it.  Where much comes in, that and a
#: window update are due for every read; each record costs the receiver a tenth of its CPU time.
WITH_ACK = 1024
#: Bytes of an ACK with its header.
ACK_SIZE = HEADER_SIZE + len(encode_ack(0))


class SendingSession(SessionBase):
    """Numbers and keeps what is sent, and decides when it leaves."""

    # -- for the multiplexer --------------------------------------------------------------

    def send(self, kind: int, stream_id: int, payload: bytes = b"") -> None:
        """Queue one sequenced frame, now, in front of the streams' waiting data."""
        if not self.ended:
            self._log.append_parts(kind, stream_id, (payload,), len(payload))
            if kind == FrameType.STREAM_OPEN and self.link is not None:
                self.link.stream_opened()
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
        """Have less under way, and read less at once, if it is much: a keystroke comes after it."""
        sends = self._near and self._log.size >= BESIDE_ROOM
        link = self.link
        if link is None or not (sends or link.last_read >= MUCH):
            return
        if self._beside is None:
            link.read_at_once(BESIDE_RECORDS if self._is_nearby else FAR_BESIDE_RECORDS)
        if sends:
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

    # -- inner ----------------------------------------------------------------------------

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
            if send_log.size - send_log.unsent >= self._fresh.flight:
                break  # an acknowledgement wakes us
            self._source.produce(send_log)
            link = self.link  # producing calls streams, and they may end anything
            if link is None or not send_log.unsent:
                break
            records = send_log.take_batch(limit)
            if self._ack is not None:
                records = self._with_ack(link, records)
            elif self._acknowledger.ripe:
                records = self._with_ripe_ack(records, limit)
            if not self._fresh.trusted:
                size = sum(map(len, records))
                self._fresh.sent(size, send_log.sent, self._runtime.clock.seconds())
            link.send_records(records)
            batches += 1
            if link.crowded and not self._finishing:
                self._pace = self._runtime.call_later(PACE, self._pace_due)
                break
        return batches

    def _limit_records(self, link: FrameProtocol) -> int:
        """Cut frames and records to what the link can do now; return the records' size."""
        send_log = self._log
        limit = min(self._fresh.record_limit, link.record_limit, FULL_RECORD)
        if link.paced:
            limit = min(limit, PACED)
        send_log.frame_limit = limit - HEADER_SIZE
        if limit < FULL_RECORD:
            send_log.batch = send_log.frame_limit
        elif not self._near:
            send_log.batch = HALF_BATCH
        else:
            send_log.batch = BATCH if self._beside is None else BESIDE_RECORDS * FULL_PAYLOAD
        return limit

    def _pace_due(self) -> None:
        self._pace = None
        self._flush()

    def _stop_pace(self) -> None:
        pace, self._pace = self._pace, None
        if pace is not None:
            pace.cancel()

    def _set_limits(self) -> None:
        self._log.room = self._fresh.room
        self._near = False
        self._beside = None
        link = self.link
        if link is None:
            return
        link.read_at_once(BATCH_RECORDS)
        if self._fresh.trusted and self._is_nearby:
            self._log.room = NEAR_ROOM
            self._near = True

    @property
    def _is_nearby(self) -> bool:
        """Whether the link's round trip is known to be short, though it may be trusted little."""
        least = self.least_round_trip
        return least is not None and least < NEAR

    def _acknowledged(self, received: int) -> None:
        send_log, fresh = self._log, self._fresh
        before = send_log.in_flight
        was_full = not send_log.has_room or before >= fresh.flight
        send_log.acknowledge(received)
        if not fresh.trusted:
            now = self._runtime.clock.seconds()
            if fresh.acknowledged(received, now, before - send_log.in_flight):
                self._set_limits()
        if self._beside is not None and self._runtime.clock.seconds() - self._beside > BESIDE:
            self._set_limits()
        if self._arrivals:
            self._tell_arrived()
        if was_full and send_log.has_room:
            self.wake()  # all may have been sent, while the streams hold more

    def when_arrived(self, call: Callable[[], None]) -> None:
        """Have `call` called once the peer has everything that is numbered by now."""
        self._arrivals.append((self._log.next_sequence, call))
        self._tell_arrived()

    def _count_arrivals_anew(self) -> None:
        """The log has been numbered anew: who waited for a number waits for all of it."""
        self._arrivals = [(self._log.next_sequence, call) for _, call in self._arrivals]
        self._tell_arrived()

    def _tell_arrived(self) -> None:
        arrivals = self._arrivals
        while arrivals and arrivals[0][0] <= self._log.acknowledged:
            arrivals.pop(0)[1]()

    # -- acknowledgements of what came in ---------------------------------------------------

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

    def _with_ripe_ack(self, records: list[memoryview], limit: int) -> list[memoryview]:
        """Return the records with an acknowledgement in them that waits for such, if it fits."""
        first = records[0]
        if len(records) > 1 or len(first) + ACK_SIZE > min(limit, WITH_ACK):
            return records
        return [memoryview(b"".join((first, _pack_ack(self._acknowledger.take()))))]

    def _take_ack(self) -> bytes:
        received, self._ack = self._ack, None
        assert received is not None
        return _pack_ack(received)


def _pack_ack(received: int) -> bytes:
    return pack_frame(FrameType.ACK, 0, encode_ack(received))
