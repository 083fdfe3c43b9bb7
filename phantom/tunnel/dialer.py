"""Dialer: keeps the client linked to its server, for ever.

It dials when started, again with back-off when a link is lost or cannot be made, and at
once when somebody asks for the tunnel after a pause or the machine wakes from sleep.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from phantom.core.backoff import backoff
from phantom.core.session import BlockPool
from phantom.core.wire import SESSION_ID_SIZE, GoawayReason
from phantom.errors import PhantomError, SessionError
from phantom.layer import switch_protocol
from phantom.runtime import Runtime
from phantom.telemetry import Meters, make_logger
from phantom.tunnel.frame import FrameProtocol
from phantom.tunnel.mux import MultiplexerProtocol, MuxLimits
from phantom.tunnel.noise import InitiatorSettings, NoiseInitiator
from phantom.tunnel.registry import Drain
from phantom.tunnel.session import DeadEnd, Session

log = make_logger()

#: Seconds a connection may take on the carrier's level (TCP and TLS together).
CONNECT_TIMEOUT = 20.0
#: A request that comes this long after the last attempt is a reason to try at once.
IMPATIENCE = 1.0
#: Seconds between looks at the two clocks whose difference tells of sleep.
SLEEP_CHECK = 5.0
#: A difference that grew by this much is a sleep and no rounding.
SLEEP_NOTICED = 3.0
#: Seconds a link may take to answer after a sleep before it counts as dead.
WAKE_PATIENCE = 3.0
#: A session that lasted this long shows that the server works: back-off starts anew.
STABLE = 10.0
#: A link that failed is left silently for this many seconds, at least and at most, before
#: it is closed: closing at once would tell an attacker where in the stream it failed.
LEAVE_AFTER = (5.0, 60.0)


@attrs.frozen(slots=True, kw_only=True)
class DialerSettings:
    """What a dialer needs to know.

    Attributes:
        initiator: Keys and ways of the handshake.
        limits: What the session may hold.
        keepalive: Seconds, see `FrameProtocol`.
        drain_timeout: Seconds streams may take to finish when their session is replaced.
    """

    initiator: InitiatorSettings
    limits: MuxLimits
    keepalive: float
    drain_timeout: float


class Dialer:
    """Keeps one session to the server alive.

    Args:
        runtime: Clock and entropy.
        endpoint: Makes the carrier's endpoint for one attempt.
        settings: See `DialerSettings`.
        meters: Counts links.

    Attributes:
        mux: The multiplexer of the present session, None while there is none.
        last_failure: Why the last attempt failed, None after a success.
    """

    def __init__(
        self,
        runtime: Runtime,
        endpoint: Callable[[], IStreamClientEndpoint],
        settings: DialerSettings,
        meters: Meters,
    ) -> None:
        self._runtime = runtime
        self._endpoint = endpoint
        self._settings = settings
        self._meters = meters
        self._pool = BlockPool()
        self.mux: MultiplexerProtocol | None = None
        self.last_failure: Failure | None = None
        self._session: Session | None = None
        self._old: set[Session] = set()
        self._waiting: list[Deferred[MultiplexerProtocol]] = []
        self._attempt: Attempt | None = None
        self._retry: IDelayedCall | None = None
        self._sleep_check: IDelayedCall | None = None
        self._lead = 0.0
        self._failures = 0
        self._last_attempt = float("-inf")
        self._up_since = 0.0
        self._running = False
        self._stopped: Deferred[None] | None = None

    # -- for the service ------------------------------------------------------------------

    def start(self) -> None:
        """Dial, and keep the link from now on."""
        self._running = True
        self._lead = self._runtime.boottime() - self._runtime.monotonic()
        self._sleep_check = self._runtime.call_later(SLEEP_CHECK, self._check_sleep)
        self._dial()

    def stop(self) -> Deferred[None]:
        """Say goodbye, let streams finish for a moment, then close everything."""
        self._running = False
        for timer in (self._retry, self._sleep_check):
            if timer is not None:
                timer.cancel()
        self._retry = self._sleep_check = None
        if self._attempt is not None:
            self._attempt.cancel()
            self._attempt = None
        waiting, self._waiting = self._waiting, []
        for deferred in waiting:
            if not deferred.called:  # one that was told may cancel another
                deferred.errback(SessionError("the client is stopping"))
        done: Deferred[None] = Deferred()
        self._stopped = done
        if self._session is not None:
            self._retire(GoawayReason.SHUTDOWN)
        self._check_stopped()
        return done

    # -- for the outbound -------------------------------------------------------------------

    def when_ready(self) -> Deferred[MultiplexerProtocol]:
        """Return a cancellable Deferred of a multiplexer that takes new streams."""
        deferred: Deferred[MultiplexerProtocol] = Deferred(self._waiting_cancelled)
        mux = self.mux
        if mux is not None and not mux.draining:
            if mux.exhausted:
                self._retire(GoawayReason.IDS_EXHAUSTED)
                self._dial()
            else:
                deferred.callback(mux)
                return deferred
        self._waiting.append(deferred)
        self._hurry()
        return deferred

    def _waiting_cancelled(self, deferred: Deferred[MultiplexerProtocol]) -> None:
        if deferred in self._waiting:
            self._waiting.remove(deferred)

    def _hurry(self) -> None:
        """Dial at once if the machine only waits, and has done so for a moment."""
        now = self._runtime.clock.seconds()
        if self._retry is not None and now - self._last_attempt >= IMPATIENCE:
            self._retry.cancel()
            self._retry = None
            self._dial()

    # -- dialling ---------------------------------------------------------------------------

    def _dial(self) -> None:
        if not self._running or self._attempt is not None:
            return
        self._last_attempt = self._runtime.clock.seconds()
        self._attempt = Attempt(
            self._runtime, self._endpoint(), self._settings, self._link_up, self._link_failed
        )
        self._attempt.begin()

    def _link_up(self, link: FrameProtocol) -> None:
        self._attempt = None
        self.last_failure = None
        self._up_since = self._runtime.clock.seconds()
        self._meters.count("link.up")
        log.info(
            "link up after {milliseconds} ms",
            milliseconds=round((self._up_since - self._last_attempt) * 1000),
        )
        mux = MultiplexerProtocol(
            self._runtime, self._settings.limits, client=True, on_goaway=self._goaway
        )
        session = Session(
            self._runtime,
            self._runtime.entropy(SESSION_ID_SIZE),
            mux,
            self._pool,
            self._session_ended,
        )
        self._session, self.mux = session, mux
        session.begin(link)
        waiting, self._waiting = self._waiting, []
        for deferred in waiting:
            if not deferred.called:  # one that was served may cancel another
                deferred.callback(mux)

    def _link_failed(self, failure: Failure) -> None:
        self._attempt = None
        self.last_failure = failure
        self._failures += 1
        self._meters.count("link.failed")
        delay = self._schedule()
        why = str(failure.value) if failure.check(PhantomError) else failure.getErrorMessage()
        log.warn(
            "no link: {why}; next attempt in {delay:.1f} s (failure {count} in a row)",
            why=why,
            delay=delay,
            count=self._failures,
        )

    def _schedule(self) -> float:
        delay = backoff(max(1, self._failures), self._runtime.uniform(0.0, 1.0))
        if self._running and self._retry is None:
            self._retry = self._runtime.call_later(delay, self._retry_due)
        return delay

    def _retry_due(self) -> None:
        self._retry = None
        self._dial()

    # -- the session's end --------------------------------------------------------------------

    def _goaway(self, mux: MultiplexerProtocol, reason: int) -> None:
        if mux is self.mux:
            log.info("the server takes no new streams here; dialling anew")
            self._retire(None)
            self._failures += 1  # the server may be restarting: not at once
            self._schedule()

    def _retire(self, reason: GoawayReason | None) -> None:
        """Let the present session drain beside its successor."""
        session, mux = self._session, self.mux
        self._session = self.mux = None
        if session is None or mux is None:
            return
        self._old.add(session)
        if reason is not None:
            mux.goaway(reason)
        Drain(self._runtime, session, mux, self._settings.drain_timeout)

    def _session_ended(self, session: Session, reason: Failure) -> None:
        self._meters.count("session.ended")
        if session in self._old:
            self._old.discard(session)
            self._check_stopped()
            return
        if session is not self._session:
            return
        self._session = self.mux = None
        lasted = self._runtime.clock.seconds() - self._up_since
        self._failures = 0 if lasted >= STABLE else self._failures + 1
        log.info("link lost: {why}; dialling anew", why=reason.getErrorMessage())
        if not self._running:
            return
        if self._failures == 0:
            self._dial()
        else:
            self._schedule()

    def _check_stopped(self) -> None:
        done = self._stopped
        if done is not None and not self._old and self._session is None:
            self._stopped = None
            done.callback(None)

    # -- sleep ----------------------------------------------------------------------------------

    def _check_sleep(self) -> None:
        self._sleep_check = self._runtime.call_later(SLEEP_CHECK, self._check_sleep)
        lead = self._runtime.boottime() - self._runtime.monotonic()
        slept, self._lead = lead - self._lead, lead
        if slept >= SLEEP_NOTICED:
            self._meters.count("wake")
            log.info("awake after {seconds:.0f} s of sleep; probing the link", seconds=slept)
            if self._session is not None and self._session.link is not None:
                self._session.link.probe(WAKE_PATIENCE)
            elif self._retry is not None:
                self._retry.cancel()
                self._retry = None
                self._failures = 0
                self._dial()


class Attempt(DeadEnd):
    """One attempt at a link: carrier, handshake, and then exactly one of two calls.

    Args:
        runtime: Clock and entropy.
        endpoint: Where to connect.
        settings: The dialer's.
        on_link: Called with the link when it is up.
        on_failure: Called with the reason otherwise; neither is called after `cancel`.
    """

    def __init__(
        self,
        runtime: Runtime,
        endpoint: IStreamClientEndpoint,
        settings: DialerSettings,
        on_link: Callable[[FrameProtocol], None],
        on_failure: Callable[[Failure], None],
    ) -> None:
        self._runtime = runtime
        self._endpoint = endpoint
        self._settings = settings
        self._on_link = on_link
        self._on_failure = on_failure
        self._connecting: Deferred[Any] | None = None
        self._noise: NoiseInitiator | None = None
        self._done = False

    def begin(self) -> None:
        """Connect."""
        frames = FrameProtocol(self._runtime, self, self._settings.keepalive)
        self._noise = NoiseInitiator(
            self._runtime,
            frames,
            self._settings.initiator,
            LateLeaver(self._runtime),
            self._failed,
        )
        factory = _OneProtocol(self._noise)
        connecting = self._endpoint.connect(factory)
        connecting.addTimeout(CONNECT_TIMEOUT, self._runtime.clock)
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
