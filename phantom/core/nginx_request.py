"""Reads HTTP/1 requests the way nginx 1.22 reads them, mistakes included.

A visitor who sends nonsense must get nginx's answer to that nonsense, at the byte at which
nginx gives it.  So this follows nginx's parser (``ngx_http_parse.c``, ``ngx_http_request.c``)
rather than RFC 9112: it knows HTTP/0.9, refuses a method in lower case at once, ignores
header names it dislikes, and answers 400 to a second Host.  Checked against a real nginx in
``tests/carriers/test_nginx_likeness.py``.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import attrs

from phantom.errors import RemoteProtocolError

#: One of nginx's ``large_client_header_buffers`` (8k): the longest line.
MAX_LINE = 8192

#: ``client_header_buffer_size`` (1k) and four large buffers: the longest head.
MAX_HEAD = 1024 + 4 * MAX_LINE

#: ``client_max_body_size`` (1m).
MAX_BODY = 1 << 20

#: nginx's numbers for the versions: major times 1000 and minor; 9 is HTTP/0.9.
HTTP_09, HTTP_10, HTTP_11 = 9, 1000, 1001

_METHOD_BYTES = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ_-")
_SCHEME = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*")
_HOST = re.compile(rb"[A-Za-z0-9.-]*|\[[0-9A-Fa-f:.]*\]")
_HOST_HEADER = re.compile(rb"(?:[^\x00-\x20\x7f/:\[\]]+|\[[^\x00-\x20\x7f/\]]+\])(?::[0-9]*)?")
_VERSION = re.compile(rb"HTTP/([1-9])\.([0-9]{1,3}) *\r?")
_NUMBER = re.compile(rb"[0-9]{1,18}")
_BAD_IN_NAME = re.compile(rb"[\x00-\x20\x7f]")
_HEADER_NAME = re.compile(rb"[A-Za-z0-9-]+")


class RequestError(RemoteProtocolError):
    """The request gets an error page and, mostly, the end of the connection.

    Args:
        status: nginx's own number for the page; 494 and 497 are kinds of 400.
        version: What the request said it was, as far as that was read.
        head_only: The method was HEAD: headers only.
        body: The body that is still to be read away, if any.
    """

    def __init__(
        self,
        status: int,
        version: int = HTTP_10,
        *,
        head_only: bool = False,
        user_agent: bytes = b"",
        body: BodySkipper | None = None,
    ) -> None:
        super().__init__(f"answered with {status}")
        self.status = status
        self.version = version
        self.head_only = head_only
        self.user_agent = user_agent
        self.body = body


class BodySkipper:
    """Finds the end of a request's body without keeping any of it.

    Args:
        length: Bytes to come; ignored when `chunked`.
        chunked: The body is in chunks (RFC 9112, section 7.1).

    Attributes:
        done: The end was found.
        length: As announced.
    """

    __slots__ = ("_chunked", "_left", "_line", "_state", "done", "length")

    def __init__(self, length: int = 0, *, chunked: bool = False) -> None:
        self.length = length
        self._chunked = chunked
        self._left = length
        self._line = b""
        self._state = "size"
        self.done = not chunked and not length

    def feed(self, data: bytes) -> bytes:
        """Take received bytes and return those after the body.

        Raises:
            RequestError: The chunks are malformed.
        """
        while data and not self.done:
            if not self._chunked or self._state == "data":
                taken = min(self._left, len(data))
                data = data[taken:]
                self._left -= taken
                if not self._left:
                    self._state = "gap"
                    self.done = not self._chunked
            else:
                data = self._chunk_line(data)
        return data

    def _chunk_line(self, data: bytes) -> bytes:
        line, newline, rest = data.partition(b"\n")
        self._line += line
        if len(self._line) > MAX_LINE:
            raise RequestError(400)
        if not newline:
            return b""
        line, self._line = self._line.removesuffix(b"\r"), b""
        if self._state == "size":
            match = re.match(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;.*)?$", line)
            if match is None:
                raise RequestError(400)
            self._left = int(match[1], 16)
            self._state = "data" if self._left else "trailer"
        elif self._state == "gap":
            if line:
                raise RequestError(400)
            self._state = "size"
        else:
            self.done = not line
        return rest


@attrs.frozen(slots=True, kw_only=True)
class Request:
    """One request.

    Attributes:
        method: As sent.
        path: Decoded and normalised, starting with a slash; never leaves the root.
        target_host: The host the client named, without its port; empty if none.
        version: See `HTTP_11`.
        headers: By lower-case name; of repeated ones the first.
        keep_alive: The client is willing to go on.
        body: What follows.
    """

    method: bytes
    path: bytes
    target_host: bytes
    version: int
    headers: dict[bytes, bytes]
    keep_alive: bool
    body: BodySkipper

    @property
    def user_agent(self) -> bytes:
        """The User-Agent header, or nothing."""
        return self.headers.get(b"user-agent", b"")


class _RequestLine(NamedTuple):
    method: bytes
    path: bytes
    host: bytes
    version: int


def normalise(target: bytes) -> bytes:
    """Decode a path and resolve its dots (ngx_http_parse_complex_uri).

    Raises:
        RequestError: A malformed escape, a zero byte, or a way out of the root.
    """
    decoded = re.sub(rb"%([0-9A-Fa-f]{2})", lambda match: bytes([int(match[1], 16)]), target)
    if re.search(rb"%(?![0-9A-Fa-f]{2})", target) or b"\0" in decoded:
        raise RequestError(400)
    parts: list[bytes] = []
    segments = decoded.split(b"/")[1:]
    for position, segment in enumerate(segments):
        last = position == len(segments) - 1
        if segment == b"..":
            if not parts:
                raise RequestError(400)
            parts.pop()
        if segment in (b"", b".", b".."):
            if last:
                parts.append(b"")
        else:
            parts.append(segment)
    return b"/" + b"/".join(parts)


class RequestReader:
    """Takes bytes in any pieces and gives requests, one after the other.

    The caller lets `Request.body` eat its part of `buffer` before it asks again.

    Attributes:
        buffer: What was not read yet; at most one head and one read of the transport.
    """

    def __init__(self) -> None:
        self.buffer = b""
        # The request line that was read, and the headers after it, while a head is partial.
        self._line: _RequestLine | None = None
        self._headers: dict[bytes, bytes] = {}
        self._head_size = 0
        self._over = False

    def feed(self, data: bytes) -> None:
        """Take received bytes; what follows a request of HTTP/0.9 is nobody's."""
        if not self._over:
            self.buffer += data

    def next_request(self) -> Request | None:
        """Return the next request, or None when it is not complete.

        Raises:
            RequestError: nginx would answer with an error page.
        """
        if self._line is None:
            self._line = self._read_request_line()
            if self._line is None:
                return None
            self._headers = {}
            self._head_size = 0
        line = self._line
        try:
            path = normalise(line.path)
            if line.version == HTTP_09:
                self.buffer = b""
                self._over = True  # the answer ends the connection
            elif not self._read_headers():
                return None
        except RequestError as error:
            raise RequestError(
                error.status, line.version, head_only=line.method == b"HEAD"
            ) from None
        self._line = None
        return _checked(line, path, self._headers)

    def _read_request_line(self) -> _RequestLine | None:
        # Line ends before a request are skipped, however many (sw_start).
        self.buffer = self.buffer.lstrip(b"\r\n")
        end = self.buffer.find(b"\n", 0, MAX_LINE)
        line = self.buffer[: end if end >= 0 else MAX_LINE]
        _check_method(line)
        if end < 0:
            if len(self.buffer) >= MAX_LINE:
                raise RequestError(414)
            _check_partial_line(line)
            return None
        parsed = _parse_request_line(line)
        self.buffer = self.buffer[end + 1 :]
        return parsed

    def _read_headers(self) -> bool:
        """Read header lines; False when the empty one that ends them is still to come."""
        buffer = self.buffer
        start = 0
        try:
            while True:
                end = buffer.find(b"\n", start, start + MAX_LINE)
                line = buffer[start : end if end >= 0 else start + MAX_LINE]
                name, _, value = line.removesuffix(b"\r").partition(b":")
                if _BAD_IN_NAME.search(name) or line[:1] == b":" or b"\0" in line:
                    raise RequestError(400)
                if end < 0:
                    if len(line) >= MAX_LINE:
                        raise RequestError(494)
                    return False
                self._head_size += end + 1 - start
                start = end + 1
                if self._head_size > MAX_HEAD:
                    raise RequestError(494)
                if not name:
                    return True
                if _HEADER_NAME.fullmatch(name):  # nginx ignores others
                    _add_header(self._headers, name.lower(), value.strip(b" "))
        finally:
            self.buffer = buffer[start:]


