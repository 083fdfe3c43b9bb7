"""Attempts at a link, one or several at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from phantom.core.endpoint_list import ServerEndpoint
from phantom.errors import ConfigurationError, HandshakeError
from phantom.layer import switch_protocol
from phantom.runtime import Runtime
from phantom.telemetry import make_logger
from phantom.tunnel.frame import FrameProtocol
from phantom.tunnel.frame_receiver import DeadEnd
from phantom.tunnel.initiator import InitiatorSettings, NoiseInitiator
from phantom.tunnel.post_quantum import SecretForgottenError
from phantom.tunnel.server_clock import WrongClockError

log = make_logger()

#: A link that failed is left silently for this many seconds, at least and at most, before
#: it is closed: closing at once would tell an attacker where in the stream it failed.
LEAVE_AFTER = (5.0, 60.0)

#: Makes what connects to an endpoint, and the settings of the handshake there.  It may raise
#: `ConfigurationError`.
Connect = Callable[[ServerEndpoint], tuple[IStreamClientEndpoint, InitiatorSettings]]


class Race:
    """Attempts at one endpoint after the other, until the first link is up (RFC 8305).

    The next attempt begins when one fails, or when none has succeeded for a while; the others
    go on meanwhile.  Exactly one of two calls ends it.

    Args:
        runtime: Clock and entropy.
        endpoints: At least one, in the order to try them.
        stagger: Seconds between two attempts.
        connect: Prepares the attempt at an endpoint.
        keepalive: Seconds, see `FrameProtocol`.
        on_link: Called with the first link that is up, and its endpoint.
        on_failure: Called with the last reason when every attempt has failed.
        on_miss: Called with each endpoint whose attempt has failed.
    """

    #: Attempts at a time.  More would be conspicuous, and of little help.
    AT_ONCE = 3

    def __init__(
        self,
        runtime: Runtime,
        endpoints: Iterable[ServerEndpoint],
        stagger: float,
        connect: Connect,
        keepalive: float,
        *,
        on_link: Callable[[FrameProtocol, ServerEndpoint], None],
        on_failure: Callable[[Failure], None],
        on_miss: Callable[[ServerEndpoint], None],
    ) -> None:
        self._runtime = runtime
        self._left = deque(endpoints)
        self._stagger = stagger
        self._connect = connect
        self._keepalive = keepalive
        self._on_link = on_link
        self._on_failure = on_failure
        self._on_miss = on_miss
        self._running: dict[ServerEndpoint, Attempt | None] = {}
        self._starting = False
        self._timers: list[IDelayedCall] = []
        self._next: IDelayedCall | None = None
        self._failure = Failure(HandshakeError("there is no endpoint"))
        self._over = False

    def add_later(self, endpoints: Iterable[ServerEndpoint], seconds: float) -> None:
        """Let more endpoints take part after `seconds`, if the race is not over by then."""
        self._timers.append(self._runtime.call_later(seconds, self._add, tuple(endpoints)))

    def _add(self, endpoints: tuple[ServerEndpoint, ...]) -> None:
        self._left.extend(endpoints)
        self.begin()

    def begin(self) -> None:
        """Start the next attempt, and have the one after it started in time."""
        if self._next is not None and self._next.active():
            self._next.cancel()
        self._next = None
        while self._left and len(self._running) < self.AT_ONCE and not self._over:
            endpoint = self._left.popleft()
            # An attempt can fail before this call returns: then it is the next one's turn.
            self._starting = True
            self._start(endpoint)
            self._starting = False
            if endpoint in self._running:
                break
        if self._over:
            return
        if not self._running:
            self._end()
            self._on_failure(self._failure)
        elif self._left:
            self._next = self._runtime.call_later(self._stagger, self.begin)

    def _start(self, endpoint: ServerEndpoint) -> None:
        self._running[endpoint] = None
        try:
            carrier, settings = self._connect(endpoint)
        except ConfigurationError:
            self._failed(endpoint, Failure())
            return
        attempt = self._running[endpoint] = Attempt(
            self._runtime,
            carrier,
            settings,
            self._keepalive,
            lambda link: self._won(endpoint, link),
            lambda failure: self._failed(endpoint, failure),
        )
        attempt.begin()

    def _failed(self, endpoint: ServerEndpoint, failure: Failure) -> None:
        del self._running[endpoint]
        self._failure = failure
        self._on_miss(endpoint)
        if not self._starting and not self._over:
            self.begin()

    def _won(self, endpoint: ServerEndpoint, link: FrameProtocol) -> None:
        del self._running[endpoint]
        self.cancel()
        self._on_link(link, endpoint)

    def _end(self) -> None:
        self._over = True
        for timer in (*self._timers, self._next):
            if timer is not None and timer.active():
                timer.cancel()
        self._left.clear()

    def cancel(self) -> None:
        """Give up."""
        self._end()
        running, self._running = self._running, {}
        for attempt in running.values():
            if attempt is not None:
                attempt.cancel()


class Attempt(DeadEnd):
    """One attempt at a link: carrier, handshake, and then exactly one of two calls.

    Args:
        runtime: Clock and entropy.
        endpoint: Where to connect.
        settings: Keys and ways of the handshake.
        keepalive: Seconds, see `FrameProtocol`.
        on_link: Called with the link when it is up.
        on_failure: Called with the reason otherwise; neither is called after `cancel`.
    """

    def __init__(
        self,
        runtime: Runtime,
        endpoint: IStreamClientEndpoint,
        settings: InitiatorSettings,
        keepalive: float,
        on_link: Callable[[FrameProtocol], None],
        on_failure: Callable[[Failure], None],
    ) -> None:
        self._runtime = runtime
        self._endpoint = endpoint
        self._settings = settings
        self._keepalive = keepalive
        self._on_link = on_link
        self._on_failure = on_failure
        self._connecting: Deferred[Any] | None = None
        self._noise: NoiseInitiator | None = None
        self._mended: set[type[BaseException]] = set()
        self._done = False

    def begin(self) -> None:
        """Connect."""
        shaping = self._settings.shaping
        shaper = None if shaping is None else shaping.shaper(self._runtime)
        frames = FrameProtocol(self._runtime, self, self._keepalive, shaper)
        self._noise = NoiseInitiator(
            self._runtime,
            frames,
            self._settings,
            LateLeaver(self._runtime),
            self._failed,
        )
        factory = _OneProtocol(self._noise)
        connecting = self._endpoint.connect(factory)
        connecting.addTimeout(self._settings.timeout, self._runtime.clock)
        self._connecting = connecting
        # Success is told by the handshake, not by the carrier.
        connecting.addCallbacks(self._connected, self._failed)

    def cancel(self) -> None:
        """Give up."""
        self._done = True
        if self._connecting is not None:
            self._connecting.cancel()
        if self._noise is not None:
            self._noise.cancel()

    def _connected(self, _protocol: Any) -> None:
        self._connecting = None

    def _failed(self, failure: Failure) -> None:
        self._connecting = None
        if self._done:
            return  # cancelled, or told already; how the rest of it ends is of no interest
        mended = failure.check(SecretForgottenError, WrongClockError)
        if mended is not None and mended not in self._mended:
            # A server that was restarted, or a clock that is wrong here: the next message is
            # another one.
            self._mended.add(mended)
            if mended is WrongClockError:
                log.warn("{error}; trying again by the server's", error=str(failure.value))
            self.begin()
            return
        self._done = True
        self._on_failure(failure)

    # FrameReceiver, for the moment between the handshake and the session

    def link_made(self, link: FrameProtocol) -> None:
        """Hand the link over."""
        self._connecting = None
        if self._done:
            link.abort()
            return
        self._done = True
        link.receiver = DeadEnd()
        self._on_link(link)


class _OneProtocol(Factory):
    noisy = False

    def __init__(self, protocol: Any) -> None:
        self._protocol = protocol

    def buildProtocol(self, addr: Any) -> Any:
        return self._protocol


class LateLeaver:
    """The client's `StrangerPolicy`: leave a failed link after a while, in silence.

    Args:
        runtime: Clock and entropy.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def __call__(self, transport: Any, received: bytes) -> None:
        """Read and discard, then close after a random time."""
        switch_protocol(transport, _Leaving(self._runtime))


class _Leaving(Protocol):
    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._timer: IDelayedCall | None = None

    def connectionMade(self) -> None:
        self._timer = self._runtime.call_later(self._runtime.uniform(*LEAVE_AFTER), self._leave)

    def _leave(self) -> None:
        self._timer = None
        assert self.transport is not None
        self.transport.loseConnection()

    def dataReceived(self, data: bytes) -> None:
        pass

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._timer is not None:
            self._timer.cancel()
