"""What a forward proxy decides about a message: where it goes and which fields go with it.

Of the fields, those for this hop alone are dropped (RFC 9110, section 7.6.1) and the rest is
forwarded as it came, in order and in its own spelling.

No ``Via`` and no ``X-Forwarded-For`` or ``Forwarded`` is added.  RFC 9110, section 7.6.3,
asks proxies for a ``Via``, to find loops and to trace capabilities; here it would tell every
site, and everyone between it and the server, that the visitor comes through this proxy,
which is the one thing its user set out to hide.  Loops cannot close through it: the tunnel's
server refuses to relay to itself.
"""

from __future__ import annotations

import binascii
import hmac
import re
from collections.abc import Iterable, Mapping
from hashlib import sha256
from ipaddress import IPv6Address
from typing import Final

import attrs

from phantom.address import Destination
from phantom.core.httphead import Field, HeadError, RequestHead, ResponseHead

#: The port that ``http`` means (RFC 9110, section 4.2.1).
HTTP_PORT: Final = 80

#: Fields for one hop only (RFC 9110, section 7.6.1; Proxy-Connection is in no standard but
#: sent by browsers; section 11.7 for the three of authentication).
_HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authentication-info",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"upgrade",
    }
)
#: What `Connection` cannot take out of a message however often it is named there: the fields
#: that frame and route it.  Akamai's servers do name Transfer-Encoding.
_NOT_BY_NAME: Final = frozenset({b"content-length", b"transfer-encoding", b"host"})
#: Fields that mean nothing, or something dangerous, behind a body (RFC 9110, section 6.5.1:
#: framing, routing, authentication, request modifiers, response control, content format).
_NOT_IN_TRAILERS: Final = _HOP_BY_HOP | {
    b"age",
    b"authorization",
    b"cache-control",
    b"content-encoding",
    b"content-length",
    b"content-range",
    b"content-type",
    b"cookie",
    b"date",
    b"expect",
    b"expires",
    b"host",
    b"location",
    b"max-forwards",
    b"pragma",
    b"range",
    b"retry-after",
    b"set-cookie",
    b"trailer",
    b"transfer-encoding",
    b"vary",
    b"www-authenticate",
}
#: Methods that may be sent again when nobody knows whether the first was heard (RFC 9110,
#: section 9.2.2).
_IDEMPOTENT: Final = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"})

# RFC 3986, section 3; a fragment never travels.
_ABSOLUTE: Final = re.compile(rb"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)([/?][^#]*)?")


@attrs.frozen(slots=True)
class Tunnel:
    """A CONNECT request (RFC 9110, section 9.3.6)."""

    destination: Destination


@attrs.frozen(slots=True, repr=False)
class Forward:
    """A request to pass on.

    Attributes:
        destination: The origin.
        target: The request-target for it: origin-form, or ``*`` for OPTIONS.
        host: The value of its Host field.
    """

    destination: Destination
    target: bytes
    host: bytes


@attrs.frozen(slots=True, repr=False)
class Local:
    """A request to the proxy itself.

    Attributes:
        path: Its path and query, or ``*``.
    """

    path: bytes


def route(head: RequestHead) -> Tunnel | Forward | Local:
    """Tell what a request asks of the proxy (RFC 9112, section 3.2).

    Raises:
        HeadError: The target fits no form that the method allows (400), or names a scheme
            that this proxy does not forward (501).
    """
    target = head.target
    if head.method == b"CONNECT":
        if head.has_body:
            # Whether what follows belongs to a body or to the tunnel would be anyone's guess.
            raise HeadError("a CONNECT request has no body")
        return Tunnel(_authority(target, None))
    if target.startswith(b"/"):
        return Local(target)
    if target == b"*":
        if head.method != b"OPTIONS":
            raise HeadError("only OPTIONS may ask for *")
        return Local(target)
    match = _ABSOLUTE.fullmatch(target)
    if match is None:
        raise HeadError("the request names no destination")
    scheme, authority, path = match.groups()
    if scheme.lower() in (b"https", b"wss"):
        raise HeadError(
            "this proxy does not encrypt on behalf of an application; for https it has to use "
            "CONNECT (look for an HTTPS proxy setting, and give this address there too)",
            501,
        )
    if scheme.lower() != b"http":
        raise HeadError("this proxy forwards http only, and anything through CONNECT", 501)
    destination = _authority(authority, HTTP_PORT)
    if path is None:
        # RFC 9112, section 3.2.4: an OPTIONS for the whole server.
        path = b"*" if head.method == b"OPTIONS" else b"/"
    elif path.startswith(b"?"):
        path = b"/" + path
    host = str(destination)
    if destination.port == HTTP_PORT:
        host = host.removesuffix(f":{HTTP_PORT}")
    return Forward(destination, path, host.encode("ascii"))


def _authority(authority: bytes, default_port: int | None) -> Destination:
    """Parse ``host[:port]`` (RFC 3986, section 3.2), without userinfo.

    RFC 9110, section 4.2.4, has userinfo in http URIs treated as an error: it only serves to
    make one host look like another.
    """
    try:
        text = authority.decode("ascii")
        if default_port is not None:
            text = text.removesuffix(":")  # an empty port is the default one
        if text.count(":") > 1 and not text.startswith("["):
            raise ValueError("an IPv6 address without brackets")
        destination = Destination.parse(text, default_port)
    except ValueError:
        raise HeadError("the destination is not a host and a port") from None
    if text.startswith("[") and not isinstance(destination.host, IPv6Address):
        raise HeadError("only an IPv6 address stands in brackets")
    return destination


