from __future__ import annotations

import gc
import hashlib
import random
import socket
import struct
import threading
from collections.abc import Callable
from typing import Any

import pytest
from support.transports import ByteTransport
from twisted.internet.defer import Deferred
from twisted.internet.protocol import ClientFactory, Factory, Protocol
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from phantom.fast.sockets import QuickConnection
from phantom.layer import switch_protocol
from phantom.relay import RelayProtocol, relay_pair


class Ended:
    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


class Only(ClientFactory):
    """Has the one protocol."""

    noisy = False

    def __init__(self, only: Any) -> None:
        self.only = only

    def buildProtocol(self, _address: Any) -> Any:
        only, self.only = self.only, None  # Twisted keeps factories in a cycle
        return only


class Near(Factory):
    """Accepts, connects on to the destination, relays."""

    noisy = False

    def __init__(self, reactor: Any, destination: int) -> None:
        self.reactor = reactor
        self.destination = destination
        self.pairs: list[tuple[RelayProtocol, RelayProtocol]] = []
        self.ended = Ended()

    def buildProtocol(self, _address: Any) -> Any:
        near, far = relay_pair(self.ended)
        self.pairs.append((near, far))
        self.reactor.connectTCP("127.0.0.1", self.destination, Only(far))
        return near


class Wire:
    """A client and a destination, plain blocking sockets, with a relay in between."""

    def __init__(self, reactor: Any, buffer: int | None = None) -> None:
        self.reactor = reactor
        self.listener = socket.create_server(("127.0.0.1", 0))
        if buffer is not None:
            self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
        self.near = Near(reactor, self.listener.getsockname()[1])
        self.port = reactor.listenTCP(0, self.near, interface="127.0.0.1")
        self.client = socket.socket()
        if buffer is not None:
            self.client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self.client.settimeout(20)
        self.far: socket.socket

    def _connect(self) -> None:
        self.client.connect(("127.0.0.1", self.port.getHost().port))
        self.far, _ = self.listener.accept()
        self.far.settimeout(20)

    async def run(self, script: Callable[[], Any]) -> Any:
        def blocking() -> Any:
            self._connect()
            return script()

        try:
            return await deferToThread(blocking)
        finally:
            for sock in (self.client, self.far, self.listener):
                sock.close()
            await self.port.stopListening()


def read_all(sock: socket.socket) -> bytes:
    data = b""
    while piece := sock.recv(65536):
        data += piece
    return data


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@pytest.mark.parametrize("client_first", [True, False])
async def test_tcp_half_close(reactor: Any, client_first: bool) -> None:
    wire = Wire(reactor)

    def script() -> None:
        first, second = wire.client, wire.far
        if not client_first:
            first, second = second, first
        first.sendall(b"q" * 300_000)
        first.shutdown(socket.SHUT_WR)
        assert read_all(second) == b"q" * 300_000
        second.sendall(b"a" * 300_000)
        second.close()
        assert read_all(first) == b"a" * 300_000

    await wire.run(script)


@pytest.mark.parametrize("by_client", [True, False])
@pytest.mark.parametrize("half_closed", [True, False])
async def test_tcp_reset_stays_a_reset(reactor: Any, by_client: bool, half_closed: bool) -> None:
    wire = Wire(reactor)

    def script() -> None:
        breaker, other = wire.client, wire.far
        if not by_client:
            breaker, other = other, breaker
        if half_closed:
            other.shutdown(socket.SHUT_WR)
            assert breaker.recv(1) == b""
        breaker.sendall(b"part of a download")
        assert other.recv(100)
        reset(breaker)
        with pytest.raises(ConnectionResetError):
            while other.recv(100):
                pass

    await wire.run(script)


