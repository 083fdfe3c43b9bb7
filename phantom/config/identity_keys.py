"""The keys of a server's identity: Ed25519, written like the X25519 keys of hosts.

The identity signs the list of the server's endpoints (`phantom.crypto.identity`).
"""

from __future__ import annotations

import attrs

from phantom.config.raw_keys import OpenKey, SecretKey, decode_key
from phantom.crypto.identity import public_of
from phantom.errors import ConfigurationError

_KIND, _OPTION = "Ed25519", " --identity"


@attrs.frozen(slots=True, repr=False)
class IdentityPublicKey(OpenKey):
    """What clients know a server by, on whatever host it runs.

    Attributes:
        raw: 32 bytes (RFC 8032, section 5.1.5).
    """

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


@attrs.frozen(slots=True, repr=False)
class IdentityKey(SecretKey):
    """The private half.  Neither `str` nor `repr` shows it.

    Attributes:
        raw: 32 bytes, the seed of RFC 8032, section 5.1.5.
    """

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
