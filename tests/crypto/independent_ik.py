"""A Noise IK of our own, written from the specification (revision 34) for cross-checking.

It shares nothing with `phantom`: only primitives of `cryptography`, and the Elligator2 map
in integers from RFC 9380, 6.7.1.  It stands in for a foreign Noise implementation.
"""

from __future__ import annotations

import hashlib
import hmac

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

P = 2**255 - 19
A = 486662


def elligator2(representative: bytes) -> bytes:
    r = int.from_bytes(representative, "little") % 2**254
    u = -A * pow(1 + 2 * r * r, P - 2, P) % P
    if pow(u**3 + A * u**2 + u, (P - 1) // 2, P) == P - 1:
        u = (-u - A) % P
    return u.to_bytes(32, "little")


def public_of(private: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def dh(private: bytes, public: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).exchange(
        X25519PublicKey.from_public_bytes(public)
    )


class IndependentIK:
    """One side.  `point` maps a received e to the point to multiply with."""

    def __init__(self, name, prologue, s, e, rs=None, e_wire=None, point=lambda wire: wire):
        self.aead, self.order = (
            (AESGCM, "big") if b"AESGCM" in name else (ChaCha20Poly1305, "little")
        )
        self.h = self.ck = name if len(name) == 32 else hashlib.sha256(name).digest()
        if len(name) < 32:
            self.h = self.ck = name.ljust(32, b"\0")
        self.s, self.e, self.rs, self.point = s, e, rs, point
        self.e_wire = e_wire or public_of(e)
        self.k, self.n, self.initiator = b"", 0, rs is not None
        self.mix_hash(prologue)
        self.mix_hash(rs or public_of(s))

    def mix_hash(self, data):
        self.h = hashlib.sha256(self.h + data).digest()

    def hkdf(self, ikm):
        temp = hmac.digest(self.ck, ikm, "sha256")
        one = hmac.digest(temp, b"\x01", "sha256")
        return one, hmac.digest(temp, one + b"\x02", "sha256")

    def mix_key(self, private, public):
        self.ck, self.k = self.hkdf(dh(private, public))
        self.n = 0

    def nonce(self):
        self.n += 1
        return bytes(4) + (self.n - 1).to_bytes(8, self.order)

    def encrypt(self, plaintext):
        out = self.aead(self.k).encrypt(self.nonce(), plaintext, self.h)
        self.mix_hash(out)
        return out

    def decrypt(self, ciphertext):
        out = self.aead(self.k).decrypt(self.nonce(), ciphertext, self.h)
        self.mix_hash(ciphertext)
        return out

    def write_1(self, payload):
        self.mix_hash(self.e_wire)
        self.mix_key(self.e, self.rs)
        sealed_s = self.encrypt(public_of(self.s))
        self.mix_key(self.s, self.rs)
        return self.e_wire + sealed_s + self.encrypt(payload)

    def read_1(self, message):
        self.re = self.point(message[:32])
        self.mix_hash(message[:32])
        self.mix_key(self.s, self.re)
        self.rs = self.decrypt(message[32:80])
        self.mix_key(self.s, self.rs)
        return self.decrypt(message[80:])

    def write_2(self, payload):
        self.mix_hash(self.e_wire)
        self.mix_key(self.e, self.re)
        self.mix_key(self.e, self.rs)
        return self.e_wire + self.encrypt(payload)

    def read_2(self, message):
        re = self.point(message[:32])
        self.mix_hash(message[:32])
        self.mix_key(self.e, re)
        self.mix_key(self.s, re)
        return self.decrypt(message[32:])

    def split(self):
        """Send and receive keys of this side."""
        first, second = self.hkdf(b"")
        return (first, second) if self.initiator else (second, first)
