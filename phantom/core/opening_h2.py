"""The opening inside TLS over HTTP/2: Chromium's preface and a POST, nginx's answer.

Client::

    connection preface | SETTINGS | WINDOW_UPDATE | HEADERS (stream 1) | DATA (stream 1)

The DATA frame is message 1 and ends the stream.  The server says, in this order, what a web
server says unprompted (SETTINGS and so on), an acknowledgement of the client's SETTINGS,
HEADERS with status 200, and one DATA frame, which is message 2.  The client acknowledges
each SETTINGS frame that came before these HEADERS; its records follow.  (RFC 9113.)

The values, their order and the bytes of the header block are those of Chromium 156 making
a ``fetch`` on a new connection, as captured from it.  The server compares rather than
decodes: what is at all unusual is not ours, and the web server behind may judge it.
"""

from __future__ import annotations

import re

from phantom.core.handshake import MIN_REST_ONE, MIN_REST_TWO
from phantom.core.hpack import decode_string, encode_block, encode_field, find_value
from phantom.core.httpdate import parse_date
from phantom.core.opening import (
    CHROMIUM,
    Browser,
    MessageOne,
    MessageTwo,
    NeedMore,
    OpenHeader,
    Opening,
    Reader,
    check_body_length,
    website_answered,
)
from phantom.core.opening_http import HOST, request_fields, response_fields
from phantom.errors import HandshakeError, LocalProtocolError, RemoteProtocolError

#: RFC 9113, section 3.4.
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

FRAME_HEADER = 9  # RFC 9113, section 4.1

# Frame types and flags (RFC 9113, section 6).
_DATA, _HEADERS, _SETTINGS, _GOAWAY, _WINDOW_UPDATE = 0x0, 0x1, 0x4, 0x7, 0x8
_ACK = _END_STREAM = 0x1
_END_HEADERS, _PRIORITY = 0x4, 0x20

#: Chromium's stream dependency: none, exclusive, weight 220, which stands for the urgency
#: of a ``fetch``.
_FETCH_PRIORITY = bytes.fromhex("80000000db")

#: The most of a HEADERS frame that can be ours: Chromium's has some 350 bytes.
_MAX_HEADERS = 2048

#: The most that a client says before its HEADERS: 46 bytes from Chromium.
_MAX_SMALL_TALK = 256

#: The same of a server, which says 40 bytes (nginx) or hundreds.
_MAX_GREETING = 4096

#: By how much nginx raises a request's window: to the most there is (RFC 9113, 6.9.1).
_NGINX_WINDOW = 0x7FFEFFFF

_NO_TABLE = b"\x20"
_CONTENT_LENGTH = b"\x5c"  # a literal with that name, to be indexed

