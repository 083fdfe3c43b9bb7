"""The server's sessions: which link carries which, and who may have how many."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from phantom.core.block_pool import BlockPool
from phantom.core.claims import Claim
from phantom.core.detached import DetachedLimits, Holding, too_many
from phantom.core.wire import (
    BULK_LANE,
    MAIN_LANE,
    Attach,
    AttachStatus,
    FrameType,
    GoawayReason,
    pack_frame,
)
from phantom.errors import RemoteProtocolError, SessionError
from phantom.runtime import Runtime
from phantom.telemetry import Meters, make_logger
from phantom.tunnel.frame import FrameProtocol
from phantom.tunnel.frame_receiver import DeadEnd
from phantom.tunnel.mux import Acceptor, MultiplexerProtocol, MuxLimits
from phantom.tunnel.pending import PendingLink
from phantom.tunnel.session import Session
from phantom.tunnel.session_drain import Drain
from phantom.tunnel.session_log import SessionLog

log = make_logger()

#: Seconds between looks at what sessions without a link hold: their destinations may go on
#: sending for a moment.
DETACHED_LOOK = 5.0
#: How many ids of sessions that ended are remembered.
REMEMBERED_ENDS = 4096
#: A link not heard of for so long may give way to a new one of the same client: any client
#: with a keepalive of up to 100 s has pinged in between.
SILENT = 150.0


@attrs.define(slots=True)
class _Waiting:
    """What is known of a session without a link: when it is given up, and what it holds."""

    expiry: IDelayedCall
    held: int


class OtherWorkers(Protocol):
    """What a registry asks of the server's other worker processes."""

    def claim(self, client: bytes, session_id: bytes, most: int) -> Claim:
        """Claim a session that begins, one of at most so many of its client."""
        ...

    def end(self, client: bytes, session_id: bytes) -> None:
        """Note that a session has ended."""
        ...

    def count_elsewhere(self, client: bytes) -> int:
        """Return how many sessions of a client the others have."""
        ...

    def ask_for_room(self, client: bytes) -> None:
        """Ask the others to let one of a client's sessions give way; ends later."""
        ...


