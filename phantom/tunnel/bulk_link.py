"""BulkLink: the client's second link, for a session's bulk lane, while there is use for it.

It is dialled when the sender of bulk wishes for it (`phantom.tunnel.lanes`), to where the first one
leads; dialled again when it is lost under streams that use it; and closed when none does any more.
The lane outlives its links, as a session does, and waits without one for the next wish.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from phantom.core.block_pool import BlockPool
from phantom.core.endpoint_list import ServerEndpoint
from phantom.errors import SessionError
from phantom.runtime import Runtime
from phantom.telemetry import Meters, make_logger
from phantom.tunnel.attempt import Connect, Race
from phantom.tunnel.frame import FrameProtocol
from phantom.tunnel.frame_receiver import DeadEnd
from phantom.tunnel.lane import BULK
from phantom.tunnel.mux import MultiplexerProtocol
from phantom.tunnel.redial import Redial
from phantom.tunnel.session import Session

log = make_logger()

#: Seconds between looks at whether a stream still uses the link, and for how many in a row none
#: may: another download often follows, and a link costs a handshake.
IDLE_LOOK = 10.0
IDLE_LOOKS = 3
#: Seconds between two attempts that no stream waits for: a server wishes less often.
PAUSE = 3.0
#: Seconds without a second link, after an attempt that failed and that no stream waited for:
#: perhaps this network allows one.
PATIENCE = 120.0


class BulkLink:
    """The second link of one session.

    Args:
        runtime: Clock and entropy.
        session: The session.
        mux: Its multiplexer.
        pool: Blocks for logs.
        connect: See `phantom.tunnel.attempt.Connect`.
        keepalive: Seconds, see `FrameProtocol`.
        detached_timeout: Seconds that streams on it may wait for a new link.
        where: Returns the endpoint that the first link leads to, None without one.
        instance: What names the server's process.
        meters: Counts links.
    """

    def __init__(
        self,
        runtime: Runtime,
        session: Session,
        mux: MultiplexerProtocol,
        pool: BlockPool,
        connect: Connect,
        *,
        keepalive: float,
        detached_timeout: float,
        where: Callable[[], ServerEndpoint | None],
        instance: bytes,
        meters: Meters,
    ) -> None:
        self._runtime = runtime
        self._session = session
        self._mux = mux
        self._pool = pool
        self._connect = connect
        self._keepalive = keepalive
        self._detached_timeout = detached_timeout
        self._where = where
        self._instance = instance
        self._meters = meters
        self._lane: Session | None = None
        self._attempt: Race | None = None
        self._redial = Redial(runtime, self._dial)
        self._redial.start()
        self._expiry: IDelayedCall | None = None
        self._look: IDelayedCall | None = None
        self._unused = 0
        self._progress = 0
        self._not_before = float("-inf")
        self._over = False

    # -- for the dialer -------------------------------------------------------------------

    def wished(self) -> None:
        """Dial, if there is no link and none is on its way."""
        lane = self._lane
        if self._over or self._mux.draining or (lane is not None and lane.link is not None):
            return
        now = self._runtime.clock.seconds()
        if not self._needed and now < max(self._not_before, self._redial.last_attempt + PAUSE):
            return
        self._redial.cancel()
        self._dial()

    def probe(self) -> None:
        """Ask for a sign of life, or dial again at once: the surroundings have changed."""
        lane = self._lane
        if lane is not None and lane.link is not None:
            lane.link.probe()
        else:
            self._redial.at_once()

    def stop(self) -> None:
        """The session is over."""
        self._over = True
        self._redial.stop()
        for timer in (self._expiry, self._look):
            if timer is not None and timer.active():
                timer.cancel()
        attempt, self._attempt = self._attempt, None
        if attempt is not None:
            attempt.cancel()

    # -- dialling ---------------------------------------------------------------------------

    @property
    def _needed(self) -> bool:
        """Whether a stream waits for it, or the server lacks something that was sent."""
        return self._lane is not None and self._lane.expects

    def _dial(self) -> None:
        endpoint = self._where()
        if self._over or self._attempt is not None:
            return
        if endpoint is None:  # the first link comes first
            self._redial.after_failure()
            return
        self._redial.begun()
        self._attempt = Race(
            self._runtime,
            (endpoint,),
            0.0,
            self._connect,
            self._keepalive,
            on_link=self._link_up,
            on_failure=self._failed,
            on_miss=lambda _endpoint: None,  # of the endpoint the first link knows more
        )
        self._attempt.begin()

    def _failed(self, failure: Failure) -> None:
        self._attempt = None
        self._meters.count("link.failed")
        if self._needed:
            self._redial.after_failure()
        else:
            self._not_before = self._runtime.clock.seconds() + PATIENCE
        log.debug("no second link: {why}", why=failure.getErrorMessage())

    def _link_up(self, link: FrameProtocol, _endpoint: ServerEndpoint) -> None:
        self._attempt = None
        session = self._session
        if link.peer_key != session.peer_key or link.peer_instance != self._instance:
            # Another host, or a server that was restarted: the first link will find out.
            link.receiver = DeadEnd()
            link.lose()
            self._failed(Failure(SessionError("it leads to another server")))
            return
        self._meters.count("link.up")
        lane = self._lane
        if lane is None:
            lane = self._lane = Session(
                self._runtime,
                session.session_id,
                self._mux.lanes.make_bulk(),
                self._pool,
                on_detached=self._detached,
                on_end=self._ended,
                lane=BULK,
            )
            lane.begin(link, partial(self._carries, link))
        else:
            lane.resume(link, partial(self._carries, link))

    def _carries(self, link: FrameProtocol, again: int) -> None:
        """The server has answered on it."""
        link.confirmed()
        log.info("second link up, for bulk; {again} bytes sent again", again=again)
        self._redial.failures = 0
        self._cancel_expiry()
        bulk = self._mux.lanes.bulk
        if bulk is not None:
            bulk.open = True
        self._unused = 0
        if self._look is None:
            self._look = self._runtime.call_later(IDLE_LOOK, self._look_at_use)

    # -- its end ------------------------------------------------------------------------------

    def _look_at_use(self) -> None:
        self._look = None
        lane = self._lane
        if lane is None or lane.link is None:
            return
        self._unused = 0 if lane.expects else self._unused + 1
        if self._unused < IDLE_LOOKS:
            self._look = self._runtime.call_later(IDLE_LOOK, self._look_at_use)
        else:
            log.debug("second link closed: nothing needs it")
            lane.link.lose()

    def _detached(self, lane: Session, reason: Failure) -> None:
        if self._over:
            return
        self._meters.count("link.lost")
        progress, self._progress = lane.progress > self._progress, lane.progress
        if not lane.expects:
            bulk = self._mux.lanes.bulk
            if bulk is None or not bulk.open:  # it was refused, without a word
                self._not_before = self._runtime.clock.seconds() + PATIENCE
            return  # until the next wish
        log.debug("second link lost: {why}; dialling anew", why=reason.getErrorMessage())
        if self._expiry is None:
            self._expiry = self._runtime.call_later(self._detached_timeout, self._expire, lane)
        if self._attempt is None:
            self._redial.after_loss(progress)

    def _expire(self, lane: Session) -> None:
        self._expiry = None
        if lane.link is None and lane.expects:
            lane.end(Failure(SessionError("no second link to the server for too long")))

    def _cancel_expiry(self) -> None:
        expiry, self._expiry = self._expiry, None
        if expiry is not None and expiry.active():
            expiry.cancel()

    def _ended(self, _lane: Session, reason: Failure) -> None:
        if not self._over:
            log.info("no second link any more: {why}", why=reason.getErrorMessage())
            self.stop()
