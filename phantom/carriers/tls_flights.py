"""Bytes that the TLS layer knows on the wire: what nginx takes for TLS, and where tickets end."""

from __future__ import annotations

#: Content types and header size of a TLS record (RFC 8446, section 5.1).
_HANDSHAKE_RECORD = 0x16
_APPLICATION_RECORD = 0x17
_RECORD_HEADER = 5

#: The bit nginx takes for an SSL 2.0 record when it tells TLS from plain HTTP.
_SSL2_BIT = 0x80


def looks_like_tls(data: bytes) -> bool:
    """Tell as nginx does (ngx_http_request.c, ngx_http_ssl_handshake): by the first byte."""
    return data[0] == _HANDSHAKE_RECORD or data[0] & _SSL2_BIT != 0


def tickets_apart(flight: bytes) -> list[bytes]:
    """Cut what ends a TLS 1.3 handshake into its session tickets; leave other flights whole.

    The server's last flight holds nothing but encrypted records, one for each ticket.
    """
    if not flight or flight[0] != _APPLICATION_RECORD:
        return [flight] if flight else []
    records: list[bytes] = []
    start = 0
    while start < len(flight):
        end = start + _RECORD_HEADER + int.from_bytes(flight[start + 3 : start + 5], "big")
        records.append(flight[start:end])
        start = end
    return records
