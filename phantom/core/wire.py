"""Frames: their layout, their types, and the payloads of those that have a structure.

``doc/spec/wire.md`` is the full text.  A frame is a 6-byte header and a payload::

    type (1) | stream id (3, big endian) | payload length (2, big endian) | payload

Specification constants stand first; what is only this implementation's choice has its
place with the code that uses it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address

import attrs

from phantom.address import Destination, parse_host
from phantom.errors import Outcome, RemoteProtocolError

#: Bytes of a frame's header.
HEADER_SIZE = 6
#: Most plaintext in one record: a Noise message is at most 65,535 bytes (Noise, section 3)
#: and its tag takes 16.
MAX_RECORD_PLAINTEXT = 65519
#: Most payload in one frame, so that any frame fits a record.
MAX_PAYLOAD = MAX_RECORD_PLAINTEXT - HEADER_SIZE
#: The highest stream id; ids are 24 bits.
MAX_STREAM_ID = (1 << 24) - 1
#: What an opener may send before the reply: enough for a TLS ClientHello with a
#: post-quantum share and a first request, little enough to hold for every pending dial.
INITIAL_CREDIT = 16 * 1024
#: Highest credit a window may hold, as in HTTP/2 (RFC 9113, 6.9.1): sums stay in 32 bits.
MAX_CREDIT = (1 << 31) - 1
#: Longest PING payload; the size varies so that a keepalive is no fixed-size signature.
MAX_PING = 255
#: Bytes of a session id: 128 random bits cannot be guessed.
SESSION_ID_SIZE = 16
#: The lane on which streams begin, and the only one of most sessions; and the one for bulk.
MAIN_LANE = 0
BULK_LANE = 1


class FrameType(IntEnum):
    """The known frame types.

    0x00 to 0x3F are ours or the predecessor's; a type unknown to the receiver there is an
    error.  0x40 to 0x7F are sequenced and may be skipped, 0x80 to 0xFF are unsequenced and
    may be skipped.
    """

    DATA = 0x00
    STREAM_OPEN = 0x01
    STREAM_CLOSE = 0x02
    WINDOW_UPDATE = 0x03
    PING = 0x04
    PONG = 0x05
    GOAWAY = 0x06
    PADDING = 0x07
    OPEN_REPLY = 0x08
    HALF_CLOSE = 0x09
    RESET = 0x0A
    DATAGRAM = 0x0B
    ACK = 0x0C
    ATTACH = 0x0D
    MOVE = 0x0E
    #: May be skipped: a client without the server's identity cannot check it.
    ENDPOINTS = 0x40
    #: Likewise: older clients know nothing of it, and it is only advice.
    SCHEME = 0x41
    #: A client that dials no second link goes on with one.
    LANE = 0x42


#: Types that carry no sequence number although they are below 0x80.
UNSEQUENCED = frozenset(
    {FrameType.PING, FrameType.PONG, FrameType.PADDING, FrameType.ACK, FrameType.ATTACH}
)
#: The others below 0x80, known or not.
SEQUENCED = frozenset(range(0x80)) - UNSEQUENCED
#: Types that belong to the link or the session and must carry stream id 0.
ON_STREAM_ZERO = UNSEQUENCED | {
    FrameType.GOAWAY,
    FrameType.ENDPOINTS,
    FrameType.SCHEME,
    FrameType.LANE,
}
#: Reserved by this version: their layouts are fixed later, receiving one is an error.
RESERVED = frozenset({FrameType.DATAGRAM, FrameType.MOVE})

# The types that may be received on streams, and on stream 0; those from 0x40 that are not known
# may be skipped, on either.
_SKIPPABLE = frozenset(range(0x40, 0x100)) - frozenset(FrameType)
_ON_ZERO = ON_STREAM_ZERO | _SKIPPABLE
_ON_STREAMS = (frozenset(FrameType) - RESERVED - ON_STREAM_ZERO) | _SKIPPABLE

# The type and the 24-bit id share one 32-bit word.
_HEADER = struct.Struct(">IH")

#: Writes a header in place: ``pack_header_into(buffer, offset, type << 24 | id, length)``.
pack_header_into = _HEADER.pack_into


def pack_header(kind: int, stream_id: int, length: int) -> bytes:
    """Return the six bytes of a frame's header."""
    return _HEADER.pack(kind << 24 | stream_id, length)


def pack_frame(kind: int, stream_id: int = 0, payload: bytes = b"") -> bytes:
    """Return a whole frame."""
    return _HEADER.pack(kind << 24 | stream_id, len(payload)) + payload


def is_sequenced(kind: int) -> bool:
    """Tell whether frames of this type take a sequence number (doc/spec/wire.md)."""
    return kind in SEQUENCED