def _check_method(line: bytes) -> None:
    for byte in line:
        if byte not in _METHOD_BYTES:
            if byte == 0x20 and line[:1] != b" ":
                return
            raise RequestError(400)


def _add_header(headers: dict[bytes, bytes], name: bytes, value: bytes) -> None:
    # These may come once (ngx_http_process_unique_header_line, ..._host).
    if name in headers:
        if name in (b"host", b"content-length", b"transfer-encoding", b"if-modified-since"):
            raise RequestError(400)
        return
    headers[name] = value


def _check_partial_line(line: bytes) -> None:
    """Refuse what nginx refuses before the request line is complete."""
    _, space, rest = line.partition(b" ")
    rest = rest.lstrip(b" ")
    if not space or not rest:
        return
    if rest[:1] != b"/" and not _SCHEME.match(rest):
        raise RequestError(400)
    target, space, version = rest.partition(b" ")
    if re.search(rb"[\x00-\x09\x0b\x0c\x0e-\x1f\x7f]", target):
        raise RequestError(400)
    version = version.lstrip(b" ")
    if version:
        if not b"HTTP/".startswith(version[:5]):
            raise RequestError(400)
        if version[5:6] not in b"123456789":
            raise RequestError(400)
        if version[5:6] > b"1":
            raise RequestError(505)


