"""Key derivation: HKDF-SHA256 (RFC 5869), and every label that phantom derives with.

The labels stand together because what keeps keys apart is that no two of them are equal.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

#: The key of a message's sealed header; the direction, "client" or "server", follows.
HEADER_LABEL = b"phantom 1 header "
#: The path that opens a link inside TLS.
PATH_LABEL = b"phantom 1 path"
#: For the page that strangers get where no decoy is set; from the server's private key.
SITE_LABEL = b"phantom 1 site"
#: The key that seals the lengths of records.
LENGTH_LABEL = b"phantom 1 length"
#: The key that seals the bodies of records.
BODY_LABEL = b"phantom 1 body"
#: A transport key joined with a second secret; the handshake hash follows.
MIX_LABEL = b"phantom 1 mix "
#: The beginning of the ratchet that a link with an ML-KEM exchange leaves behind.
RATCHET_LABEL = b"phantom 1 ratchet"
#: One step of that ratchet.
STEP_LABEL = b"phantom 1 ratchet step"


def derive(ikm: bytes, info: bytes, *, salt: bytes | None = None, length: int = 32) -> bytes:
    """Return `length` bytes of HKDF-SHA256.

    Args:
        ikm: The input keying material.
        info: The label and what is bound with it.
        salt: RFC 5869's salt; None is a string of zeros.
        length: Bytes wanted.
    """
    return HKDF(algorithm=SHA256(), length=length, salt=salt, info=info).derive(ikm)


def mix(key: bytes, secret: bytes, handshake_hash: bytes) -> bytes:
    """Join a transport key with a second shared secret, so that both must be broken.

    k' = HKDF(salt = k, ikm = secret, info = label || handshake hash) (doc/spec/handshake.md).  The
    hash covers the ML-KEM key and ciphertext, which travel in the handshake's payloads.

    Args:
        key: A key of the Noise split, 32 bytes.
        secret: An ML-KEM shared secret, or a ratcheted secret of the session's first link.
        handshake_hash: The final handshake hash, 32 bytes.
    """
    return derive(secret, MIX_LABEL + handshake_hash, salt=key)
