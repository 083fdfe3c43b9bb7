"""Signed lists: golden bytes, and nothing forged gets through."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from phantom.core.endpoint_list import Carrier, EndpointList, ServerEndpoint
from phantom.crypto.identity import MAX_SIGNED_SIZE, public_of, sign, verify
from phantom.errors import HandshakeError, RemoteProtocolError

PRIVATE = bytes(range(1, 33))
PUBLIC = bytes.fromhex("79b5562e8fe654f94078b112e8a98ba7901f853ae695bed7e0e3910bad049664")
LIST = EndpointList(
    version=1,
    issued=1_767_225_600,
    endpoints=(
        ServerEndpoint(host="a.example", port=443, public_key=bytes(32), carrier=Carrier.TLS),
    ),
)
#: Signature and list; Ed25519 signatures are deterministic (RFC 8032).
GOLDEN = (
    "2507d9d7c51d374246d885cd4d7292821824408ed497c277b5db92059cec115a"
    "9ee3163299a41242286f853ed12ef1fca1688476a02225252a57710830769a08"
    "0000000000000001000000006955b90001002f01000000000000000000000000"
    "000000000000000000000000000000000000000001bb09612e6578616d706c65"
    "0000"
)


def test_golden_bytes() -> None:
    assert public_of(PRIVATE) == PUBLIC
    assert sign(LIST, PRIVATE).hex() == GOLDEN
    assert verify(bytes.fromhex(GOLDEN), PUBLIC) == LIST


def test_the_label_is_part_of_what_is_signed() -> None:
    """Checked without our code: the signature is over label and list, and no other bytes."""
    signature, encoded = bytes.fromhex(GOLDEN)[:64], bytes.fromhex(GOLDEN)[64:]
    key = Ed25519PrivateKey.from_private_bytes(PRIVATE).public_key()
    key.verify(signature, b"phantom 1 endpoints" + encoded)
    bare = Ed25519PrivateKey.from_private_bytes(PRIVATE).sign(encoded) + encoded
    with pytest.raises(HandshakeError):
        verify(bare, PUBLIC)


@given(st.integers(0, len(GOLDEN) * 4 - 1))
def test_no_changed_bit_gets_through(bit: int) -> None:
    data = bytearray.fromhex(GOLDEN)
    data[bit // 8] ^= 1 << bit % 8
    with pytest.raises(HandshakeError):
        verify(bytes(data), PUBLIC)


def test_another_identity_is_refused() -> None:
    with pytest.raises(HandshakeError):
        verify(sign(LIST, bytes(32)), PUBLIC)
    with pytest.raises(HandshakeError):
        verify(bytes.fromhex(GOLDEN), public_of(bytes(32)))
    with pytest.raises(HandshakeError):
        verify(bytes.fromhex(GOLDEN), b"no key")


@pytest.mark.parametrize("size", [0, 1, 64, MAX_SIGNED_SIZE + 1])
def test_impossible_lengths(size: int) -> None:
    with pytest.raises(RemoteProtocolError):
        verify(bytes(size), PUBLIC)


def test_signed_nonsense_is_no_list() -> None:
    nonsense = b"nonsense"
    signature = Ed25519PrivateKey.from_private_bytes(PRIVATE).sign(
        b"phantom 1 endpoints" + nonsense
    )
    with pytest.raises(RemoteProtocolError):
        verify(signature + nonsense, PUBLIC)


@given(st.binary(max_size=300))
def test_random_bytes_raise_nothing_else(data: bytes) -> None:
    with pytest.raises((RemoteProtocolError, HandshakeError)):
        verify(data, PUBLIC)