def _parse_request_line(line: bytes) -> _RequestLine:
    method, _, rest = line.partition(b" ")
    target, space, version_text = rest.lstrip(b" ").partition(b" ")
    version_text = version_text.lstrip(b" ")
    if not space or version_text == b"\r":
        version_text = b""
        target = target.removesuffix(b"\r")
    path, host = _parse_target(target)
    version = HTTP_09
    if version_text:
        if re.match(rb"HTTP/[2-9]", version_text):
            raise RequestError(505)
        match = _VERSION.fullmatch(version_text)
        if match is None or int(match[2]) > 99:
            raise RequestError(400)
        version = int(match[1]) * 1000 + int(match[2])
    elif method != b"GET":
        raise RequestError(400, HTTP_09)
    return _RequestLine(method, path, host, version)


def _parse_target(target: bytes) -> tuple[bytes, bytes]:
    """Return the path, not decoded yet, and the host, if the target names one."""
    host = b""
    if target[:1] != b"/":
        scheme = _SCHEME.match(target)
        if scheme is None or not target.startswith(b"://", scheme.end()):
            raise RequestError(400)
        found = _HOST.match(target, scheme.end() + 3)
        host = found[0] if found else b""
        target = re.sub(rb"^:[0-9]*", b"", target[scheme.end() + 3 + len(host) :])
        if target[:1] in (b"", b"?"):
            target = b"/" + target
    if target[:1] != b"/" or re.search(rb"[\x00-\x1f\x7f]", target):
        raise RequestError(400)
    return target.partition(b"#")[0].partition(b"?")[0], host


def _checked(line: _RequestLine, path: bytes, headers: dict[bytes, bytes]) -> Request:
    """Apply the rules of ngx_http_process_request_header."""
    method, host, version = line.method, line.host, line.version
    agent = headers.get(b"user-agent", b"")
    chunked = False

    def refuse(status: int, body: BodySkipper | None = None) -> RequestError:
        head_only = method == b"HEAD"
        return RequestError(status, version, head_only=head_only, user_agent=agent, body=body)

    named = headers.get(b"host")
    if named is not None:
        if not _HOST_HEADER.fullmatch(named) or b".." in named:
            raise refuse(400)
        host = host or re.sub(rb":[0-9]*$", b"", named).lower().rstrip(b".")
    elif version >= HTTP_11:
        raise refuse(400)
    length = 0
    if b"content-length" in headers:
        if not _NUMBER.fullmatch(headers[b"content-length"]):
            raise refuse(400)
        length = int(headers[b"content-length"])
    if b"transfer-encoding" in headers:
        if version < HTTP_11:
            raise refuse(400)
        if headers[b"transfer-encoding"].lower() != b"chunked":
            raise refuse(501)
        if b"content-length" in headers:
            raise refuse(400, BodySkipper(chunked=True))
        chunked = True
    if method in (b"TRACE", b"CONNECT"):
        raise refuse(405)
    body = BodySkipper(length, chunked=chunked)
    connection = headers.get(b"connection", b"").lower()
    keep_alive = version >= HTTP_11 and b"close" not in connection
    return Request(
        method=method,
        path=path,
        target_host=host,
        version=version,
        headers=headers,
        keep_alive=keep_alive or (version == HTTP_10 and b"keep-alive" in connection),
        body=body,
    )
