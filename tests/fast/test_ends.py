from __future__ import annotations

import socket
import struct
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError, ConnectionAborted, ConnectionDone
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from zope.interface import implementer

from phantom.fast.accepting import quicken_port
from phantom.fast.sockets import QuickConnection, quicken
from phantom.fast.turns import install_turns


@implementer(IHalfCloseableProtocol)
class Ours(Protocol):
    def __init__(self) -> None:
        self.made: Deferred[QuickConnection] = Deferred()
        self.lost: Deferred[BaseException | None] = Deferred()
        self.half_closed = 0

    def connectionMade(self) -> None:
        quick = quicken(self.transport)
        assert quick is not None
        self.made.callback(quick)

    def readConnectionLost(self) -> None: ...

    def writeConnectionLost(self) -> None:
        self.half_closed += 1

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost.callback(reason.value)


class Pair:
    """A quick connection of the reactor's, and the plain socket at its other end."""

    def __init__(self, reactor: Any) -> None:
        install_turns(reactor)
        self.reactor = reactor
        self.protocol = Ours()
        factory = Factory()
        factory.buildProtocol = lambda _addr: self.protocol  # type: ignore[method-assign]
        self.port = reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.peer = socket.create_connection(("127.0.0.1", self.port.getHost().port))
        self.peer.settimeout(5)

    async def close(self) -> None:
        self.peer.close()
        await self.port.stopListening()


async def test_a_half_close_takes_no_turn(reactor: Any) -> None:
    pair = Pair(reactor)
    quick = await pair.protocol.made
    quick.send_now(b"last words")
    quick.loseWriteConnection()
    assert pair.peer.recv(100) == b"last words"
    assert pair.peer.recv(100) == b""
    assert pair.protocol.half_closed == 1
    quick.loseWriteConnection()
    pair.peer.close()
    quick.loseConnection()
    assert isinstance(await pair.protocol.lost, ConnectionDone)
    assert pair.protocol.half_closed == 1
    await pair.close()


async def test_a_close_is_told_behind_the_call(reactor: Any) -> None:
    pair = Pair(reactor)
    quick = await pair.protocol.made
    quick.loseConnection()
    quick.loseConnection()
    assert not pair.protocol.lost.called
    assert isinstance(await pair.protocol.lost, ConnectionDone)
    assert pair.peer.recv(100) == b""
    assert quick not in reactor.getReaders()
    await pair.close()


async def test_what_is_queued_leaves_before_the_end(reactor: Any) -> None:
    pair = Pair(reactor)
    quick = await pair.protocol.made
    quick.write(b"queued ")
    quick.loseWriteConnection()
    await deferLater(reactor, 0.01)
    assert pair.peer.recv(100) == b"queued "
    assert pair.peer.recv(100) == b""
    await pair.close()


async def test_what_is_written_to_a_closing_connection_leaves(reactor: Any) -> None:
    pair = Pair(reactor)
    quick = await pair.protocol.made
    quick.loseConnection()
    quick.write(b"as Twisted's own does")
    await pair.protocol.lost
    assert pair.peer.recv(100) == b"as Twisted's own does"
    assert pair.peer.recv(100) == b""
    await pair.close()


@pytest.mark.parametrize("closes", [False, True])
async def test_an_abort_is_a_reset_whatever_came_before(reactor: Any, closes: bool) -> None:
    pair = Pair(reactor)
    quick = await pair.protocol.made
    if closes:
        quick.loseConnection()
    quick.abortConnection()
    assert isinstance(await pair.protocol.lost, ConnectionAborted)
    with pytest.raises(ConnectionResetError):
        pair.peer.recv(100)
    await pair.close()


async def test_a_reset_before_the_close_is_no_trouble(reactor: Any) -> None:
    pair = Pair(reactor)
    quick = await pair.protocol.made
    pair.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    pair.peer.close()
    quick.loseWriteConnection()
    quick.loseConnection()
    await pair.protocol.lost
    await pair.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_a_port_makes_connections_that_are_quick_from_the_start(
    reactor: Any, host: str
) -> None:
    accepted: Deferred[Any] = Deferred()

    class Accepting(Protocol):
        def connectionMade(self) -> None:
            accepted.callback(self.transport)

    try:
        port = reactor.listenTCP(0, Factory.forProtocol(Accepting), interface=host)
    except CannotListenError:
        pytest.skip("no IPv6 here")
    quicken_port(port)
    number = port.getHost().port
    with socket.create_connection((host, number)) as peer:
        transport = await accepted
        assert isinstance(transport, QuickConnection)
        assert transport.getPeer().host == host
        assert transport.getPeer().port == peer.getsockname()[1]
        assert transport.getHost() == port.getHost()
        transport.write(b"hello")
        transport.loseConnection()
        await deferLater(reactor, 0.01)
        assert peer.recv(100) == b"hello"
        assert peer.recv(100) == b""
    await port.stopListening()
