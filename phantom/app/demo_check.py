"""What the demo sends through the tunnel: a destination on this machine, and a downloader.

Both are small on purpose; the tunnel between them is the real one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPullProducer
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from phantom.errors import PhantomError

#: Bytes of one piece of the download, written whenever the connection has room.
PIECE = 256 * 1024


class DownloadFailed(PhantomError):  # noqa: N818  (says what happened)
    """The demo's download did not arrive as it was sent."""


@implementer(IPullProducer)
class Destination(Protocol):
    """A web server that sends `size` bytes made from a seed to whoever asks.

    Args:
        piece: What the download repeats.
        size: Bytes of the download, a multiple of the piece's.
    """

    transport: Any

    def __init__(self, piece: bytes, size: int) -> None:
        self._piece = piece
        self._size = size
        self._left = 0
        self._head = b""

    def dataReceived(self, data: bytes) -> None:
        """Answer the first request; its head is all that is read."""
        if self._left or len(self._head) > 8192:
            return
        self._head += data
        if b"\r\n\r\n" in self._head:
            self._left = self._size
            self.transport.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n"
                b"Connection: close\r\nContent-Length: %d\r\n\r\n" % self._size
            )
            self.transport.registerProducer(self, False)

    def resumeProducing(self) -> None:
        """Write the next piece."""
        self.transport.write(self._piece)
        self._left -= len(self._piece)
        if self._left <= 0:
            self.transport.unregisterProducer()
            self.transport.loseConnection()

    def stopProducing(self) -> None:
        """Nothing is held."""


class DestinationFactory(Factory):
    """Serves the demo's download.

    Args:
        entropy: Makes the content, so that nothing on the way can guess or squeeze it.
        size: Bytes, rounded up to whole pieces.

    Attributes:
        size: Bytes of the download.
        digest: SHA-256 of it.
    """

    noisy = False

    def __init__(self, entropy: Callable[[int], bytes], size: int) -> None:
        pieces = max(1, -(-size // PIECE))
        self._piece = entropy(PIECE)
        self.size = pieces * PIECE
        digest = hashlib.sha256()
        for _ in range(pieces):
            digest.update(self._piece)
        self.digest = digest.digest()

    def buildProtocol(self, addr: Any) -> Destination:
        """Return the server's side of one connection."""
        return Destination(self._piece, self.size)


@attrs.frozen(slots=True, kw_only=True)
class Measured:
    """What a download took.

    Attributes:
        first_byte: Seconds from connecting to the proxy to the answer's first byte.
        seconds: Seconds from then to the last byte.
        size: Bytes of the body.
    """

    first_byte: float
    seconds: float
    size: int

    @property
    def megabits(self) -> float:
        """Return the throughput in Mbit/s."""
        return self.size * 8 / 1e6 / max(self.seconds, 1e-9)


class Downloader(Protocol):
    """Fetches the destination through a proxy and checks every byte.

    Args:
        greeting: What is sent first, and what must come back before each next piece:
            pairs of bytes to send and a function that says how many answer bytes are
            complete (0 for not yet) or raises `DownloadFailed`.
        host: The Host field of the request.
        expected: The digest and size of the body.
        now: A clock, in seconds.
        progress: Called with the bytes so far.
    """

    transport: Any

    def __init__(
        self,
        greeting: list[tuple[bytes, Callable[[bytes], int]]],
        host: str,
        expected: DestinationFactory,
        now: Callable[[], float],
        progress: Callable[[int], None],
    ) -> None:
        self._steps = greeting
        self._request = f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
        self._expected = expected
        self._now = now
        self._progress = progress
        self._buffer = b""
        self._in_body = False
        self._received = 0
        self._digest = hashlib.sha256()
        self._started = self._first = 0.0
        self.done: Deferred[Measured] = Deferred(lambda _: self.transport.abortConnection())

    def connectionMade(self) -> None:
        """Greet the proxy."""
        self._started = self._now()
        self.transport.write(self._steps[0][0])

    def dataReceived(self, data: bytes) -> None:
        """Take the proxy's answers, then the body."""
        if self._in_body:
            self._body(data)
            return
        self._buffer += data
        try:
            while self._steps:
                used = self._steps[0][1](self._buffer)
                if not used:
                    return
                self._buffer = self._buffer[used:]
                self._steps.pop(0)
                self.transport.write(self._steps[0][0] if self._steps else self._request)
        except DownloadFailed as error:
            self._fail(Failure(error))
            return
        head, separator, body = self._buffer.partition(b"\r\n\r\n")
        if separator:
            if not head.startswith(b"HTTP/1.1 200"):
                self._fail(Failure(DownloadFailed("the destination's answer is not its own")))
                return
            self._in_body = True
            self._first = self._now()
            self._buffer = b""
            if body:
                self._body(body)

    def _body(self, data: bytes) -> None:
        self._digest.update(data)
        self._received += len(data)
        self._progress(self._received)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Judge what has come."""
        if self.done.called:
            return
        ended = self._now()
        if (self._received, self._digest.digest()) != (self._expected.size, self._expected.digest):
            text = (
                f"{self._received:,} of {self._expected.size:,} bytes arrived"
                if self._in_body
                else "the proxy closed the connection before the answer came"
            )
            self.done.errback(DownloadFailed(text))
            return
        self.done.callback(
            Measured(
                first_byte=self._first - self._started,
                seconds=ended - self._first,
                size=self._received,
            )
        )

    def _fail(self, failure: Failure) -> None:
        done, self.done = self.done, Deferred()
        self.done.callback(None)  # type: ignore[arg-type]  # connectionLost finds it called
        self.transport.abortConnection()
        done.errback(failure)


def socks5_greeting(port: int) -> list[tuple[bytes, Callable[[bytes], int]]]:
    """Return the steps of a SOCKS5 request for 127.0.0.1 and `port` (RFC 1928)."""

    def method(answer: bytes) -> int:
        if len(answer) >= 2 and answer[:2] != b"\x05\x00":
            raise DownloadFailed("the SOCKS5 proxy wants a password")
        return 2 if len(answer) >= 2 else 0

    def reply(answer: bytes) -> int:
        if len(answer) >= 2 and answer[1]:
            raise DownloadFailed(f"the SOCKS5 proxy answered with code {answer[1]}")
        return 10 if len(answer) >= 10 else 0

    request = b"\x05\x01\x00\x01\x7f\x00\x00\x01" + port.to_bytes(2, "big")
    return [(b"\x05\x01\x00", method), (request, reply)]


def http_greeting(port: int) -> list[tuple[bytes, Callable[[bytes], int]]]:
    """Return the one step of an HTTP CONNECT to 127.0.0.1 and `port` (RFC 9110, 9.3.6)."""

    def reply(answer: bytes) -> int:
        head, separator, _ = answer.partition(b"\r\n\r\n")
        if not separator:
            return 0
        status = head.split(b" ", 2)[1:2]
        if status != [b"200"]:
            raise DownloadFailed("the HTTP proxy refused the connection")
        return len(head) + len(separator)

    target = f"127.0.0.1:{port}"
    return [(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode(), reply)]
