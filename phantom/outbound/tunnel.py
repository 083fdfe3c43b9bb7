"""The client's outbound: a destination becomes a stream of the tunnel."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from phantom.address import Destination
from phantom.core.recent import RecentDestinations
from phantom.errors import Outcome, RelayError
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
        mux = self._dialer.mux
        opening = Opening(self, destination, protocol)
        if mux is not None and not mux.draining and not mux.exhausted:
            opening.on_mux(mux)
        else:
            opening.wait(self._dialer.when_ready(), self._link_wait, self._runtime)
        return opening.deferred

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

    Attributes:
        deferred: Fires with the stream, or fails with `RelayError`.
    """

    __slots__ = ("_destination", "_outbound", "_protocol", "_stream", "_waiting", "deferred")

    def __init__(self, outbound: TunnelOutbound, destination: Destination, protocol: Any) -> None:
        self._outbound = outbound
        self._destination = destination
        self._protocol = protocol
        self._stream: Stream | None = None
        self._waiting: Deferred[MultiplexerProtocol] | None = None
        self.deferred: Deferred[Any] = Deferred(self._cancelled)

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
            self.deferred.errback(error)
            return
        if self._outbound.answers_early(self._destination):
            self._attach(stream)

    def _attach(self, stream: Stream) -> None:
        stream.attach(self._protocol)
        self.deferred.callback(stream)

    def _on_outcome(self, outcome: Outcome) -> None:
        self._outbound.learn(self._destination, outcome)
        stream, self._stream = self._stream, None
        if self.deferred.called or stream is None:
            return  # answered early: the stream itself tells of a failure
        if outcome is Outcome.CONNECTED:
            self._attach(stream)
        else:
            self.deferred.errback(RelayError(outcome))

    def _no_link(self, failure: Failure) -> None:
        self._waiting = None
        if not self.deferred.called:
            self.deferred.errback(RelayError(Outcome.NO_LINK))

    def _cancelled(self, deferred: Deferred[Any]) -> None:
        waiting, self._waiting = self._waiting, None
        stream, self._stream = self._stream, None
        deferred.errback(RelayError(Outcome.CANCELLED))
        if waiting is not None:
            waiting.cancel()
        if stream is not None:
            stream.on_outcome = None
            stream.abortConnection()
