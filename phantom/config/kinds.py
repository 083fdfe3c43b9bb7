"""Kinds of settings: how each is written in TOML, read into its type and shown again.

A `Kind` is what the schema says about a setting's value; the loader, the templates, the
reference and ``phantom check`` all work from it.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Generic, TypeVar

import attrs

from phantom.address import Destination
from phantom.config import values
from phantom.config.announced import AnnouncedEndpoint
from phantom.config.identity_keys import IdentityKey, IdentityPublicKey
from phantom.config.keys import PrivateKey, PublicKey
from phantom.config.values import (
    MAX_CREDENTIAL,
    AllowedClient,
    IPNetwork,
    ListenAddress,
    Secret,
    TLSPin,
    UnixSocket,
)
from phantom.core.browser_profiles import parse_profile
from phantom.core.ech import parse_ech
from phantom.core.egress import EgressRule
from phantom.errors import ConfigurationError

T = TypeVar("T")

#: What stands for a secret in anything that is shown.
HIDDEN = '"(hidden)"'


@attrs.frozen(slots=True)
class Kind(Generic[T]):
    """One way of writing a value.

    Attributes:
        written: How a person writes it, for the reference; follows "Written as".
        parse: Takes what `tomllib` read and the folder that relative paths start from.
            Raises `ConfigurationError`.
        show: The value in TOML; a secret shows as `HIDDEN`.
    """

    written: str
    parse: Callable[[object, Path], T]
    show: Callable[[T], str]


class ItemsError(ConfigurationError):
    """Mistakes inside a list or a table.

    Attributes:
        items: Each mistake and where it is: an index, or a key.
    """

    def __init__(self, items: list[tuple[int | str, ConfigurationError]]) -> None:
        super().__init__("; ".join(error.problem for _, error in items))
        self.items = items


def quote(text: object) -> str:
    """Return `text` as a TOML basic string (its escapes are JSON's and one more)."""
    return json.dumps(str(text), ensure_ascii=False).replace("\x7f", "\\u007f")


def _expect_text(value: object) -> str:
    if not isinstance(value, str):
        raise ConfigurationError(f"expected a text in quotes, not {_noun(value)}")
    return value


def _noun(value: object) -> str:
    """Name the TOML type of a value."""
    for type_, noun in (
        (bool, "true or false"),
        (int, "a number"),
        (float, "a number"),
        (str, "a text"),
        (list, "a list"),
        (dict, "a table"),
    ):
        if isinstance(value, type_):
            return noun
    return "a date or time"


def _within(value: T, low: Any, high: Any, show: Callable[[Any], str]) -> T:
    if not low <= value <= high:
        raise ConfigurationError(f"must be from {show(low)} to {show(high)}")
    return value


def count(low: int, high: int) -> Kind[int]:
    """A whole number from `low` to `high`."""

    def parse(value: object, _folder: Path) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise ConfigurationError(f"expected a whole number, not {_noun(value)}")
        return _within(value, low, high, str)

    return Kind(f"a whole number from {low} to {high}", parse, str)


def size(low: int, high: int) -> Kind[int]:
    """A number of bytes from `low` to `high`."""

    def parse(value: object, _folder: Path) -> int:
        return _within(values.parse_size(value), low, high, values.show_size)

    limits = f"{values.show_size(low)} to {values.show_size(high)}"
    return Kind(
        f'bytes, as a number or a text like `"64 MiB"`; from {limits}',
        parse,
        lambda value: quote(values.show_size(value)),
    )


def duration(low: float, high: float) -> Kind[float]:
    """Seconds from `low` to `high`."""

    def show(value: float) -> str:
        return f"{value:g}"

    def parse(value: object, _folder: Path) -> float:
        return _within(values.parse_duration(value), low, high, lambda v: f"{show(v)} s")

    return Kind(
        f'seconds, or a text like `"500 ms"` or `"5 min"`; from {show(low)} s to {show(high)} s',
        parse,
        show,
    )


def choice(*options: str, problem: str | None = None) -> Kind[str]:
    """One of a few words; `problem` replaces the message for any other."""
    quoted = [quote(option) for option in options]
    listed = quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} or {quoted[-1]}"

    def parse(value: object, _folder: Path) -> str:
        if _expect_text(value) not in options:
            raise ConfigurationError(problem or f"must be {listed}")
        return str(value)

    return Kind(f"`{listed}`" if len(quoted) == 1 else listed, parse, quote)


def _parse_boolean(value: object, _folder: Path) -> bool:
    if not isinstance(value, bool):
        raise ConfigurationError(f"expected true or false, not {_noun(value)}")
    return value


BOOLEAN: Kind[bool] = Kind("`true` or `false`", _parse_boolean, lambda v: str(v).lower())


_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_LOOKS_LIKE_KEY = re.compile(r"[A-Za-z0-9+/_-]{43}=?|[0-9A-Fa-f]{64}")


