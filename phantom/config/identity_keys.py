"""The keys of a server's identity: Ed25519, written like the X25519 keys of hosts.

The identity signs the list of the server's endpoints (`phantom.crypto.identity`).
"""

from __future__ import annotations

import base64
from collections.abc import Callable

import attrs

from phantom.config.keys import KEY_SIZE, decode_key
from phantom.crypto.identity import public_of
from phantom.errors import ConfigurationError

_KIND, _OPTION = "Ed25519", " --identity"


@attrs.frozen(slots=True, repr=False)
class IdentityPublicKey:
    """What clients know a server by, on whatever host it runs.

    Attributes:
        raw: 32 bytes (RFC 8032, section 5.1.5).
    """

    raw: bytes = attrs.field()

    @raw.validator
    def _check(self, _attribute: object, value: bytes) -> None:
        if len(value) != KEY_SIZE:
            raise ValueError(f"a public key has {KEY_SIZE} bytes")

    @classmethod
    def parse(cls, text: str) -> IdentityPublicKey:
        """Parse base64.

        Raises:
            ConfigurationError: It is no key.
        """
        raw = decode_key(text, "identity's public key", kind=_KIND, option=_OPTION)
        if not any(raw):
            raise ConfigurationError("the identity's public key is all zeroes")
        return cls(raw)

    def __str__(self) -> str:
        """Return the key in base64."""
        return base64.b64encode(self.raw).decode("ascii")

    def __repr__(self) -> str:
        return f"<IdentityPublicKey {self}>"


@attrs.frozen(slots=True, repr=False)
class IdentityKey:
    """The private half.  Neither `str` nor `repr` shows it.

    Attributes:
        raw: 32 bytes, the seed of RFC 8032, section 5.1.5.
    """

    raw: bytes = attrs.field()

    @raw.validator
    def _check(self, _attribute: object, value: bytes) -> None:
        if len(value) != KEY_SIZE:
            raise ValueError(f"a private key has {KEY_SIZE} bytes")

    @classmethod
    def generate(cls, entropy: Callable[[int], bytes]) -> IdentityKey:
        """Make a key.

        Args:
            entropy: ``entropy(n)`` returns n bytes fit for keys.
        """
        return cls(entropy(KEY_SIZE))

    @classmethod
    def parse(cls, text: str) -> IdentityKey:
        """Parse base64.

        Raises:
            ConfigurationError: It is no key.
        """
        raw = decode_key(text, "identity's private key", kind=_KIND, option=_OPTION)
        if not any(raw):
            raise ConfigurationError(
                "the identity's private key is all zeroes",
                fix='make one with "phantom genkey --identity"',
            )
        return cls(raw)

    def public(self) -> IdentityPublicKey:
        """Return the public key that belongs to this one."""
        return IdentityPublicKey(public_of(self.raw))

    def export(self) -> str:
        """Return the key in base64: the one way to see it."""
        return base64.b64encode(self.raw).decode("ascii")

    def __str__(self) -> str:
        return "<IdentityKey hidden>"

    __repr__ = __str__
