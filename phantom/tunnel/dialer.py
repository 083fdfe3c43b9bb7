"""Dialer: keeps the client linked to its server, for ever.

It dials when started, again with back-off when a link is lost or cannot be made, and at
once when somebody asks for the tunnel after a pause or the machine wakes from sleep.
"""

from __future__ import annotations

from functools import partial

import attrs
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionClosed, ConnectionLost
from twisted.internet.interfaces import IDelayedCall, IStreamClientEndpoint
from twisted.python.failure import Failure

from phantom.core.block_pool import BlockPool
from phantom.core.endpoint_list import ServerEndpoint
from phantom.core.freezes import YOUNG
from phantom.core.wire import SESSION_ID_SIZE, GoawayReason
from phantom.errors import HandshakeError, PhantomError, SessionError
from phantom.runtime import Runtime
from phantom.telemetry import Meters, make_logger
from phantom.tunnel.attempt import Connect, Race
from phantom.tunnel.bulk_link import BulkLink
from phantom.tunnel.dialer_settings import DialerSettings, Dialled
from phantom.tunnel.endpoints import KnownEndpoints
from phantom.tunnel.frame import FrameProtocol
from phantom.tunnel.initiator import InitiatorSettings
from phantom.tunnel.mux import MultiplexerProtocol
from phantom.tunnel.redial import Redial
from phantom.tunnel.renewal import Renewal
from phantom.tunnel.session import Session
from phantom.tunnel.session_drain import Drain
from phantom.tunnel.surroundings import Surroundings
from phantom.tunnel.waiters import Waiters

log = make_logger()

#: Seconds, and round trips of the link that was lost, that an attempt begun before may still
#: take: what silenced the link may have silenced it too, and its own time-outs are for
#: servers that do not answer, far longer than streams should stand still.
DOUBT = 1.0
DOUBT_ROUND_TRIPS = 8.0
#: Seconds that the streams of a session which takes no new ones may go on: a server that
#: restarts ends them sooner, and a session whose ids ran out may hold a long download.
LONG_DRAIN = 3600.0
#: Seconds that open streams wait for their own host before another one, where they could not
#: go on, may take the session's place: a cut is over by then, and a program that asked for a
#: new connection still waits (``link_wait``).
HOST_PATIENCE = 8.0


