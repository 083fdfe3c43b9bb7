"""What the values of a configuration become: addresses, pins, sizes, durations, secrets.

Every ``parse`` here raises `ConfigurationError` with a problem and, where there is one, a
fix.  None repeats the text it read: a secret may have been pasted into the wrong place.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path

import attrs

from phantom.address import Destination, parse_host
from phantom.config.keys import PublicKey
from phantom.errors import ConfigurationError

IPNetwork = IPv4Network | IPv6Network

#: Bytes of a SHA-256 digest.
_DIGEST_SIZE = 32

#: The longest user name and password of RFC 1929, section 2 (their length is one byte).
MAX_CREDENTIAL = 255

_SIZE = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?) ?(B|KiB|MiB|GiB|kB|MB|GB)")
_SIZE_UNITS = {
    "B": 1,
    "KiB": 1024,
    "MiB": 1024**2,
    "GiB": 1024**3,
    "kB": 1000,
    "MB": 1000**2,
    "GB": 1000**3,
}

# More seconds than any limit allows.
_ENDLESS = 1e9

_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?) ?(ms|s|min|h)")
_DURATION_UNITS = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0}


@attrs.frozen(slots=True)
class ListenAddress:
    """Where to accept connections.

    Attributes:
        host: An address of this machine; None for every address, IPv4 and IPv6.
        port: 0 to 65535; 0 lets the system choose a free one.
    """

    host: IPv4Address | IPv6Address | None
    port: int

    @classmethod
    def parse(cls, text: str) -> ListenAddress:
        """Parse ``address:port``, ``[IPv6]:port``, ``localhost:port`` or ``:port``."""
        match = re.fullmatch(r"(\[[^\]]*\]|[^:\[\]]*):([0-9]{1,5})", text.strip())
        if match is None:
            raise ConfigurationError(
                "expected address:port",
                fix='for example "127.0.0.1:1080", "[::1]:1080" or ":443"',
            )
        name, digits = match.groups()
        port = int(digits)
        if port > 65535:
            raise ConfigurationError("a port is a number from 0 to 65535")
        if not name:
            return cls(None, port)
        if name.lower() == "localhost":
            return cls(IPv4Address("127.0.0.1"), port)
        try:
            return cls(ip_address(name[1:-1] if name.startswith("[") else name), port)
        except ValueError:
            pass
        raise ConfigurationError(
            "not an IP address of this machine",
            fix='host names are not looked up here; ":PORT" listens on every address',
        )

    @property
    def interface(self) -> str:
        """The address as ``reactor.listenTCP`` takes it; "::" (which serves both) for all."""
        return "::" if self.host is None else str(self.host)

    @property
    def is_loopback(self) -> bool:
        """Whether only programs on this machine can connect."""
        return self.host is not None and self.host.is_loopback

    def __str__(self) -> str:
        """Return ``address:port``."""
        if self.host is None:
            return f":{self.port}"
        host = f"[{self.host}]" if isinstance(self.host, IPv6Address) else str(self.host)
        return f"{host}:{self.port}"


@attrs.frozen(slots=True)
class UnixSocket:
    """A unix socket, by its path.

    Attributes:
        path: Absolute.
    """

    path: Path

    def __str__(self) -> str:
        return f"unix:{self.path}"


@attrs.frozen(slots=True)
class TLSPin:
    """The one key that a TLS server must prove, whoever signed its certificate.

    Attributes:
        digest: SHA-256 of the SubjectPublicKeyInfo in DER (RFC 7469, section 2.4).
    """

    digest: bytes

    @classmethod
    def parse(cls, text: str) -> TLSPin:
        """Parse ``sha256/BASE64``."""
        kind, _, encoded = text.strip().partition("/")
        raw = b""
        try:
            if kind.lower() == "sha256" and encoded.isascii():
                raw = base64.b64decode(encoded, validate=True)
        except binascii.Error:
            pass
        if len(raw) != _DIGEST_SIZE:
            raise ConfigurationError(
                "expected sha256/BASE64, the digest of the certificate's public key",
                fix="openssl x509 -in fullchain.pem -noout -pubkey"
                " | openssl pkey -pubin -outform DER | openssl dgst -sha256 -binary | base64",
            )
        return cls(raw)

    def __str__(self) -> str:
        """Return ``sha256/BASE64``."""
        return f"sha256/{base64.b64encode(self.digest).decode('ascii')}"


@attrs.frozen(slots=True, repr=False)
class Secret:
    """A password.  Neither `str` nor `repr` shows it."""

    _value: str

    def reveal(self) -> str:
        """Return the password: the one way to see it."""
        return self._value

    def __str__(self) -> str:
        return "<Secret hidden>"

    __repr__ = __str__


@attrs.frozen(slots=True)
class AllowedClient:
    """A client that the server admits.

    Attributes:
        key: Its public key.
        name: What the operator calls it; may be empty.
    """

    key: PublicKey
    name: str = attrs.field(default="", repr=False)

    @classmethod
    def parse(cls, text: str) -> AllowedClient:
        """Parse a base64 key, optionally followed by blanks and a name."""
        key, _, name = text.strip().replace("\t", " ").partition(" ")
        name = name.strip()
        if not name.isprintable() or len(name) > MAX_CREDENTIAL:
            raise ConfigurationError(
                f"a name is at most {MAX_CREDENTIAL} printable characters long"
            )
        return cls(PublicKey.parse(key), name)

    def __str__(self) -> str:
        """Return the line that `parse` reads."""
        return f"{self.key} {self.name}".rstrip()


def parse_size(value: object) -> int:
    """Return a number of bytes from a whole number or a text like ``64 MiB``."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and (match := _SIZE.fullmatch(value.strip())):
        number, unit = match.groups()
        return round(float(number) * _SIZE_UNITS[unit])
    raise ConfigurationError('expected a number of bytes, or a text like "64 MiB"')


