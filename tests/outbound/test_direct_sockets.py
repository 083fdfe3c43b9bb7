from __future__ import annotations

import gc
import socket
import struct
from collections.abc import Callable
from ipaddress import IPv4Address, ip_address
from typing import Any

import attrs
import pytest
from support.runtime import ScriptedResolver, real_runtime
from support.transports import ByteTransport
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater

from phantom.address import Destination
from phantom.core.egress import EgressPolicy, EgressRule
from phantom.errors import Outcome, RelayError
from phantom.outbound.direct import DirectOutbound
from phantom.relay import relay_pair

LOOPBACK = EgressPolicy([EgressRule.parse("127.0.0.0/8"), EgressRule.parse("::1")])


class Recorder(Protocol):
    def __init__(self) -> None:
        self.events: list[Any] = []

    def connectionMade(self) -> None:
        self.events.append("made")


class Greeter(Protocol):
    def connectionMade(self) -> None:
        self.transport.write(b"welcome")


class Waiter(Protocol):
    def __init__(self) -> None:
        self.got: Deferred[bytes] = Deferred()
        self.lost: Deferred[None] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.got.callback(data)

    def connectionLost(self, _reason: Any = None) -> None:
        self.lost.callback(None)


async def refused(connect: Callable[[], Deferred[Any]]) -> Outcome:
    with pytest.raises(RelayError) as caught:
        await connect()
    return caught.value.outcome


@pytest.mark.skipif(not hasattr(socket, "TCP_CONGESTION"), reason="Linux only")
async def test_a_destination_on_the_same_machine_is_spared_before_connecting(
    reactor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, object]] = []

    def spare(handle: socket.socket, host: object) -> None:
        seen.append((handle.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO) & 0xFF, host))

    monkeypatch.setattr("phantom.outbound.race.spare_pacing", spare)
    port = reactor.listenTCP(0, Factory.forProtocol(Greeter), interface="127.0.0.1")
    outbound = DirectOutbound(real_runtime(reactor), LOOPBACK)
    waiter = Waiter()
    destination = Destination(IPv4Address("127.0.0.1"), port.getHost().port)
    transport = await outbound.for_client(b"k").connect(destination, waiter)
    tcp_close = 7  # linux/tcp_states.h: before the first packet
    assert seen == [(tcp_close, "127.0.0.1")]
    transport.loseConnection()
    await waiter.lost
    await port.stopListening()


async def test_real_connection(reactor: Any) -> None:
    port = reactor.listenTCP(0, Factory.forProtocol(Greeter), interface="127.0.0.1")
    outbound = DirectOutbound(real_runtime(reactor), LOOPBACK)
    waiter = Waiter()
    order: list[str] = []
    waiter.got.addCallback(lambda data: (order.append("data"), data)[1])
    deferred = outbound.for_client(b"k").connect(
        Destination(IPv4Address("127.0.0.1"), port.getHost().port), waiter
    )
    deferred.addCallback(lambda transport: (order.append("connected"), transport)[1])
    transport = await deferred
    assert transport is waiter.transport
    assert transport.getTcpNoDelay()
    assert transport.getTcpKeepAlive()
    assert await waiter.got == b"welcome"
    assert order == ["connected", "data"]
    assert outbound.connections.held(b"k") == 1
    transport.loseConnection()
    await waiter.lost
    await deferLater(reactor, 0)
    assert outbound.connections.used == 0
    await port.stopListening()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("own", [True, False])
async def test_real_dialling_either_way(
    reactor: Any, monkeypatch: pytest.MonkeyPatch, host: str, own: bool
) -> None:
    if not own:  # as with a reactor whose inside is not known
        monkeypatch.setattr("phantom.outbound.race.can_dial", lambda _reactor: False)
    try:
        port = reactor.listenTCP(0, Factory.forProtocol(Greeter), interface=host)
    except CannotListenError:
        pytest.skip("no IPv6 here")
    number = port.getHost().port
    outbound = DirectOutbound(real_runtime(reactor), LOOPBACK)
    waiter = Waiter()
    transport = await outbound.connect(Destination(ip_address(host), number), waiter)
    peer, here = transport.getPeer(), transport.getHost()
    assert (type(peer), peer.host, peer.port) == (type(here), host, number)
    assert (here.host, peer.type) == (host, "TCP")
    assert await waiter.got == b"welcome"
    transport.loseConnection()
    await waiter.lost
    await port.stopListening()
    with pytest.raises(RelayError) as caught:
        await outbound.connect(Destination(ip_address(host), number), Waiter())
    assert caught.value.outcome is Outcome.REFUSED
    await deferLater(reactor, 0)
    assert outbound.connections.used == 0


