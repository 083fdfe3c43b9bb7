"""Those who wait for a session that takes new streams."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred

from phantom.tunnel.mux import MultiplexerProtocol


class Waiters:
    """Deferreds of a multiplexer, in the order in which they were asked for."""

    def __init__(self) -> None:
        self._deferreds: list[Deferred[MultiplexerProtocol]] = []

    def add(self) -> Deferred[MultiplexerProtocol]:
        """Return a cancellable Deferred of the next multiplexer."""
        deferred: Deferred[MultiplexerProtocol] = Deferred(self._cancelled)
        self._deferreds.append(deferred)
        return deferred

    def _cancelled(self, deferred: Deferred[MultiplexerProtocol]) -> None:
        if deferred in self._deferreds:
            self._deferreds.remove(deferred)

    def serve(self, current: Callable[[], MultiplexerProtocol | None]) -> None:
        """Give everybody the current multiplexer, while there is one."""
        waiting, self._deferreds = self._deferreds, []
        for deferred in waiting:
            if deferred.called:
                continue  # one that was served may cancel another
            mux = current()
            if mux is None:  # or end the session
                self._deferreds.append(deferred)
            else:
                deferred.callback(mux)

    def fail(self, error: Exception) -> None:
        """Tell everybody that there will be none."""
        waiting, self._deferreds = self._deferreds, []
        for deferred in waiting:
            if not deferred.called:  # one that was told may cancel another
                deferred.errback(error)
