"""The answers to hellos in the form of SSL 2.0: OpenSSL 3's, as measured with nginx 1.22."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phantom.core.ssl2_hello import answer

CIPHERS = b"\x00\xc0\x2b\x00\x00\x2f"


def hello(
    version: int = 0x0303,
    ciphers: bytes = CIPHERS,
    session: bytes = b"",
    challenge: bytes = bytes(16),
    more: bytes = b"",
) -> bytes:
    fixed = struct.pack("!HHHH", version, len(ciphers), len(session), len(challenge))
    body = b"\x01" + fixed + ciphers + session + challenge + more
    return struct.pack("!H", 0x8000 | len(body)) + body


def alert(code: int, version: int = 0x0303) -> bytes:
    return struct.pack("!BHHBB", 21, version, 2, 2, code)


@pytest.mark.parametrize(
    ("received", "due"),
    [
        (b"", b""),
        (b"\x16\x03\x01\x00\x05", b""),
        (b"GET /", b""),
        (b"\x80\x2e\x02\x03\x03", b""),  # of another type: garbage to every version
        (b"\x80", None),
        (b"\x80\x2e\x01\x03", None),
        (hello()[:-1], None),
        (b"\xc1\x40\x01\x03\x03", None),  # 16704 bytes
        (b"\xc1\x41\x01\x03\x03", alert(22)),
        (b"\xff\x03\x01\x02\x00", alert(22)),
        (b"\x80\x08\x01\x03\x03", alert(50)),
        (b"\x80\x03\x01\x02\x00", alert(50)),
        (b"\x80\x09\x01" + bytes.fromhex("0303 0003 0000 0010"), alert(50)),
        (hello(), alert(40)),
        (hello() + b"and more", alert(40)),
        (hello(0x0304), alert(40)),
        (hello(0x0302), alert(40, 0x0302)),
        (hello(0x0301), alert(40, 0x0301)),
        (hello(0x0300), alert(40, 0x0300)),
        (hello(0x0300, b"abcd"), alert(40, 0x0300)),
        (hello(0x0002), alert(70)),
        (hello(0x0400), alert(70)),
        (hello(more=b"x"), alert(50)),
        (hello(session=bytes(32)), alert(40)),
        (hello(0x0002, session=bytes(33), more=b"x"), alert(47)),
        (hello(ciphers=b""), alert(47)),
        (hello(0x0301, ciphers=b"abcd"), alert(50, 0x0301)),
        (hello(ciphers=CIPHERS + b"\x00\x56\x00"), alert(86)),
    ],
)
def test_answers(received: bytes, due: bytes | None) -> None:
    assert answer(received) == due


@given(st.binary(max_size=80))
def test_anything_is_judged_the_same_with_what_follows(data: bytes) -> None:
    verdict = answer(b"\x80" + data)
    if verdict:
        assert answer(b"\x80" + data + b"more") == verdict
        assert verdict[:2] == b"\x15\x03" and len(verdict) == 7
