"""The list of a server's endpoints: where it can be reached, and by which key.

A server signs the list (`phantom.crypto.identity`) and pushes it to its clients in an
ENDPOINTS frame, so that a server which moves needs no new configuration.  The layout, numbers
big endian (doc/spec/wire.md, "ENDPOINTS")::

    list      version (8) | issued (8) | count (1) | entries
    entry     length (2) | carrier (1) | rest
    rest      public key (32) | port (2) | host (1 + n) | name (1 + n) | pin (1 + 0 or 32)

An entry of a carrier that is not known here is skipped by its length, so that a server may
list what only newer clients can use.
"""

from __future__ import annotations

import struct
from enum import IntEnum

import attrs

from phantom.address import Destination, Host, parse_host
from phantom.errors import RemoteProtocolError

#: Most endpoints in a list: more than anybody runs, few enough to try them all.
MAX_ENDPOINTS = 32
#: Most bytes of an encoded list: 32 entries with ordinary names take half of it.
MAX_LIST_SIZE = 8 * 1024
#: Bytes of an X25519 public key, and of a SHA-256 digest.
KEY_SIZE = PIN_SIZE = 32

_HEAD = struct.Struct(">QQB")
_LENGTH = struct.Struct(">H")
_PORT = struct.Struct(">H")


class Carrier(IntEnum):
    """What moves the bytes of a link; the number stands in the list."""

    TCP = 0
    TLS = 1


@attrs.frozen(slots=True, kw_only=True)
class ServerEndpoint:
    """One way to one host of a server.

    Attributes:
        host: A name or an address.
        port: 1 to 65535.
        public_key: The host's X25519 key.  The same key is the same host: a session can go
            on there.
        carrier: What moves the bytes.
        sni: The name for TLS; None leaves it to the client's own settings.
        pin: SHA-256 of the SubjectPublicKeyInfo of the host's certificate; None leaves it to
            the client's own settings.
    """

    host: Host
    port: int = attrs.field()
    public_key: bytes = attrs.field(repr=False)
    carrier: Carrier = Carrier.TCP
    sni: str | None = None
    pin: bytes | None = attrs.field(default=None, repr=False)

    @port.validator
    def _check_port(self, _attribute: object, value: int) -> None:
        if not 0 < value < 65536:
            raise ValueError("a port is a number from 1 to 65535")

    @public_key.validator
    def _check_key(self, _attribute: object, value: bytes) -> None:
        if len(value) != KEY_SIZE:
            raise ValueError("a public key has 32 bytes")

    @pin.validator
    def _check_pin(self, _attribute: object, value: bytes | None) -> None:
        if value is not None and len(value) != PIN_SIZE:
            raise ValueError("a pin has 32 bytes")

    def __attrs_post_init__(self) -> None:
        if self.carrier is Carrier.TCP and (self.sni is not None or self.pin is not None):
            raise ValueError("a name or a pin without TLS")

    @property
    def destination(self) -> Destination:
        """Host and port."""
        return Destination(self.host, self.port)

    @property
    def label(self) -> str:
        """A text that tells endpoints apart, for what is remembered of them."""
        return f"{self.carrier.name.lower()} {self.destination} {self.public_key[:8].hex()}"


