from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phantom.core.handshake import MAX_HANDSHAKE_PAYLOAD, HandshakePayload
from phantom.errors import LocalProtocolError, RemoteProtocolError

PAYLOADS = st.builds(
    HandshakePayload,
    timestamp=st.none() | st.integers(0, 2**64 - 1),
    features=st.integers(0, 2**32 - 1),
    token=st.none() | st.binary(min_size=32, max_size=32),
    encapsulation_key=st.none() | st.just(bytes(1184)),
    kem_ciphertext=st.none() | st.just(b"c" * 1088),
)


@given(PAYLOADS, st.integers(0, 4000))
def test_round_trip(payload, padding):
    wire = payload.encode(padding=padding)
    assert HandshakePayload.decode(wire) == payload
    assert len(wire) == len(payload.encode()) + (3 + padding if padding else 0)


@pytest.mark.parametrize(
    ("wire", "payload"),
    [
        ("01", HandshakePayload()),
        ("01 01 0008 0000018bcfe5687b", HandshakePayload(timestamp=1_700_000_000_123)),
        ("01 02 0004 80000001", HandshakePayload(features=0x80000001)),
        ("01 00 0003 ffffff", HandshakePayload()),  # what padding holds is nobody's business
        ("01 06 0000", HandshakePayload()),
        ("01 7f 0002 aabb 02 0004 00000007", HandshakePayload(features=7)),  # skippable
    ],
)
def test_layout(wire, payload):
    assert HandshakePayload.decode(bytes.fromhex(wire)) == payload


@pytest.mark.parametrize(
    "wire",
    [
        pytest.param("", id="empty"),
        pytest.param("00", id="version 0"),
        pytest.param("02", id="version 2"),
        pytest.param("01 01", id="a type alone"),
        pytest.param("01 01 00", id="half a length"),
        pytest.param("01 02 0004 000000", id="a value cut short"),
        pytest.param("01 02 0003 000000", id="a value of the wrong size"),
        pytest.param("01 03 0000", id="an empty token"),
        pytest.param("01 04 0001 00", id="an encapsulation key of one byte"),
        pytest.param("01 06 0001 00", id="early data"),
        pytest.param("01 80 0000", id="must be understood"),
        pytest.param("01 ff 0001 00", id="must be understood, too"),
        pytest.param("01 02 0004 00000000 02 0004 00000000", id="features twice"),
        pytest.param("01 00 0000 00 0000", id="padding twice"),
        pytest.param("01 7f 0000 7f 0000", id="an unknown field twice"),
    ],
)
def test_refused(wire):
    with pytest.raises(RemoteProtocolError):
        HandshakePayload.decode(bytes.fromhex(wire))


@given(st.binary(max_size=80) | st.binary(max_size=80).map(lambda b: b"\x01" + b))
def test_random_bytes_raise_only_the_remote_error(data):
    try:
        payload = HandshakePayload.decode(data)
    except RemoteProtocolError:
        return
    assert HandshakePayload.decode(payload.encode()) == payload


@pytest.mark.parametrize(
    ("payload", "padding"),
    [
        (HandshakePayload(timestamp=-1), 0),
        (HandshakePayload(timestamp=2**64), 0),
        (HandshakePayload(features=2**32), 0),
        (HandshakePayload(token=b"short"), 0),
        (HandshakePayload(encapsulation_key=bytes(1183)), 0),
        (HandshakePayload(kem_ciphertext=bytes(1089)), 0),
        (HandshakePayload(), -1),
        (HandshakePayload(), MAX_HANDSHAKE_PAYLOAD - 3),
        (HandshakePayload(), 1 << 40),
    ],
)
def test_what_cannot_be_encoded(payload, padding):
    with pytest.raises(LocalProtocolError):
        payload.encode(padding=padding)


def test_the_longest_payload():
    wire = HandshakePayload().encode(padding=MAX_HANDSHAKE_PAYLOAD - 4)
    assert len(wire) == MAX_HANDSHAKE_PAYLOAD
    assert HandshakePayload.decode(wire) == HandshakePayload()


def test_the_repr_keeps_secrets():
    assert "7365" not in repr(HandshakePayload(token=b"secr" * 8)) and "secr" not in repr(
        HandshakePayload(token=b"secr" * 8)
    )
