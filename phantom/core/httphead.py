"""A strict reading of HTTP/1 heads, before anything lenient sees them.

h11, which frames the bodies, accepts heads that two programs can read in two ways: lines
that end in a bare LF, folded fields, a Content-Length given twice.  Such a message is how
requests are smuggled (RFC 9112, section 11.2), so the raw bytes are checked here first, and
what is ambiguous is refused and never repaired.

Layout of a head (RFC 9112, section 2.1)::

    start-line CRLF *( field-line CRLF ) CRLF
"""

from __future__ import annotations

import re
from typing import Final

import attrs

from phantom.errors import RemoteProtocolError

#: Octets of a head, blank line included.  Cookies make heads of 8 to 16 KiB; nginx allows
#: 32 KiB (large_client_header_buffers, 4 of 8 KiB) and Apache about 800 KiB.
MAX_HEAD: Final = 32 * 1024
#: Field lines of a head.  Apache's default is 100 (LimitRequestFields); twice that still
#: keeps the work per head small.
MAX_FIELDS: Final = 200
#: Digits of a Content-Length: what a signed 64-bit number holds.
_MAX_LENGTH_DIGITS: Final = 18

#: A name as received, and its value without the white space around it.
Field = tuple[bytes, bytes]

# RFC 9110, section 5.6.2.
_TCHAR: Final = rb"!#$%&'*+\-.^_`|~0-9A-Za-z"
_TOKEN: Final = re.compile(rb"[" + _TCHAR + rb"]+")
_REQUEST_LINE: Final = re.compile(
    rb"([" + _TCHAR + rb"]+) ([\x21-\x7e]+) HTTP/([0-9])\.([0-9])"
)  # RFC 9112, section 3
_STATUS_LINE: Final = re.compile(
    rb"HTTP/(1\.[01]) ([1-9][0-9][0-9])(?: ([\t\x20-\x7e\x80-\xff]*))?"
)  # RFC 9112, section 4; the reason's leading space is often left out

# What may stand nowhere in a head: a CR or LF outside of CRLF (RFC 9112, section 2.2), NUL,
# and in requests every other control octet (RFC 9110, section 5.5).  Responses keep the
# control octets that some sites put in cookies, but VT and FF, which some parsers take for
# white space, are refused there as well.
_BAD_IN_REQUEST: Final = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|(?<!\r)\n|\r[^\n]")
_BAD_IN_RESPONSE: Final = re.compile(rb"[\x00\x0b\x0c]|(?<!\r)\n|\r[^\n]")
_EMPTY_LINES: Final = re.compile(rb"(?:\r\n)+")
_METHOD_START: Final = re.compile(rb"[" + _TCHAR + rb"\r]")


class HeadError(RemoteProtocolError):
    """A head that is not well-formed, ambiguous, too large or not supported.

    Args:
        problem: What is wrong, for a person; holds no octet of the peer's.
        status: The status to answer a request with (RFC 9110, section 15).
    """

    def __init__(self, problem: str, status: int = 400) -> None:
        super().__init__(problem)
        self.problem = problem
        self.status = status


@attrs.frozen(slots=True, repr=False)
class RequestHead:
    """A request's head.

    Attributes:
        method: A token, case-sensitive.
        target: The request-target as received; visible ASCII.
        version: ``b"1.0"`` or ``b"1.1"``.
        fields: In the order received.
        length: The Content-Length, None without one.
        chunked: Whether the body comes in chunks.
    """

    method: bytes
    target: bytes
    version: bytes
    fields: tuple[Field, ...]
    length: int | None
    chunked: bool

    @property
    def has_body(self) -> bool:
        """Whether octets of a body follow (RFC 9112, section 6.3)."""
        return self.chunked or bool(self.length)


@attrs.frozen(slots=True, repr=False)
class ResponseHead:
    """A response's head.

    Attributes:
        version: ``b"1.0"`` or ``b"1.1"``.
        status: 100 to 999.
        reason: The reason phrase, perhaps empty.
        fields: In the order received.
        length: The Content-Length, None without one.
        chunked: Whether Transfer-Encoding says chunked.
    """

    version: bytes
    status: int
    reason: bytes
    fields: tuple[Field, ...]
    length: int | None
    chunked: bool


