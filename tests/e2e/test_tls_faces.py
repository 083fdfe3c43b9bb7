"""The tunnel inside TLS, by each library the server may speak it with."""

from __future__ import annotations

import hashlib
import importlib.util
import socket
from collections.abc import Callable

import pytest
from support.destinations import TcpServer, content, content_digest, read_all
from support.programs import Tunnel

pytestmark = pytest.mark.e2e

MEGABYTE = 1_000_000

MakeTunnel = Callable[..., Tunnel]


def upload(tunnel: Tunnel) -> None:
    """Send 20 MB to a destination, half-close, and have it say what it got."""

    def serve(connection: socket.socket) -> None:
        connection.sendall(hashlib.sha256(read_all(connection)).hexdigest().encode())

    with TcpServer(serve) as server, tunnel.connect(server.port) as connection:
        connection.sendall(content(20 * MEGABYTE))
        connection.shutdown(socket.SHUT_WR)
        assert read_all(connection).decode() == content_digest(20 * MEGABYTE)


def download(tunnel: Tunnel) -> None:
    def serve(connection: socket.socket) -> None:
        connection.sendall(content(20 * MEGABYTE))

    with TcpServer(serve) as server, tunnel.connect(server.port) as connection:
        assert hashlib.sha256(read_all(connection)).hexdigest() == content_digest(20 * MEGABYTE)


@pytest.mark.skipif(importlib.util.find_spec("utls") is None, reason="no utls")
def test_boringssl_on_the_server(make_tunnel: MakeTunnel) -> None:
    tunnel = make_tunnel("tls", server={"tls_engine": "boringssl"}).start()
    upload(tunnel)
    download(tunnel)