def list_members(fields: Iterable[Field], name: bytes) -> list[bytes]:
    """Return the members of a comma-separated field, in lower case.

    Args:
        fields: Where to look; the field may occur more than once.
        name: The field's name in lower case.
    """
    return [
        stripped
        for field, value in fields
        if field.lower() == name
        for member in value.split(b",")
        if (stripped := member.strip(b" \t").lower())
    ]


def wants_upgrade(head: RequestHead) -> bool:
    """Whether the request asks to change the protocol (RFC 9110, section 7.8)."""
    return (
        head.version == b"1.1"
        and b"upgrade" in list_members(head.fields, b"connection")
        and bool(list_members(head.fields, b"upgrade"))
    )


def is_repeatable(head: RequestHead) -> bool:
    """Whether the request may be sent twice without harm: idempotent, and without a body."""
    return head.method in _IDEMPOTENT and not head.has_body and not wants_upgrade(head)


def max_forwards(head: RequestHead) -> int | None:
    """Return the hops an OPTIONS or TRACE may still take (RFC 9110, section 7.6.2).

    Raises:
        HeadError: The field is no number.
    """
    if head.method not in (b"OPTIONS", b"TRACE"):
        return None
    values = [value for name, value in head.fields if name.lower() == b"max-forwards"]
    if not values:
        return None
    if len(values) > 1 or not values[0].isdigit() or len(values[0]) > 9:
        raise HeadError("Max-Forwards is not one number")
    return int(values[0])


def request_fields(head: RequestHead, host: bytes) -> list[Field]:
    """Return the fields that a request is forwarded with.

    Args:
        head: The request as received.
        host: The Host to name; it takes the place of the received one, which has no say
            (RFC 9112, section 3.2.2).
    """
    dropped = _hop_by_hop(head.fields) | {b"host"}
    if head.version == b"1.0":
        # It would begin to count in HTTP/1.1, as which the request goes on (RFC 9110, 10.1.1).
        dropped |= {b"expect"}
    if not head.chunked:
        dropped |= {b"trailer"}  # there will be none
    fields: list[Field] = [(b"Host", host)]
    hops = max_forwards(head)
    for name, value in head.fields:
        lowered = name.lower()
        if lowered in dropped:
            continue
        if lowered == b"max-forwards" and hops is not None:
            value = b"%d" % max(hops - 1, 0)
        fields.append((name, value))
    options: list[bytes] = []
    if b"trailers" in list_members(head.fields, b"te"):
        # True of this hop as well, since trailers are passed on (RFC 9110, section 10.1.4).
        fields.append((b"TE", b"trailers"))
        options.append(b"TE")
    if wants_upgrade(head):
        fields += [field for field in head.fields if field[0].lower() == b"upgrade"]
        options.append(b"Upgrade")
    if options:
        fields.append((b"Connection", b", ".join(options)))
    return fields


def response_fields(head: ResponseHead, client_version: bytes) -> list[Field]:
    """Return the fields that a response is forwarded with.

    Transfer-Encoding is left out: who writes the response frames it anew.

    Args:
        head: The response as received.
        client_version: What the client speaks: ``b"1.0"`` or ``b"1.1"``.
    """
    dropped = _hop_by_hop(head.fields) | {b"transfer-encoding"}
    if head.status < 200 or head.status == 204:
        dropped |= {b"content-length"}  # must not be there (RFC 9110, section 8.6)
    if client_version == b"1.0" or not head.chunked:
        dropped |= {b"trailer"}
    fields = [field for field in head.fields if field[0].lower() not in dropped]
    if head.status in (101, 426):  # RFC 9110, sections 15.2.2 and 15.5.22
        upgrade = [field for field in head.fields if field[0].lower() == b"upgrade"]
        if upgrade:
            fields += [*upgrade, (b"Connection", b"Upgrade")]
    return fields


def trailer_fields(fields: Iterable[Field]) -> list[Field]:
    """Return those of a message's trailers that are forwarded (RFC 9110, section 6.5.1)."""
    return [field for field in fields if field[0].lower() not in _NOT_IN_TRAILERS]


def _hop_by_hop(fields: Iterable[Field]) -> frozenset[bytes]:
    """Return the names, in lower case, of what was meant for this hop alone."""
    named = frozenset(list_members(fields, b"connection")) - _NOT_BY_NAME
    return _HOP_BY_HOP | named


def is_authorized(head: RequestHead, credentials: Mapping[str, str]) -> bool:
    """Whether the request carries one of `credentials` (RFC 7617, in Proxy-Authorization).

    The time taken does not depend on how much of a password is right, nor on whether the
    name is known.

    Args:
        head: The request.
        credentials: Passwords by user name.
    """
    values = [value for name, value in head.fields if name.lower() == b"proxy-authorization"]
    if len(values) != 1:
        return False
    scheme, _, encoded = values[0].partition(b" ")
    if scheme.lower() != b"basic":
        return False
    try:
        user, colon, password = binascii.a2b_base64(
            encoded.strip(b" "), strict_mode=True
        ).partition(b":")
    except binascii.Error:
        return False
    given = sha256(password).digest()
    granted = False
    # Every entry is compared: a look-up would answer sooner for an unknown name.
    for name, secret in credentials.items():
        same_name = hmac.compare_digest(sha256(user).digest(), sha256(name.encode()).digest())
        same_secret = hmac.compare_digest(given, sha256(secret.encode()).digest())
        granted |= same_name & same_secret
    return granted and bool(colon)
