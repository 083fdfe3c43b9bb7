"""Encrypted ClientHello: as much of its configuration as a client's own has to be checked.

(RFC 9849: TLS Encrypted Client Hello, section 4; the list is what a DNS HTTPS record has
as ``ech``.)
"""

from __future__ import annotations

import base64
import binascii

from phantom.errors import ConfigurationError

#: The version of the format (section 4).
_VERSION = 0xFE0D


def parse_ech(text: str) -> bytes:
    """Return an ECHConfigList that was written in base64.

    Raises:
        ConfigurationError: It is none, or none that is known here.
    """
    try:
        data = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        raise ConfigurationError("expected base64, as in the ech of a DNS HTTPS record") from None
    versions = []
    at = 2
    if len(data) < 4 or int.from_bytes(data[:2], "big") != len(data) - 2:
        raise ConfigurationError("is no ECHConfigList")
    while at < len(data):
        if at + 4 > len(data):
            raise ConfigurationError("is no ECHConfigList")
        versions.append(int.from_bytes(data[at : at + 2], "big"))
        at += 4 + int.from_bytes(data[at + 2 : at + 4], "big")
    if at != len(data):
        raise ConfigurationError("is no ECHConfigList")
    if _VERSION not in versions:
        raise ConfigurationError("has no configuration of a version known here (0xfe0d)")
    return data
