"""The bookkeeping of a session: what was sent and is not yet acknowledged.

Every sequenced frame has an implicit number, per direction and lane.  The sender keeps the
plaintext of each until the peer's session layer has it, in the form it is sealed from, so
that a new link can send it again (doc/spec/wire.md; ownership as in the data-path notes of
doc/adr/0003).
"""

from __future__ import annotations

from collections import deque

from phantom.core.block_pool import BlockPool
from phantom.core.blocks import BLOCK_SIZE, MAX_RETAINED_BYTES, Block, Run
from phantom.core.wire import (
    HEADER_SIZE,
    MAX_RECORD_PLAINTEXT,
    FrameType,
    pack_header_into,
)
from phantom.errors import LocalProtocolError, RemoteProtocolError

#: Plaintext of the records that bulk data is sent in.  Four of them, sealed (34 bytes each) and
#: cut into 16 records of TLS (22 bytes each), are 261,908 bytes, and fill four segments of 65,483
#: bytes on Linux's loopback: no rest of a few bytes waits for a turn of its own (measured on bare
#: TCP: 0.15 CPU-s/GB).  On other paths it makes no difference.
FULL_RECORD = 65_355
FULL_PAYLOAD = FULL_RECORD - HEADER_SIZE
#: Full records that are read, sealed and sent, or received and opened, in one go, at most.  Half as
#: many cost a sixth more CPU time (doc/adr/0020); more keep a keystroke waiting.
BATCH_RECORDS = 8
#: Bytes of data in them.
BATCH = BATCH_RECORDS * FULL_PAYLOAD
#: The same towards a peer that is far, whose kernel lets a part go and has the rest wait where
#: nothing overtakes it.
HALF_BATCH = BATCH // 2
#: Most frames one session keeps unacknowledged; bounds what tiny frames cost beyond bytes.
MAX_RETAINED_FRAMES = 65_536
#: Most bytes of a record, and of a frame, on a link that is new, or that other links failed
#: before: on a path that lets 16 KB through and then freezes (reported from Russia, 2025)
#: something arrives whole on every link, so that every link makes progress.
SMALL_RECORD = 4096
SMALL_PAYLOAD = SMALL_RECORD - HEADER_SIZE
#: Least room for data that is worth a piece of a scattered read.
LEAST_ROOM = 4096
#: And for which another block is begun, if it is not all that is wanted.
LEAST_REST = 2 * FULL_PAYLOAD


