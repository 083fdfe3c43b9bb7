"""What OpenSSL 3 says to a hello in the old form of SSL 2.0 (RFC 5246, appendix E.2).

A server of OpenSSL 1.1 or 3 reads such a hello, and refuses it: it has no extensions, so only
signatures with SHA-1 could be meant, which Debian's security level forbids.  OpenSSL 4 does
not know the form any more and sends another alert.  A prober gets here by turning the highest
bit of a hello's first byte on.

Layout: length with the highest bit set (2) | type 1 (1) | version (2) | length of the cipher
list (2) | of the session id (2) | of the challenge (2) | these three.  The length counts from
the type on.  Every answer below was measured with nginx 1.22 and OpenSSL 3.0.
"""

from __future__ import annotations

import struct

#: Bytes after which OpenSSL looks: the header of a TLS record.
_HEADER = 5

#: The longest and the shortest hello that is read at all (the latter is OpenSSL's
#: MIN_SSL2_RECORD_LEN, the former what fits into its read buffer; measured).
_MAX_LENGTH, _MIN_LENGTH = 16704, 9

_FIXED = struct.Struct("!HHHH")
_MAX_SESSION_ID = 32
_SSL_3, _TLS_1_2 = 0x0300, 0x0303
#: TLS_FALLBACK_SCSV (RFC 7507), 0x5600, in the three bytes of a cipher here.
_FALLBACK = b"\x00\x56\x00"

# Alerts (RFC 8446, section 6.2; the last RFC 7507).
_RECORD_OVERFLOW = 22
_HANDSHAKE_FAILURE = 40
_ILLEGAL_PARAMETER = 47
_DECODE_ERROR = 50
_PROTOCOL_VERSION = 70
_INAPPROPRIATE_FALLBACK = 86


def _alert(code: int, version: int = _TLS_1_2) -> bytes:
    """Return a fatal alert in a record."""
    return struct.pack("!BHHBB", 21, version, 2, 2, code)


def answer(received: bytes) -> bytes | None:
    """Say what is due to who began with `received`.

    Returns:
        An alert, after which the connection is closed; nothing when this is no such hello;
        None while more must come.
    """
    if received[:1] < b"\x80":
        return b""
    if len(received) < _HEADER:
        return None
    if received[2] != 1:
        return b""
    length = (received[0] & 0x7F) << 8 | received[1]
    if length > _MAX_LENGTH:
        return _alert(_RECORD_OVERFLOW)
    if length < _MIN_LENGTH:
        return _alert(_DECODE_ERROR)
    if len(received) < 2 + length:
        return None
    return _refusal(received[3 : 2 + length])


def _refusal(hello: bytes) -> bytes:
    version, ciphers_size, session_size, challenge_size = _FIXED.unpack_from(hello)
    if session_size > _MAX_SESSION_ID:
        return _alert(_ILLEGAL_PARAMETER)
    if len(hello) != _FIXED.size + ciphers_size + session_size + challenge_size:
        return _alert(_DECODE_ERROR)
    if version >> 8 != 3:
        return _alert(_PROTOCOL_VERSION)
    version = min(version, _TLS_1_2)
    if version == _SSL_3:
        return _alert(_HANDSHAKE_FAILURE, version)
    if not ciphers_size:
        return _alert(_ILLEGAL_PARAMETER, version)
    if ciphers_size % 3:
        return _alert(_DECODE_ERROR, version)
    ciphers = hello[_FIXED.size : _FIXED.size + ciphers_size]
    offered = {ciphers[at : at + 3] for at in range(0, ciphers_size, 3)}
    if _FALLBACK in offered:  # the server could do TLS 1.3
        return _alert(_INAPPROPRIATE_FALLBACK, version)
    return _alert(_HANDSHAKE_FAILURE, version)