def show_size(value: int) -> str:
    """Return a size in the largest unit that divides it."""
    for unit in ("GiB", "MiB", "KiB"):
        if value and value % _SIZE_UNITS[unit] == 0:
            return f"{value // _SIZE_UNITS[unit]} {unit}"
    return f"{value} B"


def parse_duration(value: object) -> float:
    """Return seconds from a number or a text like ``500 ms`` or ``5 min``."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        # Neither NaN nor a whole number too large for a float gets past any limit.
        return math.inf if value != value or value > _ENDLESS else float(max(value, -1))
    if isinstance(value, str) and (match := _DURATION.fullmatch(value.strip())):
        number, unit = match.groups()
        return float(number) * _DURATION_UNITS[unit]
    raise ConfigurationError('expected seconds, or a text like "500 ms" or "5 min"')


def parse_network(text: str) -> IPNetwork:
    """Return a network from CIDR notation; a bare address is a network of one."""
    text = text.strip()
    try:
        return ip_network(text)
    except ValueError:
        pass
    try:
        meant = ip_network(text, strict=False)
    except ValueError:
        pass
    else:
        raise ConfigurationError("the network has host bits set", fix=f'did you mean "{meant}"?')
    raise ConfigurationError('expected a network like "10.0.0.0/8" or "fd00::/8"')


def parse_destination(text: str) -> Destination:
    """Return a destination from ``host:port``."""
    try:
        return Destination.parse(text.strip())
    except ValueError as error:
        problem = str(error)
    raise ConfigurationError(problem, fix='expected "host:port", for example "example.com:443"')


def parse_server_name(text: str) -> str:
    """Return a name as TLS sends it: ASCII, no address (RFC 6066, section 3)."""
    problem = "TLS names a host, never an address"
    try:
        host = parse_host(text.strip())
    except ValueError as error:
        problem = str(error)
    else:
        if isinstance(host, str):
            return host
    raise ConfigurationError(problem, fix='expected a host name like "example.com"')


def parse_http_origin(text: str) -> Destination:
    """Return where a web server listens from ``http://host[:port]``."""
    problem = "only the scheme, the host and the port can be given"
    rest = text.strip()[len("http://") :].removesuffix("/")
    if not re.search(r"[/?#@]", rest):
        try:
            return Destination.parse(rest, default_port=80)
        except ValueError as error:
            problem = str(error)
    raise ConfigurationError(problem, fix='expected "http://host:port"')
