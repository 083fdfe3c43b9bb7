"""The sealed header: where a handshake message ends, authenticated before any other work.

Each Noise message is sent as ``e (32) | sealed header (19) | rest``.  The header is
``{length of rest (2, big endian), cipher (1)}`` under ChaCha20-Poly1305 with the key
HKDF(server public key || e, label and direction).  So garbage costs the server one AEAD,
an attacker cannot choose where a message ends (Fenske and Johnson, 2023), and nothing in
the clear tells one cipher from the other.  It hides nothing from those who know the
server's public key: they can recognise a first packet, but not read or forge a handshake.
"""

from __future__ import annotations

import base64
import struct
from typing import Final, Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from phantom.core.handshake import MAX_REST, MIN_REST_ONE, MIN_REST_TWO, Cipher, Mode
from phantom.crypto.kdf import HEADER_LABEL, PATH_LABEL, derive
from phantom.errors import HandshakeError, LocalProtocolError

#: Who sends the message; the bytes go into the key.
Direction = Literal[b"client", b"server"]

_HEADER = struct.Struct(">HB")
# The key is used for one message only: e is fresh, and it is part of the key's input.
_NONCE = bytes(12)
_MINIMUM: Final[dict[Direction, int]] = {b"client": MIN_REST_ONE, b"server": MIN_REST_TWO}

#: First part of the secret path.  A directory that any site may have, so that the line in
#: a front's log is an upload like others; which one follows from the key.
_DIRECTORIES = ("api", "upload", "media", "files", "events", "data", "sync", "collect")


def _aead(server_public: bytes, e: bytes, direction: Direction) -> ChaCha20Poly1305:
    return ChaCha20Poly1305(derive(server_public + e, HEADER_LABEL + direction))


def seal_header(
    server_public: bytes, e: bytes, direction: Direction, length: int, cipher: Cipher
) -> bytes:
    """Return the 19 bytes that follow e.

    Args:
        server_public: The server's static public key, 32 bytes.
        e: The sender's ephemeral key as it stands on the wire, 32 bytes.
        direction: Who sends.
        length: Bytes of the Noise message after e: 64 + payload in message 1, 16 + payload
            in message 2.
        cipher: The cipher of the Noise protocol.

    Raises:
        LocalProtocolError: The length is out of bounds.
    """
    if not _MINIMUM[direction] <= length <= MAX_REST:
        raise LocalProtocolError("a handshake message too long or too short")
    return _aead(server_public, e, direction).encrypt(_NONCE, _HEADER.pack(length, cipher), None)


def open_header(
    server_public: bytes, e: bytes, direction: Direction, sealed: bytes
) -> tuple[int, Cipher]:
    """Return the length of the rest and the cipher.

    Raises:
        HandshakeError: The header is not authentic, or its content out of bounds.
    """
    try:
        length, code = _HEADER.unpack(
            _aead(server_public, e, direction).decrypt(_NONCE, sealed, None)
        )
        cipher = Cipher(code)
    except (InvalidTag, ValueError, struct.error):
        raise HandshakeError("not the opening of a link made with this server's key") from None
    if not _MINIMUM[direction] <= length <= MAX_REST:
        raise HandshakeError("a handshake message too long or too short")
    return length, cipher


def prologue(mode: Mode, sealed_header_1: bytes) -> bytes:
    """Return the Noise prologue: protocol version, carrier mode, message 1's sealed header."""
    return b"phantom/1" + bytes((mode,)) + sealed_header_1


def secret_path(server_public: bytes) -> str:
    """Return the path that opens a link inside TLS, such as ``/media/Zk3...``.

    An ordinary directory and 22 characters of unpadded URL-safe base64, like the object
    ids of upload services: 128 bits derived from the server's public key, so that only who
    knows the key can ask for it.
    """
    secret = derive(server_public, PATH_LABEL, length=17)
    directory = _DIRECTORIES[secret[16] % len(_DIRECTORIES)]
    return f"/{directory}/{base64.urlsafe_b64encode(secret[:16]).rstrip(b'=').decode('ascii')}"