class SessionRegistry:
    """All sessions of one server, or of one of its worker processes.

    Args:
        runtime: Clock.
        limits: What each session may hold.
        max_links: Live links a client key may have, all sessions together.
        acceptor: Given a client key, returns what its streams are accepted by.
        attach_timeout: Seconds a link that passed the handshake may take to say ATTACH.
        meters: Counts sessions.
        detached: What sessions without a link may keep.
        endpoints: The signed list of endpoints to push; empty for none.
        scheme: The encoded padding scheme to push; empty for none.
        others: The other worker processes; None where there are none.

    Attributes:
        log: How much may be written about each client's sessions.
    """

    def __init__(
        self,
        runtime: Runtime,
        limits: MuxLimits,
        *,
        detached: DetachedLimits | None = None,
        max_links: int,
        acceptor: Callable[[bytes], Acceptor],
        attach_timeout: float,
        meters: Meters,
        endpoints: bytes = b"",
        scheme: bytes = b"",
        others: OtherWorkers | None = None,
    ) -> None:
        self._runtime = runtime
        self._limits = limits
        self._others = others
        self._max_links = max_links
        self._acceptor = acceptor
        self._attach_timeout = attach_timeout
        self._meters = meters
        self._endpoints = endpoints
        self._scheme = scheme
        self._pool = BlockPool()
        self.log = SessionLog(runtime.clock)
        self._sessions: dict[bytes, tuple[Session, MultiplexerProtocol]] = {}
        self._detached_limits = detached or DetachedLimits()
        # Sessions without a link, the longest without one first.
        self._detached: dict[Session, _Waiting] = {}
        self._look: IDelayedCall | None = None
        # Ids of sessions that ended lately, the first to end first.  A client whose first link
        # died before the answer asks for its session as for a new one; what it had sent would
        # be carried out twice.
        self._gone: dict[bytes, None] = {}
        self._pending: set[PendingLink] = set()
        self._empty: list[Deferred[None]] = []
        self._closing = False

    def __len__(self) -> int:
        return len(self._sessions)

    @property
    def streams(self) -> int:
        """How many streams are open in all."""
        return sum(len(mux.streams) for _, mux in self._sessions.values())

    def receive(self) -> PendingLink:
        """Return the receiver for a link whose session is not known yet."""
        return PendingLink(self._runtime, self, self._attach_timeout)

    # -- links --------------------------------------------------------------------------

    def link_pending(self, pending: PendingLink) -> None:
        """Remember a link that has yet to say which session it carries."""
        self._pending.add(pending)

    def link_settled(self, pending: PendingLink) -> None:
        """Forget it again."""
        self._pending.discard(pending)

    def attach(self, link: FrameProtocol, attach: Attach) -> None:
        """Give a link to the session it names, or begin that session.

        Raises:
            RemoteProtocolError: The ATTACH contradicts what this side knows.
        """
        if attach.lane not in (MAIN_LANE, BULK_LANE) or attach.status:
            raise RemoteProtocolError("an ATTACH for a lane that there is not, or with a verdict")
        if attach.lane == BULK_LANE:
            self._attach_bulk(link, attach)
            return
        known = self._sessions.get(attach.session_id)
        if known is not None:
            session = known[0]
            if session.peer_key != link.peer_key or attach.epoch <= session.epoch:
                # Somebody else's id, or a link older than the present one.
                self._refuse(link, attach, AttachStatus.SESSION_LOST)
                return
            # When the numbers do not fit, the session stays as it is, and its time goes on.
            again = session.attach(link, attach)
            self._waits_no_more(session)
            self._meters.count("session.resumed")
            self._tell(link.peer_key, "session resumed; {again} bytes sent again", again=again)
        elif attach.next_sequence or attach.received or attach.session_id in self._gone:
            # Whatever was exchanged went to a process that is gone, or has expired here.
            self._refuse(link, attach, AttachStatus.SESSION_LOST)
        elif self._closing:
            self._refuse(link, attach, AttachStatus.SHUTTING_DOWN)
        elif not self._make_room(link.peer_key):
            self._refuse(link, attach, AttachStatus.LIMIT)
        else:
            self._claim(link, attach)

    def _attach_bulk(self, link: FrameProtocol, attach: Attach) -> None:
        """Give a session the link for its bulk lane, the first one or a further one.

        Raises:
            RemoteProtocolError: The ATTACH contradicts what this side knows.
        """
        known = self._sessions.get(attach.session_id)
        if known is None or known[0].peer_key != link.peer_key or self._closing:
            self._refuse(link, attach, AttachStatus.SESSION_LOST)
            return
        session, mux = known
        bulk = mux.lanes.bulk
        if bulk is None and not (attach.next_sequence or attach.received):
            if self._links_of(link.peer_key) >= self._max_links:
                self._refuse(link, attach, AttachStatus.LIMIT)
                return
            bulk = mux.lanes.make_bulk()
            Session(
                self._runtime,
                attach.session_id,
                bulk,
                self._pool,
                on_detached=self._bulk_detached,
                on_end=lambda lane, _reason: self._waits_no_more(lane),
                may_tell=self.log.allows,
                lane=BULK_LANE,
            )
        lane = None if bulk is None else bulk.session
        if bulk is None or lane is None or attach.epoch <= lane.epoch:
            self._refuse(link, attach, AttachStatus.SESSION_LOST)
            return
        again = lane.attach(link, attach)
        self._waits_no_more(lane)
        bulk.open = True
        link.probe()  # bulk moves when there is an answer
        self._meters.count("lane.attached")
        self._tell(session.peer_key, "second link of a session; {again} bytes again", again=again)

    def _links_of(self, client_key: bytes) -> int:
        """Return how many links a client's sessions have or wait for, here and elsewhere."""
        own = (mux for session, mux in self._sessions.values() if session.peer_key == client_key)
        lanes = [mux.lanes.bulk for mux in own if mux.lanes.bulk is not None]
        return self._sessions_of(client_key) + sum(lane.session is not None for lane in lanes)

    def _sessions_of(self, client_key: bytes) -> int:
        """Return how many sessions a client has, here and elsewhere."""
        count = sum(s.peer_key == client_key for s, _ in self._sessions.values())
        if self._others is not None:
            count += self._others.count_elsewhere(client_key)
        return count

    def _claim(self, link: FrameProtocol, attach: Attach) -> None:
        """Begin a session, unless it turns out to be another worker's."""
        claim = Claim.GRANTED
        if self._others is not None:
            claim = self._others.claim(link.peer_key, attach.session_id, self._max_links)
        if claim is Claim.GRANTED:
            self._begin(link, attach)
        elif claim is Claim.TAKEN:
            # Two links for a new session, at the same moment.  The client dials again, and is
            # passed on then.
            link.receiver = DeadEnd()
            link.abort()
        elif claim is Claim.ENDED:
            self._refuse(link, attach, AttachStatus.SESSION_LOST)
        else:
            self._refuse(link, attach, AttachStatus.LIMIT)

    def _begin(self, link: FrameProtocol, attach: Attach) -> None:
        mux = MultiplexerProtocol(
            self._runtime, self._limits, client=False, acceptor=self._acceptor(link.peer_key)
        )
        session = Session(
            self._runtime,
            attach.session_id,
            mux,
            self._pool,
            on_detached=self._session_detached,
            on_end=self._session_ended,
            may_tell=self.log.allows,
        )
        self._sessions[attach.session_id] = session, mux
        self._meters.count("session.begun")
        self._tell(link.peer_key, "session begun; {count} live", count=len(self._sessions))
        session.attach(link, attach)
        if self._endpoints:
            session.send(FrameType.ENDPOINTS, 0, self._endpoints)
        if self._scheme:
            session.send(FrameType.SCHEME, 0, self._scheme)

    def _refuse(self, link: FrameProtocol, attach: Attach, status: AttachStatus) -> None:
        self._meters.count(f"session.refused.{status.name.lower()}")
        answer = Attach(attach.session_id, attach.epoch, attach.lane, status, 0, 0)
        link.send_record(pack_frame(FrameType.ATTACH, 0, answer.encode()))
        link.receiver = DeadEnd()
        link.lose()

    def _make_room(self, client_key: bytes) -> bool:
        """Whether one more session fits; a silent link of the same client gives way."""
        if self._sessions_of(client_key) < self._max_links or self.give_way(client_key):
            return True
        if self._others is not None:
            self._others.ask_for_room(client_key)  # for the next attempt
        return False

    def give_way(self, client_key: bytes) -> bool:
        """End a session of a client that has no link or a silent one, if there is any."""
        # A session without a link gives way first, the longest without one before others.
        for session in self._detached:
            if session.peer_key == client_key and session.lane == MAIN_LANE:
                session.end(Failure(SessionError("a newer session took its place")))
                return True
        heard = [
            (s.link.last_heard if s.link is not None else 0.0, s)
            for s, _ in self._sessions.values()
            if s.peer_key == client_key
        ]
        if not heard:
            return False
        last_heard, quietest = min(heard, key=lambda pair: pair[0])
        if self._runtime.clock.seconds() - last_heard < SILENT:
            return False
        quietest.end(Failure(SessionError("a newer session of the same client took its place")))
        return True

    def _session_detached(self, session: Session, reason: Failure) -> None:
        if session in self._detached:
            return
        if self._closing:
            session.end(reason)
            return
        self._meters.count("session.detached")
        self._tell(session.peer_key, "session without a link: {why}", why=reason.getErrorMessage())
        self._wait_for_link(session)

    def _wait_for_link(self, session: Session) -> None:
        expiry = self._runtime.call_later(
            self._detached_limits.timeout,
            session.end,
            Failure(SessionError("no new link came in time")),
        )
        self._detached[session] = _Waiting(expiry, session.held_bytes)
        self._trim_detached()
        if self._look is None:
            self._look = self._runtime.call_later(DETACHED_LOOK, self._look_at_detached)

    def _bulk_detached(self, lane: Session, reason: Failure) -> None:
        """A bulk lane lost its link: the client dials another one, if it knows that it must."""
        known = self._sessions.get(lane.session_id)
        if known is None or self._closing:
            lane.end(reason)
        elif not known[1].lanes.retreat():
            self._meters.count("lane.detached")
            self._wait_for_link(lane)
            if not lane.ended:
                known[1].lanes.wish(owed=True)

    def _waits_no_more(self, session: Session) -> None:
        waiting = self._detached.pop(session, None)
        if waiting is not None and waiting.expiry.active():
            waiting.expiry.cancel()

    def _look_at_detached(self) -> None:
        self._look = None
        for session, waiting in self._detached.items():
            waiting.held = session.held_bytes
        self._trim_detached()
        if self._detached:
            self._look = self._runtime.call_later(DETACHED_LOOK, self._look_at_detached)

    def _trim_detached(self) -> None:
        """End sessions without a link that hold more than they may."""
        held = {
            session: Holding(session.peer_key, waiting.held)
            for session, waiting in self._detached.items()
        }
        for session in too_many(held, self._detached_limits):
            session.end(Failure(SessionError("it held too much memory without a link")))

    def _session_ended(self, session: Session, reason: Failure) -> None:
        self._waits_no_more(session)
        self._sessions.pop(session.session_id, None)
        if self._others is not None and session.peer_key is not None:
            self._others.end(session.peer_key, session.session_id)
        self._gone[session.session_id] = None
        if len(self._gone) > REMEMBERED_ENDS:
            del self._gone[next(iter(self._gone))]
        self._meters.count("session.ended")
        self._tell(session.peer_key, "session ended; {count} live", count=len(self._sessions))
        if not self._sessions:
            done, self._empty = self._empty, []
            for deferred in done:
                deferred.callback(None)

    def _tell(self, client: bytes | None, text: str, **figures: Any) -> None:
        """Write a line about a client's session, for debugging only if there were many."""
        write = log.info if self.log.allows(client) else log.debug
        write(text, **figures)

    # -- operation ------------------------------------------------------------------------

    def announce(self, endpoints: bytes) -> None:
        """Push another signed list of endpoints, to everybody and at every beginning."""
        self._endpoints = endpoints
        if endpoints:
            for session, _mux in self._sessions.values():
                session.send(FrameType.ENDPOINTS, 0, endpoints)

    def revoke(self, allowed: Callable[[bytes], bool]) -> None:
        """End, at once, every session whose client is not allowed any more."""
        for session, mux in list(self._sessions.values()):
            if session.peer_key is None or not allowed(session.peer_key):
                mux.goaway(GoawayReason.REVOKED)
                session.finish(Failure(SessionError("the client's key was removed")))
        for pending in list(self._pending):
            if not allowed(pending.client_key):
                pending.drop()

    def shut_down(self, drain_timeout: float) -> Deferred[None]:
        """Say GOAWAY everywhere, wait for streams to finish, then end what is left.

        Args:
            drain_timeout: Seconds to wait at most.

        Returns:
            A Deferred that fires when no session is left.
        """
        self._closing = True
        for pending in list(self._pending):
            pending.drop()
        done: Deferred[None] = Deferred()
        if not self._sessions:
            done.callback(None)
            return done
        self._empty.append(done)
        for session in list(self._detached):
            session.end(Failure(SessionError("the server is shutting down")))
        for session, mux in list(self._sessions.values()):
            mux.goaway(GoawayReason.SHUTDOWN)
            Drain(self._runtime, session, mux, drain_timeout)
        return done

    def hurry(self) -> None:
        """End at once what `shut_down` waits for."""
        for _, mux in list(self._sessions.values()):
            mux.close(Failure(SessionError("the server is shutting down")))
