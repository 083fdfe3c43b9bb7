"""Destinations on loopback: a web server and a plain TCP server, each in threads."""

from __future__ import annotations

import hashlib
import random
import socket
import ssl
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from support.certificates import Certificate

PIECE = random.Random(7).randbytes(1 << 20)


def content(size: int) -> bytes:
    """Return the body of ``/bytes/<size>``."""
    return (PIECE * (size // len(PIECE) + 1))[:size]


def content_digest(size: int) -> str:
    """Return the SHA-256 of that body, in hexadecimal."""
    digest = hashlib.sha256()
    whole, rest = divmod(size, len(PIECE))
    for _ in range(whole):
        digest.update(PIECE)
    digest.update(PIECE[:rest])
    return digest.hexdigest()


class _Visit(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: WebServer

    def do_GET(self) -> None:
        self.server.count(self.path)
        parts = self.path.strip("/").split("/")
        if parts[0] == "bytes":
            self._send_bytes(int(parts[1]))
        elif parts[0] == "trickle":
            self._trickle(int(parts[1]), float(parts[2]))
        elif self.path in self.server.pages:
            kind, body = self.server.pages[self.path]
            self._head(kind, len(body))
            self.wfile.write(body)
        else:
            self._head("text/plain", 0, status=404)

    def do_POST(self) -> None:
        self.server.count(self.path)
        digest = hashlib.sha256()
        for piece in self._body():
            digest.update(piece)
        body = digest.hexdigest().encode()
        self._head("text/plain", len(body))
        self.wfile.write(body)

    do_PUT = do_POST  # noqa: N815  (its caller's name for it)

    def _head(self, kind: str, size: int, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(size))
        self.end_headers()

    def _send_bytes(self, size: int) -> None:
        self._head("application/octet-stream", size)
        whole, rest = divmod(size, len(PIECE))
        for _ in range(whole):
            self.wfile.write(PIECE)
        self.wfile.write(PIECE[:rest])

    def _trickle(self, size: int, seconds: float) -> None:
        """Send `size` bytes in twenty parts over `seconds`."""
        self._head("application/octet-stream", size)
        body = content(size)
        step = -(-size // 20)
        for start in range(0, size, step):
            self.wfile.write(body[start : start + step])
            time.sleep(seconds / 20)

    def _body(self) -> Any:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            while size := int(self.rfile.readline(), 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return
        left = int(self.headers.get("Content-Length", "0"))
        while left and (piece := self.rfile.read(min(left, 1 << 18))):
            left -= len(piece)
            yield piece

    def log_message(self, format: str, *args: Any) -> None:
        pass


class WebServer(ThreadingHTTPServer):
    """Serves ``/bytes/N``, ``/trickle/N/SECONDS`` and `pages`; answers POST with a digest.

    Args:
        certificate: Serve HTTPS with it.

    Attributes:
        pages: Type and body by path.
        requests: How often each path was asked for.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = 1024

    def __init__(self, certificate: Certificate | None = None, handler: Any = _Visit) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.pages: dict[str, tuple[str, bytes]] = {}
        self.requests: Counter[str] = Counter()
        self._lock = threading.Lock()
        self.port: int = self.server_address[1]
        self.scheme = "http"
        self._tls: ssl.SSLContext | None = None
        if certificate is not None:
            self.scheme = "https"
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._tls.load_cert_chain(certificate.cert, certificate.key)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)

    def count(self, path: str) -> None:
        """Count a request."""
        with self._lock:
            self.requests[path] += 1

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        """Return the address of `path`, which begins with a slash."""
        return f"{self.scheme}://{host}:{self.port}{path}"

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Serve one connection, in its own thread."""
        if self._tls is not None:
            request = self._tls.wrap_socket(request, server_side=True)
        super().finish_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that go away: many tests have them do so."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.shutdown()
        self.server_close()


class TcpServer:
    """Calls a function with each connection, in a thread of its own.

    Args:
        serve: Gets the socket, which is closed when it returns.
    """

    def __init__(self, serve: Callable[[socket.socket], object]) -> None:
        self._serve = serve
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._open.add(connection)
            threading.Thread(target=self._run, args=(connection,), daemon=True).start()

    def _run(self, connection: socket.socket) -> None:
        try:
            with connection:
                self._serve(connection)
        except OSError:
            pass  # the other side went away, or the test is over
        finally:
            self._open.discard(connection)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        shut(self._listener)
        self._listener.close()
        for connection in list(self._open):
            shut(connection)


def shut(connection: socket.socket) -> None:
    """End both ways at once; threads that wait for it wake up."""
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # not connected any more


def reset(connection: socket.socket) -> None:
    """Close with RST."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def read_all(connection: socket.socket) -> bytes:
    """Return everything up to the end."""
    received = bytearray()
    while piece := connection.recv(1 << 18):
        received += piece
    return bytes(received)
