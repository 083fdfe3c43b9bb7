"""The layout of frames: golden bytes, every cut, and hostile input."""

from __future__ import annotations

import contextlib
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phantom.address import Destination
from phantom.core import wire
from phantom.core.endpoint_list import Carrier, EndpointList, ServerEndpoint
from phantom.core.shaping import Scheme
from phantom.core.wire import Attach, FrameType, GoawayReason
from phantom.crypto.identity import sign
from phantom.errors import Outcome, RemoteProtocolError

# (frame, bytes in hex): doc/spec/wire.md shows the same.
GOLDEN = [
    (wire.pack_frame(FrameType.DATA, 1, b"hi"), "0000000100026869"),
    (wire.pack_frame(FrameType.HALF_CLOSE, 3), "090000030000"),
    (wire.pack_frame(FrameType.STREAM_CLOSE, 0xFFFFFF), "02ffffff0000"),
    (
        wire.pack_frame(
            FrameType.STREAM_OPEN, 5, wire.encode_open(Destination("a.example", 443), 262144)
        ),
        "010000050010000400000101bb612e6578616d706c65",
    ),
    (
        wire.pack_frame(
            FrameType.STREAM_OPEN,
            7,
            wire.encode_open(Destination(IPv4Address("192.0.2.1"), 80), 16384),
        ),
        "01000007000b00004000040050c0000201",
    ),
    (
        wire.pack_frame(
            FrameType.STREAM_OPEN,
            9,
            wire.encode_open(Destination(IPv6Address("2001:db8::1"), 8443), 16384),
        ),
        "010000090017000040000620fb20010db8000000000000000000000001",
    ),
    (
        wire.pack_frame(FrameType.OPEN_REPLY, 5, wire.encode_open_reply(Outcome.CONNECTED, 262144)),
        "0800000500050000040000",
    ),
    (
        wire.pack_frame(FrameType.OPEN_REPLY, 5, wire.encode_open_reply(Outcome.REFUSED, 0)),
        "0800000500050500000000",
    ),
    (
        wire.pack_frame(FrameType.WINDOW_UPDATE, 5, wire.encode_window_update(131072)),
        "03000005000400020000",
    ),
    (wire.pack_frame(FrameType.RESET, 5, bytes((Outcome.CANCELLED,))), "0a00000500010b"),
    (wire.pack_frame(FrameType.ACK, 0, wire.encode_ack(300)), "0c0000000008000000000000012c"),
    (
        wire.pack_frame(FrameType.GOAWAY, 0, wire.encode_goaway(GoawayReason.SHUTDOWN, 9)),
        "0600000000050000000009",
    ),
    (
        wire.pack_frame(
            FrameType.ATTACH,
            0,
            Attach(
                bytes(range(16)), epoch=2, lane=0, status=0, next_sequence=7, received=5
            ).encode(),
        ),
        "0d0000000026000102030405060708090a0b0c0d0e0f00000002000000000000000000070000000000000005",
    ),
    (
        wire.pack_frame(
            FrameType.ENDPOINTS,
            0,
            sign(
                EndpointList(
                    version=1,
                    issued=1_767_225_600,
                    endpoints=(
                        ServerEndpoint(
                            host="a.example",
                            port=443,
                            public_key=bytes(range(32, 64)),
                            carrier=Carrier.TLS,
                        ),
                    ),
                ),
                bytes(range(1, 33)),
            ),
        ),
        "400000000082a34f67c301aa430859e3e15e16283fbcd80f580d6dab94a620aa07b01e35894cd1ca"
        "bcb187b92e315a9c77d046349586e5f45d0c0cc7f009c0aacab90edee70300000000000000010000"
        "00006955b90001002f01202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d"
        "3e3f01bb09612e6578616d706c650000",
    ),
    (
        wire.pack_frame(FrameType.SCHEME, 0, Scheme(version=1).encode()),
        "4100000000140000000100ec0122012c0d5c0f28000c00003800",
    ),
    (wire.pack_frame(FrameType.LANE), "420000000000"),
]


