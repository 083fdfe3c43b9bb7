"""Transfers that check themselves and tell how long they stood still."""

from __future__ import annotations

import hashlib
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator

import attrs

from support.destinations import TcpServer

#: Makes a connection through whatever is tested to a port of 127.0.0.1.
Connect = Callable[[int], socket.socket]

#: Bytes that are written and hashed at a time.
PIECE = 256 * 1024


def pieces(size: int, seed: int) -> Iterator[bytes]:
    """Yield `size` bytes that `seed` determines, in pieces of which no two are alike."""
    block = random.Random(seed).randbytes(PIECE)
    number = 0
    while size > 0:
        piece = struct.pack(">QQ", seed, number) + block[16:]
        yield piece[:size]
        size -= len(piece)
        number += 1


def digest_of(size: int, seed: int) -> bytes:
    """Return the SHA-256 of `pieces`."""
    digest = hashlib.sha256()
    for piece in pieces(size, seed):
        digest.update(piece)
    return digest.digest()


def send_patiently(connection: socket.socket, data: bytes) -> None:
    """Send everything, however long it takes; whoever reads notices when nothing moves."""
    left = memoryview(data)
    while left:
        try:
            left = left[connection.send(left) :]
        except TimeoutError:
            continue


class _Reader:
    """Hashes what arrives, and notes the longest time nothing did."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        self.size = 0
        self.longest = 0.0

    def read(self, connection: socket.socket) -> None:
        last = time.monotonic()
        while data := connection.recv(65536):
            now = time.monotonic()
            self.longest, last = max(self.longest, now - last), now
            self.digest.update(data)
            self.size += len(data)


class BothWays:
    """Two streams of bytes through one connection at once, each ended by a half-close.

    Args:
        up: Bytes from the program to the destination.
        down: Bytes from the destination to the program.
        timeout: Seconds that nothing may arrive.
    """

    def __init__(self, up: int, down: int, timeout: float = 60.0) -> None:
        self.up, self.down = up, down
        self._timeout = timeout
        self._uploaded = _Reader()
        self._downloaded = _Reader()
        self._served = threading.Event()

    @property
    def moved(self) -> int:
        """Bytes that have arrived so far, both ways together."""
        return self._uploaded.size + self._downloaded.size

    def _serve(self, connection: socket.socket) -> None:
        connection.settimeout(self._timeout)
        sender = self._send(connection, self.down, seed=1)
        self._uploaded.read(connection)
        sender.join()
        self._served.set()

    def _send(self, connection: socket.socket, size: int, seed: int) -> threading.Thread:
        def send() -> None:
            try:
                for piece in pieces(size, seed):
                    send_patiently(connection, piece)
                connection.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # the reader of the same connection tells

        thread = threading.Thread(target=send, daemon=True)
        thread.start()
        return thread

    def run(self, connect: Connect) -> float:
        """Transfer, and check every byte.

        Returns:
            The longest time in seconds in which nothing arrived, one way or the other.

        Raises:
            AssertionError: Something arrived that was not sent, or not all of it.
            OSError: The connection broke.
        """
        with TcpServer(self._serve) as server, connect(server.port) as connection:
            connection.settimeout(self._timeout)
            self._send(connection, self.up, seed=2)
            self._downloaded.read(connection)
            arrived = -1
            while not self._served.wait(self._timeout):
                assert self._uploaded.size > arrived, "the upload stands still"
                arrived = self._uploaded.size
        assert self._downloaded.size == self.down
        assert self._downloaded.digest.digest() == digest_of(self.down, 1)
        assert self._uploaded.size == self.up
        assert self._uploaded.digest.digest() == digest_of(self.up, 2)
        return max(self._downloaded.longest, self._uploaded.longest)


@attrs.frozen
class Echo:
    """One message and its echo, in seconds of the monotonic clock."""

    sent: float
    back: float


class Typing:
    """Somebody types: a small message, its echo, a pause, and so on, in a thread.

    Args:
        connect: How to reach a destination.
        pause: Seconds between an echo and the next message.
        timeout: Seconds an echo may take.

    Attributes:
        echoes: All that came back.
        error: Why it ended before it was asked to.
    """

    def __init__(self, connect: Connect, pause: float = 0.02, timeout: float = 60.0) -> None:
        self._pause = pause
        self._over = threading.Event()
        self.echoes: list[Echo] = []
        self.error: Exception | None = None
        self._server = TcpServer(self._serve)
        self._server.__enter__()
        self._connection = connect(self._server.port)
        self._connection.settimeout(timeout)
        self._thread = threading.Thread(target=self._type, daemon=True)
        self._thread.start()

    @staticmethod
    def _serve(connection: socket.socket) -> None:
        while data := connection.recv(4096):
            connection.sendall(data)

    def _type(self) -> None:
        try:
            number = 0
            while not self._over.wait(self._pause):
                number += 1
                message = struct.pack(">Q", number)
                sent = time.monotonic()
                self._connection.sendall(message)
                answer = b""
                while len(answer) < len(message):
                    data = self._connection.recv(len(message) - len(answer))
                    if not data:
                        raise ConnectionError("ended early")
                    answer += data
                if answer != message:
                    raise AssertionError(f"sent {message!r}, back came {answer!r}")
                self.echoes.append(Echo(sent, time.monotonic()))
        except (OSError, AssertionError) as error:
            self.error = error

    def stop(self) -> list[Echo]:
        """End it, and return all echoes.

        Raises:
            Exception: What broke it before.
        """
        self._over.set()
        self._thread.join()
        self._connection.close()
        self._server.__exit__(None, None, None)
        if self.error is not None:
            raise self.error
        return self.echoes


def stalls(echoes: list[Echo], cuts: list[float]) -> list[float]:
    """Return how long each cut made the typist wait: the longest echo before the next cut.

    Args:
        echoes: What came back.
        cuts: When links were cut, in seconds of the monotonic clock, in order.
    """
    found = []
    for cut, following in zip(cuts, [*cuts[1:], float("inf")], strict=True):
        waits = [e.back - max(e.sent, cut) for e in echoes if e.back > cut and e.sent < following]
        found.append(max(waits, default=0.0))
    return found


def percentile(values: list[float], share: float) -> float:
    """Return the least value that at least `share` of all do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * round(share * 100) // 100) - 1)]
