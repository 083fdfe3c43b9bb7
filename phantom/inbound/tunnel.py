"""The server's inbound: links come in, their streams go out through an outbound."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, Protocol

import attrs
from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IAddress, IProtocol
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure

from phantom.address import Destination
from phantom.carriers.congestion import LinkSockets
from phantom.carriers.tcp import prepare_link_socket
from phantom.core.admission import Admission
from phantom.core.handshake import INSTANCE_SIZE, HandshakePayload, Mode, PostQuantum
from phantom.core.replay import ReplayVerdict
from phantom.core.stream import UNANSWERED
from phantom.errors import Outcome, RelayError
from phantom.fast.timeouts import Timeouts
from phantom.interfaces import Expect, Outbound, StrangerPolicy
from phantom.reach import Cancel, reach
from phantom.relay import HALF_CLOSED_TIMEOUT, RelayProtocol, relay_pair
from phantom.runtime import Runtime
from phantom.telemetry import Meters, make_logger
from phantom.tunnel.frame import FrameProtocol
from phantom.tunnel.mux import Acceptor
from phantom.tunnel.post_quantum import ExchangeMemory, ServerSecrets
from phantom.tunnel.registry import SessionRegistry
from phantom.tunnel.responder import NoiseResponder
from phantom.tunnel.shaper import Shaping
from phantom.tunnel.stream import Stream

log = make_logger()


class ReplayCheck(Protocol):
    """The replay filter, as the gate asks it."""

    def check(
        self,
        client_public: bytes,
        ephemeral: bytes,
        timestamp: float,
        now: float,
        *,
        insert: bool,
    ) -> ReplayVerdict:
        """Say whether a first message is fresh, and remember it if `insert`."""
        ...


@attrs.define(slots=True)
class Gate:
    """Who may have a link: the list of clients, then the replay filter.

    An empty list admits nobody.  The list may be replaced while running.

    Attributes:
        allowed: Static public keys.
        replay: The replay filter.
        runtime: Wall time.
        meters: Counts the verdicts.
    """

    allowed: frozenset[bytes]
    replay: ReplayCheck
    runtime: Runtime
    meters: Meters

    def authorise(self, client_key: bytes, payload: HandshakePayload, e: bytes) -> bool:
        """See `phantom.tunnel.responder.Gatekeeper`."""
        known = client_key in self.allowed
        # A message without a timestamp is from 1970, and too old.
        verdict = self.replay.check(
            client_key, e, (payload.timestamp or 0) / 1000, self.runtime.wall_time(), insert=known
        )
        if not known:
            self.meters.count("handshake.unknown_key")
            return False
        self.meters.count(f"handshake.{verdict.name.lower()}")
        if verdict is not ReplayVerdict.FRESH:
            # Debug: whoever has recorded a first message can send it again without end.
            log.debug("handshake of a known key refused: {verdict}", verdict=verdict.name)
        return verdict is ReplayVerdict.FRESH


class TunnelFactory(Factory):
    """Builds the layers of each incoming link.

    Args:
        runtime: Clock and entropy.
        registry: The sessions.
        gate: Who may enter.
        private_key: The server's static key, 32 bytes.
        public_key: Its public half.
        mode: How links open here.
        stranger: Who gets everybody else.
        expect: Prepares for that while it is open who a visitor is, if at all.
        drain: Where failed links are left, read and never answered.
        handshake_timeout: Seconds until an undecided visitor is a stranger.
        keepalive: Seconds, see `FrameProtocol`.
        admission: Bounds undecided visitors; the oldest gives way, and becomes a stranger.
        meters: Counts visitors.
        post_quantum: Whether to do an ML-KEM exchange with clients.
        secrets: What exchanges left, where workers share it.
        instance: Names the running server to clients; drawn when there are no other workers.
        junction: Returns what stands between a link's Noise layer and its frames, where
            another worker process may have its session.
        sockets: Sets how the connections of known clients send; None leaves that to the
            system.
        shaping: How links are shaped; None leaves their records as they are.
    """

    noisy = False

    def __init__(
        self,
        runtime: Runtime,
        registry: SessionRegistry,
        gate: Gate,
        *,
        private_key: bytes,
        public_key: bytes,
        mode: Mode,
        stranger: StrangerPolicy,
        expect: Expect | None = None,
        drain: StrangerPolicy,
        handshake_timeout: float,
        keepalive: float,
        admission: Admission,
        meters: Meters,
        post_quantum: PostQuantum = PostQuantum.AUTO,
        secrets: ExchangeMemory | None = None,
        instance: bytes = b"",
        junction: Callable[[FrameProtocol], IProtocol] | None = None,
        sockets: LinkSockets | None = None,
        shaping: Shaping | None = None,
    ) -> None:
        self._runtime = runtime
        self._junction = junction
        self._registry = registry
        self._gate = gate
        self._private_key = private_key
        self._public_key = public_key
        self._mode = mode
        self._stranger = stranger
        self._expect = expect
        self._drain = drain
        self._handshake_timeout = handshake_timeout
        self._keepalive = keepalive
        self._admission = admission
        self._meters = meters
        self._post_quantum = post_quantum
        # Not "or": an empty memory counts as false.
        self._secrets = ServerSecrets() if secrets is None else secrets
        self._instance = instance or runtime.entropy(INSTANCE_SIZE)
        self._sockets = sockets
        self._shaping = shaping

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """Return the layers for one visitor."""
        shaper = None if self._shaping is None else self._shaping.shaper(self._runtime)
        frames = FrameProtocol(self._runtime, self._registry.receive(), self._keepalive, shaper)
        return NoiseResponder(
            self._runtime,
            frames if self._junction is None else self._junction(frames),
            private_key=self._private_key,
            public_key=self._public_key,
            mode=self._mode,
            gatekeeper=self._gate,
            stranger=self._stranger,
            expect=self._expect,
            abandon=self._drain,
            timeout=self._handshake_timeout,
            visitors=self,
            instance=self._instance,
            post_quantum=self._post_quantum,
            secrets=self._secrets,
        )

    # -- Visitors -----------------------------------------------------------------------

    def arrived(self, visitor: NoiseResponder) -> None:
        """Give an undecided visitor a place; the oldest makes room when all are taken."""
        # Without it a small record would wait for the acknowledgement of the one before
        # (Nagle's algorithm, RFC 9293, 3.7.4), which the client delays.
        prepare_link_socket(visitor)
        evicted = self._admission.admit(visitor, _ip_address(visitor.getPeer()))
        if isinstance(evicted, NoiseResponder):
            self._meters.count("visitor.evicted")
            evicted.evict()

    def settled(self, visitor: NoiseResponder) -> None:
        """Free the visitor's place."""
        self._admission.release(visitor)
        if visitor.peer_key and self._sockets is not None:
            # Large buffers are for those who have proven a key.
            self._sockets.tune(visitor)
        self._meters.count("visitor.link" if visitor.peer_key else "visitor.stranger")


