"""The client as a service: what is left when it has stopped."""

from __future__ import annotations

import os
import socket
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Protocol

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


@pytest.mark.parametrize("shared", [False, True])
async def test_idle_connections_end_with_the_service(
    reactor: Any, tmp_path: Path, shared: bool
) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        port = other.getsockname()[1]  # free in a moment, which is enough
    http = f"127.0.0.1:{port}" if shared else "127.0.0.1:0"
    socks5 = http if shared else "127.0.0.1:0"
    key = PrivateKey.generate(os.urandom)
    file = tmp_path / "client.toml"
    file.touch(0o600)
    file.write_text(
        f"""[client]
server = "127.0.0.1:1"
server_public_key = "{PrivateKey.generate(os.urandom).public()}"
private_key = "{key.export()}"
socks5_listen = "{socks5}"
http_listen = "{http}"
"""
    )
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
