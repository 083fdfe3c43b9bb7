"""A port that accepts by itself, on the reactor's own loop."""

from __future__ import annotations

import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from conftest import LoggedFailures
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater

from phantom.fast.accepting import quicken_port


class Choosy(Factory[Protocol]):
    """Takes a connection, fails over it, or wants none, as it is told."""

    def __init__(self) -> None:
        self.made: list[Protocol] = []
        self.wants: object = "all"

    def buildProtocol(self, addr: Any) -> Protocol | None:
        if isinstance(self.wants, Exception):
            raise self.wants
        if self.wants is None:
            return None
        protocol = Protocol()
        self.made.append(protocol)
        return protocol


def listen(reactor: Any) -> tuple[Choosy, Any, tuple[str, int]]:
    factory = Choosy()
    port = reactor.listenTCP(0, factory, interface="127.0.0.1")
    quicken_port(port)
    return factory, port, ("127.0.0.1", port.getHost().port)


async def until(reactor: Any, condition: Any) -> None:
    for _ in range(500):
        if condition():
            return
        await deferLater(reactor, 0.01)
    raise AssertionError("it never happened")


async def test_a_connection_that_fails_or_is_not_wanted_is_not_the_ports_end(
    reactor: Any, logged_failures: LoggedFailures
) -> None:
    factory, port, address = listen(reactor)
    for wants in (RuntimeError("of one connection"), None, "all"):
        factory.wants = wants
        with socket.create_connection(address, timeout=5) as peer:
            if wants == "all":
                await until(reactor, lambda: factory.made)
            else:
                peer.setblocking(False)
                # Closed without a word; the failure's socket goes with its last reference.
                await until(reactor, lambda peer=peer: is_closed(peer))
    assert len(logged_failures.flush(RuntimeError)) == 1
    await port.stopListening()
    factory.made[0].transport.abortConnection()  # type: ignore[union-attr]
    await deferLater(reactor, 0.01)


def is_closed(peer: socket.socket) -> bool:
    try:
        return peer.recv(1) == b""
    except BlockingIOError:
        return False


async def test_what_is_accepted_sends_small_pieces_at_once(reactor: Any) -> None:
    factory, port, address = listen(reactor)
    with socket.create_connection(address) as _:
        await until(reactor, lambda: factory.made)
        transport: Any = factory.made[0].transport
        assert transport.getTcpNoDelay()
        transport.setTcpNoDelay(True)
        assert transport.getTcpNoDelay()
        transport.setTcpNoDelay(False)
        assert not transport.getTcpNoDelay()
        assert not transport.getHandle().getblocking()
        transport.abortConnection()
    await port.stopListening()
    await deferLater(reactor, 0.01)


async def test_a_crowd_is_accepted_whole(reactor: Any) -> None:
    factory, port, address = listen(reactor)
    peers = [socket.create_connection(address) for _ in range(40)]
    await until(reactor, lambda: len(factory.made) == 40)
    for peer, made in zip(peers, factory.made, strict=True):
        peer.close()
        made.transport.abortConnection()  # type: ignore[union-attr]
    await port.stopListening()
    await deferLater(reactor, 0.01)


@contextmanager
def descriptors(limit: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def test_without_descriptors_it_goes_on_when_there_are_some(reactor: Any) -> None:
    """Twisted gives one up that it had kept, accepts with it, and closes what it accepted."""
    factory, port, address = listen(reactor)
    peer = socket.create_connection(address, timeout=5)
    spare = socket.socket()
    lowest_free = spare.fileno()
    spare.close()
    with descriptors(lowest_free):
        peer.setblocking(False)
        await until(reactor, lambda: is_closed(peer))
    assert not factory.made
    peer.close()
    with socket.create_connection(address):
        await until(reactor, lambda: factory.made)
    await port.stopListening()
    factory.made[0].transport.abortConnection()  # type: ignore[union-attr]
    await deferLater(reactor, 0.01)