#: What a status of the static table is (RFC 7541, appendix A).
_STATUSES = {0x88: b"200", 0x89: b"204", 0x8A: b"206", 0x8B: b"304", 0x8C: b"400"} | {
    0x8D: b"404",
    0x8E: b"500",
}


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Return a frame (RFC 9113, section 4.1)."""
    head = len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big")
    return head + payload


#: An acknowledgement of SETTINGS.
SETTINGS_ACK = frame(_SETTINGS, _ACK, 0, b"")

#: What Chromium says first: HEADER_TABLE_SIZE 65536, ENABLE_PUSH 0, INITIAL_WINDOW_SIZE
#: 6291456, MAX_HEADER_LIST_SIZE 262144, and a connection window of 15 MiB.
CHROMIUM_PREFACE = (
    PREFACE
    + frame(
        _SETTINGS,
        0,
        0,
        b"".join(
            number.to_bytes(2, "big") + value.to_bytes(4, "big")
            for number, value in ((1, 65536), (2, 0), (4, 6291456), (6, 262144))
        ),
    )
    + frame(_WINDOW_UPDATE, 0, 0, (15 * 1024 * 1024 - 65535).to_bytes(4, "big"))
)


def h2_request(path: str, host: str, body: bytes, browser: Browser = CHROMIUM) -> list[bytes]:
    """Return the client's first bytes, one piece for each write (TLS record) of Chromium's.

    Args:
        path: The secret path.
        host: The authority: the TLS server name, with the port unless it is 443.
        body: ``e | sealed header | rest``.
        browser: Whom to imitate.

    Raises:
        LocalProtocolError: The host would break the head.
    """
    if not HOST.fullmatch(host) or len(host) > 126:
        raise LocalProtocolError("a host that does not fit an HTTP head")
    fields = [(":method", "POST"), (":authority", host), (":scheme", "https"), (":path", path)]
    fields += [
        (name.lower(), value)
        for name, value in request_fields(host, len(body), browser)
        if name not in ("Host", "Connection")
    ]
    fields.append(("priority", "u=1, i"))
    head = _FETCH_PRIORITY + encode_block(fields)
    return [
        CHROMIUM_PREFACE,
        frame(_HEADERS, _END_HEADERS | _PRIORITY, 1, head),
        frame(_DATA, _END_STREAM, 1, body),
    ]


def h2_acknowledgement(acknowledged: bool) -> bytes:
    """Return what nginx says when it has read a request's head, before it answers.

    Args:
        acknowledged: Whether the client's SETTINGS were acknowledged already.
    """
    window = frame(_WINDOW_UPDATE, 0, 1, _NGINX_WINDOW.to_bytes(4, "big"))
    return window if acknowledged else SETTINGS_ACK + window


def h2_response(body: bytes, date: str) -> bytes:
    """Return an answer as nginx gives it for a proxied application.

    Args:
        body: ``e | sealed header | rest``.
        date: The Date header.
    """
    fields = [(":status", "200")]
    fields += [
        (name.lower(), value)
        for name, value in response_fields(len(body), date)
        if name not in ("Content-Length", "Connection")
    ]
    # nginx takes the trouble of coding every value but this last one.
    digits = str(len(body)).encode("ascii")
    length = _CONTENT_LENGTH + bytes((len(digits),)) + digits
    # nginx answers Chromium's HEADER_TABLE_SIZE by not using the table (RFC 7541, 6.3).
    head = frame(_HEADERS, _END_HEADERS, 1, _NO_TABLE + encode_block(fields) + length)
    return head + frame(_DATA, _END_STREAM, 1, body)


class ServerTalk:
    """Counts what was said to a client before it is answered.

    Attributes:
        settings: How many SETTINGS frames; the client will acknowledge as many.
        acknowledged: Whether the client's own SETTINGS were acknowledged.
        unsaid: Part of it that is still to be sent: a web server's first words and what it
            says to a request that is here already are one record.
    """

    __slots__ = ("_buffer", "acknowledged", "settings", "unsaid")

    def __init__(self) -> None:
        self._buffer = b""
        self.settings = 0
        self.acknowledged = False
        self.unsaid = b""

    def whole_frames(self, data: bytes) -> bytes:
        """Take bytes of a web server and return those that complete frames, counted.

        Whole frames, so that something else can follow at any time.

        Raises:
            RemoteProtocolError: This is more than a greeting.
        """
        buffer = self._buffer + data
        end = 0
        while (header := read_frame_header(buffer, end)) is not None:
            length, kind, flags, _ = header
            if end + FRAME_HEADER + length > len(buffer):
                break
            end += FRAME_HEADER + length
            if kind == _SETTINGS and flags & _ACK:
                self.acknowledged = True
            elif kind == _SETTINGS:
                self.settings += 1
        self._buffer = buffer[end:]
        if len(self._buffer) > _MAX_GREETING:
            raise RemoteProtocolError("a frame too long for a greeting")
        return buffer[:end]

    def rest(self) -> bytes:
        """Return, and forget, the beginning of a frame that is not whole yet."""
        rest, self._buffer = self._buffer, b""
        return rest


def read_frame_header(data: bytes | bytearray, start: int) -> tuple[int, int, int, int] | None:
    """Return length, type, flags and stream id of the frame at `start`; None if incomplete."""
    if len(data) < start + FRAME_HEADER:
        return None
    length = int.from_bytes(data[start : start + 3], "big")
    stream = int.from_bytes(data[start + 5 : start + 9], "big") & 0x7FFFFFFF
    return length, data[start + 3], data[start + 4], stream


class H2Opening(Opening):
    """Reads an opening over HTTP/2; see the module.

    Everything before the secret path is what any visitor may say, and no reason to keep a web
    server waiting: `early` hands it out, to be passed on at once.  Of a link it then sees half
    a request, which it answers as little as any.  From the path's last byte on, bytes are held.

    Args:
        path: The secret path.
        open_header: Opens a sealed header of the client's.
    """

    __slots__ = ("_early", "_expected_path", "_harmless", "_position", "_preface_read")

    def __init__(self, path: str, open_header: OpenHeader) -> None:
        super().__init__(open_header)
        self._expected_path = encode_field(":scheme", "https") + encode_field(":path", path)
        self._early = 0  # bytes that `early` has handed out
        self._harmless: int | None = None  # where the path's last byte is, once known
        self._position = 0  # where the next frame begins
        self._preface_read = False

    @property
    def received(self) -> bytes:
        """Every byte given to `receive` and not handed out by `early`."""
        return bytes(self._buffer[self._early :])

    def early(self) -> bytes:
        """Return, once each, the bytes that any web server may see."""
        end = len(self._buffer) if self._harmless is None else self._harmless
        begin, self._early = self._early, max(self._early, end)
        return bytes(self._buffer[begin : self._early])

    def _judge(self) -> MessageOne | None:
        buffer = self._buffer
        if not self._preface_read:
            if buffer[: len(PREFACE)] != PREFACE[: len(buffer)]:
                raise RemoteProtocolError("another preface")
            if len(buffer) < len(PREFACE):
                return None
            self._position = len(PREFACE)
            self._preface_read = True
        while self._start is None:
            header = read_frame_header(buffer, self._position)
            if header is None:
                return None
            length, kind, flags, stream = header
            body = self._position + FRAME_HEADER
            if kind == _HEADERS:
                if not self._headers(body, length, flags, stream):
                    return None
            elif stream or kind not in (_SETTINGS, _WINDOW_UPDATE):
                raise RemoteProtocolError("another frame")
            else:
                self._position = body + length
                if self._position > len(PREFACE) + _MAX_SMALL_TALK:
                    raise RemoteProtocolError("too many frames")
        return self._message(self._start, self._body)

    def _headers(self, start: int, length: int, flags: int, stream: int) -> bool:
        """Compare a HEADERS frame and what follows; True once the message's place is known.

        Raises:
            RemoteProtocolError: It is another request.
        """
        if flags != _END_HEADERS | _PRIORITY or stream != 1 or length > _MAX_HEADERS:
            raise RemoteProtocolError("another request")
        end = start + length
        block = bytes(self._buffer[start:end])
        fixed = _FETCH_PRIORITY + encode_field(":method", "POST") + b"\x41"
        if block[: len(fixed)] != fixed[: len(block)]:
            raise RemoteProtocolError("another request")
        if len(block) > len(fixed):
            name_start = len(fixed) + 1
            size = block[len(fixed)]
            name_end = name_start + (size & 0x7F)
            rest = block[name_end:]
            if len(block) >= name_end:
                host = decode_string(size, block[name_start:name_end])
                if not HOST.fullmatch(host):
                    raise RemoteProtocolError("an unusual host")
            if len(rest) >= len(self._expected_path):
                self._harmless = start + name_end + len(self._expected_path) - 1
            if rest[: len(self._expected_path)] != self._expected_path[: len(rest)]:
                raise RemoteProtocolError("another request")
            if len(block) == length and len(rest) < len(self._expected_path):
                raise RemoteProtocolError("another request")
        elif len(block) == length:
            raise RemoteProtocolError("another request")
        header = read_frame_header(self._buffer, end)
        if header is None:
            return False
        size, kind, flags, stream = header
        if (kind, flags, stream) != (_DATA, _END_STREAM, 1):
            raise RemoteProtocolError("another body")
        self._body = check_body_length(size, MIN_REST_ONE)
        self._start = end + FRAME_HEADER
        return True


class H2Reply(Reader):
    """Reads the server's message over HTTP/2; see the module.

    Args:
        open_header: Opens a sealed header of the server's.
    """

    __slots__ = ("_acknowledge", "_answered", "_block", "_position")

    _STATUS = re.compile(rb"\x48\x03([1-5][0-9][0-9])")

    def __init__(self, open_header: OpenHeader) -> None:
        super().__init__(open_header)
        self._position = 0
        self._answered = False
        self._block = b""  # of the answer's headers
        self._acknowledge = 0

    @property
    def date(self) -> float | None:
        """The Date of the answer, in seconds since the Unix epoch; None if there is none."""
        value = find_value(self._block, "date")
        return None if value is None else parse_date(value.encode("ascii"))

    def outgoing(self) -> bytes:
        """Return, once, what is to be sent in answer to the frames read so far."""
        count, self._acknowledge = self._acknowledge, 0
        return SETTINGS_ACK * count

    def receive(self, data: bytes) -> NeedMore | MessageTwo:
        """Take more bytes; return the message once it is whole.

        Raises:
            HandshakeError: The server's web site answered, which is what strangers get.
            RemoteProtocolError: The answer is not HTTP/2.
            LocalProtocolError: The message was already returned.
        """
        self._add(data)
        while self._start is None:
            header = read_frame_header(self._buffer, self._position)
            if header is None or not self._frame(*header):
                return NeedMore()
        try:
            message = self._cut(MessageTwo, self._start, self._body)
        except HandshakeError:
            raise HandshakeError(website_answered(b"200")) from None
        assert message is None or isinstance(message, MessageTwo)
        return NeedMore() if message is None else message

    def _frame(self, length: int, kind: int, flags: int, stream: int) -> bool:
        """Read one frame; False while it is incomplete."""
        start = self._position + FRAME_HEADER
        if self._answered:
            self._read_body(start, length, kind, flags, stream)
            return True
        if start + length > _MAX_GREETING:
            raise RemoteProtocolError("an answer that is not HTTP/2")
        if len(self._buffer) < start + length:
            return False
        payload = bytes(self._buffer[start : start + length])
        self._position = start + length
        if kind == _SETTINGS and not flags & _ACK:
            self._acknowledge += 1
        elif kind == _GOAWAY:
            raise HandshakeError("the server's web site ended the connection (HTTP/2 GOAWAY)")
        elif kind == _HEADERS and stream == 1:
            self._answered = True
            self._block = block = payload.removeprefix(_NO_TABLE)
            if block[:1] != b"\x88" or flags != _END_HEADERS:
                raise HandshakeError(website_answered(self._status(block)))
        elif stream not in (0, 1) or kind > 0x9:  # RFC 9113, section 6, ends with 0x9
            raise RemoteProtocolError("an answer that is not HTTP/2")
        return True

    def _read_body(self, start: int, length: int, kind: int, flags: int, stream: int) -> None:
        if (kind, flags, stream) != (_DATA, _END_STREAM, 1):
            raise HandshakeError(website_answered(b"200"))
        try:
            self._body = check_body_length(length, MIN_REST_TWO)
        except RemoteProtocolError:
            raise HandshakeError(website_answered(b"200")) from None
        self._start = start

    def _status(self, block: bytes) -> bytes:
        match = self._STATUS.match(block)
        return match[1] if match else _STATUSES.get(block[0] if block else 0, b"unknown")