def whole_data(record: memoryview) -> tuple[int, memoryview] | None:
    """Return stream id and payload of a record that is one DATA frame, as nearly all are.

    Anything else, a malformed one included, is left to `parse_frames`: None.
    """
    if len(record) <= HEADER_SIZE:
        return None
    word, length = _HEADER.unpack_from(record)
    if not 0 < word <= MAX_STREAM_ID or length != len(record) - HEADER_SIZE:
        return None  # DATA is type 0, in the highest byte
    return word, record[HEADER_SIZE:]


def parse_frames(record: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """Split a record's plaintext into its frames.

    Args:
        record: The whole plaintext of one record.

    Yields:
        Type, stream id and payload; the payload is a view of `record`.

    Raises:
        RemoteProtocolError: The record is empty, a frame is cut short, a known type is on
            a stream id it may not have, or the type is unknown and may not be skipped.
    """
    end = len(record)
    if not end:
        raise RemoteProtocolError("a record without a frame")
    position = 0
    unpack = _HEADER.unpack_from
    while position < end:
        if end - position < HEADER_SIZE:
            raise RemoteProtocolError("a frame header is cut short")
        word, length = unpack(record, position)
        position += HEADER_SIZE
        stop = position + length
        if stop > end:
            raise RemoteProtocolError("a frame is cut short")
        kind = word >> 24
        stream_id = word & MAX_STREAM_ID
        # Both are sets of types, and nearly every frame is in the first.
        if kind not in (_ON_STREAMS if stream_id else _ON_ZERO):
            raise RemoteProtocolError(
                "an unknown frame type"
                if kind not in _ON_STREAMS and kind not in _ON_ZERO
                else "a frame on a stream id it may not have"
            )
        yield kind, stream_id, record[position:stop]
        position = stop


# -- payloads -------------------------------------------------------------------------


@attrs.frozen(slots=True)
class Attach:
    """The first frame each way on a link (doc/spec/wire.md).

    Layout, 38 bytes: session id (16) | epoch (4) | lane (1) | status (1) | next sequence (8)
    | received (8), numbers big endian.

    Attributes:
        session_id: Chosen at random by the client.
        epoch: Raised by the client with each link of the session; the server echoes it.
        lane: Which of the independent sequences the link carries: `MAIN_LANE` or `BULK_LANE`.
        status: 0 from the client; the server's verdict, an `AttachStatus`.
        next_sequence: The number of the first sequenced frame the sender will send here.
        received: How many sequenced frames the sender has received in order.
    """

    session_id: bytes
    epoch: int
    lane: int
    status: int
    next_sequence: int
    received: int

    def encode(self) -> bytes:
        """Return the payload."""
        return _ATTACH.pack(
            self.session_id,
            self.epoch,
            self.lane,
            self.status,
            self.next_sequence,
            self.received,
        )

    @classmethod
    def decode(cls, payload: memoryview) -> Attach:
        """Parse a payload.

        Raises:
            RemoteProtocolError: It has not the one length an ATTACH has.
        """
        if len(payload) != _ATTACH.size:
            raise RemoteProtocolError("an ATTACH of the wrong length")
        return cls(*_ATTACH.unpack(payload))


_ATTACH = struct.Struct(">16sIBBQQ")


class AttachStatus(IntEnum):
    """What the server says to an ATTACH."""

    OK = 0
    #: The session is not known here: it ended, expired, or the server restarted.
    SESSION_LOST = 1
    #: The client holds as many links or sessions as it may.
    LIMIT = 2
    SHUTTING_DOWN = 3


class AddressKind(IntEnum):
    """How the destination in a STREAM_OPEN is written."""

    NAME = 1
    IPV4 = 4
    IPV6 = 6


_OPEN = struct.Struct(">IBH")


def encode_open(destination: Destination, credit: int) -> bytes:
    """Return a STREAM_OPEN payload.

    Layout: credit (4) | address kind (1) | port (2) | name, 4 or 16 address bytes.

    Args:
        destination: Where the stream is to lead.
        credit: How much the other side may send on the stream.
    """
    host = destination.host
    if isinstance(host, str):
        kind, raw = AddressKind.NAME, host.encode("ascii")
    elif isinstance(host, IPv4Address):
        kind, raw = AddressKind.IPV4, host.packed
    else:
        kind, raw = AddressKind.IPV6, host.packed
    return _OPEN.pack(credit, kind, destination.port) + raw


def decode_open(payload: memoryview) -> tuple[Destination, int]:
    """Parse a STREAM_OPEN payload into the destination and the credit.

    Raises:
        RemoteProtocolError: It is no destination.
    """
    if len(payload) < _OPEN.size:
        raise RemoteProtocolError("a STREAM_OPEN is cut short")
    credit, kind, port = _OPEN.unpack_from(payload)
    raw = bytes(payload[_OPEN.size :])
    if credit > MAX_CREDIT:
        raise RemoteProtocolError("more credit than a window can hold")
    try:
        if kind == AddressKind.NAME:
            host = parse_host(raw.decode("ascii"))
            if not isinstance(host, str):
                raise RemoteProtocolError("an address sent as a name")
            return Destination(host, port), credit
        if kind == AddressKind.IPV4 and len(raw) == 4:
            return Destination(IPv4Address(raw), port), credit
        if kind == AddressKind.IPV6 and len(raw) == 16:
            return Destination(IPv6Address(raw), port), credit
    except ValueError:  # covers UnicodeDecodeError
        pass
    raise RemoteProtocolError("a STREAM_OPEN without a valid destination")


_OPEN_REPLY = struct.Struct(">BI")


def encode_open_reply(outcome: Outcome, credit: int) -> bytes:
    """Return an OPEN_REPLY payload: outcome (1) | credit (4).

    Args:
        outcome: The destination's true outcome; anything but CONNECTED closes the stream.
        credit: What the opener may send in all, the `INITIAL_CREDIT` it had included.
    """
    return _OPEN_REPLY.pack(outcome, credit)


def decode_open_reply(payload: memoryview) -> tuple[Outcome, int]:
    """Parse an OPEN_REPLY payload.

    Raises:
        RemoteProtocolError: Wrong length, or a credit out of range.
    """
    if len(payload) != _OPEN_REPLY.size:
        raise RemoteProtocolError("an OPEN_REPLY of the wrong length")
    code, credit = _OPEN_REPLY.unpack(payload)
    outcome = Outcome.from_wire(code)
    if outcome is Outcome.CONNECTED and not INITIAL_CREDIT <= credit <= MAX_CREDIT:
        raise RemoteProtocolError("an OPEN_REPLY with an impossible credit")
    return outcome, credit


_U32 = struct.Struct(">I")
_U64 = struct.Struct(">Q")
_GOAWAY = struct.Struct(">BI")


def encode_window_update(credit: int) -> bytes:
    """Return a WINDOW_UPDATE payload: the credit granted on top, 4 bytes."""
    return _U32.pack(credit)


def decode_window_update(payload: memoryview) -> int:
    """Parse a WINDOW_UPDATE payload.

    Raises:
        RemoteProtocolError: Wrong length, or a grant of nothing (RFC 9113, 6.9, refuses
            that as well: it would only cost work).
    """
    if len(payload) != 4:
        raise RemoteProtocolError("a WINDOW_UPDATE of the wrong length")
    (credit,) = _U32.unpack(payload)
    if not 0 < credit <= MAX_CREDIT:
        raise RemoteProtocolError("a WINDOW_UPDATE of an impossible size")
    return int(credit)


def encode_ack(received: int) -> bytes:
    """Return an ACK payload: how many sequenced frames were received in order, 8 bytes."""
    return _U64.pack(received)


def decode_ack(payload: memoryview) -> int:
    """Parse an ACK payload.

    Raises:
        RemoteProtocolError: Wrong length.
    """
    if len(payload) != 8:
        raise RemoteProtocolError("an ACK of the wrong length")
    return int(_U64.unpack(payload)[0])


class GoawayReason(IntEnum):
    """Why no new streams are taken; live ones go on until the drain's end."""

    SHUTDOWN = 0
    PROTOCOL = 1
    #: The client's key is no longer allowed.
    REVOKED = 2
    #: The stream ids are nearly used up; a fresh session takes over.
    IDS_EXHAUSTED = 3


def encode_goaway(reason: GoawayReason, last_stream_id: int) -> bytes:
    """Return a GOAWAY payload: reason (1) | the last stream id that was accepted (4)."""
    return _GOAWAY.pack(reason, last_stream_id)


def decode_goaway(payload: memoryview) -> tuple[int, int]:
    """Parse a GOAWAY payload into the reason's code and the last accepted stream id.

    Raises:
        RemoteProtocolError: Wrong length, or an id out of range.
    """
    if len(payload) != _GOAWAY.size:
        raise RemoteProtocolError("a GOAWAY of the wrong length")
    reason, last = _GOAWAY.unpack(payload)
    if last > MAX_STREAM_ID:
        raise RemoteProtocolError("a GOAWAY with an impossible stream id")
    return reason, last


def decode_reset(payload: memoryview) -> Outcome:
    """Parse a RESET payload, one byte: why the stream was broken off.

    Raises:
        RemoteProtocolError: Wrong length.
    """
    if len(payload) != 1:
        raise RemoteProtocolError("a RESET of the wrong length")
    return Outcome.from_wire(payload[0])
