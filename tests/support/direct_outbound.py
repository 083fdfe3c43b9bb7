"""A direct outbound in memory: the test is the network and the resolver."""

from __future__ import annotations

import errno
from typing import Any

from twisted.internet import error
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from phantom.address import Destination
from phantom.core.egress import EgressPolicy
from phantom.errors import Outcome, RelayError
from phantom.outbound.direct import DirectOutbound
from support.runtime import ScriptedResolver, fake_runtime
from support.transports import ByteTransport

REFUSAL = error.getConnectError((errno.ECONNREFUSED, "Connection refused"))
V4, V4B = "93.184.216.34", "93.184.216.35"
V6, V6B = "2606:4700::1", "2606:4700::2"


class Connector:
    """What `connectTCP` returns, as far as Twisted's own goes; the test is the network."""

    def __init__(self, host: str, port: int, factory: Any, timeout: float | None) -> None:
        self.host, self.port, self.factory = host, port, factory
        self.timeout = timeout
        self.state = "connecting"
        self.transport: Any = None

    def up(self) -> ByteTransport:
        assert self.state == "connecting"
        self.state = "connected"
        self.transport = transport = ByteTransport(self.factory.buildProtocol(None))
        transport.connect()
        return transport

    def down(self, reason: Exception) -> None:
        assert self.state == "connecting"
        self.state = "disconnected"
        self.factory.clientConnectionFailed(self, Failure(reason))

    def lost(self) -> None:
        """The connection ends."""
        assert self.state == "connected"
        transport, self.state = self.transport, "disconnected"
        transport.lose()
        self.factory.clientConnectionLost(self, Failure(error.ConnectionDone()))

    def disconnect(self) -> None:
        if self.state == "connecting":
            self.down(error.UserError())
        elif self.state == "connected":
            self.transport.loseConnection()


class Reactor:
    """Records what is connected to."""

    def __init__(self) -> None:
        self.connectors: list[Connector] = []
        self.fail_at_once: Exception | None = None

    def connectTCP(self, host: str, port: int, factory: Any, timeout: float | None = 30) -> Any:
        connector = Connector(host, port, factory, timeout)
        self.connectors.append(connector)
        factory.startedConnecting(connector)
        if self.fail_at_once is not None:
            connector.down(self.fail_at_once)
        return connector

    @property
    def hosts(self) -> list[str]:
        return [connector.host for connector in self.connectors]

    @property
    def live(self) -> list[str]:
        return [c.host for c in self.connectors if c.state == "connecting"]


class Recorder(Protocol):
    def __init__(self) -> None:
        self.events: list[Any] = []

    def connectionMade(self) -> None:
        self.events.append("made")

    def dataReceived(self, data: bytes) -> None:
        self.events.append(data)


class World:
    """A direct outbound in a world that the test makes up."""

    def __init__(self, policy: EgressPolicy | None = None, **options: Any) -> None:
        self.clock = Clock()
        self.reactor = Reactor()
        self.resolver = ScriptedResolver()
        self.runtime = fake_runtime(self.clock, reactor=self.reactor, resolve=self.resolver)
        self.outbound = DirectOutbound(self.runtime, policy or EgressPolicy(), **options)
        self.protocol = Recorder()
        self.results: list[Any] = []

    def connect(self, text: str, key: bytes | None = None) -> Deferred[Any]:
        outbound: Any = self.outbound if key is None else self.outbound.for_client(key)
        deferred: Deferred[Any] = outbound.connect(Destination.parse(text), self.protocol)
        deferred.addBoth(self.results.append)
        return deferred

    @property
    def outcome(self) -> Outcome:
        (result,) = self.results
        assert isinstance(result, Failure), result
        assert result.type is RelayError
        outcome: Outcome = self.results[0].value.outcome
        return outcome

    def nothing_left(self) -> bool:
        return (
            not self.clock.getDelayedCalls()
            and not self.reactor.live
            and self.outbound.connections.used == 0
            and self.outbound.lookups.used == 0
        )
