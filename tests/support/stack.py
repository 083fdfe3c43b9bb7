"""The whole tunnel in memory: dialer and outbound on one side, inbound on the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from phantom.address import Destination
from phantom.core.admission import Admission
from phantom.core.endpoint_list import ServerEndpoint
from phantom.core.handshake import Cipher, Mode, PostQuantum
from phantom.core.replay import ReplayVerdict
from phantom.errors import Outcome, RelayError, SessionError
from phantom.inbound.tunnel import Gate, TunnelFactory, stream_acceptor
from phantom.layer import switch_protocol
from phantom.outbound.tunnel import TunnelOutbound
from phantom.telemetry import Meters
from phantom.tunnel.dialer import Dialer
from phantom.tunnel.dialer_settings import DialerSettings
from phantom.tunnel.endpoint_memory import MemoryFile
from phantom.tunnel.endpoints import KnownEndpoints
from phantom.tunnel.frame_receiver import DeadEnd
from phantom.tunnel.initiator import InitiatorSettings
from phantom.tunnel.mux import MuxLimits
from phantom.tunnel.post_quantum import ClientSecrets
from phantom.tunnel.registry import SessionRegistry
from phantom.tunnel.server_clock import ServerClock
from phantom.tunnel.shaper import Shaping
from support.keys import CLIENT, CLIENT_PUBLIC, SERVER, SERVER_PUBLIC, keypair
from support.lossy import lose_packets
from support.pipes import Pipe, join, run
from support.runtime import FakeTime, fake_runtime


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
    def check(
        self,
        client_public: bytes,
        ephemeral: bytes,
        timestamp: float,
        now: float,
        *,
        insert: bool,
    ) -> ReplayVerdict:
        return ReplayVerdict.FRESH if abs(timestamp - now) <= 120 else ReplayVerdict.STALE


@implementer(IStreamClientEndpoint)
class MemoryEndpoint:
    """Connects to a host's factory through a pipe, or does what `Stack.scripts` says."""

    def __init__(self, stack: Stack, endpoint: ServerEndpoint) -> None:
        self._stack = stack
        self._name = str(endpoint.host)
        self._key = endpoint.public_key

    def connect(self, factory: Any) -> Deferred[Any]:
        stack = self._stack
        stack.attempts.append(stack.clock.seconds())
        stack.dialled.append(self._name)
        script = stack.scripts.get(self._name, "works")
        if stack.refuse or script == "refuse":
            return fail(ConnectionRefusedError())
        if script == "silent":
            return Deferred()
        protocol = factory.buildProtocol(None)
        host = stack.hosts.get(self._key)
        server = stack.factory if host is None else host.factory
        pipe = join(stack.clock, protocol, server.buildProtocol(None), delay=stack.delay)
        stack.pipes.append(pipe)
        if stack.round_trip is not None:
            lose_packets(pipe, stack.round_trip, lossy=stack.lossy)
        stack.pipes_to.setdefault(self._name, []).append(pipe)
        if script == "mute":
            pipe.stall()
        return succeed(protocol)


def at(name: str, key: bytes = SERVER_PUBLIC) -> ServerEndpoint:
    """Return an endpoint of the server, by a name that `Stack.scripts` knows."""
    return ServerEndpoint(host=name, port=443, public_key=key)


class Host:
    """A server's process on another host, with a key of its own."""

    def __init__(self, stack: Stack, seed: int) -> None:
        self.private, self.public = keypair(seed)
        self.registry = SessionRegistry(
            stack.runtime,
            MuxLimits(),
            max_links=4,
            acceptor=stream_acceptor(lambda key: stack.destinations, stack.runtime),
            attach_timeout=10,
            meters=stack.meters,
        )
        self.factory = TunnelFactory(
            stack.runtime,
            self.registry,
            Gate(frozenset({CLIENT_PUBLIC}), NoReplays(), stack.runtime, stack.meters),
            private_key=self.private,
            public_key=self.public,
            mode=Mode.BARE,
            stranger=stack.strangers,
            drain=stack.drain,
            handshake_timeout=10,
            keepalive=20,
            admission=stack.admission,
            meters=stack.meters,
        )


class Stack:
    """A client and a server of the tunnel.

    Attributes:
        refuse: Whether the carrier refuses to connect.
        scripts: What the endpoints of a name do: "works", "refuse", "silent" (no connection
            comes about), "mute" (a connection on which nothing moves).
        hosts: Further hosts, by their public keys.
        attempts: When the client dialled.
        dialled: The names it dialled.
        pipes: The connections made, in order.
        pipes_to: The same by name.
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
        endpoints: Sequence[ServerEndpoint] = (),
        identity: bytes | None = None,
        file: MemoryFile | None = None,
        post_quantum: PostQuantum = PostQuantum.AUTO,
        shaping: Shaping | None = None,
        lanes: bool = True,
        link_max_age: float = 0.0,
    ) -> None:
        self.clock = Clock()
        self.time = FakeTime(self.clock)
        self.runtime = fake_runtime(self.clock, seed=3, time=self.time)
        self.delay = delay
        self.refuse = False
        self.attempts: list[float] = []
        self.dialled: list[str] = []
        self.pipes: list[Pipe] = []
        self.pipes_to: dict[str, list[Pipe]] = {}
        self.scripts: dict[str, str] = {}
        self.hosts: dict[bytes, Host] = {}
        self.meters, self.client_meters = Meters(), Meters()
        self.destinations = Destinations(self.clock)
        limits = limits or MuxLimits()
        self._limits, self._mode = limits, mode
        self.admission = Admission(64, 64)
        self.strangers, self.drain = Silence(), Silence()
        #: What the kernel would say of connections; None for nothing.
        self.round_trip: float | None = None
        self.lossy = True
        self._lanes, self._link_max_age = lanes, link_max_age
        self._allowed = allowed
        self._endpoints = endpoints or (at("server.example"),)
        self._identity, self._file = identity, file
        self._post_quantum = post_quantum
        self._shaping = shaping
        self._early_reply, self._link_wait = early_reply, link_wait
        self.start_server()
        self.start_client()

    def start_client(self) -> None:
        """Begin a client's process: it knows what its file says, and what it remembers."""
        self.secrets = ClientSecrets()
        self.server_clock = ServerClock()
        self.known = KnownEndpoints(
            self.runtime,
            self._endpoints,
            self.client_meters,
            identity=self._identity,
            file=self._file,
        )
        self.dialer = Dialer(
            self.runtime,
            self.known,
            self._connect,
            DialerSettings(
                limits=self._limits,
                keepalive=20,
                drain_timeout=1,
                lanes=self._lanes,
                link_max_age=self._link_max_age,
            ),
            self.client_meters,
        )
        self.outbound = TunnelOutbound(
            self.runtime, self.dialer, early_reply=self._early_reply, link_wait=self._link_wait
        )

    def _connect(self, endpoint: ServerEndpoint) -> tuple[MemoryEndpoint, InitiatorSettings]:
        return MemoryEndpoint(self, endpoint), InitiatorSettings(
            private_key=CLIENT,
            server_key=endpoint.public_key,
            cipher=Cipher.AESGCM,
            mode=self._mode,
            host="example.com",
            post_quantum=self._post_quantum,
            secrets=self.secrets,
            clock=self.server_clock,
            shaping=self._shaping,
        )

    def add_host(self, seed: int) -> Host:
        """Begin a server's process on another host."""
        host = Host(self, seed)
        self.hosts[host.public] = host
        return host

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
            shaping=self._shaping and attrs.evolve(self._shaping, client=False),
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
