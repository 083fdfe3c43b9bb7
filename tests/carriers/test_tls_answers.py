"""What TLS answers by itself is bounded: a visitor may ask without reading the answers."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from phantom.carriers.tcp import unsent
from phantom.carriers.tls import TLSLayer
from phantom.carriers.tls_answers import ANSWERS_LOOK, MOST_ANSWERS
from phantom.fast.sockets import READ_SIZE

#: Little lies in the kernel, so that little has to be asked for.
KERNEL = 65536
ASKED = 4 * 1024 * 1024


class AnswersAll:
    """An engine whose peer only asks: it answers as many bytes as it receives.

    So OpenSSL does with key updates (RFC 8446, section 4.6.3).
    """

    handshake_done = True
    peer_closed = False
    alpn = None

    def __init__(self) -> None:
        self.taken = 0
        self._answers = b""

    def start(self) -> None:
        pass

    def receive(self, data: Any) -> None:
        self.taken += len(data)
        self._answers += bytes(len(data))

    def end_loan(self) -> None:
        pass

    def plaintext(self, limit: int) -> bytes:
        return b""

    def close(self) -> None:
        pass

    def outgoing(self) -> bytes:
        answers, self._answers = self._answers, b""
        return answers


def ask(near: socket.socket, size: int) -> int:
    """Send without reading; return how much was taken."""
    near.settimeout(1.0)
    sent = 0
    try:
        while sent < size:
            sent += near.send(bytes(min(65536, size - sent)))
    except TimeoutError:
        pass
    return sent


def unread(near: socket.socket, size: int) -> int:
    """Read until `size` bytes have come, or nothing comes any more."""
    near.settimeout(5 * ANSWERS_LOOK)
    got = 0
    while got < size and (data := near.recv(1 << 20)):
        got += len(data)
    return got


async def listen(
    reactor: Any, runtime: Any, act: Callable[[socket.socket, AnswersAll, TLSLayer], Any]
) -> None:
    """Let `act` loose on a layer behind a real socket, whose engine answers everything."""
    engine = AnswersAll()
    made: list[TLSLayer] = []
    lost: Deferred[None] = Deferred()

    class Upper(Protocol):
        def connectionLost(self, reason: Any = None) -> None:
            lost.callback(None)

    def build() -> TLSLayer:
        made.append(TLSLayer(runtime, engine, Upper()))
        return made[0]

    factory: Any = Factory.forProtocol(build)
    port = reactor.listenTCP(0, factory, interface="127.0.0.1")
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        port.socket.setsockopt(socket.SOL_SOCKET, option, KERNEL)
    try:
        with socket.socket() as near:
            for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
                near.setsockopt(socket.SOL_SOCKET, option, KERNEL)
            near.connect(("127.0.0.1", port.getHost().port))
            await deferToThread(near.send, b"x")
            while not made:
                await deferLater(reactor, 0.01)
            await act(near, engine, made[0])
        await lost
    finally:
        await port.stopListening()


async def test_answers_that_nobody_reads_are_not_kept_without_end(
    reactor: Any, live_runtime: Any
) -> None:
    async def act(near: socket.socket, engine: AnswersAll, layer: TLSLayer) -> None:
        sent = await deferToThread(ask, near, ASKED)
        assert sent < ASKED, "it has taken everything, and so has all of the answers in memory"
        # A protocol above that wants more does not lift the limit.
        for _ in range(50):
            layer.pauseProducing()
            layer.resumeProducing()
            await deferLater(reactor, 0.01)
        assert unsent(layer.transport) <= MOST_ANSWERS + READ_SIZE

    await listen(reactor, live_runtime, act)


async def test_who_reads_the_answers_gets_them_all(reactor: Any, live_runtime: Any) -> None:
    async def act(near: socket.socket, engine: AnswersAll, layer: TLSLayer) -> None:
        sent = 1 + await deferToThread(ask, near, ASKED)
        assert await deferToThread(unread, near, sent) == sent
        assert engine.taken == sent

    await listen(reactor, live_runtime, act)
