"""A session and its links: the first one, the next ones, and what each side says by ATTACH."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from twisted.python.failure import Failure

from phantom.core.freshness import Freshness
from phantom.core.received import LinkCursor
from phantom.core.wire import Attach, AttachStatus, FrameType, pack_frame
from phantom.errors import RemoteProtocolError, SessionError
from phantom.tunnel.frame import FrameProtocol
from phantom.tunnel.frame_receiver import DeadEnd
from phantom.tunnel.session_sending import SendingSession

if TYPE_CHECKING:
    from phantom.tunnel.session import Session

#: Seconds that a superseded link is still read, and what it brings dropped.
SUPERSEDED_LINGER = 3.0
#: Seconds that the server may take to answer an ATTACH.  What comes by the link before counts
#: no more from then on, so a link that is up and carries nothing would be a stall.
PROPOSAL_TIMEOUT = 10.0

_REFUSALS: dict[int, str] = {
    AttachStatus.SESSION_LOST: "the server does not know the session any more",
    AttachStatus.LIMIT: "the server takes no more sessions of this client",
    AttachStatus.SHUTTING_DOWN: "the server is shutting down",
}


class SessionLinks(SendingSession):
    """Takes links, and lets them go."""

    # -- client ---------------------------------------------------------------------------

    def begin(
        self, link: FrameProtocol, on_attached: Callable[[int], None] = lambda again: None
    ) -> None:
        """Client: carry this new session by its first link.

        Nothing was sent before, so frames may follow the ATTACH without waiting for the
        server's.

        Args:
            link: Up, and not used before.
            on_attached: As for `resume`; with 0.
        """
        self._propose(link)
        self._on_attached = on_attached
        self.link = link
        self._trust_anew()
        self._flush()

    def resume(self, link: FrameProtocol, on_attached: Callable[[int], None]) -> None:
        """Client: go on by a new link, beside the present one or in place of a lost one.

        Until the server has answered, frames go out by the present link, if there is one;
        what still comes in by it does not count any more.

        Args:
            link: Up, and not used before.
            on_attached: Called with the bytes that are sent again, once the link has taken
                over; not called when it is lost or refused.
        """
        self._propose(link)
        self._on_attached = on_attached

    def _propose(self, link: FrameProtocol) -> None:
        if self._proposed is not None:
            self._proposed.receiver = DeadEnd()  # one at a time: the newest counts
            self._proposed.abort()
        self._stop_proposal_timer()
        self._proposal_timer = self._runtime.call_later(PROPOSAL_TIMEOUT, self._proposal_due)
        self.epoch += 1
        self.peer_key = link.peer_key
        self._proposed = link
        # From here on nothing sequenced counts on the links before: the server numbers what
        # we lack anew, from exactly what we announce.
        self._announced = self._received.received
        self._cursors.clear()
        link.receiver = cast("Session", self)
        self._send_attach(link, self._log.acknowledged)

    def _proposal_due(self) -> None:
        self._proposal_timer = None
        if self._proposed is not None:
            self._proposed.fail("no answer to an ATTACH")

    def _stop_proposal_timer(self) -> None:
        timer, self._proposal_timer = self._proposal_timer, None
        if timer is not None:
            timer.cancel()

    def _answered(self, link: FrameProtocol, kind: int, payload: memoryview) -> None:
        """Client: the server's ATTACH opens its direction."""
        if kind != FrameType.ATTACH:
            raise RemoteProtocolError("a link that does not begin with ATTACH")
        answer = Attach.decode(payload)
        if answer.status != AttachStatus.OK:
            reason = _REFUSALS.get(answer.status, "the server refused the session")
            self.end(Failure(SessionError(reason)))
            return
        if (
            answer.session_id != self.session_id
            or answer.epoch != self.epoch
            or answer.lane != self.lane
        ):
            raise RemoteProtocolError("an ATTACH for another session")
        cursor = self._received.begin(self._announced, answer.next_sequence)
        self._proposed = None
        self._stop_proposal_timer()
        if link is self.link:
            # The first link: frames were sent without waiting, and all of them count.
            self._cursors[link] = cursor
            self._log.acknowledge(answer.received)
            self._tell_arrived()
            again = 0
        else:
            again = self._log.rewind(answer.received)
            self._take_over(link, cursor)
        on_attached, self._on_attached = self._on_attached, None
        if on_attached is not None:
            on_attached(again)

    # -- server ---------------------------------------------------------------------------

    def attach(self, link: FrameProtocol, attach: Attach) -> int:
        """Server: carry this session by `link`, whose ATTACH has been received.

        Returns:
            The bytes that are sent again.

        Raises:
            RemoteProtocolError: The numbers do not fit what this side knows.
        """
        announced = self._received.received
        cursor = self._received.begin(announced, attach.next_sequence)
        again = self._log.rewind(attach.received)
        self.epoch = attach.epoch
        self.peer_key = link.peer_key
        link.receiver = cast("Session", self)
        self._announced = announced
        self._send_attach(link, attach.received)
        self._take_over(link, cursor)
        return again

    # -- both -----------------------------------------------------------------------------

    def _send_attach(self, link: FrameProtocol, next_sequence: int) -> None:
        attach = Attach(
            session_id=self.session_id,
            epoch=self.epoch,
            lane=self.lane,
            status=AttachStatus.OK,
            next_sequence=next_sequence,
            received=self._announced,
        )
        link.send_record(pack_frame(FrameType.ATTACH, 0, attach.encode()))

    def _take_over(self, link: FrameProtocol, cursor: LinkCursor) -> None:
        """Send by `link` from now on, and leave its predecessor."""
        old, self.link = self.link, link
        self._cursors = {link: cursor}
        self._count_arrivals_anew()
        self._trust_anew()
        self._acknowledger.announced(self._announced)
        if old is not None and old is not link:
            # Read on for a moment: closing over unread data would send a reset.  One at a time,
            # or a peer that resumes all the time has us keep all those links.
            old.receiver = DeadEnd()
            if self._superseded is not None:
                self._superseded.abort()
            self._superseded = old
            self._runtime.call_later(SUPERSEDED_LINGER, self._leave, old)
        self._flush()

    def _leave(self, link: FrameProtocol) -> None:
        if self._superseded is link:
            self._superseded = None
        link.lose()

    def _trust_anew(self) -> None:
        """A new link has yet to show that more than a few kilobytes pass, and quickly."""
        self._stop_pace()
        self._ack = None  # ATTACH tells the same
        lean = self.link is not None and self.link.lean
        self._fresh = Freshness(self._runtime.clock.seconds(), lean=lean)
        self._acknowledger.follow(lean=lean)
        self._set_limits()

    def link_lost(self, link: FrameProtocol, reason: Failure) -> None:
        """A link died.  Without another the session waits for one."""
        self._cursors.pop(link, None)
        if link is self._proposed:
            self._proposed = self._on_attached = None
            self._stop_proposal_timer()
            if self.link is not None and self.link is not link:
                # What it brought since was dropped.
                self.link.fail("its successor was lost", silent=False)
                return
        if link is self.link:
            self.link = None
            self._detached(reason)
        elif self.link is None:
            self._detached(reason)
