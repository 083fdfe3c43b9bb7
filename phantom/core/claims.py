"""Which worker process holds which session: a table in a buffer that all workers map.

A session lives in the process that accepted its first link.  Another process, which the
session's next link reaches, finds its owner here.  The table also remembers sessions that
ended, those of a process that crashed above all: whoever asks for one of them must not be
taken for a client whose first link died on the way (doc/adr/0013).

The buffer, numbers little endian::

    header (32)   how many sessions have ended (4) | 0 (28)
    buckets       of 128 slots of 32 bytes: session id (16) | tag of the client (8)
                  | incarnation of the owner (4) | when it ended, 0 for live (4)

An *incarnation* is one life of one worker: a number from 1 on that is never used again while
the server runs.  "When" is the count in the header, so no clock is needed.  A slot of zeros
is free.  All sessions of a client are in one bucket, so what a client holds is counted, and
what it floods are its own memories.
"""

from __future__ import annotations

import enum
import hashlib
import mmap
import struct

#: 131,072 slots in 4 MiB, of which only touched pages cost memory.
BUCKETS = 1024
#: Twice the most links a client may be allowed (64, the schema's limit), so that two such
#: clients fit one bucket.
SLOTS = 128
#: Ended sessions that a client may leave in the table: a client asks again for one that ended
#: within seconds or never.
REMEMBERED_ENDS = 16

_HEADER = struct.Struct("<I28x")
_SLOT = struct.Struct("<16s8sII")
_ENDED = struct.Struct("<I")
_ENDED_AT = 28
_TAG_SIZE = 8
_EMPTY = bytes(SLOTS * _SLOT.size)

Buffer = bytearray | memoryview | mmap.mmap


class Claim(enum.Enum):
    """What became of a claim to a new session."""

    #: The session is the claimant's.
    GRANTED = enum.auto()
    #: Another process has it already.
    TAKEN = enum.auto()
    #: It has ended, in good order or with its process.
    ENDED = enum.auto()
    #: The client has as many sessions as it may, or the table has no room.
    FULL = enum.auto()


def table_size(buckets: int = BUCKETS) -> int:
    """Return the bytes of a table; fresh zeros are an empty one."""
    return _HEADER.size + buckets * SLOTS * _SLOT.size


def client_place(client: bytes, buckets: int) -> tuple[bytes, int]:
    """Return what stands for a client in a table, 8 bytes, and the number of its bucket.

    Args:
        client: Its static public key.
        buckets: How many the table has.
    """
    digest = hashlib.blake2b(client, digest_size=_TAG_SIZE + 4).digest()
    return digest[:_TAG_SIZE], int.from_bytes(digest[_TAG_SIZE:], "little") % buckets


class ClaimTable:
    """The table.  The caller sees to it that one process uses it at a time.

    Args:
        buffer: At least `table_size` bytes.
        buckets: Its geometry.
    """

    __slots__ = ("_buckets", "_buffer")

    def __init__(self, buffer: Buffer, buckets: int = BUCKETS) -> None:
        self._buffer = buffer
        self._buckets = buckets

    def owner(self, client: bytes, session_id: bytes) -> int:
        """Return the incarnation that holds a client's session; 0 when none does.

        Args:
            client: The client's static public key.
            session_id: 16 bytes.
        """
        tag, start = self._place(client)
        for _slot, name, whose, incarnation, ended in self._slots(start):
            if name == session_id and whose == tag and not ended:
                return incarnation
        return 0

    def owners(self, client: bytes) -> list[int]:
        """Return the incarnations that hold a client's sessions, one for each session."""
        tag, start = self._place(client)
        return [
            incarnation
            for _slot, _name, whose, incarnation, ended in self._slots(start)
            if whose == tag and incarnation and not ended
        ]

    def claim(self, client: bytes, session_id: bytes, incarnation: int, most: int) -> Claim:
        """Claim a session that begins, unless it is somebody's, was, or would be too many.

        Args:
            client: The client's static public key.
            session_id: 16 bytes.
            incarnation: Who claims, from 1.
            most: Live sessions this client may have.
        """
        tag, start = self._place(client)
        free = -1
        live = 0
        own: list[tuple[int, int]] = []
        others: list[tuple[int, int]] = []
        for slot, name, whose, holder, ended in self._slots(start):
            if not holder:
                free = slot if free < 0 else free
            elif whose != tag:
                if ended:
                    others.append((ended, slot))
            elif name == session_id:
                return Claim.ENDED if ended else Claim.TAKEN
            elif ended:
                own.append((ended, slot))
            else:
                live += 1
        if live >= most:
            return Claim.FULL
        if len(own) >= REMEMBERED_ENDS or (free < 0 and own):
            free = min(own)[1]
        elif free < 0:
            if not others:
                return Claim.FULL
            free = min(others)[1]
        _SLOT.pack_into(self._buffer, free, session_id, tag, incarnation, 0)
        return Claim.GRANTED

    def end(self, client: bytes, session_id: bytes) -> None:
        """Note that a session has ended; harmless for one that is not in the table."""
        tag, start = self._place(client)
        for slot, name, whose, _incarnation, ended in self._slots(start):
            if name == session_id and whose == tag and not ended:
                self._note_end(slot)

    def bury(self, incarnation: int) -> int:
        """Note that every session of a process ended with it; return how many."""
        count = 0
        for number in range(self._buckets):
            start = _HEADER.size + number * SLOTS * _SLOT.size
            for slot, _name, _whose, holder, ended in self._slots(start):
                if holder == incarnation and not ended:
                    self._note_end(slot)
                    count += 1
        return count

    def _note_end(self, slot: int) -> None:
        # Four billion ends take years; then 1 is the oldest for a while, and no more.
        count = _HEADER.unpack_from(self._buffer)[0] % 0xFFFFFFFF + 1
        _HEADER.pack_into(self._buffer, 0, count)
        _ENDED.pack_into(self._buffer, slot + _ENDED_AT, count)

    def _place(self, client: bytes) -> tuple[bytes, int]:
        """Return the tag of a client and where its bucket begins."""
        tag, number = client_place(client, self._buckets)
        return tag, _HEADER.size + number * SLOTS * _SLOT.size

    def _slots(self, start: int) -> list[tuple[int, bytes, bytes, int, int]]:
        """Return what the slots of a bucket hold, each with its place in the buffer."""
        bucket = bytes(self._buffer[start : start + SLOTS * _SLOT.size])
        if bucket == _EMPTY:
            return [(start, b"", b"", 0, 0)]
        return [
            (start + number * _SLOT.size, *content)
            for number, content in enumerate(_SLOT.iter_unpack(bucket))
        ]
