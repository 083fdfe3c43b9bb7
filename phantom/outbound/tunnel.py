"""The client's outbound: a destination becomes a stream of the tunnel."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from phantom.address import Destination
from phantom.core.recent import RecentDestinations
from phantom.errors import Outcome, RelayError
from phantom.reach import Cancel, Done, as_deferred
from phantom.runtime import Runtime
from phantom.tunnel.dialer import Dialer
from phantom.tunnel.mux import MultiplexerProtocol
from phantom.tunnel.stream import Stream


class TunnelOutbound:
    """An `phantom.interfaces.Outbound` through the tunnel.

    Waiting for the destination's true outcome costs a round trip; answering at once hides
    it.  So destinations that connected lately are answered at once, others truthfully; a
    failure after an early success is a reset of the stream, never a clean end.

    Args:
        runtime: Clock.
        dialer: Has the session, or gets one.
        early_reply: ``known``, ``always`` or ``never``.
        link_wait: Seconds a request waits for a link.
    """

    def __init__(
        self, runtime: Runtime, dialer: Dialer, *, early_reply: str, link_wait: float
    ) -> None:
        self._runtime = runtime
        self._dialer = dialer
        self._early_reply = early_reply
        self._link_wait = link_wait
        self._recent = RecentDestinations()

    def connect(self, destination: Destination, protocol: Any) -> Deferred[Any]:
        """See `phantom.interfaces.Outbound.connect`."""
        return as_deferred(self, destination, protocol)

    def begin(self, destination: Destination, protocol: Any, done: Done) -> Cancel:
        """See `phantom.reach.Beginner.begin`."""
        mux = self._dialer.mux
        opening = Opening(self, destination, protocol, done)
        if mux is not None and not mux.draining and not mux.exhausted:
            opening.on_mux(mux)
        else:
            opening.wait(self._dialer.when_ready(), self._link_wait, self._runtime)
        return opening.cancel

    def answers_early(self, destination: Destination) -> bool:
        """Whether the application is told of success before the server has said so."""
        if self._early_reply == "known":
            return self._recent.knows(destination, self._runtime.clock.seconds())
        return self._early_reply == "always"

    def learn(self, destination: Destination, outcome: Outcome) -> None:
        """Remember a destination that connected, forget one that failed in any way."""
        if outcome is Outcome.CONNECTED:
            self._recent.remember(destination, self._runtime.clock.seconds())
        else:
            self._recent.forget(destination)


class Opening:
    """One stream on its way to being connected.

    Args:
        outbound: Whose it is.
        destination: Where it leads.
        protocol: What is attached to the stream.
        done: Called with the stream, or with the `Failure` of a `RelayError`.
    """

    __slots__ = ("_destination", "_done", "_outbound", "_protocol", "_stream", "_waiting")

    def __init__(
        self, outbound: TunnelOutbound, destination: Destination, protocol: Any, done: Done
    ) -> None:
        self._outbound = outbound
        self._destination = destination
        self._protocol = protocol
        # Each until it has served.
        self._done: Done | None = done
        self._stream: Stream | None = None
        self._waiting: Deferred[MultiplexerProtocol] | None = None

    def wait(self, ready: Deferred[MultiplexerProtocol], seconds: float, runtime: Runtime) -> None:
        """Go on when the tunnel is up, or give up after `seconds`."""
        self._waiting = ready
        ready.addTimeout(seconds, runtime.clock)
        ready.addCallbacks(self.on_mux, self._no_link)

    def on_mux(self, mux: MultiplexerProtocol) -> None:
        """Open the stream."""
        self._waiting = None
        try:
            stream = self._stream = mux.open(self._destination, self._on_outcome)
        except RelayError as error:
            self._fail(error.outcome)
            return
        if self._outbound.answers_early(self._destination):
            self._attach(stream)

    def _attach(self, stream: Stream) -> None:
        done, self._done = self._done, None
        protocol, self._protocol = self._protocol, None
        stream.attach(protocol)
        if done is not None:
            done(stream)

    def _on_outcome(self, outcome: Outcome) -> None:
        self._outbound.learn(self._destination, outcome)
        stream, self._stream = self._stream, None
        if self._done is None or stream is None:
            return  # answered early: the stream itself tells of a failure
        if outcome is Outcome.CONNECTED:
            self._attach(stream)
        else:
            self._fail(outcome)

    def _no_link(self, _failure: Failure) -> None:
        self._waiting = None
        self._fail(Outcome.NO_LINK)

    def _fail(self, outcome: Outcome) -> None:
        done, self._done = self._done, None
        if done is not None:
            done(Failure(RelayError(outcome)))

    def cancel(self) -> None:
        """Give up, unless it is done; `done` is not called then."""
        if self._done is None:
            return
        self._done = None
        waiting, self._waiting = self._waiting, None
        stream, self._stream = self._stream, None
        if waiting is not None:
            waiting.cancel()
        if stream is not None:
            stream.on_outcome = None
            stream.abortConnection()
