"""What all keys have in common: 32 raw bytes, how they are written, and who may see them.

The text is base64 with padding (RFC 4648, section 4): 44 characters.  A secret shows itself only
when `SecretKey.export` is called; no text of an error raised here repeats any part of what it
read.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import re
from collections.abc import Callable
from typing import Self

import attrs

from phantom.errors import ConfigurationError

#: Bytes of a key of either curve, private or public (RFC 7748, section 5; RFC 8032,
#: section 5.1.5).
KEY_SIZE = 32

_HEX_KEY = re.compile(r"(?:0x)?[0-9A-Fa-f]{64}")


def decode_key(text: str, noun: str, *, kind: str = "X25519", option: str = "") -> bytes:
    """Return the 32 bytes that `text` writes in base64.

    Args:
        text: What was written.
        noun: What it should be, for messages.
        kind: The curve, for messages.
        option: The option of ``phantom genkey`` that makes such keys, with a leading blank.

    Raises:
        ConfigurationError: It does not; the message names `noun` and the fault only.
    """
    text = text.strip()
    if not text:
        raise ConfigurationError(f"the {noun} is empty")
    if "-----BEGIN" in text:
        raise ConfigurationError(
            f"this is a PEM file, and the {noun} is 32 raw {kind} bytes in base64",
            fix=f'"phantom genkey{option}" makes a private key and "phantom pubkey{option}" its '
            "public key",
        )
    if _HEX_KEY.fullmatch(text):
        raise ConfigurationError(
            f"the {noun} is written in hexadecimal, and base64 is expected",
            fix="convert it with: xxd -r -p | base64",
        )
    if len(text) == 43 and not text.endswith("="):
        raise ConfigurationError(
            f'the {noun} lacks its last character, "="',
            fix="copy all 44 characters",
        )
    raw: bytes | None = None
    # No use of UnicodeEncodeError: it would carry the text along.
    with contextlib.suppress(binascii.Error):
        raw = base64.b64decode(text, validate=True) if text.isascii() else None
    if raw is None:
        raise ConfigurationError(
            f"the {noun} is not base64",
            fix="it is 44 characters: letters, digits, +, / and a final =",
        )
    if len(raw) != KEY_SIZE:
        raise ConfigurationError(
            f"the {noun} has {len(raw)} bytes, and {KEY_SIZE} are expected",
            fix="copy all 44 characters",
        )
    if base64.b64encode(raw).decode("ascii") != text:
        # The last character carries two bits that no byte uses; they must be zero, or one
        # key would have several spellings (RFC 4648, section 3.5).
        raise ConfigurationError(f"the {noun} is not base64: its end was altered")
    return raw


@attrs.frozen(slots=True, repr=False)
class OpenKey:
    """The public half of a key pair.

    Attributes:
        raw: 32 bytes.
    """

    raw: bytes = attrs.field()

    @raw.validator
    def _check(self, _attribute: object, value: bytes) -> None:
        if len(value) != KEY_SIZE:
            raise ValueError(f"a public key has {KEY_SIZE} bytes")

    def __str__(self) -> str:
        """Return the key in base64."""
        return base64.b64encode(self.raw).decode("ascii")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self}>"


@attrs.frozen(slots=True, repr=False)
class SecretKey:
    """The private half of a key pair.  Neither `str` nor `repr` shows it.

    Attributes:
        raw: 32 bytes.
    """

    raw: bytes = attrs.field()

    @raw.validator
    def _check(self, _attribute: object, value: bytes) -> None:
        if len(value) != KEY_SIZE:
            raise ValueError(f"a private key has {KEY_SIZE} bytes")

    @classmethod
    def generate(cls, entropy: Callable[[int], bytes]) -> Self:
        """Make a key.

        Args:
            entropy: ``entropy(n)`` returns n bytes fit for keys.
        """
        return cls(entropy(KEY_SIZE))

    def export(self) -> str:
        """Return the key in base64: the one way to see it."""
        return base64.b64encode(self.raw).decode("ascii")

    def __str__(self) -> str:
        return f"<{type(self).__name__} hidden>"

    __repr__ = __str__
