"""A server's link between the end of its handshake and the first frame upon it."""

from __future__ import annotations

from typing import Protocol

from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from phantom.core.wire import Attach, FrameType
from phantom.errors import RemoteProtocolError
from phantom.runtime import Runtime
from phantom.telemetry import make_logger
from phantom.tunnel.frame import FrameProtocol
from phantom.tunnel.frame_receiver import DeadEnd
from phantom.tunnel.session_log import SessionLog

log = make_logger()


class Attaching(Protocol):
    """What such a link needs of the server's sessions.

    Attributes:
        log: How much may be written about each client's sessions.
    """

    log: SessionLog

    def link_pending(self, pending: PendingLink) -> None:
        """Remember a link that has yet to say which session it carries."""
        ...

    def link_settled(self, pending: PendingLink) -> None:
        """Forget it again."""
        ...

    def attach(self, link: FrameProtocol, attach: Attach) -> None:
        """Give a link to the session it names, or begin that session.

        Raises:
            RemoteProtocolError: The ATTACH contradicts what this side knows.
        """
        ...


class PendingLink:
    """The receiver of a link that passed the handshake and has not said ATTACH yet.

    A first message can be replayed to nobody's harm because nothing happens before this:
    only a peer that holds the keys can send a valid record.

    Args:
        runtime: Clock.
        registry: Who finds the session.
        timeout: Seconds the peer may take.
    """

    def __init__(self, runtime: Runtime, registry: Attaching, timeout: float) -> None:
        self._runtime = runtime
        self._registry = registry
        self._timeout = timeout
        self._link: FrameProtocol | None = None
        self._timer: IDelayedCall | None = None
        self.client_key = b""

    #: Nobody waits for anything yet.
    expects = False

    def link_made(self, link: FrameProtocol) -> None:
        """Wait for the first frame, but not for ever."""
        self._link = link
        self.client_key = link.peer_key
        self._timer = self._runtime.call_later(self._timeout, self._timed_out)
        self._registry.link_pending(self)

    def frame_received(
        self, link: FrameProtocol, kind: int, stream_id: int, payload: memoryview
    ) -> None:
        """Take the ATTACH; from then on the link belongs to a session."""
        if kind != FrameType.ATTACH:
            raise RemoteProtocolError("a link that does not begin with ATTACH")
        self._settle()
        link.confirmed()
        self._registry.attach(link, Attach.decode(payload))

    def data_received(self, link: FrameProtocol, frames: list[tuple[int, memoryview]]) -> None:
        """Refuse data in front of the ATTACH."""
        self.frame_received(link, FrameType.DATA, *frames[0])

    def records_done(self, link: FrameProtocol) -> None:
        """Nothing to do."""

    def link_ready(self, link: FrameProtocol) -> None:
        """Nothing to send."""

    def protocol_failed(self, link: FrameProtocol, error: RemoteProtocolError) -> None:
        """Drop the link."""
        write = log.warn if self._registry.log.allows(self.client_key) else log.debug
        write("link dropped: the peer broke the protocol: {error}", error=str(error))
        self.drop()

    def link_lost(self, link: FrameProtocol, reason: Failure) -> None:
        """Forget it."""
        self._settle()

    def drop(self) -> None:
        """Close the link."""
        link = self._link
        self._settle()
        if link is not None:
            link.receiver = DeadEnd()  # what was received with it counts no more
            link.abort()

    def _timed_out(self) -> None:
        self._timer = None
        self.drop()

    def _settle(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._registry.link_settled(self)
