"""The whole tunnel in memory: dialer and outbound on one side, inbound on the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from phantom.address import Destination
from phantom.core.admission import Admission
from phantom.core.handshake import Cipher, Mode
from phantom.core.replay import ReplayVerdict
from phantom.errors import Outcome, RelayError, SessionError
from phantom.inbound.tunnel import Gate, TunnelFactory, stream_acceptor
from phantom.layer import switch_protocol
from phantom.outbound.tunnel import TunnelOutbound
from phantom.telemetry import Meters
from phantom.tunnel.dialer import Dialer, DialerSettings
from phantom.tunnel.mux import MuxLimits
from phantom.tunnel.noise import InitiatorSettings
from phantom.tunnel.registry import SessionRegistry
from phantom.tunnel.session import DeadEnd
from support.pipes import Pipe, join, run
from support.runtime import FakeTime, fake_runtime


def keypair(seed: int) -> tuple[bytes, bytes]:
    private = X25519PrivateKey.from_private_bytes(bytes([seed]) * 32)
    return private.private_bytes_raw(), private.public_key().public_bytes_raw()


SERVER, SERVER_PUBLIC = keypair(1)
CLIENT, CLIENT_PUBLIC = keypair(2)


class Echo:
    """A destination's transport that sends back what it is given."""

    def __init__(self, clock: Clock, protocol: Any) -> None:
        self._clock = clock
        self.protocol = protocol
        self.received = b""
        self.aborted = self.closed = False

    def write(self, data: Any) -> None:
        self.received += bytes(data)
        self._clock.callLater(0, self.protocol.dataReceived, bytes(data))

    def writeSequence(self, data: Any) -> None:
        self.write(b"".join(data))

    def loseWriteConnection(self) -> None:
        self._clock.callLater(0, self.protocol.readConnectionLost)

    def loseConnection(self) -> None:
        self.closed = True

    def abortConnection(self) -> None:
        self.aborted = True

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        pass

    def unregisterProducer(self) -> None:
        pass

    def pauseProducing(self) -> None:
        pass

    def resumeProducing(self) -> None:
        pass

    def stopProducing(self) -> None:
        pass


class Destinations:
    """The server's outbound, scripted.

    Attributes:
        outcomes: What a host's connections come to; CONNECTED if not named, and a host
            called "slow.example" never answers.
        transports: Every destination connected.
        cancelled: How many connects were given up.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.outcomes: dict[str, Outcome] = {}
        self.transports: list[Echo] = []
        self.asked: list[Destination] = []
        self.cancelled = 0

    def connect(self, destination: Destination, protocol: Any) -> Deferred[Any]:
        self.asked.append(destination)
        if destination.host == "slow.example":
            return Deferred(self._give_up)
        outcome = self.outcomes.get(str(destination.host), Outcome.CONNECTED)
        if outcome is not Outcome.CONNECTED:
            return fail(RelayError(outcome))
        transport = Echo(self._clock, protocol)
        self.transports.append(transport)
        protocol.makeConnection(transport)
        return succeed(transport)

    def _give_up(self, _deferred: Deferred[Any]) -> None:
        self.cancelled += 1


class Silence:
    """A stranger policy: read and forget."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, transport: Any, received: bytes) -> None:
        self.count += 1
        switch_protocol(transport, self)

    def makeConnection(self, transport: Any) -> None:
        pass

    def dataReceived(self, data: bytes) -> None:
        pass

    def connectionLost(self, reason: Any) -> None:
        pass


class NoReplays:
    def check_and_insert(
        self, client_public: bytes, ephemeral: bytes, timestamp: float, now: float
    ) -> ReplayVerdict:
        return ReplayVerdict.FRESH if abs(timestamp - now) <= 120 else ReplayVerdict.STALE


@implementer(IStreamClientEndpoint)
class MemoryEndpoint:
    """Connects to a factory through a pipe, or refuses."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack

    def connect(self, factory: Any) -> Deferred[Any]:
        stack = self._stack
        stack.attempts.append(stack.clock.seconds())
        if stack.refuse:
            return fail(ConnectionRefusedError())
        protocol = factory.buildProtocol(None)
        pipe = join(stack.clock, protocol, stack.factory.buildProtocol(None), delay=stack.delay)
        stack.pipes.append(pipe)
        return succeed(protocol)


class Stack:
    """A client and a server of the tunnel.

    Attributes:
        refuse: Whether the carrier refuses to connect.
        attempts: When the client dialled.
        pipes: The connections made, in order.
    """

    def __init__(
        self,
        *,
        allowed: frozenset[bytes] = frozenset({CLIENT_PUBLIC}),
        mode: Mode = Mode.BARE,
        early_reply: str = "known",
        link_wait: float = 15.0,
        delay: float = 0.01,
        limits: MuxLimits | None = None,
    ) -> None:
        self.clock = Clock()
        self.time = FakeTime(self.clock)
        self.runtime = fake_runtime(self.clock, seed=3, time=self.time)
        self.delay = delay
        self.refuse = False
        self.attempts: list[float] = []
        self.pipes: list[Pipe] = []
        self.meters, self.client_meters = Meters(), Meters()
        self.destinations = Destinations(self.clock)
        limits = limits or MuxLimits()
        self._limits, self._mode = limits, mode
        self.admission = Admission(64, 64)
        self.strangers, self.drain = Silence(), Silence()
        self._allowed = allowed
        self.start_server()
        self.dialer = Dialer(
            self.runtime,
            lambda: MemoryEndpoint(self),
            DialerSettings(
                initiator=InitiatorSettings(
                    private_key=CLIENT,
                    server_key=SERVER_PUBLIC,
                    cipher=Cipher.AESGCM,
                    mode=mode,
                    host="example.com",
                ),
                limits=limits,
                keepalive=20,
                drain_timeout=1,
            ),
            self.client_meters,
        )
        self.outbound = TunnelOutbound(
            self.runtime, self.dialer, early_reply=early_reply, link_wait=link_wait
        )

    def start_server(self) -> None:
        """Begin a server's process: it knows no session."""
        self.registry = SessionRegistry(
            self.runtime,
            self._limits,
            max_links=4,
            acceptor=stream_acceptor(lambda key: self.destinations, self.runtime),
            attach_timeout=10,
            meters=self.meters,
        )
        self.gate = Gate(self._allowed, NoReplays(), self.runtime, self.meters)
        self.factory = TunnelFactory(
            self.runtime,
            self.registry,
            self.gate,
            private_key=SERVER,
            public_key=SERVER_PUBLIC,
            mode=self._mode,
            stranger=self.strangers,
            drain=self.drain,
            handshake_timeout=10,
            keepalive=20,
            admission=self.admission,
            meters=self.meters,
        )

    def restart_server(self) -> None:
        """Kill the server's process, links and sessions with it, and begin another."""
        for session, _mux in list(self.registry._sessions.values()):
            session._on_end = lambda *ignored: None
            link = session.link
            if link is not None:
                link.receiver = DeadEnd()  # a dead process neither hears nor says anything
                link.transport.transport.abortConnection()
                session.link = None
                session._cursors.clear()
            session.end(Failure(SessionError("killed")))
        self.start_server()
        for pipe in self.pipes:
            pipe.cut()

    def run(self, seconds: float = 1.0) -> None:
        run(self.clock, seconds)

    def run_until(self, condition: Callable[[], Any], seconds: float = 120.0) -> None:
        end = self.clock.seconds() + seconds
        while not condition():
            assert self.clock.seconds() < end, "it never happened"
            self.run(0.05)
