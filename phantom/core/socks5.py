"""SOCKS as a server reads it: versions 5, 4 and 4a, without input or output.

Sources: RFC 1928 (SOCKS5), RFC 1929 (user name and password), and for version 4 the two
notes it rests on, "SOCKS: A protocol for TCP proxy across firewalls" (Lee) and "SOCKS 4A:
A Simple Extension to SOCKS 4 Protocol" (Lee).

Layouts, each field one octet unless a length follows in brackets::

    greeting     05  NMETHODS  METHODS[NMETHODS]
    password     01  ULEN  UNAME[ULEN]  PLEN  PASSWD[PLEN]
    request 5    05  CMD  RSV  ATYP  ADDRESS[4, 16 or 1 + length]  PORT[2]
    request 4    04  CMD  PORT[2]  IPV4[4]  USERID[up to a zero octet]
    request 4a   as 4 with the address 0.0.0.x, x not 0, and then NAME[up to a zero octet]

Nothing here raises on what the application sends: a broken or refused request is an event
like any other, because most of them deserve an answer.
"""

from __future__ import annotations

import functools
import hmac
from collections.abc import Callable, Mapping
from enum import Enum
from ipaddress import IPv4Address, IPv6Address
from typing import Final

import attrs

from phantom.address import Destination, Host, parse_host

#: The first octet of everything in SOCKS5 but the password message (RFC 1928, section 3).
VERSION_5: Final = 0x05
#: The first octet of a SOCKS4 request.
VERSION_4: Final = 0x04
#: The first octet of the password message and its answer (RFC 1929, section 2).
PASSWORD_VERSION: Final = 0x01

#: Methods (RFC 1928, section 3).
NO_AUTHENTICATION: Final = 0x00
PASSWORD: Final = 0x02
NO_ACCEPTABLE_METHOD: Final = 0xFF

#: The only command that leads somewhere; BIND and UDP ASSOCIATE are refused.
CONNECT: Final = 0x01

#: Address types (RFC 1928, section 5).
TYPE_IPV4: Final = 0x01
TYPE_NAME: Final = 0x03
TYPE_IPV6: Final = 0x04

#: Reply codes of SOCKS5 decided here (RFC 1928, section 6); those for failed connections
#: are in `phantom.errors.EXPLANATIONS`.
SUCCEEDED: Final = 0x00
GENERAL_FAILURE: Final = 0x01
COMMAND_NOT_SUPPORTED: Final = 0x07
ADDRESS_TYPE_NOT_SUPPORTED: Final = 0x08

#: Reply codes of SOCKS4: granted; rejected or failed; rejected because of who the user is.
GRANTED_4: Final = 0x5A
REJECTED_4: Final = 0x5B
REJECTED_IDENTITY_4: Final = 0x5D

#: The longest user id and the longest name taken from a SOCKS4 request, in octets.  The
#: notes give no limit; these are what the length octets of SOCKS5 allow.
MAX_TEXT_4: Final = 255

#: What other protocols begin with, to tell a person which setting of the application is
#: wrong: HTTP methods (RFC 9110, section 9; PRI opens HTTP/2, RFC 9113, section 3.4) and
#: the handshake record of TLS (RFC 8446, section 5.1).
_HTTP_SIGNS: Final = tuple(
    method + b" "
    for method in (
        b"GET",
        b"HEAD",
        b"POST",
        b"PUT",
        b"DELETE",
        b"CONNECT",
        b"OPTIONS",
        b"TRACE",
        b"PATCH",
        b"PRI",
    )
)
_TLS_SIGN: Final = b"\x16\x03"


class Reason(Enum):
    """Why a SOCKS request was refused; fit for a log line."""

    HTTP = "an HTTP request arrived at the SOCKS port"
    TLS = "a TLS handshake arrived at the SOCKS port"
    NOT_SOCKS = "what arrived is not SOCKS"
    NO_METHOD = "the application offers no authentication method that is accepted here"
    NO_PASSWORD_IN_SOCKS4 = "SOCKS4 has no password and this port asks for one"  # noqa: S105
    WRONG_PASSWORD = "wrong user name or password"  # noqa: S105
    MALFORMED = "the request is malformed"
    COMMAND = "only CONNECT is supported"
    ADDRESS_TYPE = "the address type is unknown"
    DESTINATION = "the destination is not a valid host name and port"


@attrs.frozen(slots=True)
class Reply:
    """Send this to the application and go on.

    Attributes:
        data: The octets.
    """

    data: bytes


@attrs.frozen(slots=True)
class Request:
    """The application asks for a connection; nothing is parsed any more.

    Attributes:
        version: 4 or 5, for `build_reply`.
        destination: Where to.
    """

    version: int
    destination: Destination