@pytest.mark.parametrize(("frame", "expected"), GOLDEN)
def test_golden_bytes(frame: bytes, expected: str) -> None:
    assert frame.hex() == expected


def test_frames_come_back_as_they_were() -> None:
    record = b"".join(frame for frame, _ in GOLDEN)
    parsed = list(wire.parse_frames(memoryview(record)))
    again = b"".join(wire.pack_frame(kind, sid, bytes(payload)) for kind, sid, payload in parsed)
    assert again == record


@given(st.integers(1, 200))
def test_a_record_cut_anywhere_inside_a_frame_is_refused(cut: int) -> None:
    record = b"".join(frame for frame, _ in GOLDEN)
    ends = set()
    position = 0
    for frame, _ in GOLDEN:
        position += len(frame)
        ends.add(position)
    cut = min(cut, len(record) - 1)
    if cut in ends:
        return
    with pytest.raises(RemoteProtocolError):
        list(wire.parse_frames(memoryview(record[:cut])))


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        wire.pack_frame(FrameType.DATA, 0, b"x"),
        wire.pack_frame(FrameType.PING, 1, b"12345678"),
        wire.pack_frame(FrameType.ATTACH, 4),
        wire.pack_frame(FrameType.ENDPOINTS, 4),
        wire.pack_frame(FrameType.SCHEME, 4),
        wire.pack_frame(FrameType.LANE, 4),
        wire.pack_frame(FrameType.STREAM_OPEN, 0),
        wire.pack_frame(FrameType.DATAGRAM, 1),
        wire.pack_frame(FrameType.MOVE, 1),
        wire.pack_frame(0x0F, 1),
        wire.pack_frame(0x3F, 0),
    ],
)
def test_what_is_refused(frame: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        list(wire.parse_frames(memoryview(frame)))


@pytest.mark.parametrize("kind", [0x43, 0x7F, 0x80, 0xFF])
def test_unknown_types_that_may_be_skipped_pass(kind: int) -> None:
    assert len(list(wire.parse_frames(memoryview(wire.pack_frame(kind, 5, b"new"))))) == 1
    assert wire.is_sequenced(kind) == (kind < 0x80)


DECODERS = [
    wire.decode_open,
    wire.decode_open_reply,
    wire.decode_window_update,
    wire.decode_ack,
    wire.decode_goaway,
    wire.decode_reset,
    Attach.decode,
]


@given(st.sampled_from(DECODERS), st.binary(max_size=64))
def test_random_payloads_raise_only_the_remote_error(decode: object, payload: bytes) -> None:
    with contextlib.suppress(RemoteProtocolError):
        decode(memoryview(payload))  # type: ignore[operator]


@given(st.binary(max_size=300))
def test_random_records_raise_only_the_remote_error(record: bytes) -> None:
    with contextlib.suppress(RemoteProtocolError):
        list(wire.parse_frames(memoryview(record)))


@pytest.mark.parametrize(
    "payload",
    [
        b"\x00\x00\x40\x00\x01\x01\xbb127.0.0.1",  # an address sent as a name
        b"\x00\x00\x40\x00\x01\x01\xbbbad host",
        b"\x00\x00\x40\x00\x01\x01\xbb" + b"a" * 300,
        b"\x00\x00\x40\x00\x01\x00\x00a.example",  # port 0
        b"\x00\x00\x40\x00\x04\x00\x50\x7f\x00\x00",
        b"\x00\x00\x40\x00\x05\x00\x50\x7f\x00\x00\x01",
        b"\x80\x00\x00\x00\x04\x00\x50\x7f\x00\x00\x01",  # credit above 2^31 - 1
    ],
)
def test_destinations_that_are_none(payload: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        wire.decode_open(memoryview(payload))


def test_local_outcomes_never_come_from_the_wire() -> None:
    assert Outcome.from_wire(Outcome.SESSION_LOST) is Outcome.FAILED
    assert Outcome.from_wire(0x7F) is Outcome.FAILED
    assert Outcome.from_wire(Outcome.REFUSED) is Outcome.REFUSED