def _parse_path(value: object, folder: Path) -> Path:
    text = _expect_text(value)
    if not text:
        raise ConfigurationError("expected the path of a file or folder")
    if _CONTROL.search(text):
        # The system takes all but NUL; terminals and logs, which get to see it, do not.
        raise ConfigurationError("a path cannot hold control characters here")
    if _LOOKS_LIKE_KEY.fullmatch(text.strip()):
        # Refused before a message can show it as part of a path that does not exist.
        raise ConfigurationError("expected a path, and this looks like a key itself")
    # normpath only: a symbolic link stays one, because renewal tools swing such links.
    return Path(os.path.normpath(folder / os.path.expanduser(text)))


PATH: Kind[Path] = Kind(
    "a path; a relative one starts from the folder of this file", _parse_path, quote
)


#: Linux's names of congestion controls: TCP_CA_NAME_MAX is 16, with a final zero.
_CONGESTION_NAME = re.compile(r"[a-z0-9_-]{1,15}")


def _parse_congestion(value: object, _folder: Path) -> str:
    name = _expect_text(value)
    if not _CONGESTION_NAME.fullmatch(name):
        raise ConfigurationError(
            'must be "auto", "system", or a name such as "bbr" or "cubic", in small letters'
        )
    return name


CONGESTION: Kind[str] = Kind(
    '"auto", "system", or the name of a congestion control, such as "bbr" or "cubic"',
    _parse_congestion,
    quote,
)


#: What OpenSSL's list of groups is made of: names, and marks of optional ones, shares and tuples.
_TLS_GROUPS = re.compile(r"[A-Za-z0-9_.?*/: -]{1,500}")


def _parse_tls_groups(value: object, _folder: Path) -> str:
    groups = _expect_text(value).strip()
    if not _TLS_GROUPS.fullmatch(groups):
        raise ConfigurationError(
            'must be "auto", "library", or groups with colons between them, such as "X25519:P-256"'
        )
    return groups


TLS_GROUPS: Kind[str] = Kind(
    '"auto", "library", or a list of groups as OpenSSL has it, best first',
    _parse_tls_groups,
    quote,
)


def from_text(written: str, parse: Callable[[str], T], show: Callable[[T], str] = quote) -> Kind[T]:
    """A text that `parse` reads."""
    return Kind(written, lambda value, _folder: parse(_expect_text(value)), show)


def many(
    kind: Kind[T], *, lone: bool = False, least: int = 0, most: int | None = None
) -> Kind[tuple[T, ...]]:
    """A list of values of one kind, without repetitions.

    Args:
        kind: Of each value.
        lone: Whether a single value may stand without brackets.
        least: The fewest values allowed.
        most: The most values allowed; None sets no limit.
    """

    def parse(value: object, folder: Path) -> tuple[T, ...]:
        if not isinstance(value, list):
            if lone:
                return (kind.parse(value, folder),)
            raise ConfigurationError(f"expected a list in brackets, not {_noun(value)}")
        if len(value) < least:
            raise ConfigurationError("the list is empty")
        if most is not None and len(value) > most:
            raise ConfigurationError(f"at most {most} can be listed")
        parsed: dict[T, None] = {}
        errors: list[tuple[int | str, ConfigurationError]] = []
        for index, item in enumerate(value):
            try:
                one = kind.parse(item, folder)
                if one in parsed:
                    raise ConfigurationError("listed twice")
                parsed[one] = None
            except ConfigurationError as error:
                errors.append((index, error))
        if errors:
            raise ItemsError(errors)
        return tuple(parsed)

    written = f"{kind.written}, or a list of such" if lone else f"a list; each is {kind.written}"
    return Kind(written, parse, lambda items: f"[{', '.join(map(kind.show, items))}]")


LISTEN: Kind[ListenAddress] = from_text(
    '`"address:port"`, `"[IPv6]:port"` or `":port"` for every address', ListenAddress.parse
)


def _parse_server_listen(value: object, folder: Path) -> ListenAddress | UnixSocket:
    if isinstance(value, str) and value.strip().startswith("unix:"):
        return UnixSocket(_parse_path(value.strip().removeprefix("unix:"), folder))
    return LISTEN.parse(value, folder)


SERVER_LISTEN: Kind[ListenAddress | UnixSocket] = Kind(
    f'{LISTEN.written}, or `"unix:/path"`', _parse_server_listen, quote
)


def _parse_switchable(value: object, folder: Path) -> ListenAddress | None:
    if value is False or value == "":
        return None
    if isinstance(value, list):
        raise ConfigurationError("expected one address, not a list")
    return LISTEN.parse(value, folder)


LISTEN_OR_OFF: Kind[ListenAddress | None] = Kind(
    f"{LISTEN.written}; `false` turns it off",
    _parse_switchable,
    lambda value: "false" if value is None else quote(value),
)

PUBLIC_KEY: Kind[PublicKey] = from_text("base64, 44 characters", PublicKey.parse)

PRIVATE_KEY: Kind[PrivateKey] = from_text(
    "base64, 44 characters", PrivateKey.parse, lambda _key: HIDDEN
)