@attrs.frozen(slots=True, kw_only=True)
class EndpointList:
    """Where a server can be reached.

    Attributes:
        version: Raised by the operator with every change; from 1.
        issued: When it was signed, in seconds since the Unix epoch.  It tells people how old
            a list is and decides nothing.
        endpoints: 1 to `MAX_ENDPOINTS`, the operator's favourite first.
    """

    version: int = attrs.field()
    issued: int = attrs.field()
    endpoints: tuple[ServerEndpoint, ...] = attrs.field()

    @version.validator
    def _check_version(self, _attribute: object, value: int) -> None:
        if not 0 < value < 1 << 64:
            raise ValueError("a version is a number from 1 to 2**64 - 1")

    @issued.validator
    def _check_issued(self, _attribute: object, value: int) -> None:
        if not 0 <= value < 1 << 64:
            raise ValueError("a time that 64 bits cannot hold")

    @endpoints.validator
    def _check_endpoints(self, _attribute: object, value: tuple[ServerEndpoint, ...]) -> None:
        if not 0 < len(value) <= MAX_ENDPOINTS:
            raise ValueError(f"a list has 1 to {MAX_ENDPOINTS} endpoints")

    def encode(self) -> bytes:
        """Return the bytes to sign.

        Raises:
            ValueError: They would be more than `MAX_LIST_SIZE`.
        """
        parts = [_HEAD.pack(self.version, self.issued, len(self.endpoints))]
        for endpoint in self.endpoints:
            entry = _encode_entry(endpoint)
            parts += (_LENGTH.pack(len(entry)), entry)
        encoded = b"".join(parts)
        if len(encoded) > MAX_LIST_SIZE:
            raise ValueError(f"more than {MAX_LIST_SIZE} bytes of endpoints")
        return encoded

    @classmethod
    def decode(cls, encoded: bytes) -> EndpointList:
        """Parse a list.

        Raises:
            RemoteProtocolError: It is none, or has no endpoint of a known carrier.
        """
        if len(encoded) > MAX_LIST_SIZE:
            raise RemoteProtocolError("a list of endpoints that is too long")
        if len(encoded) < _HEAD.size:
            raise RemoteProtocolError("a list of endpoints is cut short")
        version, issued, count = _HEAD.unpack_from(encoded)
        reader = _Reader(encoded[_HEAD.size :])
        if not 0 < count <= MAX_ENDPOINTS:
            raise RemoteProtocolError("an impossible number of endpoints")
        entries = [reader.take(reader.number(_LENGTH)) for _ in range(count)]
        reader.finish()
        known = [_decode_entry(entry) for entry in entries]
        endpoints = tuple(endpoint for endpoint in known if endpoint is not None)
        if not endpoints:
            raise RemoteProtocolError("no endpoint that this version can use")
        try:
            return cls(version=version, issued=issued, endpoints=endpoints)
        except ValueError as error:
            raise RemoteProtocolError(str(error)) from None


class _Reader:
    """Takes bytes off the front, and never more than there are."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, size: int) -> bytes:
        end = self._at + size
        if end > len(self._data):
            raise RemoteProtocolError("a list of endpoints is cut short")
        taken = self._data[self._at : end]
        self._at = end
        return taken

    def number(self, layout: struct.Struct) -> int:
        return int(layout.unpack(self.take(layout.size))[0])

    def text(self) -> str:
        raw = self.take(self.take(1)[0])
        try:
            return raw.decode("ascii")
        except UnicodeDecodeError:
            raise RemoteProtocolError("a name outside ASCII") from None

    def finish(self) -> None:
        if self._at != len(self._data):
            raise RemoteProtocolError("a list of endpoints with something behind it")


def _short(raw: bytes) -> bytes:
    return bytes([len(raw)]) + raw


def _encode_entry(endpoint: ServerEndpoint) -> bytes:
    return b"".join(
        (
            bytes([endpoint.carrier]),
            endpoint.public_key,
            _PORT.pack(endpoint.port),
            _short(str(endpoint.host).encode("ascii")),
            _short((endpoint.sni or "").encode("ascii")),
            _short(endpoint.pin or b""),
        )
    )


def _decode_entry(entry: bytes) -> ServerEndpoint | None:
    """Return the endpoint, None when its carrier is not known here."""
    reader = _Reader(entry)
    try:
        carrier = Carrier(reader.take(1)[0])
    except ValueError:
        return None
    public_key = reader.take(KEY_SIZE)
    port = reader.number(_PORT)
    host = _canonical_host(reader.text())
    name = reader.text()
    sni = _canonical_host(name) if name else None
    if sni is not None and not isinstance(sni, str):
        raise RemoteProtocolError("an address where TLS has a name")
    pin = reader.take(reader.take(1)[0]) or None
    reader.finish()
    try:
        return ServerEndpoint(
            host=host, port=port, public_key=public_key, carrier=carrier, sni=sni, pin=pin
        )
    except ValueError as error:
        raise RemoteProtocolError(str(error)) from None


def _canonical_host(text: str) -> Host:
    """Parse a host that must be written as we would write it: one endpoint, one spelling."""
    try:
        host = parse_host(text)
    except ValueError as error:
        raise RemoteProtocolError(str(error)) from None
    if str(host) != text:
        raise RemoteProtocolError("a host that is not written in its one way")
    return host
