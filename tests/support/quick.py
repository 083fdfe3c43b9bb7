"""A quick connection over a real socket, driven event by event on a reactor of its own."""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.tcp import Server
from twisted.python.failure import Failure
from zope.interface import implementer

from phantom.fast.accepting import PromptServer
from phantom.fast.sockets import QuickConnection, quicken
from phantom.fast.turns import find_turns, install_turns

CHANCE = random.Random(5)


@implementer(IHalfCloseableProtocol)
class Heard:
    """Writes down what it hears."""

    def __init__(self) -> None:
        self.data = b""
        self.events: list[str] = []
        self.lost: Failure | None = None
        self.transport: Any = None

    def makeConnection(self, transport: Any) -> None:
        self.transport = transport

    def dataReceived(self, data: bytes) -> None:
        self.data += data

    def readConnectionLost(self) -> None:
        self.events.append("end of input")

    def writeConnectionLost(self) -> None:
        self.events.append("output closed")

    def connectionLost(self, reason: Failure) -> None:
        assert self.lost is None
        self.lost = reason


class Buffers(Heard):
    """Takes buffers, and keeps the views to see what becomes of them."""

    read_size = 1000

    def __init__(self) -> None:
        super().__init__()
        self.views: list[memoryview] = []

    def buffer_received(self, data: memoryview) -> None:
        self.views.append(data)
        self.data += data


class Producer:
    """A push producer that writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.on_resume: Callable[[], object] = lambda: None

    @property
    def paused(self) -> bool:
        return bool(self.told) and self.told[-1] == "pause"

    def pauseProducing(self) -> None:
        self.told.append("pause")

    def resumeProducing(self) -> None:
        self.told.append("resume")
        self.on_resume()

    def stopProducing(self) -> None:
        self.told.append("stop")


class Into:
    """Reads a socket itself, into memory of a given size."""

    def __init__(self, *sizes: int) -> None:
        self.sizes = sizes
        self.got: list[bytes] = []

    def read_from(self, connection: QuickConnection) -> Exception | None:
        room = [memoryview(bytearray(size)) for size in self.sizes]
        size = connection.read_into(room)
        if size:
            self.got.append(b"".join(bytes(piece) for piece in room)[:size])
            return None
        return connection.read_end


class Wire:
    """A quick connection, its peer's plain socket, and the reactor that serves the former."""

    def __init__(self, reactor: Any) -> None:
        self.reactor = reactor
        listener = socket.create_server(("127.0.0.1", 0))
        self.peer = socket.socket()
        self.peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
        self.peer.connect(listener.getsockname())
        self.peer.settimeout(5)
        self.socket, address = listener.accept()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)
        listener.close()
        self.protocol: Any = Heard()
        kind: Any = Server if find_turns(reactor) is None else PromptServer
        server: Any = kind(self.socket, self.protocol, address, None, 1, reactor)
        made = quicken(server)
        assert made is not None
        self.quick = made
        self.quick.connected = 1
        self.protocol.makeConnection(self.quick)
        self.quick.startReading()

    def serve(self, protocol: Any) -> Any:
        self.protocol = self.quick.protocol = protocol
        protocol.makeConnection(self.quick)
        return protocol

    def turn(self, times: int = 1) -> None:
        for _ in range(times):
            self.reactor.iterate(0)

    def until(self, condition: Callable[[], object], turns: int = 2000) -> None:
        for _ in range(turns):
            if condition():
                return
            self.reactor.iterate(0.005)
        raise AssertionError("it never happened")

    def fill(self) -> bytes:
        """Send until the kernel takes no more; return what was given to the connection."""
        given = b""
        while not self.quick.dataBuffer:
            piece = CHANCE.randbytes(50_000)
            given += piece
            self.quick.send_now(piece)
        return given

    def read(self, size: int) -> bytes:
        """Return `size` bytes that arrive at the peer."""
        self.peer.setblocking(False)
        got = b""

        def more() -> bool:
            nonlocal got
            try:
                got += self.peer.recv(size - len(got))
            except BlockingIOError:
                pass
            return len(got) == size

        self.until(more)
        return got

    def read_end(self) -> str:
        """Return how the connection ends at the peer, where nothing else may come any more."""
        self.peer.setblocking(False)
        end = ""

        def look() -> bool:
            nonlocal end
            try:
                end = "data" if self.peer.recv(1) else "end"
            except BlockingIOError:
                return False
            except ConnectionResetError:
                end = "reset"
            return True

        self.until(look)
        return end

    def reset(self) -> None:
        """Let the peer break off."""
        self.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.peer.close()

    def lost(self) -> Failure:
        self.until(lambda: self.protocol.lost)
        failure: Failure = self.protocol.lost
        return failure


def make_reactor(name: str) -> Any:
    if name == "select":
        from twisted.internet.selectreactor import SelectReactor

        return SelectReactor()
    epoll = pytest.importorskip("twisted.internet.epollreactor")
    reactor = epoll.EPollReactor()
    if name == "ours":
        install_turns(reactor)
    return reactor


def close_reactor(reactor: Any) -> None:
    for reader in list(reactor._internalReaders):
        reactor.removeReader(reader)
        reader.connectionLost(None)
    if hasattr(reactor, "_poller"):
        reactor._poller.close()