ALLOWED_CLIENT: Kind[AllowedClient] = from_text(
    'a public key in base64, and a name if you like: `"BASE64 laptop"`', AllowedClient.parse
)

PIN: Kind[TLSPin] = from_text('`"sha256/BASE64"`', TLSPin.parse)

SERVER_NAME: Kind[str] = from_text("a host name", values.parse_server_name)


def _parse_rule(text: str) -> EgressRule:
    try:
        return EgressRule.parse(text)
    except ValueError as error:
        problem = str(error)
    raise ConfigurationError(problem)


EGRESS_RULE: Kind[EgressRule] = from_text(
    '`"CIDR"`, `"CIDR:port"`, `"CIDR:low-high"` (IPv6 with ports as `"[fd00::/8]:443"`) or '
    '`":port"` for any address',
    _parse_rule,
)


def _parse_proxy(value: object, folder: Path) -> IPNetwork | UnixSocket:
    text = _expect_text(value).strip()
    if text.startswith("unix:"):
        return UnixSocket(_parse_path(text.removeprefix("unix:"), folder))
    return values.parse_network(text)


TRUSTED_PROXY: Kind[IPNetwork | UnixSocket] = Kind(
    '`"CIDR"` or `"unix:/path"`', _parse_proxy, quote
)


def _parse_decoy(value: object, folder: Path) -> Destination | Path:
    text = _expect_text(value).strip()
    scheme, mark, _ = text.partition("://")
    if not mark:
        return _parse_path(text, folder)
    if scheme.lower() != "http":
        raise ConfigurationError(
            'the decoy is reached by plain "http://", because the visitor\'s TLS ends here'
        )
    return values.parse_http_origin(text)


def _show_decoy(value: Destination | Path) -> str:
    return quote(f"http://{value}" if isinstance(value, Destination) else value)


DECOY: Kind[Destination | Path] = Kind(
    '`"http://host:port"`, or the path of a folder', _parse_decoy, _show_decoy
)


def _parse_origin(value: object, folder: Path) -> Destination:
    origin = _parse_decoy(value, folder)
    if not isinstance(origin, Destination):
        raise ConfigurationError('expected "http://host:port"')
    return origin


HTTP_ORIGIN: Kind[Destination] = Kind('`"http://host:port"`', _parse_origin, _show_decoy)


PROFILE: Kind[str] = Kind(
    '`"chrome"`, `"chrome:NUMBER"` or `"random"`',
    lambda value, _folder: parse_profile(_expect_text(value)),
    quote,
)

ECH: Kind[bytes] = Kind(
    "base64, as `ech` in a DNS HTTPS record",
    lambda value, _folder: parse_ech(_expect_text(value)),
    lambda value: quote(base64.b64encode(value).decode("ascii")),
)

SERVER: Kind[Destination] = from_text('`"host:port"`', values.parse_destination)

IDENTITY: Kind[IdentityPublicKey] = from_text("base64, 44 characters", IdentityPublicKey.parse)

IDENTITY_KEY: Kind[IdentityKey] = from_text(
    "base64, 44 characters", IdentityKey.parse, lambda _key: HIDDEN
)

ENDPOINT: Kind[AnnouncedEndpoint] = Kind(
    '`"host:port"` for this very host, or a table '
    '`{ address = "host:port", public_key = "BASE64", carrier = "tls", sni = "name", '
    'pin = "sha256/BASE64" }` of which only the address is required',
    lambda value, _folder: AnnouncedEndpoint.parse(value),
    AnnouncedEndpoint.show,
)


def _parse_users(value: object, _folder: Path) -> Mapping[str, Secret]:
    if not isinstance(value, dict):
        raise ConfigurationError(f'expected a table of name = "password", not {_noun(value)}')
    users: dict[str, Secret] = {}
    errors: list[tuple[int | str, ConfigurationError]] = []
    for name, password in value.items():
        try:
            users[name] = _parse_user(name, password)
        except ConfigurationError as error:
            errors.append((name, error))
    if errors:
        raise ItemsError(errors)
    return MappingProxyType(users)


def _parse_user(name: str, password: object) -> Secret:
    if not name or len(name.encode()) > MAX_CREDENTIAL:
        raise ConfigurationError(f"a user name has 1 to {MAX_CREDENTIAL} bytes")
    if ":" in name or not name.isprintable():
        # RFC 7617, section 2: the name ends at the first colon.
        raise ConfigurationError("a user name cannot hold a colon or control characters")
    if not isinstance(password, str):
        raise ConfigurationError(f"expected the password in quotes, not {_noun(password)}")
    if not password or len(password.encode()) > MAX_CREDENTIAL:
        raise ConfigurationError(f"a password has 1 to {MAX_CREDENTIAL} bytes")
    return Secret(password)


USERS: Kind[Mapping[str, Secret]] = Kind(
    '`name = "password"`, one a line',
    _parse_users,
    lambda users: f"{{{', '.join(f'{quote(name)} = {HIDDEN}' for name in users)}}}",
)
