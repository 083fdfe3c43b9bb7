"""The end in good order of a session that takes no new streams."""

from __future__ import annotations

from twisted.python.failure import Failure

from phantom.errors import SessionError
from phantom.runtime import Runtime
from phantom.tunnel.mux import MultiplexerProtocol
from phantom.tunnel.session import Session


class Drain:
    """Watches a session until its streams are done, or its time is up, and ends it.

    Args:
        runtime: Clock.
        session: The session.
        mux: Its multiplexer, which has said or heard GOAWAY.
        timeout: Seconds to wait at most.
    """

    #: Seconds between looks: a drain lasts seconds, so a tenth is soon enough.
    INTERVAL = 0.1

    def __init__(
        self, runtime: Runtime, session: Session, mux: MultiplexerProtocol, timeout: float
    ) -> None:
        self._runtime = runtime
        self._session = session
        self._mux = mux
        self._deadline = runtime.clock.seconds() + timeout
        runtime.at_turn_end(self._look)

    def _look(self) -> None:
        if self._session.ended:
            return
        done = not self._mux.streams and self._session.idle and self._mux.lanes.idle
        if done or self._runtime.clock.seconds() >= self._deadline:
            self._mux.close(Failure(SessionError("drained")))
        else:
            self._runtime.call_later(self.INTERVAL, self._look)
