"""Whether a link is alive: how long silence may last, and what is asked when it does.

A link that is idle is asked now and then (keepalive); one that was busy and has gone quiet while
somebody waits for data is asked within seconds, as a path that freezes says nothing.
"""

from __future__ import annotations

from typing import Any, Protocol

from twisted.internet.interfaces import IDelayedCall

from phantom.core.budget import TokenBucket
from phantom.core.wire import MAX_PING, FrameType, pack_frame
from phantom.errors import RemoteProtocolError
from phantom.runtime import Runtime

#: Pings a peer may send at once, and a second in the long run.  Ours come every 20 s or so,
#: and a few at once after sleep or to measure.
PING_BURST = 32
PING_RATE = 4.0
#: Smallest PING payload: 8 bytes tell one ping from another.
MIN_PING = 8
#: Misses after which the link is dead (doc/spec/wire.md).
MISSES = 2
#: Seconds of silence, at least and at most, after which a link that was busy is asked for a
#: sign of life, while somebody waits for data: a path that freezes is noticed so.
QUIET = (1.0, 2.0)
#: Seconds a busy link may take to answer such a question, at least; slow paths get more.  A
#: link that is given up wrongly costs a handshake: sessions survive it.
PATIENCE = 2.0
#: The same two where links were seen to freeze: there a stall happens on every link.
HASTY_QUIET = (0.2, 0.4)
HASTY_PATIENCE = 0.4
#: ... and at most: one record on a link of 6 KB/s.
MAX_PATIENCE = 10.0
#: ... which is this many round trips where they are known.
PATIENCE_ROUND_TRIPS = 6.0
#: Bytes of an incomplete record that are a sign of life too: a slow link may take minutes for
#: one, while what arrives at less than this in a keepalive interval moves nothing.
PROGRESS = 1024
#: How much the keepalive interval varies to either side: regular timers are a signature.
JITTER = 0.35


class WatchedLink(Protocol):
    """What is asked of a link.

    Attributes:
        connected: Whether it is up.
        congested: Whether what is written waits.
        round_trip: Seconds the handshake or the last PONG took, None before.
        hasty: Whether links freeze here, so that silence is judged sooner.
        receiver: Says by `expects` whether somebody waits for data.
    """

    connected: bool
    congested: bool
    round_trip: float | None
    hasty: bool
    receiver: Any

    @property
    def received(self) -> int:
        """Bytes received, those of an incomplete record included."""
        ...

    def send_aside(self, record: bytes) -> None:
        """Send a ping or a pong: they must not start the watch for quiet anew."""

    def fail(self, why: str, *, silent: bool = True) -> None:
        """Give the link up."""


class Liveness:
    """One link's.

    Args:
        runtime: Clock and entropy.
        link: The link.
        keepalive: Seconds without a sign of life after which a ping is sent, varied by
            `JITTER`; 0 sends none.

    Attributes:
        next_look: When it is looked again whether the link has gone quiet; None: `watch` is due
            when something is said or heard.
        records: Records received so far; the link counts them.
        bytes_at_record: Bytes received when the last of them was complete; likewise.
    """

    __slots__ = ("_bytes_seen", "_keepalive", "_link", "_misses", "_ping", "_pings", "_probe",
                 "_runtime", "_timer", "bytes_at_record", "next_look", "records")  # fmt: skip

    def __init__(self, runtime: Runtime, link: WatchedLink, keepalive: float) -> None:
        self._runtime = runtime
        self._link = link
        self._keepalive = keepalive
        self.next_look: IDelayedCall | None = None
        self.records = 0
        self.bytes_at_record = 0
        self._bytes_seen = 0
        self._misses = 0
        self._timer: IDelayedCall | None = None
        self._probe: IDelayedCall | None = None
        self._ping: tuple[bytes, float] | None = None
        self._pings = TokenBucket(PING_RATE, PING_BURST)

    def start(self) -> None:
        """Begin: the link is up."""
        if self._keepalive <= 0:
            return
        spread = self._keepalive * JITTER
        delay = self._runtime.uniform(self._keepalive - spread, self._keepalive + spread)
        self._timer = self._runtime.call_later(delay, self._keepalive_due, self.records)

    def stop(self) -> None:
        """End: the link is gone."""
        for timer in (self._timer, self._probe, self.next_look):
            if timer is not None and timer.active():
                timer.cancel()
        self._timer = self._probe = self.next_look = None

    def probe(self) -> None:
        """Ask for a sign of life now: after sleep, when the network changed, when quiet."""
        link = self._link
        patience = HASTY_PATIENCE if link.hasty else PATIENCE
        if link.round_trip is not None:
            patience = min(MAX_PATIENCE, max(patience, PATIENCE_ROUND_TRIPS * link.round_trip))
        if link.congested and not link.hasty:
            patience = MAX_PATIENCE  # the question itself waits behind data
        if link.connected and self._probe is None:
            self._probe = self._runtime.call_later(patience, self._probe_due, link.received)
            self._send_ping()

    def _probe_due(self, received: int) -> None:
        self._probe = None
        if self._link.received == received:
            self._link.fail("no answer to a probe")

    def watch(self) -> None:
        """Look again in a moment whether the link has gone quiet."""
        self.next_look = self._runtime.call_later(
            self._runtime.uniform(*(HASTY_QUIET if self._link.hasty else QUIET)),
            self._quiet_due,
            self._link.received,
        )

    def _quiet_due(self, received: int) -> None:
        self.next_look = None
        if self._link.received != received:
            # Still busy: look again.  One timer every two seconds, whatever the traffic.
            self.watch()
        elif self._keepalive > 0 and self._link.receiver.expects:
            self.probe()

    def _keepalive_due(self, records: int) -> None:
        self._timer = None
        received = self._link.received
        heard = self.records != records
        if heard or received - self._bytes_seen >= PROGRESS:
            self._misses = 0
        else:
            self._misses += 1
        self._bytes_seen = received
        if self._misses > MISSES:
            self._link.fail(f"no sign of life after {MISSES} pings")
            return
        # In the middle of a long record the peer waits for its acknowledgement, and a ping
        # tells it not to give up.
        if not heard or received - self.bytes_at_record >= PROGRESS:
            self._send_ping()
        self.start()

    # -- pings ----------------------------------------------------------------------------

    def _send_ping(self) -> None:
        payload = self._runtime.entropy(self._runtime.randint(MIN_PING, MAX_PING))
        self._ping = (payload, self._runtime.clock.seconds())
        self._link.send_aside(pack_frame(FrameType.PING, 0, payload))

    def ping_received(self, payload: memoryview) -> None:
        """Answer.

        Raises:
            RemoteProtocolError: It is too long, or one of too many.
        """
        if len(payload) > MAX_PING:
            raise RemoteProtocolError("a PING that is too long")
        if not self._pings.spend(self._runtime.clock.seconds()):
            raise RemoteProtocolError("a flood of pings")
        self._link.send_aside(pack_frame(FrameType.PONG, 0, bytes(payload)))

    def pong_received(self, payload: memoryview) -> None:
        """Note how long the answer took, if it is one to our last question."""
        if self._ping is not None and payload == self._ping[0]:
            self._link.round_trip = self._runtime.clock.seconds() - self._ping[1]
            self._ping = None
