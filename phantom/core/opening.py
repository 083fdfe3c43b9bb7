"""The first bytes of a link: how a server knows its own, and how a client is answered.

Around both Noise messages stands ``e (32) | sealed header (19) | rest``; what stands
around that depends on the carrier:

- on bare TCP message 1 follows a random printable prefix, message 2 nothing;
- inside TLS message 1 is the body of a POST to a secret path, message 2 the body of the
  answer, and after them the HTTP framing is dropped; for HTTP/1.1 that is here, for HTTP/2
  in `phantom.core.opening_h2`.

The readers are incremental and give the same verdict for the same bytes however they are
cut.  They keep all they were given, so that a stranger's bytes can go to a decoy untouched,
and they hold a stranger's bytes back only while those can still become an opening.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import attrs

from phantom.core.handshake import (
    KEY_SIZE,
    MAX_REST,
    MIN_REST_ONE,
    MIN_REST_TWO,
    SEALED_HEADER_SIZE,
    Cipher,
)
from phantom.core.httpdate import date_of_head
from phantom.core.opening_http import (
    CHROMIUM,
    MAX_HEAD,
    Browser,
    HeadReader,
    http_request,
    http_response,
)
from phantom.errors import HandshakeError, LocalProtocolError, RemoteProtocolError

__all__ = [
    "CHROMIUM",
    "MAX_HEAD",
    "BareOpening",
    "BareReply",
    "Browser",
    "HttpOpening",
    "HttpReply",
    "MessageOne",
    "MessageTwo",
    "NeedMore",
    "Stranger",
    "bare_first_flight",
    "http_request",
    "http_response",
    "looks_prefixed",
    "random_prefix",
]

#: ``open_header(e, sealed)`` returns the length of the rest and the cipher, or raises
#: `HandshakeError`.
OpenHeader = Callable[[bytes, bytes], tuple[int, Cipher]]

#: Bytes of a message before its rest.
FIXED = KEY_SIZE + SEALED_HEADER_SIZE

#: Printable bytes of a prefix.  A filter that blocks what looks random exempts a first
#: payload that begins with six (Wu et al., 2023, "Ex2"); more make the length vary.
MIN_PREFIX = 6
MAX_PREFIX = 32

# A whole prefix; and the beginning of one that is not whole yet.
_PREFIX = re.compile(rb"[\x20-\x7e]{6,32}[\x80-\xff]")
_PREFIX_SO_FAR = re.compile(rb"[\x20-\x7e]{0,32}")
_PRINTABLE_SIX = re.compile(rb"[\x20-\x7e]{6}")


@attrs.frozen(slots=True)
class NeedMore:
    """Nothing can be said yet."""


@attrs.frozen(slots=True)
class Stranger:
    """These bytes are no opening; the reader's `received` has all of them."""


@attrs.frozen(slots=True, repr=False)
class _Message:
    """A whole handshake message, of which only the header is authenticated.

    Attributes:
        e: The ephemeral key as it stands on the wire.
        sealed_header: The 19 bytes after it.
        rest: What follows e in the Noise message.
        cipher: The cipher from the header.
        leftover: Bytes after the message: records.
    """

    e: bytes
    sealed_header: bytes
    rest: bytes
    cipher: Cipher
    leftover: bytes


class MessageOne(_Message):
    """Message 1, as a server receives it."""

    __slots__ = ()


class MessageTwo(_Message):
    """Message 2, as a client receives it."""

    __slots__ = ()


_NEED_MORE = NeedMore()
_STRANGER = Stranger()


class Reader:
    """Collects bytes and cuts a message out of them.

    The buffer holds at most a head, a message and what came with the read that completed
    them: under 25 KiB and one read.
    """

    __slots__ = ("_body", "_buffer", "_done", "_length", "_open_header", "_start")

    def __init__(self, open_header: OpenHeader) -> None:
        self._open_header = open_header
        self._buffer = bytearray()
        self._done = False
        # Where e begins, and the length and cipher from the header, once known.
        self._start: int | None = None
        self._body: int | None = None  # what surrounds the message says of its length
        self._length: tuple[int, Cipher] | None = None

    @property
    def received(self) -> bytes:
        """Every byte given to `receive` so far, that was not handed out since."""
        return bytes(self._buffer)

    def _add(self, data: bytes) -> None:
        if self._done:
            raise LocalProtocolError("bytes for an opening that is decided")
        self._buffer += data

    def _cut(self, kind: type[_Message], start: int, body: int | None = None) -> _Message | None:
        """Return the message that begins at `start`, or None while it is incomplete.

        Args:
            kind: What to return.
            start: Where e begins.
            body: What the length of the whole message must be, if known.

        Raises:
            HandshakeError: The header is not authentic, or contradicts `body`.
        """
        buffer = self._buffer
        rest = start + FIXED
        if self._length is None:
            if len(buffer) < rest:
                return None
            e = bytes(buffer[start : start + KEY_SIZE])
            self._length = self._open_header(e, bytes(buffer[start + KEY_SIZE : rest]))
            if body is not None and body != FIXED + self._length[0]:
                raise HandshakeError("a body that is not exactly a handshake message")
        end = rest + self._length[0]
        if len(buffer) < end:
            return None
        self._done = True
        return kind(
            bytes(buffer[start : start + KEY_SIZE]),
            bytes(buffer[start + KEY_SIZE : rest]),
            bytes(buffer[rest:end]),
            self._length[1],
            bytes(buffer[end:]),
        )


