"""What a session consists of: its logs, its links, and who hears of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, cast

from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from phantom.core.block_pool import BlockPool
from phantom.core.budget import TokenBucket
from phantom.core.freshness import Freshness
from phantom.core.received import LinkCursor, ReceiveLog
from phantom.core.session import SendLog
from phantom.core.wire import MAIN_LANE
from phantom.runtime import Runtime
from phantom.tunnel.acknowledge import Acknowledger, StallWatch
from phantom.tunnel.frame import FrameProtocol

if TYPE_CHECKING:
    from phantom.tunnel.session import Session

#: Acknowledgements a peer may send at once, and a second: at 256 KiB each that is more than
#: 10 GB/s, and ours come no faster than records do.
ACK_BURST = 65_536
ACK_RATE = 40_000.0


class FrameSource(Protocol):
    """Who produces a session's frames and takes the peer's: the multiplexer."""

    def session_made(self, session: Session) -> None:
        """The session is there; frames may be sent, and are kept until a link comes."""

    def produce(self, send_log: SendLog) -> None:
        """Append about one batch of the streams' waiting data to the log."""

    def frame_received(self, kind: int, stream_id: int, payload: memoryview) -> None:
        """Take one new sequenced frame.

        Raises:
            RemoteProtocolError: It breaks a rule.
        """

    def frames_done(self) -> None:
        """The payloads of all frames taken so far are about to become invalid."""

    def data_received(self, frames: list[tuple[int, memoryview]]) -> None:
        """Take new DATA frames, stream id and payload of each.

        Raises:
            RemoteProtocolError: One breaks a rule.
        """

    def session_lost(self, reason: Failure) -> None:
        """The session is over, for good."""

    @property
    def expects(self) -> bool:
        """Whether a stream waits for data."""
        ...

    @property
    def finished(self) -> bool:
        """Whether no stream is left and none will come."""
        ...

    @property
    def held_bytes(self) -> int:
        """Bytes that wait in streams, either way."""
        ...


class SessionBase:
    """A session's state.  The rest is `phantom.tunnel.session.Session` and what it is made of.

    Each is derived from the one before: a compiled class has one base.

    Args:
        runtime: Clock.
        session_id: 16 bytes.
        source: The multiplexer.
        pool: Blocks for the log, shared by the process.
        on_detached: Called when the last link is lost and the session waits for another.
        on_end: Called once with the session when it is over.
        may_tell: Given the peer's key, says whether there may be a line about it in the log.
        lane: Which of the session's lanes it is: each has numbers and links of its own.

    Attributes:
        session_id: 16 bytes, chosen by the client.
        lane: `MAIN_LANE`, or `BULK_LANE`.
        epoch: Of the link it has or had last; 0 before the first.
        peer_key: The peer's static key, None before the first link.
        link: The link that carries what is sent now, if any.
        flush_due: Whether what waits is sent at the end of this turn anyway, so that nobody needs
            to call `wake`.
        ended: Whether it is over.
    """

    def __init__(
        self,
        runtime: Runtime,
        session_id: bytes,
        source: FrameSource,
        pool: BlockPool,
        *,
        on_detached: Callable[[Session, Failure], None],
        on_end: Callable[[Session, Failure], None],
        may_tell: Callable[[bytes | None], bool] = lambda _peer: True,
        lane: int = MAIN_LANE,
    ) -> None:
        self._runtime = runtime
        self.session_id = session_id
        self.lane = lane
        self.epoch = 0
        self.peer_key: bytes | None = None
        self.link: FrameProtocol | None = None
        self.ended = False
        self._source = source
        self._on_detached = on_detached
        self._on_end = on_end
        self._may_tell = may_tell
        self._log = SendLog(pool)
        self._received = ReceiveLog()
        # The link whose frames count, with its own numbering.
        self._cursors: dict[FrameProtocol, LinkCursor] = {}
        # Client: the link whose ATTACH is not answered yet, and what that ATTACH announced.
        self._proposed: FrameProtocol | None = None
        self._announced = 0
        self._on_attached: Callable[[int], None] | None = None
        self._proposal_timer: IDelayedCall | None = None
        # The link before the present one, which is read on for a moment.
        self._superseded: FrameProtocol | None = None
        self.flush_due = False
        self._flushing = False
        self._pace: IDelayedCall | None = None
        self._near = False
        self._beside: float | None = None
        # Whom to call when the peer has what was numbered by then, in that order.
        self._arrivals: list[tuple[int, Callable[[], None]]] = []
        self._ack: int | None = None  # to be told with what leaves at the end of this turn
        self._finishing = False
        self._acks = TokenBucket(ACK_RATE, ACK_BURST)
        self._acknowledger = Acknowledger(
            runtime, self._received, self._send_ack, self._has_under_way
        )
        self._stall = StallWatch(runtime, self._log, lambda: self.link)
        self._fresh = Freshness(runtime.clock.seconds())
        source.session_made(cast("Session", self))

    @property
    def progress(self) -> int:
        """A number that grows with every frame that arrives on either side."""
        return self._log.acknowledged + self._received.received

    @property
    def held_bytes(self) -> int:
        """Memory kept for sending and resending, in bytes."""
        return self._log.memory + self._source.held_bytes

    @property
    def next_sequence(self) -> int:
        """The number of the next frame."""
        return self._log.next_sequence

    @property
    def acknowledged(self) -> int:
        """The number of the first frame the peer does not have yet."""
        return self._log.acknowledged

    @property
    def least_round_trip(self) -> float | None:
        """The least round trip that its link has seen, in seconds; None when unknown."""
        return self.link.least_round_trip if self.link is not None else None

    @property
    def idle(self) -> bool:
        """Whether everything sent has arrived."""
        return self._log.acknowledged == self._log.next_sequence

    def _has_under_way(self) -> bool:
        """Whether the link is known to have sent what has not arrived."""
        return self.link is not None and bool(self.link.segments_under_way)

    # -- elsewhere ------------------------------------------------------------------------

    def end(self, reason: Failure) -> None:
        """End the session and everything in it.  Ending twice is harmless."""
        raise NotImplementedError

    def _detached(self, reason: Failure) -> None:
        """Hold still until a new link comes; whoever made the session bounds how long."""
        raise NotImplementedError

    def _send_ack(self, received: int) -> None:
        raise NotImplementedError
