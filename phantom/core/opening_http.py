"""HTTP/1.1 heads, as far as an opening inside TLS needs them.

Written with the header order and values of Chromium 156's ``fetch`` upload and of
nginx 1.22's answer, as captured from both.  Read with less tolerance than any web server:
what is at all unusual is not ours, and the decoy may judge it.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from phantom.errors import LocalProtocolError, RemoteProtocolError

#: Longest head, start line included: nginx reads no longer line by default
#: (``large_client_header_buffers 4 8k``).
MAX_HEAD = 8192

# RFC 9110, 5.1 and 5.5: a token, a colon, optional blanks, and a value of visible ASCII.
_FIELD_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\x20-\x7e\t]*?)[ \t]*\r\n")

#: What may stand in a Host header: visible ASCII.
HOST = re.compile(r"[\x21-\x7e]+")

_LENGTH = re.compile(rb"(?:0|[1-9][0-9]{0,5})")

#: Headers that change how a body is framed or when it is sent.
_UNWANTED = (b"transfer-encoding", b"expect", b"upgrade", b"trailer")


class Browser(NamedTuple):
    """What a browser says of itself, all of one piece.

    Attributes:
        user_agent: The User-Agent header.
        brands: The sec-ch-ua header.
        platform: The sec-ch-ua-platform header, without quotes.
    """

    user_agent: str
    brands: str
    platform: str


#: The browser whose TLS hello the client imitates.
CHROMIUM = Browser(
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/156.0.0.0 Safari/537.36",
    '"Not:A-Brand";v="8", "Chromium";v="156"',
    "Linux",
)


def http_request(path: str, host: str, body: bytes, browser: Browser = CHROMIUM) -> bytes:
    """Return a POST as a page's ``fetch(path, {method: "POST", body: bytes})`` sends it.

    Args:
        path: The secret path.
        host: The Host header: the TLS server name, with the port unless it is 443.
        body: ``e | sealed header | rest``.
        browser: Whom to imitate.

    Raises:
        LocalProtocolError: The host would break the head.
    """
    if not HOST.fullmatch(host):
        raise LocalProtocolError("a host that does not fit an HTTP head")
    return _head(f"POST {path} HTTP/1.1", request_fields(host, len(body), browser)) + body


def request_fields(host: str, length: int, browser: Browser) -> list[tuple[str, str]]:
    """Return the headers of such a request, in Chromium's order.

    Args:
        host: As for `http_request`.
        length: Of the body.
        browser: Whom to imitate.
    """
    return [
        ("Host", host),
        ("Connection", "keep-alive"),
        ("Content-Length", str(length)),
        ("sec-ch-ua-platform", f'"{browser.platform}"'),
        ("User-Agent", browser.user_agent),
        ("sec-ch-ua", browser.brands),
        ("sec-ch-ua-mobile", "?0"),
        ("Accept", "*/*"),
        ("Origin", f"https://{host}"),
        ("Sec-Fetch-Site", "same-origin"),
        ("Sec-Fetch-Mode", "cors"),
        ("Sec-Fetch-Dest", "empty"),
        ("Referer", f"https://{host}/"),
        ("Accept-Encoding", "gzip, deflate, br, zstd"),
        ("Accept-Language", "en-US,en;q=0.9"),
    ]


def _head(start: str, fields: list[tuple[str, str]]) -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields)
    return f"{start}\r\n{lines}\r\n".encode("ascii")


def http_response(body: bytes, date: str) -> bytes:
    """Return an answer as nginx gives it for a proxied application.

    Args:
        body: ``e | sealed header | rest``.
        date: The Date header (RFC 9110, 5.6.7), ``Sun, 06 Nov 1994 08:49:37 GMT``.
    """
    return _head("HTTP/1.1 200 OK", response_fields(len(body), date)) + body


def response_fields(length: int, date: str) -> list[tuple[str, str]]:
    """Return the headers of such an answer, in nginx's order."""
    return [
        ("Server", "nginx"),
        ("Date", date),
        ("Content-Type", "application/octet-stream"),
        ("Content-Length", str(length)),
        ("Connection", "keep-alive"),
    ]


class HeadReader:
    """Reads the header lines of one message as they arrive.

    Args:
        start: Where in the buffer the first header line begins.

    Attributes:
        end: Where the body begins; meaningful once `read` has returned True.
    """

    __slots__ = ("_fields", "_line", "_searched", "end")

    def __init__(self, start: int) -> None:
        self.end = 0
        self._line = start
        self._searched = start
        self._fields: dict[bytes, bytes] = {}

    def read(self, buffer: bytearray) -> bool:
        """Go on reading; return True when the head is complete.

        Args:
            buffer: The message from its first byte, at least as long as at the last call.

        Raises:
            RemoteProtocolError: The head is too long or in any way unusual.
        """
        while (newline := buffer.find(b"\n", self._searched, MAX_HEAD)) >= 0:
            line = bytes(buffer[self._line : newline + 1])
            self._line = self._searched = newline + 1
            if line == b"\r\n":
                self.end = newline + 1
                return True
            match = _FIELD_LINE.fullmatch(line)
            if match is None:
                raise RemoteProtocolError("an unusual header line")
            name = match[1].lower()
            if name in self._fields or name in _UNWANTED:
                raise RemoteProtocolError("an unusual header")
            self._fields[name] = match[2]
        if len(buffer) >= MAX_HEAD:
            raise RemoteProtocolError("a head too long")
        self._searched = len(buffer)
        return False

    def content_length(self) -> int:
        """Return the Content-Length, at most six digits.

        Raises:
            RemoteProtocolError: There is none.
        """
        value = self._fields.get(b"content-length", b"")
        if not _LENGTH.fullmatch(value):
            raise RemoteProtocolError("no plain Content-Length")
        return int(value)
