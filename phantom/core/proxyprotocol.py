"""The PROXY protocol, versions 1 and 2, from the receiving side.

Source of every rule: "The PROXY protocol", versions 1 & 2 (haproxy.org, proxy-protocol.txt,
2020/03/05), sections 2.1 and 2.2.
"""

from __future__ import annotations

import re
import struct
from ipaddress import IPv4Address, IPv6Address, ip_address

import attrs

from phantom.errors import RemoteProtocolError

#: The longest version 1 header with its CRLF (section 2.1: "a 108-byte buffer is always
#: enough", one byte of it for a terminating zero).
V1_MAX_LENGTH = 107

#: The first bytes of a version 2 header (section 2.2).
V2_SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"

#: The fixed part of version 2: signature, version and command, family, length (section 2.2).
V2_FIXED_LENGTH = 16

#: How much may follow the fixed part.  The addresses take at most 216 bytes; the rest are
#: extensions (section 2.2.7) that nobody fills to this size, so more is an attack on memory.
V2_MAX_BODY = 4096

_V1_PREFIX = b"PROXY "
_V1 = re.compile(
    rb"PROXY (TCP4|TCP6) ([0-9A-Fa-f:.]{2,39}) ([!-~]{2,80}) "
    rb"(0|[1-9][0-9]{0,4}) (0|[1-9][0-9]{0,4})"
)
_LOCAL, _PROXY = 0, 1
_TCP_OVER_IPV4, _TCP_OVER_IPV6 = 0x11, 0x21

#: Extensions that are read: the protocol that ALPN chose, and what the proxy says of TLS, whose
#: first byte has a bit for a client that spoke it (sections 2.2.1 and 2.2.6).
_EXTENSION_ALPN, _EXTENSION_SSL = 0x01, 0x20
_CLIENT_SSL = 0x01


@attrs.frozen(slots=True)
class Endpoint:
    """One end of the proxied connection.

    Attributes:
        host: The address.
        port: 0 to 65535.
    """

    host: IPv4Address | IPv6Address
    port: int


@attrs.frozen(slots=True)
class ProxyHeader:
    """What a header says.

    Attributes:
        source: Where the connection comes from; None when the header leaves that open
            (``UNKNOWN``, ``LOCAL``, a family other than TCP over IP): then the connection's
            own addresses hold.
        destination: Where it was meant to go, likewise.
        alpn: The application protocol that the proxy agreed to, where it ends TLS and says so.
        tls: Whether the visitor spoke TLS to the proxy; None where it does not say.
    """

    source: Endpoint | None
    destination: Endpoint | None
    alpn: bytes | None = None
    tls: bool | None = None


_UNSPECIFIED = ProxyHeader(None, None)


class ProxyHeaderParser:
    """Reads one header that arrives in any pieces.

    Attributes:
        rest: After the header is complete, the bytes that followed it.
    """

    def __init__(self) -> None:
        self._buffer = b""
        self.rest = b""

    def feed(self, data: bytes) -> ProxyHeader | None:
        """Take received bytes.

        Returns:
            The header once it is complete, None before.

        Raises:
            RemoteProtocolError: This is no PROXY header.
        """
        # At most V2_FIXED_LENGTH + V2_MAX_BODY bytes are kept before a verdict falls.
        buffer = self._buffer = self._buffer + data
        if buffer[:1] == _V1_PREFIX[:1]:
            return self._version_1(buffer)
        return self._version_2(buffer)

    def _version_1(self, buffer: bytes) -> ProxyHeader | None:
        if not _V1_PREFIX.startswith(buffer[: len(_V1_PREFIX)]):
            raise RemoteProtocolError("not a PROXY header")
        end = buffer.find(b"\r\n", 0, V1_MAX_LENGTH)
        if end < 0:
            if len(buffer) >= V1_MAX_LENGTH:
                raise RemoteProtocolError("a PROXY header without an end")
            return None
        line, self.rest, self._buffer = buffer[:end], buffer[end + 2 :], b""
        # "UNKNOWN" may be followed by anything up to the CRLF, which is to be ignored.
        if line == b"PROXY UNKNOWN" or line.startswith(b"PROXY UNKNOWN "):
            return _UNSPECIFIED
        match = _V1.fullmatch(line)
        if match is None:
            raise RemoteProtocolError("a malformed PROXY header")
        family, *ends = (group.decode("ascii") for group in match.groups())
        source = _address(ends[0], family)
        if source is None:
            raise RemoteProtocolError("a malformed address in a PROXY header")
        ports = int(ends[2]), int(ends[3])
        if max(ports) > 0xFFFF:
            raise RemoteProtocolError("a malformed port in a PROXY header")
        # nginx writes its own address as it is, where it was told the visitor's by another
        # PROXY header: the path of a unix socket, or an address of the other family.
        destination = _address(ends[1], family)
        return ProxyHeader(
            Endpoint(source, ports[0]),
            None if destination is None else Endpoint(destination, ports[1]),
        )

    def _version_2(self, buffer: bytes) -> ProxyHeader | None:
        if not V2_SIGNATURE.startswith(buffer[: len(V2_SIGNATURE)]):
            raise RemoteProtocolError("not a PROXY header")
        if len(buffer) < V2_FIXED_LENGTH:
            return None
        version_command, family, length = struct.unpack_from("!BBH", buffer, len(V2_SIGNATURE))
        command = version_command & 0x0F
        if version_command >> 4 != 2 or command not in (_LOCAL, _PROXY):
            raise RemoteProtocolError("an unknown PROXY version or command")
        if length > V2_MAX_BODY:
            raise RemoteProtocolError("an oversized PROXY header")
        end = V2_FIXED_LENGTH + length
        if len(buffer) < end:
            return None
        body = buffer[V2_FIXED_LENGTH:end]
        self.rest, self._buffer = buffer[end:], b""
        if command == _LOCAL:
            return _UNSPECIFIED
        if family == _TCP_OVER_IPV4:
            return self._addresses(body, 4)
        if family == _TCP_OVER_IPV6:
            return self._addresses(body, 16)
        return _UNSPECIFIED

    @staticmethod
    def _addresses(body: bytes, size: int) -> ProxyHeader:
        end = 2 * size + 4
        if len(body) < end:
            raise RemoteProtocolError("a PROXY header too short for its addresses")
        source, destination = ip_address(body[:size]), ip_address(body[size : 2 * size])
        source_port, destination_port = struct.unpack_from("!HH", body, 2 * size)
        extensions = _extensions(body[end:])
        tls = extensions.get(_EXTENSION_SSL)
        return ProxyHeader(
            Endpoint(source, source_port),
            Endpoint(destination, destination_port),
            extensions.get(_EXTENSION_ALPN),
            None if tls is None else bool(tls[:1] and tls[0] & _CLIENT_SSL),
        )


def _address(text: str, family: str) -> IPv4Address | IPv6Address | None:
    """Return an address of a family, ``TCP4`` or ``TCP6``; None if it is none."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return address if address.version == int(family[-1]) else None


def _extensions(data: bytes) -> dict[int, bytes]:
    """Return the extensions behind the addresses, each a type (1), a length (2) and a value.

    Raises:
        RemoteProtocolError: One is not whole, or comes twice.
    """
    found: dict[int, bytes] = {}
    while data:
        size = int.from_bytes(data[1:3], "big")
        value = data[3 : 3 + size]
        if len(data) < 3 or len(value) < size or data[0] in found:
            raise RemoteProtocolError("malformed extensions in a PROXY header")
        found[data[0]] = value
        data = data[3 + size :]
    return found