async def test_tcp_slow_reader_holds_the_source_back(reactor: Any) -> None:
    wire = Wire(reactor, buffer=65536)
    size = 50_000_000
    block = random.Random(0).randbytes(99_991)  # nothing that looks the same when reordered
    sent = 0
    start = threading.Event()
    peak = 0

    def buffered() -> int:
        transports = [side.transport for pair in wire.near.pairs for side in pair]
        return sum(len(t.dataBuffer) + t._tempDataLen for t in transports if t is not None)

    def watch() -> None:
        nonlocal peak, call
        peak = max(peak, buffered())
        call = reactor.callLater(0.002, watch)

    def send() -> None:
        nonlocal sent
        while sent < size:
            wire.far.sendall(block)
            sent += len(block)
        wire.far.close()

    def script() -> str:
        sender = threading.Thread(target=send)
        sender.start()
        start.wait(0.3)  # reads nothing all this time
        assert sent < size, "the source was not held back"
        digest = hashlib.sha256()
        while piece := wire.client.recv(1 << 20):
            digest.update(piece)
        sender.join()
        return digest.hexdigest()

    call = reactor.callLater(0, watch)
    try:
        got = await wire.run(script)
    finally:
        call.cancel()
    assert got == hashlib.sha256(block * (sent // len(block))).hexdigest()
    assert 0 < peak < 300_000, peak


class Knock(Protocol):
    """A client that sends, half-closes and expects an echo and the end."""

    def __init__(self, done: Deferred[None]) -> None:
        self.done = done
        self.got = b""

    def connectionMade(self) -> None:
        self.transport.write(b"hello")

    def dataReceived(self, data: bytes) -> None:
        self.got += data
        if self.got == b"hello":
            self.transport.loseConnection()

    def connectionLost(self, _reason: Any = None) -> None:
        self.done.callback(None)


class Echo(Protocol):
    def dataReceived(self, data: bytes) -> None:
        self.transport.write(data)


async def test_thousands_of_connections_leave_nothing(reactor: Any) -> None:
    from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol

    gc.collect()
    before = sum(isinstance(o, RelayProtocol) for o in gc.get_objects())
    echo = reactor.listenTCP(0, Factory.forProtocol(Echo), interface="127.0.0.1")
    near = Near(reactor, echo.getHost().port)
    near.pairs = type("Forgetful", (list,), {"append": lambda *_: None})()
    port = reactor.listenTCP(0, near, interface="127.0.0.1")
    endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port)
    total = 2000
    gc.disable()  # what is left must be gone without the collector's help
    try:
        for _ in range(total // 50):
            batch: list[Deferred[None]] = [Deferred() for _ in range(50)]
            for done in batch:
                connectProtocol(endpoint, Knock(done))
            for done in batch:
                await done
        for _ in range(100):
            if near.ended.count == total:
                break
            await deferLater(reactor, 0.01)
        await deferLater(reactor, 0.01)
        assert near.ended.count == total
        after = sum(isinstance(o, RelayProtocol) for o in gc.get_objects())
    finally:
        gc.enable()
        await port.stopListening()
        await echo.stopListening()
    assert after == before


async def test_switching_a_live_connection_to_the_relay(reactor: Any) -> None:
    """As an inbound does it: leftover bytes, then the relay in the inbound's place."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(20)
    near, far = relay_pair()

    class Inbound(Protocol):
        def dataReceived(self, data: bytes) -> None:
            self.transport.pauseProducing()
            switch_protocol(self.transport, near)
            near.dataReceived(data[1:])
            reactor.connectTCP("127.0.0.1", listener.getsockname()[1], Only(far))

    port = reactor.listenTCP(0, Factory.forProtocol(Inbound), interface="127.0.0.1")

    def script() -> None:
        with socket.create_connection(("127.0.0.1", port.getHost().port), 20) as client:
            client.sendall(b"!hello")
            destination, _ = listener.accept()
            with destination:
                destination.settimeout(20)
                assert destination.recv(100) == b"hello"
                destination.sendall(b"welcome")
                destination.shutdown(socket.SHUT_WR)
                assert read_all(client) == b"welcome"
                client.sendall(b"bye")
                client.shutdown(socket.SHUT_WR)
                assert read_all(destination) == b"bye"

    try:
        await deferToThread(script)
    finally:
        listener.close()
        await port.stopListening()


class Idle:
    """A reactor that never finds a descriptor ready; the test calls `doWrite` itself."""

    def addReader(self, _: Any) -> None: ...
    def removeReader(self, _: Any) -> None: ...
    def addWriter(self, _: Any) -> None: ...
    def removeWriter(self, _: Any) -> None: ...


class Small:
    """A socket that sends three bytes at a time."""

    def __init__(self, real: socket.socket) -> None:
        self.real = real
        self.fileno = real.fileno
        self.setblocking = real.setblocking

    def send(self, data: bytes | memoryview) -> int:
        return self.real.send(memoryview(data)[:3])

    def sendmsg(self, pieces: list[memoryview]) -> int:
        return self.send(b"".join(pieces))


@pytest.mark.parametrize("written_out", [0, 1, 2, 4])
def test_nothing_overtakes_what_is_queued(written_out: int) -> None:
    ours, theirs = socket.socketpair()
    near, far = relay_pair()
    transport: Any = QuickConnection(Small(ours), far, Idle())  # type: ignore[arg-type]
    transport.connected = 1
    ByteTransport(near).connect()
    far.makeConnection(transport)
    transport.write(b"0123456789")
    for _ in range(written_out):
        transport.doWrite()
    lent = bytearray(b"abcdef")
    near.pieces_received([memoryview(lent)[:2], memoryview(lent)[2:]])
    lent[:] = b"------"
    for _ in range(8):
        transport.doWrite()
    near.dataReceived(b"xy")
    near.dataReceived(b"z12345")
    for _ in range(8):
        transport.doWrite()
    assert theirs.recv(100) == b"0123456789abcdefxyz12345"
    ours.close()
    theirs.close()


def test_write_at_once() -> None:
    ours, theirs = socket.socketpair()
    near, far = relay_pair()
    transport: Any = QuickConnection(Small(ours), far, Idle())  # type: ignore[arg-type]
    transport.connected = 1
    ByteTransport(near).connect()
    far.makeConnection(transport)
    near.dataReceived(b"key")
    assert theirs.recv(100) == b"key", "without a turn of the reactor"
    ours.close()
    theirs.close()