class HeadFinder:
    """Finds the end of a head in a growing buffer, reading each octet once.

    What it says does not depend on how the octets were cut into pieces.

    Args:
        request: Whether requests are expected; responses otherwise.
        limit: Octets of a head at most.
    """

    __slots__ = ("_bad", "_limit", "_request", "_searched")

    def __init__(self, *, request: bool, limit: int = MAX_HEAD) -> None:
        self._request = request
        self._bad = _BAD_IN_REQUEST if request else _BAD_IN_RESPONSE
        self._limit = limit
        self._searched = 0

    def find(self, buffer: bytearray) -> int | None:
        """Look for a whole head at the start of `buffer`.

        Args:
            buffer: Everything since the last head that was found, which the caller has
                removed.  Empty lines before a request are removed here (RFC 9112,
                section 2.2).

        Returns:
            The head's length, its blank line included, or None when more is needed.

        Raises:
            HeadError: It cannot become an acceptable head: a forbidden octet (400), or too
                long (431).
        """
        if self._request and not self._searched:
            if (empty := _EMPTY_LINES.match(buffer)) is not None:
                del buffer[: empty.end()]
            # A TLS or SOCKS client is told at once, not when its time is up.
            if buffer and _METHOD_START.match(buffer) is None:
                raise HeadError("this is not an HTTP request")
        searched, limit = self._searched, self._limit
        at = buffer.find(b"\r\n\r\n", max(searched - 3, 0), limit)
        stop = at + 4 if at >= 0 else min(len(buffer), limit)
        if self._bad.search(buffer, max(searched - 1, 0), stop) is not None:
            raise HeadError("the head holds a forbidden control octet or a bare CR or LF")
        if at >= 0:
            self._searched = 0
            return stop
        if len(buffer) >= limit:
            raise HeadError("the head is too large", 431)
        # A lone CR may still become an empty line before the request.
        self._searched = 0 if buffer == b"\r" else stop
        return None


def parse_request_head(head: bytes) -> RequestHead:
    """Parse a head that `HeadFinder` has found.

    Raises:
        HeadError: It is malformed or ambiguous (400), has too many fields (431) or another
            version of HTTP (505).
    """
    lines = head[:-4].split(b"\r\n")
    match = _REQUEST_LINE.fullmatch(lines[0])
    if match is None:
        raise HeadError("the request line is malformed")
    method, target, major, minor = match.groups()
    if major != b"1" or minor not in b"01":
        raise HeadError("only HTTP/1.0 and HTTP/1.1 are spoken here", 505)
    version = major + b"." + minor
    fields = _parse_fields(lines)
    hosts = sum(name.lower() == b"host" for name, _ in fields)
    if hosts > 1 or (version == b"1.1" and not hosts):  # RFC 9112, section 3.2
        raise HeadError("a request needs exactly one Host field")
    length, chunked = _framing(fields, version)
    return RequestHead(method, target, version, fields, length, chunked)


def parse_response_head(head: bytes) -> ResponseHead:
    """Parse a head that `HeadFinder` has found.

    Raises:
        HeadError: It is malformed or ambiguous.
    """
    lines = head[:-4].split(b"\r\n")
    match = _STATUS_LINE.fullmatch(lines[0])
    if match is None:
        raise HeadError("the status line is malformed")
    version, status, reason = match.groups()
    fields = _parse_fields(lines)
    length, chunked = _framing(fields, version)
    return ResponseHead(version, int(status), reason or b"", fields, length, chunked)


def _parse_fields(lines: list[bytes]) -> tuple[Field, ...]:
    """Parse the field lines, all of `lines` but the first (RFC 9112, section 5)."""
    if len(lines) - 1 > MAX_FIELDS:
        raise HeadError("the head has too many fields", 431)
    fields = []
    for line in lines[1:]:
        if line[:1] in (b" ", b"\t"):
            raise HeadError("a field is folded over several lines")  # section 5.2
        name, colon, value = line.partition(b":")
        if not colon or _TOKEN.fullmatch(name) is None:
            # White space before the colon comes here too (section 5.1).
            raise HeadError("a field line is malformed")
        fields.append((name, value.strip(b" \t")))
    return tuple(fields)


def _framing(fields: tuple[Field, ...], version: bytes) -> tuple[int | None, bool]:
    """Return the Content-Length and whether chunks follow.

    Stricter than RFC 9112, section 6.3, which lets a recipient merge equal lengths and
    prefer Transfer-Encoding over Content-Length: honest senders do neither.
    """
    lengths: list[bytes] = []
    codings: list[bytes] = []
    for name, value in fields:
        lowered = name.lower()
        if lowered == b"content-length":
            lengths.append(value)
        elif lowered == b"transfer-encoding":
            codings.append(value)
    if codings:
        if lengths:
            raise HeadError("both Content-Length and Transfer-Encoding are given")
        if version == b"1.0":  # RFC 9112, section 6.1
            raise HeadError("HTTP/1.0 knows no Transfer-Encoding")
        if len(codings) > 1 or codings[0].lower() != b"chunked":
            raise HeadError("a transfer coding other than chunked is given")
        return None, True
    if not lengths:
        return None, False
    text = lengths[0]
    # bytes.isdigit knows ASCII digits only, neither signs nor underscores.
    if len(lengths) > 1 or not text.isdigit() or len(text) > _MAX_LENGTH_DIGITS:
        raise HeadError("the Content-Length is not one number")
    return int(text), False
