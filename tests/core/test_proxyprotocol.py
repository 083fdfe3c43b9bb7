"""PROXY headers: what is one, what is none, in any pieces."""

from __future__ import annotations

import struct
from ipaddress import ip_address

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phantom.core.proxyprotocol import (
    V2_MAX_BODY,
    V2_SIGNATURE,
    Endpoint,
    ProxyHeader,
    ProxyHeaderParser,
)
from phantom.errors import RemoteProtocolError


def _v2(command: int, family: int, body: bytes) -> bytes:
    return V2_SIGNATURE + struct.pack("!BBH", 0x20 | command, family, len(body)) + body


def _header(source: str, port: int, destination: str, to: int) -> ProxyHeader:
    return ProxyHeader(Endpoint(ip_address(source), port), Endpoint(ip_address(destination), to))


_FOUR = ip_address("192.0.2.7").packed + ip_address("198.51.100.1").packed
_SIX = ip_address("2001:db8::7").packed + ip_address("2001:db8::1").packed
_PORTS = struct.pack("!HH", 50000, 443)
_IPV4 = _header("192.0.2.7", 50000, "198.51.100.1", 443)
_IPV6 = _header("2001:db8::7", 50000, "2001:db8::1", 443)
_OPEN = ProxyHeader(None, None)


def _extension(kind: int, value: bytes) -> bytes:
    return struct.pack("!BH", kind, len(value)) + value


_H2 = _extension(0x01, b"h2")
_TLS = _extension(0x20, b"\x01\x00\x00\x00\x00" + _extension(0x21, b"TLSv1.3"))
_NO_TLS = _extension(0x20, b"\x00\x00\x00\x00\x00")

GOOD = [
    (b"PROXY TCP4 192.0.2.7 198.51.100.1 50000 443\r\n", _IPV4),
    (b"PROXY TCP6 2001:db8::7 2001:db8::1 50000 443\r\n", _IPV6),
    (b"PROXY UNKNOWN\r\n", _OPEN),
    (b"PROXY UNKNOWN ffff::1 whatever 1 2\r\n", _OPEN),
    (_v2(1, 0x11, _FOUR + _PORTS), _IPV4),
    (_v2(1, 0x21, _SIX + _PORTS + b"\x04\x00\x01x"), _IPV6),
    # Of nginx, told the visitor's address by another header, on a unix socket or by IPv4.
    (b"PROXY TCP4 192.0.2.7 unix:/run/tls.sock 50000 0\r\n", attrs.evolve(_IPV4, destination=None)),
    (b"PROXY TCP6 2001:db8::7 127.0.0.1 50000 443\r\n", attrs.evolve(_IPV6, destination=None)),
    (_v2(1, 0x11, _FOUR + _PORTS + _H2), attrs.evolve(_IPV4, alpn=b"h2")),
    (_v2(1, 0x21, _SIX + _PORTS + _TLS + _H2), attrs.evolve(_IPV6, alpn=b"h2", tls=True)),
    (_v2(1, 0x11, _FOUR + _PORTS + _NO_TLS), attrs.evolve(_IPV4, tls=False)),
    (_v2(1, 0x11, _FOUR + _PORTS + _extension(0x20, b"")), attrs.evolve(_IPV4, tls=False)),
    (_v2(0, 0x11, _FOUR + _PORTS + _H2), _OPEN),
    (_v2(0, 0x00, b""), _OPEN),
    (_v2(0, 0x11, _FOUR + _PORTS), _OPEN),
    (_v2(1, 0x31, bytes(216)), _OPEN),
]


@pytest.mark.parametrize(("header", "expected"), GOOD)
@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_good(header: bytes, expected: ProxyHeader, size: int) -> None:
    parser = ProxyHeaderParser()
    results = []
    for start in range(0, len(header), size):
        piece = header[start : start + size]
        if start + size >= len(header):
            piece += b"\x16\x03\x01"
        results.append(parser.feed(piece))
    assert results[:-1] == [None] * (len(results) - 1)
    assert results[-1] == expected and parser.rest == b"\x16\x03\x01"


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"PROXX",
        b"\r\n\r\nX",
        b"PROXY " + b"x" * 101,
        b"PROXY TCP4 192.0.2.7 198.51.100.1 50000\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 65536 443\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 050 443\r\n",
        b"PROXY TCP4 ::1 ::2 1 443\r\n",
        b"PROXY TCP6 1.2.3.4 ::2 1 443\r\n",
        b"PROXY TCP4 999.0.2.7 198.51.100.1 1 443\r\n",
        b"PROXY TCP4  192.0.2.7 198.51.100.1 1 443\r\n",
        b"PROXY UDP4 192.0.2.7 198.51.100.1 1 443\r\n",
        V2_SIGNATURE + b"\x31\x11\x00\x0c",
        V2_SIGNATURE + b"\x22\x11\x00\x0c",
        V2_SIGNATURE + b"\x21\x11" + struct.pack("!H", V2_MAX_BODY + 1),
        _v2(1, 0x11, _FOUR),
        _v2(1, 0x21, _FOUR + _PORTS),
        _v2(1, 0x11, _FOUR + _PORTS + b"\x01"),
        _v2(1, 0x11, _FOUR + _PORTS + b"\x01\x00"),
        _v2(1, 0x11, _FOUR + _PORTS + _H2[:-1]),
        _v2(1, 0x11, _FOUR + _PORTS + _H2 + _H2),
    ],
)
def test_bad(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        ProxyHeaderParser().feed(data)


@given(
    st.one_of(
        st.binary(max_size=300),
        st.binary(max_size=300).map(V2_SIGNATURE.__add__),
        st.binary(max_size=120).map(b"PROXY ".__add__),
    ),
    st.integers(1, 20),
)
def test_anything_else_raises_one_error(data: bytes, size: int) -> None:
    parser = ProxyHeaderParser()
    try:
        for start in range(0, len(data), size):
            if parser.feed(data[start : start + size]) is not None:
                return
    except RemoteProtocolError:
        return
