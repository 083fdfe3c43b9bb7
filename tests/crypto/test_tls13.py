"""TLS 1.3's records, by the example of RFC 8448 (section 3) and by themselves."""

from __future__ import annotations

import os
import struct

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from phantom.crypto.tls13 import (
    ALERT,
    APPLICATION_DATA,
    BAD_RECORD_MAC,
    HANDSHAKE,
    HEADER_SIZE,
    MOST_CONTENT,
    OVERHEAD,
    PROTOCOL_VERSION,
    RECORD_OVERFLOW,
    SUITES,
    UNEXPECTED_MESSAGE,
    TLSOpener,
    TLSSealer,
    expand_label,
)
from phantom.errors import RemoteProtocolError

AES = SUITES["TLS_AES_128_GCM_SHA256"]

# RFC 8448, section 3: what the client sends first.
SECRET = bytes.fromhex("9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5")
KEY = bytes.fromhex("17422dda596ed5d9acd890e3c63f5051")
IV = bytes.fromhex("5b78923dee08579033e523d9")
CONTENT = bytes(range(50))
RECORD = bytes.fromhex(
    "1703030043a23f7054b62c94d0affafe8228ba55cbefacea42f914aa66bcab3f2b9819a8a5b46b395bd54a9a20441e"
    "2b62974e1f5a6292a2977014bd1e3deae63aeebb21694915e4"
)


def opened(opener: TLSOpener, data: bytes, limit: int = 1 << 20) -> tuple[int, bytes]:
    """Return how much of `data` was used, and what was in it."""
    room = memoryview(bytearray(limit + 2 * MOST_CONTENT))
    used, size = opener.open_row(memoryview(data), room, limit)
    return used, bytes(room[:size])


def sealed(plaintext: bytes, number: int = 0, header: bytes | None = None) -> bytes:
    """Return a record with any plaintext, its content type and padding included."""
    if header is None:
        header = struct.pack(">BHH", APPLICATION_DATA, 0x0303, len(plaintext) + 16)
    nonce = (int.from_bytes(IV, "big") ^ number).to_bytes(12, "big")
    return header + AESGCM(KEY).encrypt(nonce, plaintext, header)


def test_the_example_of_rfc_8448() -> None:
    assert expand_label(AES, SECRET, b"key", 16) == KEY
    assert expand_label(AES, SECRET, b"iv", 12) == IV
    assert TLSSealer(AES, SECRET).seal(APPLICATION_DATA, CONTENT) == RECORD
    assert opened(TLSOpener(AES, SECRET), RECORD) == (len(RECORD), CONTENT)


