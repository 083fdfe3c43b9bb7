"""The memory of a session's log: blocks, and the runs of frames that lie in them."""

from __future__ import annotations

from phantom.core.wire import HEADER_SIZE

#: Bytes of one block of the log: four full records, half of the largest batch.
BLOCK_SIZE = 256 * 1024
#: Most bytes one session keeps unacknowledged.  Throughput is at most this a round trip:
#: 16 MiB at 100 ms is 1.3 Gbit/s.
MAX_RETAINED_BYTES = 16 * 1024 * 1024


class Block:
    """A stretch of the log.

    Attributes:
        view: Its bytes.
        cursor: Where the next frame goes.
        live: How many runs in it are not yet acknowledged.
    """

    __slots__ = ("cursor", "live", "view")

    def __init__(self) -> None:
        self.view = memoryview(bytearray(BLOCK_SIZE))
        self.cursor = 0
        self.live = 0


class Run:
    """Whole frames that lie side by side in one block and fit one record.

    Attributes:
        block: The block.
        start: Offset of the first frame.
        end: Offset behind the last frame.
        first: Sequence number of the first frame.
        frames: How many frames.
        long: Whether one of them may be too long for a new link.
    """

    __slots__ = ("block", "end", "first", "frames", "long", "start")

    def __init__(self, block: Block, first: int) -> None:
        self.block = block
        self.start = self.end = block.cursor
        self.first = first
        self.frames = 0
        self.long = False

    def frame_end(self, start: int) -> int:
        """Return the offset behind the frame at `start`."""
        return start + HEADER_SIZE + int.from_bytes(self.block.view[start + 4 : start + 6], "big")

    def split(self, limit: int) -> Run:
        """Take the front off, as many whole frames as fit `limit` bytes, but at least one.

        Returns:
            The front; this run keeps the rest, which may be nothing.
        """
        front = Run(self.block, self.first)
        front.start = front.end = self.start
        front.long = self.long
        while front.frames < self.frames:
            end = self.frame_end(front.end)
            if front.frames and end - front.start > limit:
                break
            front.end = end
            front.frames += 1
        self.start = front.end
        self.first += front.frames
        self.frames -= front.frames
        return front

    def drop_frames(self, count: int) -> int:
        """Take `count` frames off the front; return their bytes."""
        start = self.start
        for _ in range(count):
            start = self.frame_end(start)
        size = start - self.start
        self.start = start
        self.first += count
        self.frames -= count
        return size