async def test_real_refusal_and_policy(reactor: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        number = listener.getsockname()[1]
    destination = Destination(IPv4Address("127.0.0.1"), number)
    runtime = real_runtime(reactor)
    allowing, default = DirectOutbound(runtime, LOOPBACK), DirectOutbound(runtime, EgressPolicy())
    assert await refused(lambda: allowing.connect(destination, Protocol())) is Outcome.REFUSED
    assert await refused(lambda: default.connect(destination, Protocol())) is Outcome.FORBIDDEN
    # Through the system's own resolver, from its own file.
    localhost = Destination("localhost", number)
    assert await refused(lambda: default.connect(localhost, Protocol())) is Outcome.FORBIDDEN
    assert await refused(lambda: allowing.connect(localhost, Protocol())) is Outcome.REFUSED


async def test_real_cancel(reactor: Any) -> None:
    outbound = DirectOutbound(real_runtime(reactor), LOOPBACK)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        number = listener.getsockname()[1]
        for turns in range(3):
            deferred = outbound.connect(
                Destination(IPv4Address("127.0.0.1"), number), protocol := Recorder()
            )
            for _ in range(turns):
                await deferLater(reactor, 0)
            deferred.cancel()
            try:
                transport = await deferred
            except RelayError as problem:
                assert problem.outcome is Outcome.CANCELLED
                assert protocol.events == []
            else:
                transport.abortConnection()
    await deferLater(reactor, 0.01)
    assert outbound.connections.used == 0


async def test_real_race_past_a_refusal(reactor: Any) -> None:
    port = reactor.listenTCP(0, Factory.forProtocol(Greeter), interface="127.0.0.1")
    resolver = ScriptedResolver({"example.com": ["127.0.0.2", "127.0.0.1"]})
    runtime = attrs.evolve(real_runtime(reactor), resolve=resolver)
    waiter = Waiter()
    transport = await DirectOutbound(runtime, LOOPBACK).connect(
        Destination("example.com", port.getHost().port), waiter
    )
    assert transport.getPeer().host == "127.0.0.1"
    assert await waiter.got == b"welcome"
    transport.abortConnection()
    await waiter.lost
    await port.stopListening()


async def test_real_reset_reaches_the_destination(reactor: Any) -> None:
    class Resetting(Protocol):
        def connectionMade(self) -> None:
            sock = self.transport.getHandle()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abortConnection()

    port = reactor.listenTCP(0, Factory.forProtocol(Resetting), interface="127.0.0.1")
    near, far = relay_pair()
    left = ByteTransport(near)
    await DirectOutbound(real_runtime(reactor), LOOPBACK).connect(
        Destination(IPv4Address("127.0.0.1"), port.getHost().port), far
    )
    left.connect()
    await deferLater(reactor, 0.05)
    assert left.aborted
    left.flush()
    await port.stopListening()


async def test_real_churn_leaves_no_garbage(reactor: Any) -> None:
    class Closing(Protocol):
        def connectionMade(self) -> None:
            self.transport.loseConnection()

    factory = Factory.forProtocol(Closing)
    port = reactor.listenTCP(0, factory, interface="127.0.0.1")
    outbound = DirectOutbound(real_runtime(reactor), LOOPBACK)
    destination = Destination(IPv4Address("127.0.0.1"), port.getHost().port)
    modules = ("phantom.outbound.race", "phantom.outbound.direct")

    def count() -> int:
        return sum(type(o).__module__ in modules for o in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        before = count()
        for _ in range(20):
            waiters = [Waiter() for _ in range(50)]
            for waiter in waiters:
                await outbound.for_client(b"k").connect(destination, waiter)
            for waiter in waiters:
                await waiter.lost
        await deferLater(reactor, 0.01)
        assert outbound.connections.used == 0
        del waiter, waiters
        after = count()
    finally:
        gc.enable()
    await port.stopListening()
    assert after == before


async def test_real_exhaustion_of_descriptors(reactor: Any) -> None:
    outbound = DirectOutbound(real_runtime(reactor), LOOPBACK)
    destination = Destination(IPv4Address("127.0.0.1"), 9)
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket() as probe:
        used = probe.fileno()
    resource.setrlimit(resource.RLIMIT_NOFILE, (used, hard))
    try:
        outcome = await refused(lambda: outbound.connect(destination, Protocol()))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert outcome is Outcome.LIMIT
    assert outbound.connections.used == 0