@pytest.mark.parametrize("name", SUITES)
@pytest.mark.parametrize("size", [1, MOST_CONTENT - 1, MOST_CONTENT, MOST_CONTENT + 1, 300_000])
def test_a_row_of_records(name: str, size: int) -> None:
    suite = SUITES[name]
    secret = os.urandom(suite.hash().digest_size)
    sealer, opener = TLSSealer(suite, secret), TLSOpener(suite, secret)
    for _ in range(2):
        content = os.urandom(size)
        room = memoryview(bytearray(size + 20 * OVERHEAD))
        row = bytes(room[: sealer.seal_row(memoryview(content), room)])
        assert len(row) == size + OVERHEAD * -(-size // MOST_CONTENT)
        assert opened(opener, row) == (len(row), content)
    sealer.update()
    opener.update()
    record = sealer.seal(APPLICATION_DATA, b"later")
    assert opened(opener, record) == (len(record), b"later")


def test_more_records_than_share_a_nonces_beginning() -> None:
    # Sealed one by one, each with a nonce of its own, and opened in a row; then the other way.
    content = os.urandom(MOST_CONTENT)
    secret = os.urandom(32)
    sealer, row_sealer = TLSSealer(AES, secret), TLSSealer(AES, secret)
    opener = TLSOpener(AES, secret)
    for count in (250, 300):
        records = b"".join(sealer.seal(APPLICATION_DATA, content) for _ in range(count))
        room = memoryview(bytearray(len(records)))
        assert row_sealer.seal_row(memoryview(content * count), room) == len(records)
        assert bytes(room) == records
        assert opened(opener, records, count * MOST_CONTENT) == (len(records), content * count)


@given(
    contents=st.lists(st.tuples(st.binary(max_size=40), st.integers(0, 30)), max_size=8),
    cut=st.integers(0, 1000),
    limit=st.integers(1, 100),
)
def test_padded_records_cut_anywhere(
    contents: list[tuple[bytes, int]], cut: int, limit: int
) -> None:
    stream = b"".join(
        sealed(content + b"\x17" + bytes(padding), number)
        for number, (content, padding) in enumerate(contents)
    )
    opener = TLSOpener(AES, SECRET)
    position, found = 0, b""
    for part in (stream[:cut], stream):
        used = 1
        while used:
            used, piece = opened(opener, part[position:], limit)
            position, found = position + used, found + piece
    assert position == len(stream)
    assert found == b"".join(content for content, _ in contents)


@pytest.mark.parametrize("kind", [ALERT, HANDSHAKE])
def test_other_content_stops_a_row(kind: int) -> None:
    records = [sealed(b"a\x17", 0), sealed(b"bc" + bytes((kind, 0)), 1), sealed(b"d\x17", 2)]
    opener = TLSOpener(AES, SECRET)
    assert opened(opener, b"".join(records)) == (len(records[0] + records[1]), b"a")
    assert (opener.kind, opener.content) == (kind, b"bc")
    assert opened(opener, records[2]) == (len(records[2]), b"d")
    assert opener.kind == 0


def header(kind: int, version: int, size: int) -> bytes:
    return struct.pack(">BHH", kind, version, size)


@pytest.mark.parametrize(
    ("bad", "alert"),
    [
        (RECORD[:-1] + bytes((RECORD[-1] ^ 1,)), BAD_RECORD_MAC),
        (RECORD[:HEADER_SIZE] + bytes(0x43), BAD_RECORD_MAC),
        (sealed(b"x\x17", 1), BAD_RECORD_MAC),  # not its turn
        (header(20, 0x0303, 1), UNEXPECTED_MESSAGE),
        (header(21, 0x0303, 2), UNEXPECTED_MESSAGE),
        (header(22, 0x0303, 100), UNEXPECTED_MESSAGE),
        (header(23, 0x0301, 100), PROTOCOL_VERSION),
        (header(23, 0x0303, MOST_CONTENT + 257), RECORD_OVERFLOW),
        (header(23, 0x0303, 16) + bytes(16), UNEXPECTED_MESSAGE),
        (sealed(bytes(MOST_CONTENT + 1) + b"\x17"), RECORD_OVERFLOW),
        (sealed(bytes(1)), UNEXPECTED_MESSAGE),
        (sealed(bytes(100)), UNEXPECTED_MESSAGE),
    ],
)
def test_what_breaks_tls(bad: bytes, alert: int) -> None:
    opener = TLSOpener(AES, SECRET)
    for _ in range(2):
        with pytest.raises(RemoteProtocolError):
            opened(opener, bad)
        assert opener.alert == alert
    assert opened(opener, RECORD) == (len(RECORD), CONTENT)  # the counter stayed


def test_what_came_before_it_comes_first() -> None:
    opener = TLSOpener(AES, SECRET)
    bad = bytes(30)
    used, content = opened(opener, RECORD + bad)
    assert (used, content) == (len(RECORD), CONTENT)
    with pytest.raises(RemoteProtocolError):
        opened(opener, bad)


def test_a_counter_is_found() -> None:
    records = [sealed(b"x\x17", number) for number in range(6)]
    opener = TLSOpener(AES, SECRET)
    assert not opener.find(records[5], range(5))
    assert opener.find(records[5], range(6, 0, -1))
    assert opened(opener, records[5]) == (len(records[5]), b"x")
    opener = TLSOpener(AES, SECRET)
    assert opener.find(records[3], range(6))
    opener.skip()
    assert opened(opener, records[4])[1] == b"x"


def test_no_secret_is_shown() -> None:
    assert repr(TLSSealer(AES, SECRET)) == "<TLSSealer at record 0>"
