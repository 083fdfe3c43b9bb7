"""What nginx 1.22 says: its error pages and the order of its headers.

Sources: ``ngx_http_special_response.c`` for the pages, ``ngx_http_header_filter_module.c``
for the headers; both were compared with a running nginx, byte for byte.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

import attrs

from phantom.core.nginx_request import HTTP_10

#: How Debian's nginx names itself with ``server_tokens on``, its default.
DEFAULT_BANNER = "nginx/1.22.1"

_STATUS_LINES = {
    200: "200 OK",
    206: "206 Partial Content",
    301: "301 Moved Permanently",
    304: "304 Not Modified",
    400: "400 Bad Request",
    403: "403 Forbidden",
    404: "404 Not Found",
    405: "405 Not Allowed",
    413: "413 Request Entity Too Large",
    414: "414 Request-URI Too Large",
    416: "416 Requested Range Not Satisfiable",
    501: "501 Not Implemented",
    502: "502 Bad Gateway",
    505: "505 HTTP Version Not Supported",
}

# nginx's own numbers for kinds of 400, and what their pages say besides.
_KINDS_OF_400 = {
    494: "Request Header Or Cookie Too Large",
    497: "The plain HTTP request was sent to HTTPS port",
}

#: After these nginx closes, whatever the client wants (ngx_http_special_response_handler).
CLOSING = frozenset({400, 413, 414, 494, 497, 500, 501})

_PADDING = b"<!-- a padding to disable MSIE and Chrome friendly error page -->\r\n" * 6


@attrs.frozen(slots=True, kw_only=True)
class Response:
    """A response without its body's bytes.

    Attributes:
        status: As nginx numbers it; 494 and 497 go out as 400.
        content_type: None for none.
        length: Of the body; None for no Content-Length.
        last_modified: Seconds since the Unix epoch.
        location: Where to go instead.
        etag: As sent, with its quotes.
        content_range: As sent.
        accept_ranges: Whether to say that ranges are understood.
    """

    status: int
    content_type: str | None = "text/html"
    length: int | None = None
    last_modified: float | None = None
    location: str | None = None
    etag: str | None = None
    content_range: str | None = None
    accept_ranges: bool = False


def http_date(seconds: float) -> str:
    """Return a date as HTTP writes it (RFC 9110, section 5.6.7)."""
    moment = datetime.fromtimestamp(int(seconds), UTC)
    day = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")[moment.weekday()]
    month = "JanFebMarAprMayJunJulAugSepOctNovDec"[moment.month * 3 - 3 : moment.month * 3]
    return f"{day}, {moment:%d} {month} {moment:%Y %H:%M:%S} GMT"


def head(response: Response, *, banner: str, now: float, keep_alive: bool) -> bytes:
    """Return status line and headers, in nginx's order, with the empty line.

    Args:
        response: What to say.
        banner: The Server header.
        now: Seconds since the Unix epoch, for the Date header.
        keep_alive: Whether the connection goes on.
    """
    status = 400 if response.status in _KINDS_OF_400 else response.status
    lines = [
        f"HTTP/1.1 {_STATUS_LINES[status]}",
        f"Server: {banner}",
        f"Date: {http_date(now)}",
    ]
    if response.content_type is not None:
        lines.append(f"Content-Type: {response.content_type}")
    if response.length is not None:
        lines.append(f"Content-Length: {response.length}")
    if response.last_modified is not None:
        lines.append(f"Last-Modified: {http_date(response.last_modified)}")
    if response.location is not None:
        lines.append(f"Location: {response.location}")
    lines.append(f"Connection: {'keep-alive' if keep_alive else 'close'}")
    if response.etag is not None:
        lines.append(f"ETag: {response.etag}")
    if response.content_range is not None:
        lines.append(f"Content-Range: {response.content_range}")
    elif response.accept_ranges:
        lines.append("Accept-Ranges: bytes")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def pads_for(user_agent: bytes) -> bool:
    """Say whether nginx makes error pages longer for this browser (``msie_padding on``)."""
    msie = user_agent.find(b"MSIE ")
    if msie >= 0 and msie + 7 < len(user_agent) and b"Opera" not in user_agent:
        return True
    if b"Opera" in user_agent or b"Gecko/" in user_agent:
        return False
    return b"Chrome/" in user_agent


def error_page(
    status: int, *, banner: str, version: int = HTTP_10, user_agent: bytes = b""
) -> bytes:
    """Return the body of nginx's page for `status`.

    Args:
        status: As nginx numbers it.
        banner: What the page names as its author.
        version: Of the request (see `phantom.core.nginx_request.HTTP_11`).
        user_agent: Of the request; some browsers get a longer page.
    """
    kind = _KINDS_OF_400.get(status)
    line = _STATUS_LINES[400 if kind else status]
    title = f"400 {kind}" if kind else line
    text = (
        f"<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n"
        f"<center><h1>{line}</h1></center>\r\n"
    )
    if kind:
        text += f"<center>{kind}</center>\r\n"
    text += f"<hr><center>{banner}</center>\r\n</body>\r\n</html>\r\n"
    page = text.encode("latin-1")
    if status >= 400 and version >= HTTP_10 and pads_for(user_agent):
        page += _PADDING
    return page


_BANNER = re.compile(rb"[\x20-\x7e]{1,100}")


def banner_in(response: bytes) -> str | None:
    """Return the Server header of a response head, if it has a plausible one."""
    for line in response.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        value = value.strip()
        if name.strip().lower() == b"server" and _BANNER.fullmatch(value):
            return value.decode("ascii")
    return None