def _ip_address(addr: Any) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(addr.host)
    except (AttributeError, ValueError):
        return None  # a local socket, or a test's transport


def stream_acceptor(
    outbound_for: Callable[[bytes], Outbound], runtime: Runtime
) -> Callable[[bytes], Acceptor]:
    """Return what `SessionRegistry` needs to lead streams to an outbound.

    Args:
        outbound_for: Returns the outbound that a client key's streams take.
        runtime: Timers of the relays.
    """
    half_closed = Timeouts(runtime.clock, HALF_CLOSED_TIMEOUT)

    def for_client(client_key: bytes) -> Acceptor:
        outbound = outbound_for(client_key)

        def accept(stream: Stream, destination: Destination) -> None:
            near, far = relay_pair(None, half_closed)

            def done(result: Any) -> None:
                stream.on_outcome = None
                try:
                    if not isinstance(result, Failure):
                        stream.accept(near)
                    elif result.check(RelayError, CancelledError):
                        stream.refuse(getattr(result.value, "outcome", Outcome.FAILED))
                    else:
                        broken(result, stream, far)
                except Exception:
                    broken(Failure(), stream, far)

            give_up = reach(outbound, destination, far, done)
            if stream.state in UNANSWERED:
                stream.on_outcome = lambda _outcome: cancelled(give_up, stream)

        return accept

    def cancelled(give_up: Cancel, stream: Stream) -> None:
        """The opener gives up: so do we."""
        give_up()
        stream.refuse(Outcome.CANCELLED)

    def broken(failure: Failure, stream: Stream, far: RelayProtocol) -> None:
        log.failure("relaying a stream failed", failure=failure)
        stream.abortConnection()
        if far.transport is not None:
            far.transport.abortConnection()

    return for_client
