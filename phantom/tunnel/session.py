"""Session: what outlives links.

It numbers what the multiplexer sends, keeps it until the peer has it, and hands received
frames up once and in order.  Links come and go beneath it: when one dies, the next one's
ATTACH says what each side has, and only what is missing is sent again.  At any time it
sends by at most one link; a session with two has one of these for each (`phantom.tunnel.lane`).

Here is what it receives, and its end; `phantom.tunnel.session_links` is how links come and go, and
`phantom.tunnel.session_sending` what it sends.
"""

from __future__ import annotations

from twisted.python.failure import Failure

from phantom.core.wire import SEQUENCED, FrameType, decode_ack
from phantom.errors import RemoteProtocolError
from phantom.telemetry import make_logger
from phantom.tunnel.frame import FrameProtocol
from phantom.tunnel.frame_receiver import DeadEnd
from phantom.tunnel.session_links import SessionLinks

log = make_logger()


class Session(SessionLinks):
    """A session on either side; arguments and attributes as `SessionBase`."""

    # -- from the link (FrameReceiver) --------------------------------------------------

    @property
    def expects(self) -> bool:
        """Whether a stream is open, or something sent is not acknowledged."""
        return self._source.expects or not self.idle

    def link_made(self, link: FrameProtocol) -> None:
        """Unused: a session is given links that are up."""

    def frame_received(
        self, link: FrameProtocol, kind: int, stream_id: int, payload: memoryview
    ) -> None:
        """Take a frame of the link that counts; what others bring is dropped."""
        cursor = self._cursors.get(link)
        if cursor is None:
            if link is self._proposed:
                self._answered(link, kind, payload)
        elif kind in SEQUENCED:  # nearly every frame
            if cursor.accept():
                self._acknowledger.bytes += len(payload)
                if kind == FrameType.DATA:
                    self._source.data_received([(stream_id, payload)])
                else:
                    self._source.frame_received(kind, stream_id, payload)
        elif kind == FrameType.ACK:
            if not self._acks.spend(self._runtime.clock.seconds()):
                raise RemoteProtocolError("a flood of acknowledgements")
            self._acknowledged(decode_ack(payload))
        else:
            raise RemoteProtocolError("an ATTACH in the middle of a link")

    def data_received(self, link: FrameProtocol, frames: list[tuple[int, memoryview]]) -> None:
        """Take DATA frames in a row."""
        cursor = self._cursors.get(link)
        if cursor is None:
            if link is self._proposed:
                self._answered(link, FrameType.DATA, frames[0][1])
            return
        old = cursor.accept_row(len(frames))
        if old:
            del frames[:old]
        for _, payload in frames:
            self._acknowledger.bytes += len(payload)
        try:
            self._source.data_received(frames)
        except RemoteProtocolError:
            raise
        except Exception:
            # All of the row is numbered: by another link the rest of it would not come again.
            self.end(Failure())
            raise

    def records_done(self, link: FrameProtocol) -> None:
        """Acknowledge when enough has come in, and send what the records set free."""
        self._source.frames_done()
        if self.ended:
            return
        self._acknowledger.records_done()
        if self._log.has_unsent:
            self.wake()

    def link_ready(self, link: FrameProtocol) -> None:
        """Send on: the link has drained."""
        if link is self.link:
            self._flush()

    def protocol_failed(self, link: FrameProtocol, error: RemoteProtocolError) -> None:
        """End the session: its peer breaks the rules, and a new link would not help."""
        write = log.warn if self._may_tell(self.peer_key) else log.debug
        write("session ended: the peer broke the protocol: {error}", error=str(error))
        self.end(Failure(error))
        link.abort()

    # -- the end ------------------------------------------------------------------------

    def _detached(self, reason: Failure) -> None:
        """Hold still until a new link comes; whoever made the session bounds how long."""
        self._acknowledger.stop()
        self._stall.stop()
        self._stop_pace()
        if self.ended:
            return
        if self._source.finished:
            self.end(reason)  # the peer has closed what there was nothing left in
        else:
            self._on_detached(self, reason)

    def finish(self, reason: Failure) -> None:
        """Send what the link takes now, a GOAWAY for one, then end the session."""
        if self._flushing:
            self._runtime.at_turn_end(lambda: self.finish(reason))
            return
        self._finishing = True
        self._stop_pace()
        self._flush()
        self.end(reason)

    def end(self, reason: Failure) -> None:
        """End the session and everything in it.  Ending twice is harmless."""
        if self.ended:
            return
        self.ended = True
        self._stop_pace()
        self._acknowledger.stop()
        self._stall.stop()
        links = [*self._cursors]
        links += [x for x in (self.link, self._proposed) if x is not None and x not in links]
        self.link = self._proposed = self._on_attached = self._superseded = None
        self._cursors.clear()
        self._arrivals.clear()
        self._source.session_lost(reason)
        self._log.close()
        for link in links:
            link.receiver = DeadEnd()
            link.lose()
        self._on_end(self, reason)
