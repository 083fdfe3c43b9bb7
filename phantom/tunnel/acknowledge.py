"""When a session acknowledges what it received, and what it makes of missing answers."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall

from phantom.core.received import ReceiveLog
from phantom.core.session import HALF_BATCH, SendLog
from phantom.runtime import Runtime
from phantom.tunnel.frame import FrameProtocol

#: Acknowledge after this many received bytes, just below 256 KiB, once a read (of 512 KiB at most):
#: it keeps the peer's log within a few blocks (doc/adr/0003).
ACK_BYTES = HALF_BATCH
#: ... or after this many where links die young: the sender has two records under way there, and
#: waits (`phantom.core.freshness.LEAN_FLIGHT`).
LEAN_ACK_BYTES = 2048
#: ... or after this many seconds: long enough that a ping-pong is not doubled in records,
#: short enough that the peer's memory is not held for an idle stream.
ACK_DELAY = 0.02
#: Bytes below which that is little, as of somebody who types: its acknowledgement then goes with
#: what leaves next, as a packet of its own is one more that can be lost, and whatever comes behind
#: it would wait until it has been sent again (doc/adr/0030).  Less than a small record, of which
#: several may be on their way ...
LITTLE = 2048
#: ... or alone after so many seconds more, at least and at most: people type faster than that, and
#: a silence that always ends after the same time would be a signature.  RFC 1122, 4.2.3.2, has
#: those of TCP wait for less than half a second.
ACK_PATIENCE = (0.13, 0.28)
#: ... or after this many frames, so that a peer with tiny frames never meets its frame cap.
ACK_FRAMES = 4096
#: Seconds without any acknowledgement of sent frames after which a link that is silent counts
#: as dead ...
STALL_TIMEOUT = 30.0
#: ... and one on which the peer is heard: at 600 bytes a second a whole record takes as long.
STALL_LIMIT = 4 * STALL_TIMEOUT


class Acknowledger:
    """Decides when an ACK is due.

    Args:
        runtime: Clock.
        received: What has come in.
        send: Sends an ACK with the given count.
        has_under_way: Says whether something of ours was sent and may be lost.

    Attributes:
        bytes: Payload of new frames that the peer was not told of; the session adds to it.
        every: Bytes after which an ACK is due at once.
        little: Bytes below which it waits for something to go with.
        ripe: Whether it does: it should go with the next small record.
    """

    def __init__(
        self,
        runtime: Runtime,
        received: ReceiveLog,
        send: Callable[[int], None],
        has_under_way: Callable[[], bool],
    ) -> None:
        self._runtime = runtime
        self._received = received
        self._send = send
        self._has_under_way = has_under_way
        self._told = 0
        self.bytes = 0
        self.every = ACK_BYTES
        self.little = LITTLE
        self.ripe = False
        self._timer: IDelayedCall | None = None

    def follow(self, *, lean: bool) -> None:
        """Acknowledge as it suits the link that carries from now on.

        Args:
            lean: Whether links die young on its path.
        """
        self.every = LEAN_ACK_BYTES if lean else ACK_BYTES
        self.little = 0 if lean else LITTLE

    def announced(self, received: int) -> None:
        """Note what the peer is told, by an ATTACH or by what `take` returned; nothing is due."""
        self.stop()
        self._told = received
        self.bytes = 0
        self.ripe = False

    def records_done(self) -> None:
        """Acknowledge now if enough has come in, else soon."""
        due = self._received.received - self._told
        if not due:
            return
        enough = self.little if self.ripe else self.every
        if self.bytes >= enough or due >= ACK_FRAMES:
            self.acknowledge()
        elif self._timer is None:
            self._timer = self._runtime.call_later(ACK_DELAY, self._due)

    def _due(self) -> None:
        self._timer = None
        if self._received.received == self._told:
            return
        # A packet behind what is under way has the peer's TCP tell within a round trip whether that
        # was lost, which it would find out by a timeout otherwise.
        if self.bytes < self.little and not self.ripe and not self._has_under_way():
            self.ripe = True
            patience = self._runtime.uniform(*ACK_PATIENCE)
            self._timer = self._runtime.call_later(patience, self._due)
        else:
            self.acknowledge()

    def acknowledge(self) -> None:
        """Acknowledge everything now."""
        self._send(self.take())

    def take(self) -> int:
        """Return the count to be told now, by the caller, of all that came in."""
        self.announced(self._received.received)
        return self._told

    def stop(self) -> None:
        """Acknowledge nothing that is not asked for."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()


class StallWatch:
    """Gives a link up on which nothing is acknowledged.

    Args:
        runtime: Clock.
        log: What was sent.
        link: Returns the link in use, if any.
    """

    def __init__(
        self, runtime: Runtime, log: SendLog, link: Callable[[], FrameProtocol | None]
    ) -> None:
        self._runtime = runtime
        self._log = log
        self._link = link
        self._mark = 0
        self._since = 0.0
        self._heard = 0
        self._timer: IDelayedCall | None = None

    def sent(self) -> None:
        """Watch from now on, unless that is done already."""
        if self._timer is None:
            self._watch()

    def _watch(self) -> None:
        link = self._link()
        self._mark = self._log.acknowledged
        self._since = self._runtime.clock.seconds()
        self._heard = link.received if link is not None else 0
        self._timer = self._runtime.call_later(STALL_TIMEOUT, self._due)

    def _due(self) -> None:
        self._timer = None
        link = self._link()
        if link is None or not self._log.unacknowledged:
            return
        if self._log.acknowledged != self._mark:
            self._watch()
            return
        waited = self._runtime.clock.seconds() - self._since
        if link.received != self._heard and waited < STALL_LIMIT:
            self._heard = link.received
            self._timer = self._runtime.call_later(STALL_TIMEOUT, self._due)
            return
        link.fail(f"nothing acknowledged for {waited:.0f} s")

    def stop(self) -> None:
        """Watch no longer."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
