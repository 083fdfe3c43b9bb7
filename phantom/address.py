"""Destinations: a name or an IP address, and a port.

Nothing here resolves anything: names travel to the server as they were asked for.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, ip_address

import attrs

#: The longest host name, in octets of its text form (RFC 1035, section 2.3.4, less the
#: length byte and the root label).
MAX_NAME_LENGTH = 253

# Letters, digits, hyphen, dot and the underscore that service names use.  Deliberately
# strict: what reaches a resolver or a log line must not carry control bytes or spaces.
_NAME = re.compile(r"^(?!-)[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*\.?\Z")

# A last label that makes inet_aton read the whole as an address.
_NUMBER = re.compile(r"(?:[0-9]+|0[xX][0-9A-Fa-f]*)\Z")

Host = str | IPv4Address | IPv6Address


def parse_host(text: str) -> Host:
    """Parse a host as people and protocols write it.

    Args:
        text: An IPv4 or IPv6 address (the latter with or without brackets) or a host name;
            a name outside ASCII is converted by IDNA.

    Returns:
        An address object for a literal, otherwise the ASCII name in lower case, without a
        trailing dot.

    Raises:
        ValueError: `text` is neither.
    """
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        literal = ip_address(bare)
    except ValueError:
        pass
    else:
        if isinstance(literal, IPv6Address) and literal.scope_id is not None:
            raise ValueError("an address with a zone cannot be reached from another machine")
        return literal
    if bare is not text:
        raise ValueError("not an IPv6 address in brackets")
    name = text
    if not text.isascii():
        try:
            name = text.encode("idna").decode("ascii")
        except UnicodeError:
            raise ValueError("not a host name") from None
    if len(name.rstrip(".")) > MAX_NAME_LENGTH or not _NAME.match(name):
        raise ValueError("not a host name")
    if _NUMBER.match(name.rstrip(".").rsplit(".", 1)[-1]):
        # "127.1", "0x7f000001" and the like: some resolvers read them as addresses, which
        # would let a literal past the rules for literals (WHATWG URL, 3.5 "ends in a number").
        raise ValueError("an abbreviated IPv4 address")
    return name.rstrip(".").lower()


# The hash is kept: an address object makes its own anew each time, in 1 us.
@attrs.frozen(slots=True, repr=False, cache_hash=True)
class Destination:
    """Where a stream is to lead.

    `repr` hides the host, because reprs end up in logs; `str` shows it, for wire and user.

    Attributes:
        host: An ASCII host name, or an address object for a literal.
        port: 1 to 65535.
    """

    host: Host
    port: int = attrs.field()

    @port.validator
    def _check_port(self, _attribute: object, value: int) -> None:
        if not 0 < value < 65536:
            raise ValueError("a port is a number from 1 to 65535")

    @classmethod
    def parse(cls, text: str, default_port: int | None = None) -> Destination:
        """Parse ``host:port``, ``[IPv6]:port`` or, with a default port, a bare host.

        Raises:
            ValueError: The text is no destination.
        """
        match = re.fullmatch(r"(\[[^\]]*\]|[^:\[\]]*)(?::([0-9]{1,5}))?", text)
        if match is None:
            if default_port is not None:
                return cls(parse_host(text), default_port)  # a bare IPv6 address
            raise ValueError("expected host:port, with an IPv6 address in brackets")
        host, port = match.groups()
        if port is None and default_port is None:
            raise ValueError("the port is missing")
        return cls(parse_host(host), int(port) if port is not None else default_port or 0)

    def __str__(self) -> str:
        """Return ``host:port``, an IPv6 address in brackets."""
        host = f"[{self.host}]" if isinstance(self.host, IPv6Address) else str(self.host)
        return f"{host}:{self.port}"

    def __repr__(self) -> str:
        kind = "name" if isinstance(self.host, str) else f"IPv{self.host.version}"
        return f"<Destination {kind}>"
