"""What two worker processes of one server say to each other on a local socket.

::

    kind (1) | length of the payload (2, big endian) | payload

The process that has a link (its *bearer*) connects to the one that has the session (its
*owner*) and says LINK; then records travel both ways as RECORD, each the plaintext of one
record of the link.  One connection carries one link: a slow link fills its own socket and
nobody else's.  Who connects to make a client's place free says ROOM and nothing else.

Both ends run the same code of the same server, yet a message that breaks the rules ends the
connection like any other.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator

from phantom.core.handshake import KEY_SIZE
from phantom.core.wire import MAX_RECORD_PLAINTEXT
from phantom.errors import RemoteProtocolError

_HEADER = struct.Struct(">BH")
_COUNT = struct.Struct(">I")


class Message(enum.IntEnum):
    """Kinds of messages, and what their payload is."""

    #: Bearer, first: the client's static public key (32), as the link's handshake proved it.
    LINK = 1
    #: Either: one record's plaintext, up to 65,519 bytes.
    RECORD = 2
    #: Bearer: bytes (4) that have come of a record which is not whole yet.
    PROGRESS = 3
    #: Owner: close the link, once everything before has been sent; empty.
    LOSE = 4
    #: First and only: let one of this client's sessions give way (32, its public key).
    ROOM = 5


_SIZES: dict[int, tuple[int, int]] = {
    Message.LINK: (KEY_SIZE, KEY_SIZE),
    Message.RECORD: (1, MAX_RECORD_PLAINTEXT),
    Message.PROGRESS: (_COUNT.size, _COUNT.size),
    Message.LOSE: (0, 0),
    Message.ROOM: (KEY_SIZE, KEY_SIZE),
}


def encode(kind: Message, payload: bytes | memoryview = b"") -> bytes:
    """Return a message; the payload is copied."""
    return b"".join((_HEADER.pack(kind, len(payload)), payload))


def encode_progress(count: int) -> bytes:
    """Return a PROGRESS of so many bytes."""
    return encode(Message.PROGRESS, _COUNT.pack(min(count, 0xFFFFFFFF)))


def decode_progress(payload: bytes) -> int:
    """Return the bytes that a PROGRESS tells of."""
    return int(_COUNT.unpack(payload)[0])


class MessageReader:
    """Cuts a byte stream into messages; holds less than one message and one read."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = b""

    def receive(self, data: bytes) -> Iterator[tuple[Message, bytes]]:
        """Take bytes and return the messages that are whole now.

        Raises:
            RemoteProtocolError: There is no such kind, or its payload has another length.
        """
        buffer = self._buffer + data if self._buffer else data
        position = 0
        while len(buffer) - position >= _HEADER.size:
            number, length = _HEADER.unpack_from(buffer, position)
            low, high = _SIZES.get(number, (1, 0))
            if not low <= length <= high:
                raise RemoteProtocolError("no message between workers")
            end = position + _HEADER.size + length
            if end > len(buffer):
                break
            payload = buffer[position + _HEADER.size : end]
            position = end
            # Before the yield: whoever takes the message may end everything.
            yield Message(number), payload
        self._buffer = buffer[position:]
