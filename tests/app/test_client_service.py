"""The client as a service: what is left when it has stopped."""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Protocol
from twisted.internet.task import deferLater

from phantom.app.client import ClientService
from phantom.config.keys import PrivateKey
from phantom.config.load import load_client
from phantom.runtime import system_runtime


class Idle(Protocol):
    def __init__(self, greeting: bytes) -> None:
        self._greeting = greeting
        self.answered: Deferred[bytes] = Deferred()
        self.lost: Deferred[None] = Deferred()

    def connectionMade(self) -> None:
        self.transport.write(self._greeting)

    def dataReceived(self, data: bytes) -> None:
        answered, self.answered = self.answered, Deferred()
        answered.callback(data)

    def connectionLost(self, reason: Any = None) -> None:
        self.lost.callback(None)


def client_file(folder: Path, socks5: str, http: str, more: str = "") -> Path:
    key = PrivateKey.generate(os.urandom)
    file = folder / "client.toml"
    file.touch(0o600)
    file.write_text(
        f"""[client]
server = "127.0.0.1:1"
server_public_key = "{PrivateKey.generate(os.urandom).public()}"
private_key = "{key.export()}"
socks5_listen = "{socks5}"
http_listen = "{http}"
{more}
"""
    )
    return file


async def test_as_many_connections_as_streams_are_let_in(reactor: Any, tmp_path: Path) -> None:
    count = 1100  # beyond the HTTP proxy's own limit, 1024
    settings = f'max_streams = {count}\nsession_memory = "64 MiB"'
    file = client_file(tmp_path, "127.0.0.1:0", "127.0.0.1:0", settings)
    service = ClientService(system_runtime(reactor), load_client(file).client)
    service.startService()
    assert service.http_address is not None
    with ExitStack() as stack:
        connections = []
        for _ in range(count):
            connection = stack.enter_context(socket.socket())
            connection.setblocking(False)
            connection.connect_ex(service.http_address)
            connections.append(connection)
            if len(connections) % 100 == 0:
                await deferLater(reactor, 0.01)
        await deferLater(reactor, 0.2)
        for connection in connections:
            with pytest.raises(BlockingIOError):  # open, and nothing said
                connection.recv(1)
    await service.stopService()


@pytest.mark.parametrize("shared", [False, True])
async def test_idle_connections_end_with_the_service(
    reactor: Any, tmp_path: Path, shared: bool
) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        port = other.getsockname()[1]  # free in a moment, which is enough
    http = f"127.0.0.1:{port}" if shared else "127.0.0.1:0"
    socks5 = http if shared else "127.0.0.1:0"
    file = client_file(tmp_path, socks5, http)
    service = ClientService(system_runtime(reactor), load_client(file).client)
    service.startService()
    idle = []
    for address, greeting in (
        (service.socks5_address, b"\x05\x01\x00"),
        (service.http_address, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    ):
        assert address is not None
        protocol = Idle(greeting)
        answered = protocol.answered
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", address[1])
        await connectProtocol(endpoint, protocol)
        await answered
        idle.append(protocol)
    await service.stopService()
    for protocol in idle:
        await protocol.lost.addTimeout(5, reactor)
