"""The replay filter: every first message is accepted once.

A table in a buffer, which may be a file that several processes map.  It is only asked
about messages that are authenticated and authorised, so random probes cannot fill it.
Message 1 carries a timestamp, and one outside a window of 120 seconds either way is
refused; within the window the table remembers what was seen, for 240 seconds, after which
the timestamp alone refuses it.

The buffer, every number little endian::

    header (96)   magic (8) | version (4) | entry buckets (4) | client buckets (4) | 0 (4)
                  | salt (16) | epoch (16) | since, milliseconds (8)
                  | CRC-32 of the header with zeros here (4) | 0 (28)
    entries       buckets of 64 entries of 32 bytes: digest (24) | expiry, milliseconds (8)
    clients       buckets of 32 entries of 32 bytes: tag (16) | last minute (4)
                  | counts of the last five minutes (5 x 2) | 0 (2)

The digest is a keyed hash of client key and ephemeral key.  An entry lives in the one
bucket that its digest names: no chains, so nothing an interrupted process leaves behind
can lead a search astray.  The salt is random, so that nobody can aim at a bucket.

Interruption at any point is harmless: a process inserts before it answers, so a message
whose entry is torn was never answered, and a torn entry is one slot of noise that expires.
"""

from __future__ import annotations

import enum
import hashlib
import mmap
import struct
import zlib

#: How far a timestamp may be off, in seconds, either way (doc/spec/handshake.md).
WINDOW = 120.0
#: Seconds an entry is kept.  A timestamp at the far end of the window is acceptable for
#: twice the window after it arrived.
KEEP = 2 * WINDOW
#: Messages one client may have in the table: 14 a second all the time, far more than
#: reconnecting takes, and a thirty-second of what the table holds.
QUOTA = 4096
#: An expiry further ahead than this is a torn entry or a clock set back, and is dropped.
#: A day, so that a clock that was a few hours fast does not open the window again.
_ABSURD = 86400.0

#: Buckets in a file: 131,072 entries in 4 MiB.  At 300 new links a second a bucket holds
#: 35 of its 64 on average, and about one link in 120,000 finds its bucket full.
ENTRY_BUCKETS = 2048
#: 16,384 places for clients in 512 KiB; with 8,000 active within five minutes one in
#: 3,000 of them finds its bucket full.
CLIENT_BUCKETS = 512

_MAGIC = b"phReplay"
_VERSION = 1
_HEADER = struct.Struct("<8sIII4x16s16sQI28x")
_ENTRY = struct.Struct("<24sQ")
_CLIENT = struct.Struct("<16sI5H2x")
_SLOT = 32
_ENTRIES_A_BUCKET = 64
_CLIENTS_A_BUCKET = 32
_ENTRY_BUCKET = _ENTRIES_A_BUCKET * _SLOT
_CLIENT_BUCKET = _CLIENTS_A_BUCKET * _SLOT
_DIGEST_SIZE = 24
_TAG_SIZE = 16
#: Bytes of the salt and of an epoch.
SALT_SIZE = 16

# Clients are counted by the minute; five cover the 240 seconds wherever they begin.
_MINUTES = 5
_MINUTE = 60

Buffer = bytearray | memoryview | mmap.mmap


class ReplayVerdict(enum.Enum):
    """What the filter says of a message."""

    #: Never seen, and remembered from now on.
    FRESH = enum.auto()
    #: Seen before.
    REPLAY = enum.auto()
    #: The timestamp is out of the window, or from before this filter can remember.
    STALE = enum.auto()
    #: The client used up its quota, or the table has no room: refused, nobody is evicted.
    FULL = enum.auto()


def table_size(entry_buckets: int = ENTRY_BUCKETS, client_buckets: int = CLIENT_BUCKETS) -> int:
    """Return the bytes of a buffer with this many buckets."""
    return _HEADER.size + entry_buckets * _ENTRY_BUCKET + client_buckets * _CLIENT_BUCKET


def _header(
    entry_buckets: int, client_buckets: int, salt: bytes, epoch: bytes, since: int
) -> bytes:
    def pack(crc: int) -> bytes:
        return _HEADER.pack(
            _MAGIC, _VERSION, entry_buckets, client_buckets, salt, epoch, since, crc
        )

    return pack(zlib.crc32(pack(0)))


def format_table(
    buffer: Buffer,
    salt: bytes,
    epoch: bytes,
    since: float,
    *,
    entry_buckets: int = ENTRY_BUCKETS,
    client_buckets: int = CLIENT_BUCKETS,
) -> None:
    """Make `buffer` an empty table.

    Args:
        buffer: At least `table_size` bytes.
        salt: `SALT_SIZE` random bytes.
        epoch: `SALT_SIZE` bytes that name the period throughout which what is written
            stays: a boot of the machine.
        since: Now, in seconds since the Unix epoch.  The table knows nothing of what came
            before, so timestamps from before are refused.
        entry_buckets: Its geometry.
        client_buckets: Its geometry.
    """
    size = table_size(entry_buckets, client_buckets)
    buffer[:size] = bytes(size)
    # Last, so that a table that was never finished has no header.
    buffer[: _HEADER.size] = _header(entry_buckets, client_buckets, salt, epoch, int(since * 1000))


