"""Key pairs that are the same on every run."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey


def keypair(seed: int) -> tuple[bytes, bytes]:
    """Return a private key and its public key; `seed` is from 0 to 255."""
    private = X25519PrivateKey.from_private_bytes(bytes([seed]) * 32)
    return private.private_bytes_raw(), private.public_key().public_bytes_raw()


SERVER, SERVER_PUBLIC = keypair(1)
CLIENT, CLIENT_PUBLIC = keypair(2)
