"""Streams that are closed here and have something yet to send: not for ever."""

from __future__ import annotations

from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from phantom.errors import Outcome, StreamError
from phantom.runtime import Runtime
from phantom.tunnel.session import Session
from phantom.tunnel.stream import Stream

#: Seconds, at least, and twice as many at most, that a stream which is closed here waits for
#: credit when all it sent has arrived.  Two ends that close on one another's data would wait
#: for ever; a kernel gives an orphaned connection about as long.
STREAM_DRAIN_TIMEOUT = 60.0
_ARRIVED = -1


class ClosingStreams:
    """Resets those streams of a session whose peer takes nothing of what they still have.

    Args:
        runtime: Clock.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        # For each, as of the last look, the bytes it had sent, the session's next number, or
        # `_ARRIVED` once the peer had them all, the session's epoch, and that session: its lane's.
        self._seen: dict[Stream, tuple[int, int, int, Session]] = {}
        self._timer: IDelayedCall | None = None

    def add(self, stream: Stream, session: Session) -> None:
        """Watch a stream of `session` that has just been closed here."""
        self._seen[stream] = _mark(stream, session)
        self._look_later(session)

    def discard(self, stream: Stream) -> None:
        """Forget a stream that is over; it need not be known here."""
        self._seen.pop(stream, None)

    def stop(self) -> None:
        """Look no more: the session is over."""
        self._seen.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look_later(self, session: Session) -> None:
        if self._timer is None:  # a reset, in a look, may have led to the next one
            self._timer = self._runtime.call_later(STREAM_DRAIN_TIMEOUT, self._look, session)

    def _look(self, session: Session) -> None:
        self._timer = None
        for stream, (sent, sequence, epoch, before) in list(self._seen.items()):
            if stream not in self._seen:
                continue  # a reset calls producers, and they may end others, or the session
            lane = stream.lane.session or session
            if lane is not before or lane.link is None or lane.epoch != epoch:
                # Nobody could say anything meanwhile, or not for all of the time.
                self._seen[stream] = _mark(stream, session)
            elif stream.sent != sent or stream.ready:
                self._seen[stream] = _mark(stream, session)
            elif sequence == _ARRIVED:
                stream.reset(Outcome.TIMED_OUT, Failure(StreamError("nobody takes the rest")))
            elif lane.acknowledged >= sequence:
                # A slow link is no reluctant reader.
                self._seen[stream] = sent, _ARRIVED, epoch, lane
        if self._seen:
            self._look_later(session)


def _mark(stream: Stream, session: Session) -> tuple[int, int, int, Session]:
    lane = stream.lane.session or session
    return stream.sent, lane.next_sequence, lane.epoch, lane