@attrs.frozen(slots=True)
class Rejected:
    """There is nothing to connect to: send the reply, if there is one, and close.

    Attributes:
        reason: Why.
        reply: The octets to send first; empty where the protocol has no fitting answer.
    """

    reason: Reason
    reply: bytes = b""


Event = Reply | Request | Rejected

_NO_AUTHENTICATION_WANTED: Final = Reply(bytes((VERSION_5, NO_AUTHENTICATION)))
_PASSWORD_WANTED: Final = Reply(bytes((VERSION_5, PASSWORD)))


def build_reply_5(code: int, bound: tuple[IPv4Address | IPv6Address, int] | None = None) -> bytes:
    """Return the SOCKS5 reply ``05 REP 00 ATYP BND.ADDR BND.PORT`` (RFC 1928, section 6).

    Args:
        code: The reply code, `SUCCEEDED` or a failure.
        bound: Address and port the connection was made from; None when unknown, which is
            sent as 0.0.0.0:0.
    """
    address, port = bound if bound is not None else (IPv4Address(0), 0)
    kind = TYPE_IPV4 if address.version == 4 else TYPE_IPV6
    return bytes((VERSION_5, code, 0, kind)) + address.packed + port.to_bytes(2, "big")


def build_reply_4(code: int) -> bytes:
    """Return the SOCKS4 reply ``00 CD PORT[2] IP[4]``; applications ignore the last two."""
    return bytes((0, code, 0, 0, 0, 0, 0, 0))


@functools.cache  # nearly all are the same; there are a dozen in all
def build_reply(version: int, code: int) -> bytes:
    """Return the final reply in the application's version, with no bound address.

    Args:
        version: `Request.version`.
        code: A SOCKS5 code; for version 4 all failures become one.
    """
    if version == VERSION_4:
        return build_reply_4(GRANTED_4 if code == SUCCEEDED else REJECTED_4)
    return build_reply_5(code)