class Dialer:
    """Keeps one session to the server alive, by one link after the other.

    Args:
        runtime: Clock and entropy.
        known: The server's endpoints.
        connect: See `phantom.tunnel.attempt.Connect`.
        settings: See `DialerSettings`.
        meters: Counts links.

    Attributes:
        last_failure: Why the last attempt failed, None after a success.
    """

    def __init__(
        self,
        runtime: Runtime,
        known: KnownEndpoints,
        connect: Connect,
        settings: DialerSettings,
        meters: Meters,
    ) -> None:
        self._runtime = runtime
        self._known = known
        self._connect = connect
        self._settings = settings
        self._meters = meters
        self._pool = BlockPool()
        self.last_failure: Failure | None = None
        self._mux: MultiplexerProtocol | None = None
        self._session: Session | None = None
        self._instance = b""
        self._old: dict[Session, MultiplexerProtocol | None] = {}
        # The second links of those sessions that had a use for one.
        self._bulk_links: dict[Session, BulkLink] = {}
        self._waiters = Waiters()
        self._attempt: Race | None = None
        self._doubt: IDelayedCall | None = None
        self._surroundings = Surroundings(runtime, self._surroundings_changed)
        self._expiry: IDelayedCall | None = None
        self._redial = Redial(runtime, self._dial)
        self._renewal = Renewal(runtime, self._redial, self._dial, lambda: known.network)
        self._link: FrameProtocol | None = None
        # The newest link that came about, until its end is told to `known`.
        self._dialled: Dialled | None = None
        self._progress = 0
        self._lost_at = 0.0
        self._lost_why = ""
        self._running = False
        self._stopping = False
        self._stopped: list[Deferred[None]] = []

    @property
    def mux(self) -> MultiplexerProtocol | None:
        """The session's multiplexer while a link carries it, None otherwise."""
        session = self._session
        return self._mux if session is not None and session.link is not None else None

    # -- for the service ------------------------------------------------------------------

    def start(self) -> None:
        """Dial, and keep the link from now on."""
        self._running, self._stopping = True, False
        self._redial.start()
        self._surroundings.start()
        self._renewal.start()
        self._dial()

    def stop(self) -> Deferred[None]:
        """Say goodbye, let streams finish for a moment, then close everything."""
        self._running, self._stopping = False, True
        self._surroundings.stop()
        self._redial.stop()
        self._renewal.cancel()
        self._cancel_expiry()
        if self._doubt is not None:
            self._doubt.cancel()
            self._doubt = None
        if self._attempt is not None:
            self._attempt.cancel()
            self._attempt = None
        self._known.close()
        self._waiters.fail(SessionError("the client is stopping"))
        done: Deferred[None] = Deferred()
        self._stopped.append(done)
        for session, mux in list(self._old.items()):
            if mux is not None:  # it has had an hour to drain, and has this now
                Drain(self._runtime, session, mux, self._settings.drain_timeout)
        if self._session is not None:
            self._retire(GoawayReason.SHUTDOWN, self._settings.drain_timeout)
        self._check_stopped()
        return done

    def hurry(self) -> None:
        """End at once what `stop` waits for."""
        for session in list(self._old):
            session.finish(Failure(SessionError("the client is stopping")))

    # -- for the outbound -------------------------------------------------------------------

    def when_ready(self) -> Deferred[MultiplexerProtocol]:
        """Return a cancellable Deferred of a multiplexer that takes new streams."""
        if self._stopping:
            return fail(SessionError("the client is stopping"))
        mux = self.mux
        if mux is not None and not mux.draining:
            if not mux.exhausted:
                return succeed(mux)
            self._retire(GoawayReason.IDS_EXHAUSTED, LONG_DRAIN)
            self._dial()
        deferred = self._waiters.add()
        self._redial.hurry()
        return deferred

    # -- dialling ---------------------------------------------------------------------------

    def _dial(self) -> None:
        if not self._running or self._attempt is not None:
            return
        self._redial.begun()
        now = self._runtime.clock.seconds()
        session, mux = self._session, self._mux
        waits = session is not None and session.link is None
        course = self._known.course(None if session is None else session.peer_key, hurry=waits)
        first, later = course.endpoints, course.others
        patience = 0.0
        if waits and mux is not None and mux.streams:
            patience = max(0.0, self._lost_at + HOST_PATIENCE - now)
        if not first or (waits and not patience):
            first, later = (*first, *later), ()
        network = self._known.network
        self._attempt = Race(
            self._runtime,
            first,
            course.stagger,
            self._prepare,
            self._settings.keepalive,
            on_link=lambda link, endpoint: self._link_up(link, endpoint, network),
            on_failure=self._link_failed,
            on_miss=lambda endpoint: self._known.failed(endpoint, network),
        )
        if waits and later:
            self._attempt.add_later(later, patience)
        self._attempt.begin()

    def _prepare(self, endpoint: ServerEndpoint) -> tuple[IStreamClientEndpoint, InitiatorSettings]:
        carrier, settings = self._connect(endpoint)
        return carrier, attrs.evolve(settings, lean=self._renewal.lean)

    def _link_up(self, link: FrameProtocol, endpoint: ServerEndpoint, network: str) -> None:
        self._attempt = None
        self.last_failure = None
        self._meters.count("link.up")
        self._known.worked(endpoint, network)
        self._dialled = Dialled(link, endpoint, network, self._runtime.clock.seconds())
        session = self._session
        if session is not None and link.peer_key != session.peer_key:
            self._leave_host(session)
            session = None
        elif session is not None and link.peer_instance != self._instance:
            # Whatever the old process held is gone; nobody should wait for it.
            self._abandon(session, "the server was restarted")
            session = None
        if session is None:
            self._begin(link)
        else:
            session.resume(link, partial(self._resumed, session, link))

    def _leave_host(self, session: Session) -> None:
        """Make way for a session on another host, where this one cannot go on."""
        self._meters.count("session.moved")
        if session.link is None:
            self._abandon(session, "the server is reached at another host now")
        else:
            log.info("moving to another host; open connections end at the old one")
            self._retire(None, LONG_DRAIN)

    def _abandon(self, session: Session, why: str) -> None:
        """End a session that nothing can resume, in favour of another one."""
        self._session = self._mux = None
        self._old[session] = None
        log.info("session lost: {why}; its streams are reset", why=why)
        session.end(Failure(SessionError(why)))

    def _begin(self, link: FrameProtocol) -> None:
        log.info("link up after {ms} ms", ms=self._milliseconds_since(self._redial.last_attempt))
        if not link.post_quantum:
            log.info("its keys rest on X25519 alone: no post-quantum exchange was done")
        self._instance = link.peer_instance
        self._progress = 0
        self._mux = MultiplexerProtocol(
            self._runtime,
            self._settings.limits,
            client=True,
            on_goaway=self._goaway,
            on_endpoints=self._endpoints_pushed,
            on_scheme=self._settings.on_scheme,
            on_lane=self._lane_wished,
        )
        self._session = Session(
            self._runtime,
            self._runtime.entropy(SESSION_ID_SIZE),
            self._mux,
            self._pool,
            on_detached=self._detached,
            on_end=self._session_ended,
        )
        self._session.begin(link, partial(self._confirmed, link))
        self._link_carries()

    def _resumed(self, session: Session, link: FrameProtocol, again: int) -> None:
        self._meters.count("session.resumed")
        link.confirmed()
        if session is not self._session:
            return  # retired meanwhile: its link is nobody's hope
        if self._expiry is None:
            log.info("link replaced by a fresh one; {again} bytes sent again", again=again)
            self._renewal.replaced()
        else:
            log.info(
                "link lost ({why}); resumed after {ms} ms, {again} bytes sent again",
                why=self._lost_why,
                ms=self._milliseconds_since(self._lost_at),
                again=again,
            )
        self._redial.failures = 0
        self._link_carries()

    def _confirmed(self, link: FrameProtocol, _again: int) -> None:
        """The server has answered: what failed before does not count any more."""
        link.confirmed()
        self._redial.failures = 0

    def _link_carries(self) -> None:
        """The session has a link: nothing is urgent any more."""
        self._cancel_expiry()
        self._redial.cancel()
        session = self._session
        link = None if session is None else session.link
        if link is not None:
            self._link = link
        self._renewal.watch(link, self._settings.link_max_age)
        for bulk in self._bulk_links.values():
            bulk.main_up()
        self._waiters.serve(lambda: self.mux)

    def _cancel_expiry(self) -> None:
        expiry, self._expiry = self._expiry, None
        if expiry is not None and expiry.active():
            expiry.cancel()

    def _milliseconds_since(self, moment: float) -> int:
        return round((self._runtime.clock.seconds() - moment) * 1000)

    def _link_failed(self, failure: Failure) -> None:
        self._attempt = None
        self.last_failure = failure
        self._meters.count("link.failed")
        why = str(failure.value) if failure.check(PhantomError) else failure.getErrorMessage()
        if self.mux is not None:
            self._redial.failures += 1
            log.info("no fresh link: {why}; the present one stays", why=why)
            self._link_carries()
            return
        delay = self._redial.after_failure(quickly=self._was_cut_off(failure))
        log.warn(
            "no link: {why}; next attempt in {delay:.1f} s (failure {count} in a row)",
            why=why,
            delay=delay,
            count=self._redial.failures,
        )

    def _was_cut_off(self, failure: Failure) -> bool:
        """Whether streams wait, and what cut their link seems to have cut the next one too."""
        return (
            self._expiry is not None
            and failure.check(HandshakeError, ConnectionClosed) is not None
            and self._redial.may_be_quick()
        )

    # -- a second link ------------------------------------------------------------------------

    def _lane_wished(self, mux: MultiplexerProtocol) -> None:
        """Bulk would be better off on a link of its own, if links do not die young here."""
        session = mux.session
        bulk = None if session is None else self._bulk_links.get(session)
        if bulk is not None:
            bulk.wished()
        elif session is not None and self._settings.lanes and not self._renewal.lean:
            self._make_bulk_link(session, mux).wished()

    def _make_bulk_link(self, session: Session, mux: MultiplexerProtocol) -> BulkLink:
        bulk = self._bulk_links[session] = BulkLink(
            self._runtime,
            session,
            mux,
            self._pool,
            self._prepare,
            self._settings,
            where=lambda: self._dialled,
            instance=self._instance,
            renewal=self._renewal,
            meters=self._meters,
        )
        return bulk

    # -- the link's end -----------------------------------------------------------------------

    def _detached(self, session: Session, reason: Failure) -> None:
        """The session's link is lost: keep the session, dial anew."""
        if session is not self._session:
            session.end(reason)  # it was draining
            return
        if self._expiry is None:
            self._lost_at = self._runtime.clock.seconds()
            self._lost_why = reason.getErrorMessage().rstrip(".")
            self._meters.count("link.lost")
            log.debug("link lost: {why}; dialling anew", why=self._lost_why)
            self._expiry = self._runtime.call_later(
                self._settings.detached_timeout, self._expire, session
            )
        link, self._link = self._link, None
        if link is not None:
            self._doubt_attempt(link.round_trip or 0.0)
            self._renewal.lost(link, reset_young=self._was_reset_young(session, link, reason))
        dialled = self._dialled
        if dialled is not None and (link is None or link is dialled.link):
            # Without a link before, it is the new one that died before it could take over.
            self._dialled = None
            lived = self._runtime.clock.seconds() - dialled.since
            self._known.lost(dialled.endpoint, dialled.network, lived)
        progress, self._progress = session.progress > self._progress, session.progress
        if self._attempt is None and self._running:
            self._redial.after_loss(progress)

    def _was_reset_young(self, session: Session, link: FrameProtocol, reason: Failure) -> bool:
        """Whether a reset came to a link at work that was new: perhaps for what it carried."""
        dialled = self._dialled
        return (
            reason.check(ConnectionLost) is not None
            and session.expects
            and dialled is not None
            and dialled.link is link
            and self._runtime.clock.seconds() - dialled.since < YOUNG
        )

    def _doubt_attempt(self, round_trip: float) -> None:
        """Give the attempt that is under way, if any, only a moment more."""
        if self._attempt is None or self._doubt is not None or not self._running:
            return
        patience = max(DOUBT, DOUBT_ROUND_TRIPS * round_trip)
        self._doubt = self._runtime.call_later(patience, self._dial_instead_of, self._attempt)

    def _dial_instead_of(self, attempt: Race) -> None:
        self._doubt = None
        if self._attempt is attempt:
            self._attempt = None
            attempt.cancel()
            self._dial()

    def _expire(self, session: Session) -> None:
        self._expiry = None
        session.end(Failure(SessionError("no link to the server for too long")))

    # -- the session's end --------------------------------------------------------------------

    def _goaway(self, mux: MultiplexerProtocol, reason: int) -> None:
        session = self._session
        if mux is not self._mux or session is None:
            return
        if reason == GoawayReason.REVOKED:
            # Waiting for a new link would be in vain.
            self._runtime.at_turn_end(
                lambda: session.end(Failure(SessionError("the server removed this client's key")))
            )
        else:
            log.info("the server takes no new streams here; dialling anew")
            self._retire(None, LONG_DRAIN)
            self._redial.after_failure()  # the server may be restarting: not at once

    def _endpoints_pushed(self, mux: MultiplexerProtocol, signed: bytes) -> None:
        """The server has sent a list of its endpoints; perhaps this host is none any more."""
        if not self._known.learn(signed) or mux is not self._mux:
            return
        session = self._session
        if session is None or session.peer_key is None or self._known.trusts(session.peer_key):
            return
        log.info("the server has moved; dialling its new place")
        self._runtime.at_turn_end(self._renewal.now)

    def _retire(self, reason: GoawayReason | None, timeout: float) -> None:
        """Let the present session drain, beside its successor if there will be one."""
        session, mux = self._session, self._mux
        self._session = self._mux = None
        if session is None or mux is None:
            return
        self._old[session] = mux
        if session.link is None:
            session.end(Failure(SessionError("the tunnel is closed")))
            return
        if reason is not None:
            mux.goaway(reason)
        Drain(self._runtime, session, mux, timeout)

    def _session_ended(self, session: Session, reason: Failure) -> None:
        self._meters.count("session.ended")
        bulk = self._bulk_links.pop(session, None)
        if bulk is not None:
            bulk.stop()
        if session in self._old:
            del self._old[session]
            self._check_stopped()
            return
        if session is not self._session:
            return
        self._session = self._mux = None
        self._cancel_expiry()
        self._renewal.cancel()
        log.info("session lost: {why}; its streams are reset", why=reason.getErrorMessage())
        if self._running:
            self._redial.after_failure()

    def _check_stopped(self) -> None:
        if not self._old and self._session is None:
            stopped, self._stopped = self._stopped, []
            for done in stopped:
                done.callback(None)

    # -- sleep and other networks ---------------------------------------------------------------

    def _surroundings_changed(self, moved: bool) -> None:
        """Look after the link now: it may be dead without anybody having said so."""
        self._renewal.woken(moved)
        self._meters.count("wake")
        for bulk in self._bulk_links.values():
            bulk.probe()
        session = self._session
        if session is not None and session.link is not None:
            session.link.probe()
        else:
            self._redial.failures = 0
            self._redial.at_once()