class SendLog:
    """Frames in order: appended, then sent, then kept until acknowledged.

    Args:
        pool: Where blocks come from.

    Attributes:
        next_sequence: The number the next appended frame gets.
        sent: The number of the first frame not yet sent on the present link.
        acknowledged: The number of the first frame the peer does not have yet.
        size: Bytes held, headers included.
        unsent: How many of them wait to be sent on the present link.
        batch: Bytes that should be appended and sent in one go now.
        frame_limit: Most bytes of payload that the streams should put into one frame now.
        room: Bytes held above which no data may be appended now.
    """

    __slots__ = (
        "_block",
        "_open",
        "_pool",
        "_reserved",
        "_retained",
        "_unsent",
        "acknowledged",
        "batch",
        "frame_limit",
        "next_sequence",
        "room",
        "sent",
        "size",
        "unsent",
    )

    def __init__(self, pool: BlockPool) -> None:
        self._pool = pool
        self._block: Block | None = None
        self._open: Run | None = None
        self._unsent: deque[Run] = deque()
        self._retained: deque[Run] = deque()
        # Where the room lies that was lent: blocks, and how many pieces are in each.
        self._reserved: list[tuple[Block, int]] = []
        self.next_sequence = 0
        self.sent = 0
        self.acknowledged = 0
        self.size = 0
        self.unsent = 0
        self.frame_limit = FULL_PAYLOAD
        self.batch = HALF_BATCH
        self.room = MAX_RETAINED_BYTES

    @property
    def has_unsent(self) -> bool:
        """Whether a frame waits to be sent."""
        return self.sent != self.next_sequence

    @property
    def unacknowledged(self) -> int:
        """How many frames were sent and are not acknowledged."""
        return self.sent - self.acknowledged

    @property
    def in_flight(self) -> int:
        """Bytes that were sent and are not acknowledged."""
        return self.size - self.unsent

    @property
    def memory(self) -> int:
        """Bytes of the blocks that what is held fills, about: a frame alone keeps a block."""
        return -(-self.size // BLOCK_SIZE) * BLOCK_SIZE

    @property
    def has_room(self) -> bool:
        """Whether data may be appended.

        Control frames may go beyond: they are few, and `overflowing` tells when they are not.
        """
        return (
            self.size < self.room and self.next_sequence - self.acknowledged < MAX_RETAINED_FRAMES
        )

    @property
    def overflowing(self) -> bool:
        """Whether even control frames have piled up: a peer that never acknowledges."""
        return self.next_sequence - self.acknowledged > 2 * MAX_RETAINED_FRAMES

    def append(self, kind: int, stream_id: int, payload: bytes | memoryview = b"") -> None:
        """Append one frame."""
        self.append_parts(kind, stream_id, (payload,), len(payload))

    def append_parts(
        self,
        kind: int,
        stream_id: int,
        parts: tuple[bytes | memoryview, ...] | list[bytes | memoryview],
        length: int,
    ) -> None:
        """Append one frame whose payload comes in pieces.

        Args:
            kind: The frame's type.
            stream_id: Its stream.
            parts: The pieces of the payload, in order.
            length: Their bytes in all, at most ``wire.MAX_PAYLOAD``.

        Raises:
            LocalProtocolError: The payload is too long for a record.
        """
        size = HEADER_SIZE + length
        run = self._open
        if run is None or run.end + size > BLOCK_SIZE or run.end + size > run.start + FULL_RECORD:
            run = self._begin_run(size)
        view = run.block.view
        position = run.end
        pack_header_into(view, position, kind << 24 | stream_id, length)
        position += HEADER_SIZE
        for part in parts:
            stop = position + len(part)
            view[position:stop] = part
            position = stop
        run.end = run.block.cursor = position
        run.frames += 1
        if length > SMALL_PAYLOAD and kind == FrameType.DATA:
            run.long = True
        self.next_sequence += 1
        self.size += size
        self.unsent += size

    def reserve(self, limit: int) -> list[memoryview]:
        """Lend room for the payloads of DATA frames, for a scattered read into the log itself.

        `commit` must follow before anything else is done with the log.

        Args:
            limit: Most bytes wanted, at least 1.

        Returns:
            Room for the payload of one frame each, in the order to be filled; less than the limit
            where a block ends.
        """
        block, run = self._block, self._open
        room: list[memoryview] = []
        reserved = self._reserved = []
        # Another block for so much only: each may cut the batch into one record more.
        while limit > 0 and not (room and limit < LEAST_REST):
            start = BLOCK_SIZE if block is None else block.cursor
            if block is None or room or BLOCK_SIZE - start < min(limit, LEAST_REST) + HEADER_SIZE:
                block, run, start = self._pool.acquire(), None, 0
            # What the record that is begun already still takes.
            record = FULL_RECORD - (run.end - run.start) if run is not None else 0
            before = len(room)
            while limit > 0 and BLOCK_SIZE - start >= min(limit, LEAST_ROOM) + HEADER_SIZE:
                if record < min(LEAST_ROOM, limit) + HEADER_SIZE:
                    record = FULL_RECORD
                size = min(limit, self.frame_limit, min(record, BLOCK_SIZE - start) - HEADER_SIZE)
                start += HEADER_SIZE
                room.append(block.view[start : start + size])
                start += size
                record -= HEADER_SIZE + size
                limit -= size
            reserved.append((block, len(room) - before))
        return room

    def commit(self, stream_id: int, room: list[memoryview], length: int) -> None:
        """Append what was read into the room that `reserve` lent, a frame for each piece.

        Args:
            stream_id: Its stream.
            room: As `reserve` returned it.
            length: The bytes read; 0 for none.
        """
        reserved, self._reserved = self._reserved, []
        position = 0
        for block, pieces in reserved:
            if length <= 0:
                if block is not self._block:
                    self._pool.release(block)
                continue
            for piece in room[position : position + pieces]:
                size = min(length, len(piece))
                length -= size
                self._commit_frame(stream_id, block, size)
                if length <= 0:
                    break
            position += pieces

    def _commit_frame(self, stream_id: int, block: Block, size: int) -> None:
        """Append a DATA frame whose payload lies behind a block's cursor already."""
        start = block.cursor
        pack_header_into(block.view, start, stream_id, size)
        end = start + HEADER_SIZE + size
        run = self._open
        if (
            run is None
            or run.block is not block
            or run.end != start
            or end - run.start > FULL_RECORD
        ):
            run = self._open_run(block)
        run.end = block.cursor = end
        run.frames += 1
        if size > SMALL_PAYLOAD:
            run.long = True
        self.next_sequence += 1
        self.size += end - start
        self.unsent += end - start

    def _begin_run(self, size: int) -> Run:
        """Begin a run for a frame of `size` bytes, its header included."""
        if size > MAX_RECORD_PLAINTEXT:
            raise LocalProtocolError("a frame does not fit a record")
        block = self._block
        if block is None or BLOCK_SIZE - block.cursor < size:
            block = self._pool.acquire()
        return self._open_run(block)

    def _open_run(self, block: Block) -> Run:
        """Begin a run behind a block's cursor; what was begun before is whole."""
        if self._open is not None:
            self._unsent.append(self._open)
        self._block = block
        block.live += 1
        run = self._open = Run(block, self.next_sequence)
        return run

    def take(self, limit: int = FULL_RECORD) -> memoryview | None:
        """Return the next record's plaintext and count it as sent; None when nothing waits.

        The view is valid until the peer acknowledges it; the caller seals it at once.

        Args:
            limit: Most bytes wanted; a single frame that is longer comes whole.
        """
        if not self._unsent:
            if self._open is None:
                return None
            self._unsent.append(self._open)
            self._open = None
        run = self._unsent.popleft()
        if run.end - run.start > limit and run.frames > 1:
            rest = run
            run = rest.split(limit)
            if rest.frames:
                rest.block.live += 1
                self._unsent.appendleft(rest)
        self._retained.append(run)
        self.sent = run.first + run.frames
        self.unsent -= run.end - run.start
        return run.block.view[run.start : run.end]

    def take_batch(self, limit: int = FULL_RECORD) -> list[memoryview]:
        """Return the plaintexts of the next records, about a batch, as `take` does."""
        batch: list[memoryview] = []
        size = 0
        while size < self.batch and self.unsent:
            record = self.take(limit)
            assert record is not None
            batch.append(record)
            size += len(record)
        return batch

    def acknowledge(self, received: int) -> None:
        """Let go of every frame numbered below `received`.

        Raises:
            RemoteProtocolError: It names a frame that was not sent.
        """
        if received > self.sent:
            raise RemoteProtocolError("an acknowledgement of frames that were not sent")
        if received <= self.acknowledged:
            return  # late or repeated; a new link's ATTACH may have told us already
        self.acknowledged = received
        retained = self._retained
        while retained and retained[0].first + retained[0].frames <= received:
            run = retained.popleft()
            self.size -= run.end - run.start
            self._release(run.block)
        if retained and retained[0].first < received:
            run = retained[0]
            self.size -= run.drop_frames(received - run.first)

    def _release(self, block: Block) -> None:
        block.live -= 1
        if block.live:
            return
        if block is self._block:
            self._block = None
        self._pool.release(block)

    def rewind(self, received: int) -> int:
        """Prepare to send again on a new link what the peer does not have.

        Long frames are cut: the peer counts nothing of older links any more, so what it
        does not have may be numbered anew.  Everything else stays where it lies: a byte is
        copied once, however often a peer resumes.

        Args:
            received: How many frames the peer says it has.

        Returns:
            The bytes that will be sent again.

        Raises:
            RemoteProtocolError: The peer claims frames that were never sent, or lacks some
                that it acknowledged.
        """
        if received < self.acknowledged:
            raise RemoteProtocolError("the peer forgot frames that it had acknowledged")
        self.acknowledge(received)
        again = sum(run.end - run.start for run in self._retained)
        runs = [*self._retained, *self._unsent]
        if self._open is not None:
            runs.append(self._open)
        self._retained.clear()
        self._unsent.clear()
        self._open = None
        self.sent = self.next_sequence = received
        for run in runs:
            if run.long:
                self.size -= run.end - run.start
                self._append_again(run)
                self._release(run.block)
            else:
                self._keep(run)
        self.unsent = self.size
        return again

    def _keep(self, run: Run) -> None:
        """Put a run at the end of the log as it is, or join it to its neighbour."""
        if self._open is not None:
            self._unsent.append(self._open)
            self._open = None
        last = self._unsent[-1] if self._unsent else None
        if (
            last is not None
            and last.block is run.block
            and last.end == run.start
            and run.end - last.start <= FULL_RECORD
        ):
            last.end = run.end
            last.frames += run.frames
            run.block.live -= 1
        else:
            run.first = self.next_sequence
            self._unsent.append(run)
        self.next_sequence += run.frames

    def _append_again(self, run: Run) -> None:
        """Copy a run's frames, long ones in pieces, to the end of the log."""
        view = run.block.view
        start = run.start
        while start < run.end:
            end = run.frame_end(start)
            kind = view[start]
            stream_id = int.from_bytes(view[start + 1 : start + 4], "big")
            payload = view[start + HEADER_SIZE : end]
            if kind == FrameType.DATA:
                for cut in range(0, len(payload) or 1, SMALL_PAYLOAD):
                    self.append(kind, stream_id, payload[cut : cut + SMALL_PAYLOAD])
            else:
                self.append(kind, stream_id, payload)
            start = end

    def close(self) -> None:
        """Let go of everything."""
        for run in (*self._retained, *self._unsent, *([self._open] if self._open else ())):
            self._release(run.block)
        self._retained.clear()
        self._unsent.clear()
        self._open = None
        self.size = self.unsent = 0
        self.sent = self.acknowledged = self.next_sequence
