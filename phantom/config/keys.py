"""X25519 keys (RFC 7748): what hosts and clients know each other by."""

from __future__ import annotations

import attrs
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from phantom.config.raw_keys import KEY_SIZE, OpenKey, SecretKey, decode_key
from phantom.errors import ConfigurationError

#: Any fixed scalar shows a low-order point: clamping makes every scalar a multiple of the
#: cofactor, so the product is zero whichever is used (RFC 7748, section 6.1).
_PROBE_SCALAR = bytes(range(1, KEY_SIZE + 1))


@attrs.frozen(slots=True, repr=False)
class PublicKey(OpenKey):
    """The public half of an X25519 key pair.

    Attributes:
        raw: 32 bytes; never a point of low order when made by `parse`.
    """

    @classmethod
    def parse(cls, text: str) -> PublicKey:
        """Parse base64.

        Raises:
            ConfigurationError: It is no key, or one that agrees on the same secret with
                everybody (RFC 7748, section 6.1).
        """
        raw = decode_key(text, "public key")
        probe = X25519PrivateKey.from_private_bytes(_PROBE_SCALAR)
        try:
            probe.exchange(X25519PublicKey.from_public_bytes(raw))
        except ValueError:
            raise ConfigurationError(
                "the public key is a point of low order, which protects nothing",
                fix='"phantom pubkey" prints the public key of a private key',
            ) from None
        return cls(raw)


@attrs.frozen(slots=True, repr=False)
class PrivateKey(SecretKey):
    """The private half of an X25519 key pair.  Neither `str` nor `repr` shows it.

    Attributes:
        raw: 32 bytes, not clamped (X25519 clamps them as it reads them).
    """

    @classmethod
    def parse(cls, text: str) -> PrivateKey:
        """Parse base64.

        Raises:
            ConfigurationError: It is no key.
        """
        raw = decode_key(text, "private key")
        if not any(raw):
            raise ConfigurationError(
                "the private key is all zeroes", fix='make one with "phantom genkey"'
            )
        return cls(raw)

    def public(self) -> PublicKey:
        """Return the public key that belongs to this one."""
        return PublicKey(
            X25519PrivateKey.from_private_bytes(self.raw).public_key().public_bytes_raw()
        )