def restart_table(buffer: Buffer, epoch: bytes, since: float) -> None:
    """Keep what a sound table holds, but rely on it only for timestamps from `since` on."""
    _, _, entry_buckets, client_buckets, salt, _, _, _ = _HEADER.unpack_from(buffer)
    buffer[: _HEADER.size] = _header(entry_buckets, client_buckets, salt, epoch, int(since * 1000))


def table_epoch(
    buffer: Buffer,
    *,
    entry_buckets: int = ENTRY_BUCKETS,
    client_buckets: int = CLIENT_BUCKETS,
) -> bytes | None:
    """Return the epoch of a sound table of this geometry, None for anything else."""
    if len(buffer) < table_size(entry_buckets, client_buckets):
        return None
    head = bytes(buffer[: _HEADER.size])
    _, _, _, _, salt, epoch, since, _ = _HEADER.unpack(head)
    if head != _header(entry_buckets, client_buckets, salt, epoch, since):
        return None
    return bytes(epoch)


class ReplayFilter:
    """Test-and-set over a table.  The caller sees to it that one asks at a time.

    Args:
        buffer: A sound table (`format_table`, `table_epoch`); read afresh each time, since
            another process may have made it anew.
        quota: Messages a client may have in the table.
    """

    __slots__ = ("_buffer", "_quota")

    def __init__(self, buffer: Buffer, *, quota: int = QUOTA) -> None:
        self._buffer = buffer
        self._quota = quota

    def check(
        self,
        client_public: bytes,
        ephemeral: bytes,
        timestamp: float,
        now: float,
        *,
        insert: bool = True,
    ) -> ReplayVerdict:
        """Judge a message and, if it is fresh, remember it.

        All verdicts take the same steps, so that the time does not tell which it was.

        Args:
            client_public: The client's static public key.
            ephemeral: The ephemeral key as it stood on the wire.
            timestamp: From the message, in seconds since the Unix epoch.
            now: This host's clock, likewise.
            insert: Whether the message is authenticated and authorised: no other may change
                the table.
        """
        _, _, entry_buckets, client_buckets, salt, _, since, _ = _HEADER.unpack_from(self._buffer)
        stale = abs(timestamp - now) > WINDOW or timestamp * 1000 < since
        digest = hashlib.blake2b(
            client_public + ephemeral, digest_size=_DIGEST_SIZE, key=salt
        ).digest()
        number = int.from_bytes(digest[:4], "little") % entry_buckets
        start = _HEADER.size + number * _ENTRY_BUCKET
        bucket = bytes(self._buffer[start : start + _ENTRY_BUCKET])
        # Expired or not: an entry still there is a replay, even if the clock was set back.
        seen = _find(bucket, digest) is not None
        slot = _free_entry(bucket, int(now * 1000))
        tag = hashlib.blake2b(client_public, digest_size=_TAG_SIZE, key=salt).digest()
        number = int.from_bytes(tag[:4], "little") % client_buckets
        clients = _HEADER.size + entry_buckets * _ENTRY_BUCKET + number * _CLIENT_BUCKET
        insert = insert and not stale and not seen and slot is not None
        counted = self._count(tag, clients, int(now // _MINUTE), insert)
        if stale:
            return ReplayVerdict.STALE
        if seen:
            return ReplayVerdict.REPLAY
        if slot is None or not counted:
            return ReplayVerdict.FULL
        if insert:
            expiry = int((now + KEEP) * 1000)
            _ENTRY.pack_into(self._buffer, start + slot, digest, expiry)
        return ReplayVerdict.FRESH

    def _count(self, tag: bytes, start: int, minute: int, insert: bool) -> bool:
        """Count a message for the client `tag`, whose bucket begins at `start`.

        Returns False when its quota is used up, or the bucket has no place for it.  Without
        `insert` nothing is written.
        """
        bucket = bytes(self._buffer[start : start + _CLIENT_BUCKET])
        slot = _find(bucket, tag)
        counts = [0] * _MINUTES
        if slot is None:
            slot = _free_client(bucket, minute)
            if slot is None:
                return False
        else:
            _, last, *counts = _CLIENT.unpack_from(bucket, slot)
            if last - minute > _MINUTES:  # torn, or the clock was set back
                counts = [0] * _MINUTES
            else:
                minute = max(minute, last)
                for passed in range(last + 1, min(minute, last + _MINUTES) + 1):
                    counts[passed % _MINUTES] = 0
        if sum(counts) >= self._quota:
            return False
        # The quota keeps each count below 65,536.
        counts[minute % _MINUTES] += 1
        if insert:
            _CLIENT.pack_into(self._buffer, start + slot, tag, minute, *counts)
        return True


def _find(bucket: bytes, key: bytes) -> int | None:
    """Return where the slot that begins with `key` is, None when there is none."""
    place = bucket.find(key)
    while place >= 0 and place % _SLOT:
        place = bucket.find(key, place + 1)
    return place if place >= 0 else None


def _free_entry(bucket: bytes, now: int) -> int | None:
    absurd = now + int(_ABSURD * 1000)
    place = 0
    for _, expiry in _ENTRY.iter_unpack(bucket):
        if expiry <= now or expiry > absurd:
            return place
        place += _SLOT
    return None


def _free_client(bucket: bytes, minute: int) -> int | None:
    place = 0
    for _, last, *_counts in _CLIENT.iter_unpack(bucket):
        if abs(minute - last) > _MINUTES:
            return place
        place += _SLOT
    return None
