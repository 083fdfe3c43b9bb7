"""The endpoints that a server announces, as they are written in its file."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import TypeVar

import attrs

from phantom.address import Destination
from phantom.config.keys import PublicKey
from phantom.config.values import TLSPin, parse_destination, parse_server_name
from phantom.core.endpoint_list import Carrier, EndpointList, ServerEndpoint
from phantom.errors import ConfigurationError

T = TypeVar("T")

_CARRIERS = {carrier.name.lower(): carrier for carrier in Carrier}
_KEYS = ("address", "public_key", "carrier", "sni", "pin")


@attrs.frozen(slots=True, kw_only=True)
class AnnouncedEndpoint:
    """One endpoint; what is None is that of the host whose file this is.

    Attributes:
        address: Where clients connect.
        public_key: The host's key.
        carrier: TCP or TLS.
        sni: The name for TLS; None leaves it to the clients.
        pin: The key of the certificate; None leaves it to the clients.
    """

    address: Destination
    public_key: PublicKey | None = None
    carrier: Carrier | None = None
    sni: str | None = None
    pin: TLSPin | None = None

    @classmethod
    def parse(cls, value: object) -> AnnouncedEndpoint:
        """Parse ``"host:port"``, or a table of `_KEYS`.

        Raises:
            ConfigurationError: It is neither.
        """
        if isinstance(value, str):
            return cls(address=parse_destination(value))
        if not isinstance(value, dict):
            raise ConfigurationError(
                "expected a text in quotes or a table",
                fix='for example "a.example:443", '
                'or { address = "b.example:443", public_key = "BASE64" }',
            )
        texts = _texts(value)
        carrier = texts.get("carrier")
        if carrier is not None and carrier not in _CARRIERS:
            raise ConfigurationError('carrier must be "tcp" or "tls"')
        key, pin, sni = (texts.get(name) for name in ("public_key", "pin", "sni"))
        made = cls(
            address=_within("address", parse_destination, texts["address"]),
            public_key=None if key is None else _within("public_key", PublicKey.parse, key),
            carrier=None if carrier is None else _CARRIERS[carrier],
            sni=None if sni is None else _within("sni", parse_server_name, sni),
            pin=None if pin is None else _within("pin", TLSPin.parse, pin),
        )
        if made.carrier is Carrier.TCP and made.needs_tls:
            raise ConfigurationError(
                "sni and pin have no effect without TLS", fix='set carrier = "tls"'
            )
        return made

    @property
    def needs_tls(self) -> bool:
        """Whether it says something that only TLS has."""
        return self.sni is not None or self.pin is not None

    def resolve(self, own_key: PublicKey, own_carrier: Carrier) -> ServerEndpoint:
        """Return the endpoint with nothing left open.

        Args:
            own_key: The key of the host whose file this is.
            own_carrier: What it listens with.

        Raises:
            ValueError: It has a name or a pin, and no TLS.
        """
        return ServerEndpoint(
            host=self.address.host,
            port=self.address.port,
            public_key=(self.public_key or own_key).raw,
            carrier=own_carrier if self.carrier is None else self.carrier,
            sni=self.sni,
            pin=None if self.pin is None else self.pin.digest,
        )

    def show(self) -> str:
        """Return it in TOML."""
        parts = {
            "address": self.address,
            "public_key": self.public_key,
            "carrier": None if self.carrier is None else self.carrier.name.lower(),
            "sni": self.sni,
            "pin": self.pin,
        }
        # Nothing in these needs an escape.
        shown = {name: f'"{value}"' for name, value in parts.items() if value is not None}
        if len(shown) == 1:
            return shown["address"]
        return f"{{ {', '.join(f'{name} = {value}' for name, value in shown.items())} }}"


def announced_list(
    endpoints: tuple[AnnouncedEndpoint, ...],
    version: int,
    issued: int,
    own_key: PublicKey,
    tls: bool,
) -> EndpointList:
    """Return a server's list of endpoints, nothing left open.

    Args:
        endpoints: At least one.
        version: Of the list.
        issued: Seconds since the Unix epoch.
        own_key: The key of the host whose file this is.
        tls: Whether the host has TLS.

    Raises:
        ValueError: The list is longer than one may be.
    """
    carrier = Carrier.TLS if tls else Carrier.TCP
    resolved = tuple(e.resolve(own_key, carrier) for e in endpoints)
    made = EndpointList(version=version, issued=issued, endpoints=resolved)
    made.encode()
    return made


def _texts(value: Mapping[str, object]) -> dict[str, str]:
    """Return a table whose keys are known and whose values are texts."""
    for name in value:
        if name not in _KEYS:
            close = difflib.get_close_matches(name, _KEYS, n=1)
            raise ConfigurationError(
                "an endpoint with an unknown key",
                fix=f"did you mean {close[0]}?" if close else f"known are {', '.join(_KEYS)}",
            )
    if "address" not in value:
        raise ConfigurationError("the address is missing", fix='address = "host:port"')
    texts: dict[str, str] = {}
    for name, text in value.items():
        if not isinstance(text, str):
            raise ConfigurationError(f"{name} must be a text in quotes")
        texts[name] = text
    return texts


def _within(name: str, parse: Callable[[str], T], text: str) -> T:
    try:
        return parse(text)
    except ConfigurationError as error:
        problem, fix = error.problem, error.fix
    raise ConfigurationError(f"{name}: {problem}", fix=fix)