class Opening(Reader):
    """What the server's readers have in common."""

    __slots__ = ()

    def receive(self, data: bytes) -> NeedMore | Stranger | MessageOne:
        """Take more bytes and say what they are by now.

        A MessageOne is a message whose length is authentic; whether its sender is known is
        for the handshake to find out, and if not, `received` still has every byte.

        Raises:
            LocalProtocolError: It was already decided.
        """
        self._add(data)
        try:
            message = self._judge()
        except (HandshakeError, RemoteProtocolError):
            self._done = True
            return _STRANGER
        return _NEED_MORE if message is None else message

    def early(self) -> bytes:
        """Return, once each, bytes that a web server would act on before all are here.

        `received` has them no more.
        """
        return b""

    def _judge(self) -> MessageOne | None:
        raise NotImplementedError

    def _message(self, start: int, body: int | None = None) -> MessageOne | None:
        message = self._cut(MessageOne, start, body)
        assert message is None or isinstance(message, MessageOne)
        return message


class BareOpening(Opening):
    """Reads an opening on bare TCP: ``[prefix] e | sealed header | rest``.

    If the first six bytes are printable there is a prefix: 6 to 32 printable bytes and one
    from 0x80 on, all discarded.  Otherwise e begins at once; a client that sends no prefix
    redraws e until the first six bytes are not all printable.

    Args:
        open_header: Opens a sealed header of the client's.
    """

    __slots__ = ()

    def _judge(self) -> MessageOne | None:
        if self._start is None:
            self._start = self._find_key()
            if self._start is None:
                return None
        return self._message(self._start)

    def _find_key(self) -> int | None:
        head = bytes(self._buffer[: MAX_PREFIX + 1])
        if (whole := _PREFIX.match(head)) is not None:
            return whole.end()
        printable = _PREFIX_SO_FAR.match(head)
        assert printable is not None  # it matches the empty string
        if printable.end() == len(head):
            return None
        if printable.end() < MIN_PREFIX:
            return 0
        raise RemoteProtocolError("a prefix without an end")


class HttpOpening(Opening):
    """Reads an opening inside TLS: a POST to the secret path with the message as its body.

    A byte that differs from ``POST <path> HTTP/1.1`` makes a stranger at once, for a web
    server would by then be reading something else; likewise any unusual header.

    Args:
        path: The secret path.
        open_header: Opens a sealed header of the client's.
    """

    __slots__ = ("_head", "_request_line")

    def __init__(self, path: str, open_header: OpenHeader) -> None:
        super().__init__(open_header)
        self._request_line = f"POST {path} HTTP/1.1\r\n".encode("ascii")
        self._head = HeadReader(len(self._request_line))

    def _judge(self) -> MessageOne | None:
        if self._start is None:
            expected = self._request_line
            if self._buffer[: len(expected)] != expected[: len(self._buffer)]:
                raise RemoteProtocolError("another request")
            if len(self._buffer) < len(expected) or not self._head.read(self._buffer):
                return None
            self._start = self._head.end
        length = check_body_length(self._head.content_length(), MIN_REST_ONE)
        return self._message(self._start, length)


class BareReply(Reader):
    """Reads the server's message on bare TCP: ``e | sealed header | rest``.

    Args:
        open_header: Opens a sealed header of the server's.
    """

    __slots__ = ()

    def receive(self, data: bytes) -> NeedMore | MessageTwo:
        """Take more bytes; return the message once it is whole.

        Raises:
            HandshakeError: It does not come from the holder of the server's key.
            LocalProtocolError: The message was already returned.
        """
        self._add(data)
        message = self._cut(MessageTwo, 0)
        assert message is None or isinstance(message, MessageTwo)
        return _NEED_MORE if message is None else message


