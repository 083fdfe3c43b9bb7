"""HKDF-SHA256 written from RFC 5869, for cross-checking."""

from __future__ import annotations

import hmac


def hkdf(ikm: bytes, info: bytes, length: int = 32, salt: bytes = bytes(32)) -> bytes:
    prk = hmac.digest(salt, ikm, "sha256")
    out = block = b""
    while len(out) < length:
        block = hmac.digest(prk, block + info + bytes((len(out) // 32 + 1,)), "sha256")
        out += block
    return out[:length]
