"""Lanes: bulk moves to a link of its own, where a loss on the way would keep all else waiting.

What is lost on a link is sent again a round trip later, and everything behind it waits for that,
keystrokes of other streams as well.  So when bulk leaves for a peer that is far, packets are lost
and somebody types, the sender wishes for a second link, which the client dials; bulk streams move
there, and what is small has the first one to itself.

A stream moves in one direction at a time, and without a frame that says so: its sender stops,
waits until all that it sent by the main lane is acknowledged, and goes on by the other one.  What
arrives there is thus behind everything that came before, and whoever receives need not know.
Why: doc/adr/0029-lanes.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from phantom.core.stream import State
from phantom.errors import Outcome, RemoteProtocolError, StreamError
from phantom.runtime import Runtime
from phantom.tunnel.frame import FrameProtocol
from phantom.tunnel.lane import Between, BulkLane, Lane
from phantom.tunnel.session import Session
from phantom.tunnel.stream_sending import SendingStream

if TYPE_CHECKING:
    from phantom.tunnel.mux import MultiplexerProtocol

#: Seconds between two looks at streams that may be bulk.
LOOK = 0.25
#: Bytes that bulk sends between two looks, with more waiting: 2 Mbit/s.  A call has less, and is
#: not waiting.
BULK_BYTES = 64 * 1024
#: Seconds of round trip from which on a wait for what was lost is felt.
FAR = 0.01
#: The number of segments sent again, lately, from which on a link loses what it carries; and what
#: of that number is left at the next look.  With these, one in two seconds and a half.
LOSSES = 2.0
FADE = 0.95
#: The number of looks before which somebody had typed, lately, from which on somebody types, and
#: what of it is left at the next look: two within a second, or one a second.  A download alone
#: begins with something small, once.
TYPING = 1.2
TYPING_FADE = 0.8
#: Looks at which a stream may have sent little, waiting for credit perhaps, and still be bulk.
PAUSES = 4
#: Seconds between two wishes: dialling takes some.
WISH_INTERVAL = 5.0


class Lanes:
    """A session's lanes, and which stream sends by which.

    Args:
        runtime: Clock.
        mux: Whose streams they are.

    Attributes:
        main: Where streams begin.
        bulk: The lane for bulk, if there is or was one.
    """

    def __init__(self, runtime: Runtime, mux: MultiplexerProtocol) -> None:
        self._runtime = runtime
        self._mux = mux
        self.main = Lane()
        self.bulk: BulkLane | None = None
        self._between = Between()
        # Streams that may be bulk, what each had sent at the last look, and at how many looks since
        # it was seen at work.
        self._watched: dict[SendingStream, tuple[int, int]] = {}
        self._timer: IDelayedCall | None = None
        self._typing = 0.0
        self._losses = 0.0
        # The link that they are counted on, and the kernel's number at the last look.
        self._counted: tuple[FrameProtocol, int] | None = None
        self._wished = float("-inf")

    # -- for the multiplexer ---------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Whether everything sent by the bulk lane has arrived."""
        session = self.bulk.session if self.bulk is not None else None
        return session is None or session.idle

    def by_which(self, stream_id: int) -> Session | None:
        """Return what a stream's data comes by, so that credit for it goes by that."""
        bulk = self.bulk
        if bulk is not None and bulk.session is not None and bulk.brings(stream_id):
            return bulk.session
        return self.main.session

    def close(self, reason: Failure) -> None:
        """The session is over: so is its bulk lane."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._watched.clear()
        if self.bulk is not None and self.bulk.session is not None:
            self.bulk.session.end(reason)

    def bulk_lost(self, reason: Failure) -> None:
        """The bulk lane is over, for good: what used it lacks something now."""
        bulk, session = self.bulk, self.main.session
        if bulk is None or session is None:
            return
        if reason.check(RemoteProtocolError):
            session.end(reason)
            return
        for stream in bulk.senders():
            lost = Failure(StreamError("the link for bulk is lost", Outcome.SESSION_LOST))
            stream.give_up(Outcome.SESSION_LOST, lost)

    # -- which stream is bulk --------------------------------------------------------------

    def watch(self, stream: SendingStream) -> None:
        """Look after a stream that has sent much and had to wait for its turn."""
        stream.watched = True
        self._watched[stream] = stream.sent, 0
        if self._timer is None and self.main.session is not None:
            self.main.typed = False
            self._typing = self._losses = 0.0
            self._counted = None
            self._count_losses(self.main.session.link)
            self._timer = self._runtime.call_later(LOOK, self._look)

    def _look(self) -> None:
        self._timer = None
        session = self.main.session
        if session is None:
            return
        self._count_losses(session.link)
        self._typing = self._typing * TYPING_FADE + self.main.typed
        self.main.typed = False
        found = self._find_bulk()
        if found and self._usable:
            for stream in found:
                self._move(stream)
        elif found and self._typing > TYPING and self._losing(session):
            self.wish()
        if self._watched:
            self._timer = self._runtime.call_later(LOOK, self._look)

    def _find_bulk(self) -> list[SendingStream]:
        """Return the streams that have sent much since the last look, and had to wait."""
        found = []
        for stream, (sent, pauses) in list(self._watched.items()):
            works = stream.sent - sent >= BULK_BYTES
            pauses = 0 if works else pauses + 1
            if pauses > PAUSES or stream.state is State.CLOSED:
                del self._watched[stream]
                stream.watched = False
                continue
            self._watched[stream] = stream.sent, pauses
            waited, stream.waited = stream.waited, False
            if works and (waited or stream.queued):
                found.append(stream)
        return found

    def _losing(self, session: Session) -> bool:
        """Whether the road loses packets, and is so long that waiting for them is felt."""
        return self._losses > LOSSES and (session.least_round_trip or 0.0) >= FAR

    def _count_losses(self, link: FrameProtocol | None) -> None:
        count = None if link is None else link.segments_lost
        counted, self._counted = self._counted, None
        if link is None or count is None:
            return
        self._counted = link, count
        if counted is not None and counted[0] is link:
            self._losses = self._losses * FADE + (count - counted[1])

    # -- the bulk lane ---------------------------------------------------------------------

    def make_bulk(self) -> BulkLane:
        """Return the lane for bulk, of which there is one in a session's life."""
        bulk = self.bulk = BulkLane(self._mux)
        return bulk

    @property
    def _usable(self) -> bool:
        bulk = self.bulk
        if bulk is None or not bulk.open or bulk.session is None:
            return False
        # An answer is known to have come by its link: what is silent from the beginning does not
        # take bulk away from one that works.
        link = bulk.session.link
        return link is not None and link.round_trip is not None

    def wish(self, *, owed: bool = False) -> None:
        """Say that a bulk lane would help, or that the one there is needs a link.

        Args:
            owed: Whether something waits in it.
        """
        if self.bulk is not None and self.bulk.session is None:
            return  # it is over
        now = self._runtime.clock.seconds()
        if owed or now - self._wished >= WISH_INTERVAL:
            self._wished = now
            self._mux.wish_lane()

    def retreat(self) -> bool:
        """Let bulk send by the main lane again, as the link of the other is gone.

        Returns:
            Whether all that was sent by it had arrived; where not, it waits for another link.
        """
        bulk = self.bulk
        if bulk is None or bulk.session is None:
            return True
        if not bulk.session.idle:
            return False
        senders = bulk.senders()
        bulk.left()
        for stream in senders:
            bulk.remove(stream)
            self._return(stream)
        return True

    def _return(self, stream: SendingStream) -> None:
        stream.lane = self.main
        stream.watched = False
        stream.activate()

    def _move(self, stream: SendingStream) -> None:
        """Let a stream go on by the bulk lane, once all that it sent has arrived."""
        session = self.main.session
        assert session is not None
        del self._watched[stream]  # and it stays marked: it is not looked at again
        self.main.remove(stream)
        stream.lane = self._between
        session.when_arrived(lambda: self._moved(stream))

    def _moved(self, stream: SendingStream) -> None:
        bulk = self.bulk
        if stream.state is State.CLOSED:
            return
        if bulk is None or not self._usable:  # its link was lost meanwhile
            self._return(stream)
        else:
            bulk.use(stream)
            stream.activate()