class HttpReply(Reader):
    """Reads the server's message inside TLS: the body of an HTTP/1.1 answer.

    Args:
        open_header: Opens a sealed header of the server's.
    """

    __slots__ = ("_head",)

    _STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-5][0-9][0-9])[^\r\n]{0,64}\r\n")
    #: Longest match of the expression above.
    _MAX_STATUS_LINE = 12 + 64 + 2

    def __init__(self, open_header: OpenHeader) -> None:
        super().__init__(open_header)
        self._head: HeadReader | None = None

    def receive(self, data: bytes) -> NeedMore | MessageTwo:
        """Take more bytes; return the message once it is whole.

        Raises:
            HandshakeError: The server's web site answered, which is what strangers get.
            RemoteProtocolError: The answer is not HTTP/1.
            LocalProtocolError: The message was already returned.
        """
        self._add(data)
        if self._head is None:
            status = self._STATUS_LINE.match(self._buffer)
            if status is None:
                self._check_beginning()
                return _NEED_MORE
            if status[1] != b"200":
                if b"\r\n\r\n" not in self._buffer and len(self._buffer) < MAX_HEAD:
                    return _NEED_MORE  # the head has a Date
                raise HandshakeError(website_answered(status[1]))
            self._head = HeadReader(status.end())
        try:
            if self._start is None:
                if not self._head.read(self._buffer):
                    return _NEED_MORE
                self._start = self._head.end
            length = check_body_length(self._head.content_length(), MIN_REST_TWO)
            message = self._cut(MessageTwo, self._start, length)
        except (HandshakeError, RemoteProtocolError):
            raise HandshakeError(website_answered(b"200")) from None
        assert message is None or isinstance(message, MessageTwo)
        return _NEED_MORE if message is None else message

    @property
    def date(self) -> float | None:
        """The Date of the answer, in seconds since the Unix epoch; None if there is none."""
        return date_of_head(self.received)

    def _check_beginning(self) -> None:
        """Refuse at once what cannot become a status line."""
        start = b"HTTP/1."
        buffer = self._buffer
        if buffer[: len(start)] != start[: len(buffer)] or len(buffer) >= self._MAX_STATUS_LINE:
            raise RemoteProtocolError("an answer that is not HTTP/1")


def check_body_length(length: int, minimum: int) -> int:
    """Return the length of a body, refusing at once what can be no message.

    Raises:
        RemoteProtocolError: A web server would read another body.
    """
    if not FIXED + minimum <= length <= FIXED + MAX_REST:
        raise RemoteProtocolError("a body that can be no handshake message")
    return length


def website_answered(status: bytes) -> str:
    """Return what to tell a user whose client met the web site."""
    return (
        f"the server's web site answered (HTTP {status.decode('ascii')}) instead of the "
        "tunnel: this client's key is not allowed there, server_public_key is wrong, or one "
        "of the two clocks is off by more than two minutes"
    )


def looks_prefixed(e: bytes) -> bool:
    """Tell whether a server would take the first bytes of `e` for a prefix.

    A client that sends no prefix draws another key then; one in 383 is such: (95 / 256) ** 6.
    """
    return _PRINTABLE_SIX.match(e) is not None


def bare_first_flight(prefix: bytes, e: bytes, header: bytes, rest: bytes) -> bytes:
    """Return the first bytes of a link on bare TCP.

    Args:
        prefix: From `random_prefix`, or empty.
        e: The ephemeral key as it stands on the wire.
        header: Its sealed header.
        rest: What follows e in message 1.

    Raises:
        LocalProtocolError: The server would not find e where it is.
    """
    if not (_PREFIX.fullmatch(prefix) if prefix else not looks_prefixed(e)):
        raise LocalProtocolError("a prefix that the server would misread")
    return prefix + e + header + rest


def random_prefix(entropy: Callable[[int], bytes]) -> bytes:
    """Return 6 to 32 random printable bytes and the byte from 0x80 on that ends them.

    Never a fixed text: that would be a signature.

    Args:
        entropy: ``entropy(n)`` returns n random bytes.
    """
    # 48 bytes make the bias of the divisions negligible: 32 characters and a length need
    # fewer than 32 bytes.
    number = int.from_bytes(entropy(48), "big")
    number, extra = divmod(number, MAX_PREFIX - MIN_PREFIX + 1)
    number, end = divmod(number, 128)
    prefix = bytearray()
    for _ in range(MIN_PREFIX + extra):
        number, character = divmod(number, 95)
        prefix.append(0x20 + character)
    prefix.append(0x80 + end)
    return bytes(prefix)
