"""What a link's frames are for, and what takes them where nothing does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from twisted.python.failure import Failure

from phantom.core.wire import FrameType
from phantom.errors import RemoteProtocolError

if TYPE_CHECKING:
    from phantom.tunnel.frame import FrameProtocol


class FrameReceiver(Protocol):
    """What a link's frames are for."""

    def link_made(self, link: FrameProtocol) -> None:
        """The link is up: the handshake is done."""

    def frame_received(
        self, link: FrameProtocol, kind: int, stream_id: int, payload: memoryview
    ) -> None:
        """Take one frame; PING, PONG and PADDING never get here.

        The payload is only valid during the call.

        Raises:
            RemoteProtocolError: The frame breaks a rule; the link reports it to
                `protocol_failed`.
        """

    def data_received(self, link: FrameProtocol, frames: list[tuple[int, memoryview]]) -> None:
        """Take DATA frames that came in a row, as `frame_received` takes each.

        Args:
            link: The link.
            frames: Stream id and payload of each; the payloads are only valid during the call,
                the list is the receiver's.

        Raises:
            RemoteProtocolError: As `frame_received`.
        """

    def records_done(self, link: FrameProtocol) -> None:
        """All frames of the records that came together were taken, or will never be."""

    def link_ready(self, link: FrameProtocol) -> None:
        """The link, which was congested, takes records again."""

    def protocol_failed(self, link: FrameProtocol, error: RemoteProtocolError) -> None:
        """The authenticated peer broke a rule of frames; close what it concerns."""

    def link_lost(self, link: FrameProtocol, reason: Failure) -> None:
        """The link is gone.  Called exactly once, as the last call."""

    @property
    def expects(self) -> bool:
        """Whether somebody waits for what may come, so that silence is suspicious."""
        ...


class DeadEnd:
    """A `FrameReceiver` for links whose session is over: takes nothing, minds nothing."""

    #: Nobody waits for anything here.
    expects = False

    def link_made(self, link: FrameProtocol) -> None:
        """Ignore."""

    def frame_received(self, link: Any, kind: int, stream_id: int, payload: memoryview) -> None:
        """Ignore."""

    def data_received(self, link: Any, frames: list[tuple[int, memoryview]]) -> None:
        """As frames of any kind."""
        for stream_id, payload in frames:
            self.frame_received(link, FrameType.DATA, stream_id, payload)

    def records_done(self, link: FrameProtocol) -> None:
        """Ignore."""

    def link_ready(self, link: FrameProtocol) -> None:
        """Ignore."""

    def protocol_failed(self, link: FrameProtocol, error: RemoteProtocolError) -> None:
        """Drop the link."""
        link.abort()

    def link_lost(self, link: FrameProtocol, reason: Failure) -> None:
        """Ignore."""