class SocksServer:
    """Reads one application's side of SOCKS up to the end of its request.

    Feed it with `receive_data` and take events with `next_event` until that gives None, or
    nothing is `buffered`.  `Request` and `Rejected` are the last event; what came behind the
    request is in `take_trailing_data`, untouched.  However the octets are cut, the events are the
    same.

    It holds at most one unfinished message (520 octets, a request of version 4a) between
    calls, unless the caller goes on feeding it after the last event.

    Args:
        credentials: Passwords by user name.  None: no authentication, and none is taken.
            Otherwise a password is required, and version 4 is refused as it has none; an
            empty mapping admits nobody.

    Attributes:
        buffered: Octets that were received and belong to no event yet.
    """

    __slots__ = ("_credentials", "_parse", "buffered")

    def __init__(self, credentials: Mapping[str, str] | None = None) -> None:
        self._credentials = credentials
        self.buffered = b""
        self._parse: Callable[[], Event | None] | None = self._parse_version

    @property
    def finished(self) -> bool:
        """Whether the last event was given."""
        return self._parse is None

    def receive_data(self, data: bytes) -> None:
        """Add received octets."""
        self.buffered += data

    def next_event(self) -> Event | None:
        """Return the next event, or None when more octets are needed or all is said."""
        return self._parse() if self._parse is not None and self.buffered else None

    def take_trailing_data(self) -> bytes:
        """Return, once, what was received behind the request; empty before its end."""
        if self._parse is not None:
            return b""
        data, self.buffered = self.buffered, b""
        return data

    # -- the messages, in order; each has an octet at least, and returns None while its message
    # -- is incomplete

    def _take(self, size: int) -> None:
        """Drop a message that was dealt with."""
        self.buffered = self.buffered[size:]

    def _reject(self, reason: Reason, reply: bytes = b"") -> Rejected:
        self._parse = None
        return Rejected(reason, reply)

    def _accept(self, version: int, host: Host | bytes, port: int) -> Event:
        """Make the last event of a complete request for a connection."""
        try:
            # UTF-8 because that is what applications that do not convert to IDNA send.
            parsed = parse_host(str(host, "utf-8")) if isinstance(host, bytes) else host
            destination = Destination(parsed, port)
        except ValueError:
            return self._reject(Reason.DESTINATION, build_reply(version, GENERAL_FAILURE))
        self._parse = None
        return Request(version, destination)

    def _parse_version(self) -> Event | None:
        buffer = self.buffered
        if buffer[0] == VERSION_5:
            self._parse = self._parse_greeting
        elif buffer[0] == VERSION_4:
            self._parse = self._parse_request_4
        else:
            return self._parse_foreign()
        return self._parse()

    def _parse_foreign(self) -> Event | None:
        """Name what is not SOCKS, from as few octets as tell it."""
        buffer = self.buffered
        if buffer.startswith(_TLS_SIGN):
            return self._reject(Reason.TLS)
        if buffer.startswith(_HTTP_SIGNS):
            return self._reject(Reason.HTTP)
        if any(sign.startswith(buffer) for sign in (_TLS_SIGN, *_HTTP_SIGNS)):
            return None
        return self._reject(Reason.NOT_SOCKS)

    def _parse_greeting(self) -> Event | None:
        buffer = self.buffered
        if len(buffer) < 2 or len(buffer) < 2 + buffer[1]:
            return None
        end = 2 + buffer[1]
        wanted = NO_AUTHENTICATION if self._credentials is None else PASSWORD
        offered = wanted in buffer[2:end]
        self.buffered = buffer[end:]
        if not offered:
            return self._reject(Reason.NO_METHOD, bytes((VERSION_5, NO_ACCEPTABLE_METHOD)))
        if self._credentials is None:
            self._parse = self._parse_request_5
            return _NO_AUTHENTICATION_WANTED
        self._parse = self._parse_password
        return _PASSWORD_WANTED

    def _parse_password(self) -> Event | None:
        buffer = self.buffered
        if buffer[0] != PASSWORD_VERSION:
            return self._reject(Reason.MALFORMED, bytes((PASSWORD_VERSION, GENERAL_FAILURE)))
        if len(buffer) < 2 or len(buffer) < 3 + buffer[1]:
            return None
        middle = 2 + buffer[1]
        end = middle + 1 + buffer[middle]
        if len(buffer) < end:
            return None
        user, password = buffer[2:middle], buffer[middle + 1 : end]
        self._take(end)
        if not self._is_known(user, password):
            return self._reject(Reason.WRONG_PASSWORD, bytes((PASSWORD_VERSION, GENERAL_FAILURE)))
        self._parse = self._parse_request_5
        return Reply(bytes((PASSWORD_VERSION, SUCCEEDED)))

    def _is_known(self, user: bytes, password: bytes) -> bool:
        """Compare with every entry, so that the time tells neither name nor password."""
        known = False
        for name, secret in (self._credentials or {}).items():
            same_name = hmac.compare_digest(user, name.encode())
            known |= hmac.compare_digest(password, secret.encode()) and same_name
        return known

    def _parse_request_5(self) -> Event | None:
        buffer = self.buffered
        if buffer[0] != VERSION_5:
            return self._reject(Reason.MALFORMED, build_reply_5(GENERAL_FAILURE))
        if len(buffer) < 4:
            return None
        # The third octet is reserved; nothing depends on it, so a wrong one is let pass.
        command, kind = buffer[1], buffer[3]
        start = 4
        if kind == TYPE_IPV4:
            end = 8
        elif kind == TYPE_IPV6:
            end = 20
        elif kind == TYPE_NAME:
            start = 5
            end = 5 + buffer[4] if len(buffer) > 4 else start
        else:
            return self._reject(Reason.ADDRESS_TYPE, build_reply_5(ADDRESS_TYPE_NOT_SUPPORTED))
        if len(buffer) < end + 2:
            return None
        address, port = buffer[start:end], int.from_bytes(buffer[end : end + 2], "big")
        # Taken whole before it is judged: closing with unread octets resets the connection,
        # and the reset can overtake the reply.
        self.buffered = buffer[end + 2 :]
        if command != CONNECT:
            return self._reject(Reason.COMMAND, build_reply_5(COMMAND_NOT_SUPPORTED))
        if kind == TYPE_IPV4:
            return self._accept(VERSION_5, IPv4Address(address), port)
        if kind == TYPE_IPV6:
            return self._accept(VERSION_5, IPv6Address(address), port)
        return self._accept(VERSION_5, address, port)

    def _parse_request_4(self) -> Event | None:
        buffer = self.buffered
        user_end = buffer.find(0, 8, 8 + MAX_TEXT_4 + 1)
        if user_end < 0:
            return self._await_text_4(8)
        ip = buffer[4:8]
        host: Host | bytes
        if ip[:3] == bytes(3) and ip[3]:
            end = buffer.find(0, user_end + 1, user_end + 1 + MAX_TEXT_4 + 1)
            if end < 0:
                return self._await_text_4(user_end + 1)
            host = buffer[user_end + 1 : end]
        else:
            end, host = user_end, IPv4Address(ip)
        command, port = buffer[1], int.from_bytes(buffer[2:4], "big")
        self._take(end + 1)
        if self._credentials is not None:
            reply = build_reply_4(REJECTED_IDENTITY_4)
            return self._reject(Reason.NO_PASSWORD_IN_SOCKS4, reply)
        if command != CONNECT:
            return self._reject(Reason.COMMAND, build_reply_4(REJECTED_4))
        return self._accept(VERSION_4, host, port)

    def _await_text_4(self, start: int) -> Event | None:
        """Wait for the zero octet of the text at `start` as long as it may still be too short."""
        if len(self.buffered) <= start + MAX_TEXT_4:
            return None
        return self._reject(Reason.MALFORMED, build_reply_4(REJECTED_4))
