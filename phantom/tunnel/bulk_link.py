"""BulkLink: the client's second link, for a session's bulk lane, while there is use for it.

It is dialled when the sender of bulk wishes for it (`phantom.tunnel.lanes`), to where the first one
leads; dialled again when it is lost; and closed when nothing has moved by it for a while. The lane
outlives its links, as a session does, and waits without one for the next wish.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from phantom.core.block_pool import BlockPool
from phantom.core.endpoint_list import ServerEndpoint
from phantom.core.freezes import YOUNG
from phantom.core.wire import BULK_LANE
from phantom.errors import SessionError
from phantom.runtime import Runtime
from phantom.telemetry import Meters, make_logger
from phantom.tunnel.attempt import Connect, Race
from phantom.tunnel.dialer_settings import DialerSettings, Dialled
from phantom.tunnel.frame import FrameProtocol
from phantom.tunnel.frame_receiver import DeadEnd
from phantom.tunnel.mux import MultiplexerProtocol
from phantom.tunnel.post_quantum import SecretForgottenError
from phantom.tunnel.redial import Redial
from phantom.tunnel.renewal import AGE_SPREAD, Renewal
from phantom.tunnel.session import Session

log = make_logger()

#: Seconds between looks at the link, and for how many in a row nothing may move by it before it is
#: closed: another download often follows, and a link costs a handshake.
LOOK = 10.0
STILL = 3
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
        settings: See `DialerSettings`: for this link the same as for the first.
        where: Returns the first link and its endpoint, None without one.
        instance: What names the server's process.
        renewal: Learns from how links end.
        meters: Counts links.
    """

    def __init__(
        self,
        runtime: Runtime,
        session: Session,
        mux: MultiplexerProtocol,
        pool: BlockPool,
        connect: Connect,
        settings: DialerSettings,
        *,
        where: Callable[[], Dialled | None],
        instance: bytes,
        renewal: Renewal,
        meters: Meters,
    ) -> None:
        self._runtime = runtime
        self._session = session
        self._mux = mux
        self._pool = pool
        self._connect = connect
        self._settings = settings
        self._where = where
        self._renewal = renewal
        self._instance = instance
        self._meters = meters
        self._lane: Session | None = None
        self._attempt: Race | None = None
        self._redial = Redial(runtime, self._dial)
        self._redial.start()
        self._endpoint: ServerEndpoint | None = None
        self._expiry: IDelayedCall | None = None
        self._look: IDelayedCall | None = None
        # The link, when it was made, and the age at which it is replaced.
        self._link: FrameProtocol | None = None
        self._since = self._age = 0.0
        # As of the last look, what had moved, and for how many looks nothing had.
        self._seen = self._still = 0
        self._progress = 0
        self._not_before = float("-inf")
        # It was lost, and another one is due.
        self._lost = False
        # We are closing it; and a wish has come for the one there is.
        self._leaving = self._owed = False
        self._over = False

    # -- for the dialer -------------------------------------------------------------------

    def wished(self) -> None:
        """The sender of bulk has a use for it: dial, if there is no link and none on its way."""
        lane = self._lane
        if self._over:
            return
        if lane is not None and lane.link is not None:
            # Perhaps the server knows already that it is gone, or we are about to close it.
            self._owed = True
            lane.link.probe()
            return
        if lane is None and self._mux.draining:
            return
        now = self._runtime.clock.seconds()
        if self._lost or now >= max(self._not_before, self._redial.last_attempt + PAUSE):
            self._dial_now()

    def main_up(self) -> None:
        """The first link is there: what the second one waited for is over."""
        if self._lost:
            self._dial_now()

    def probe(self) -> None:
        """Ask for a sign of life, or dial again at once: the surroundings have changed."""
        lane = self._lane
        if lane is not None and lane.link is not None:
            lane.link.probe()
        elif self._lost:
            self._dial_now()

    def stop(self) -> None:
        """The session is over."""
        self._over = True
        self._redial.stop()
        self._cancel_expiry()
        if self._look is not None:
            self._look.cancel()
            self._look = None
        attempt, self._attempt = self._attempt, None
        if attempt is not None:
            attempt.cancel()

    # -- dialling ---------------------------------------------------------------------------

    def _dial_now(self) -> None:
        self._redial.failures = 0
        self._redial.cancel()
        self._dial()

    def _dial(self) -> None:
        if self._over or self._attempt is not None:
            return
        first, session = self._where(), self._session
        if first is not None and first.link.peer_key == session.peer_key:
            self._endpoint = first.endpoint
        elif session.link is None:
            return  # the first link comes first, see `main_up`
        endpoint = self._endpoint
        if endpoint is None:
            return
        self._redial.begun()
        self._attempt = Race(
            self._runtime,
            (endpoint,),
            0.0,
            self._connect,
            self._settings.keepalive,
            on_link=self._link_up,
            on_failure=self._failed,
            on_miss=lambda _endpoint: None,  # of the endpoint the first link knows more
        )
        self._attempt.begin()

    def _failed(self, failure: Failure) -> None:
        self._attempt = None
        self._meters.count("link.failed")
        log.debug("no second link: {why}", why=failure.getErrorMessage())
        if self._lost or failure.check(SecretForgottenError):
            self._redial.after_failure()
        else:
            self._not_before = self._runtime.clock.seconds() + PATIENCE

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
                lane=BULK_LANE,
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
        self._lost = self._owed = self._leaving = False
        self._link = link
        self._since = self._runtime.clock.seconds()
        self._age = self._settings.link_max_age * self._runtime.uniform(*AGE_SPREAD)
        bulk = self._mux.lanes.bulk
        if bulk is not None:
            bulk.open = True
        self._still = 0
        if self._look is None:
            self._look = self._runtime.call_later(LOOK, self._look_at_use)

    # -- its end ------------------------------------------------------------------------------

    def _look_at_use(self) -> None:
        self._look = None
        lane = self._lane
        if lane is None or lane.link is None:
            return
        moved, self._seen = lane.progress != self._seen, lane.progress
        self._still = 0 if moved or not lane.idle else self._still + 1
        if self._still >= STILL:
            log.debug("second link closed: nothing comes by it")
            self._leaving, self._owed = True, False
            lane.link.lose()
            return
        if self._age and self._runtime.clock.seconds() - self._since >= self._age:
            self._dial()  # to take over while the present one carries
        self._look = self._runtime.call_later(LOOK, self._look_at_use)

    def _detached(self, lane: Session, reason: Failure) -> None:
        """It has no link any more; streams go on by the first if they can."""
        settled = self._mux.lanes.retreat()
        if self._over:
            return
        self._meters.count("link.lost")
        bulk = self._mux.lanes.bulk
        if bulk is None or not bulk.open:  # it was refused, without a word
            self._not_before = self._runtime.clock.seconds() + PATIENCE
            return
        if self._leaving and settled and not self._owed:
            return  # until the next wish
        # What the server has sent by it may be on its way: another link will tell.
        log.debug("second link lost: {why}; dialling anew", why=reason.getErrorMessage())
        self._lost, self._leaving = True, False
        self._learn(lane, reason)
        if self._expiry is None:
            timeout = self._settings.detached_timeout
            self._expiry = self._runtime.call_later(timeout, self._expire, lane)
        progress, self._progress = lane.progress > self._progress, lane.progress
        if self._attempt is None:
            self._redial.after_loss(progress)

    def _learn(self, lane: Session, reason: Failure) -> None:
        link, self._link = self._link, None
        if link is not None:
            young = self._runtime.clock.seconds() - self._since < YOUNG
            reset = reason.check(ConnectionLost) is not None
            self._renewal.lost(link, reset_young=reset and young and lane.expects)

    def _expire(self, lane: Session) -> None:
        self._expiry = None
        self._lost = False
        self._redial.cancel()
        if lane.link is None and not lane.idle:
            lane.end(Failure(SessionError("no second link to the server for too long")))

    def _cancel_expiry(self) -> None:
        expiry, self._expiry = self._expiry, None
        if expiry is not None:
            expiry.cancel()

    def _ended(self, _lane: Session, reason: Failure) -> None:
        if self._over:
            return
        log.info("no second link: {why}", why=reason.getErrorMessage())
        bulk = self._mux.lanes.bulk
        if bulk is not None and bulk.open:
            self.stop()
            return
        # It never began; the server may have room for it later.
        self._mux.lanes.bulk = self._lane = None
        self._not_before = self._runtime.clock.seconds() + PATIENCE
