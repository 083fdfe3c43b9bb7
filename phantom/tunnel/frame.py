"""FrameProtocol: frames on one link.  Whether it is alive, `phantom.tunnel.liveness` finds out.

Below is a transport of whole records (`phantom.tunnel.noise`): each ``dataReceived`` is the
plaintext of one record, each ``write`` becomes one; ``received`` counts its bytes.  Above is
whoever uses the link's frames (`FrameReceiver`): the session, or before it is known, the one
that finds it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IDelayedCall, IProtocol, IPushProducer
from twisted.python.failure import Failure
from zope.interface import classImplements

from phantom.core.budget import TokenBucket
from phantom.core.wire import MAX_RECORD_PLAINTEXT, FrameType, parse_frames, whole_data
from phantom.errors import RemoteProtocolError, TimeoutExpired
from phantom.interfaces import LinkGauge
from phantom.layer import bottom
from phantom.runtime import Runtime
from phantom.telemetry import make_logger
from phantom.tunnel.frame_receiver import FrameReceiver
from phantom.tunnel.liveness import Liveness
from phantom.tunnel.shaper import Shaper

log = make_logger()

#: Records of nothing but padding or skippable frames a second: cover traffic is tens a
#: second at its most aggressive.
IDLE_BURST = 1024
IDLE_RATE = 256.0
#: Seconds a link that is being closed may take to send what was written: 128 KB at 6 KB/s.  A
#: peer that never reads would keep it for ever.
CLOSE_TIMEOUT = 20.0


class FrameProtocol:
    """One link's frames.

    Args:
        runtime: Clock and entropy.
        receiver: Who gets the frames; may be replaced while running.
        keepalive: See `Liveness`.
        shaper: Pads small records and may hold them back; None leaves all as they are.

    Attributes:
        receiver: Who gets the frames.
        last_heard: When the last record came, in the clock's seconds.
        last_read: Bytes that the last read brought, about.
        congested: Whether the transport below holds as much unsent data as it should.
        peer_key: The peer's static public key, from the handshake (32 bytes).
        round_trip: Seconds the handshake or the last PONG took, None before.
        records: Records either way.
        allowance: Bytes and records after which `on_allowance` is called, once; None for
            never.
        on_allowance: See `allowance`.
        hasty: Whether links freeze here, so that silence is judged sooner.
        fell_silent: Whether the link was given up because nothing came any more.
    """

    transport: Any = None

    def __init__(
        self,
        runtime: Runtime,
        receiver: FrameReceiver,
        keepalive: float,
        shaper: Shaper | None = None,
    ) -> None:
        self._runtime = runtime
        self._shaper = Shaper(runtime, None) if shaper is None else shaper
        self._shaper.link = self
        self.receiver = receiver
        self._liveness = Liveness(runtime, self, keepalive)
        self.congested = False
        self.connected = False
        self._gauge: LinkGauge | None = None
        self.round_trip: float | None = None
        self.last_heard = runtime.clock.seconds()
        self.records = 0
        self.last_read = 0
        self.allowance: tuple[int, int] | None = None
        self.on_allowance: Callable[[], None] | None = None
        self.hasty = False
        self.fell_silent = False
        self._closing: IDelayedCall | None = None
        self._idle = TokenBucket(IDLE_RATE, IDLE_BURST)

    @property
    def peer_key(self) -> bytes:
        """The peer's static public key, as the handshake proved it."""
        key: bytes = self.transport.peer_key
        return key

    @property
    def peer_instance(self) -> bytes:
        """What names the server's running process, as its handshake said; client only."""
        instance: bytes = self.transport.peer_instance
        return instance

    @property
    def post_quantum(self) -> bool:
        """Whether the link's keys rest on more than X25519."""
        value: bool = self.transport.post_quantum
        return value

    @property
    def lean(self) -> bool:
        """Whether the client has found that links die young on its path."""
        value: bool = self.transport.lean
        return value

    def confirmed(self) -> None:
        """Tell the layers below that the peer has proven itself live."""
        self.transport.confirmed()

    @property
    def received(self) -> int:
        """Bytes received, those of an incomplete record included."""
        count: int = self.transport.received
        return count

    @property
    def sent(self) -> int:
        """Bytes sent, of whole records."""
        count: int = self.transport.sent
        return count

    @property
    def record_limit(self) -> int:
        """Most bytes of plaintext that a record should have now: less on a slow link."""
        return self._gauge.record_limit if self._gauge is not None else MAX_RECORD_PLAINTEXT

    @property
    def paced(self) -> bool:
        """Whether what is said leaves in small packets, so that one record is enough."""
        return self._shaper.apart

    @property
    def crowded(self) -> bool:
        """Whether what leaves in small packets should wait, so that the kernel joins none."""
        return self._shaper.crowded

    @property
    def least_round_trip(self) -> float | None:
        """The least round trip known, in seconds; None before one is."""
        least = self._gauge.least_round_trip() if self._gauge is not None else None
        return self.round_trip if least is None else least

    @property
    def segments_lost(self) -> int | None:
        """How many of the connection's segments were sent again; None when that is not known."""
        return self._gauge.segments_lost() if self._gauge is not None else None

    @property
    def segments_under_way(self) -> int | None:
        """How many of the connection's segments are not acknowledged; None when not known."""
        return self._gauge.segments_under_way() if self._gauge is not None else None

    @property
    def separates(self) -> bool:
        """Whether packets that wait in the kernel stay apart."""
        value: bool = self.transport.separates
        return value

    def stream_opened(self) -> None:
        """Note that a stream begins."""
        self._shaper.stream_opened()

    def read_at_once(self, records: int) -> None:
        """Have at most so many full records read at once."""
        if self.connected:
            self.transport.read_at_once(records)

    # -- IProtocol, from the record layer ---------------------------------------------

    def makeConnection(self, transport: Any) -> None:
        """Start on an established record transport."""
        self.transport = transport
        self.connectionMade()

    def connectionMade(self) -> None:
        """Announce the link upwards."""
        self.connected = True
        self.round_trip = self.transport.handshake_time
        if self.lean:
            self._shaper.add_nothing()
        self._gauge = getattr(bottom(self.transport), "link_gauge", None)
        self.transport.registerProducer(self, True)
        self._liveness.start()
        self.receiver.link_made(self)

    def dataReceived(self, data: bytes | memoryview) -> None:
        """Deal with the frames of one record."""
        self.records_received([memoryview(data)])

    def records_received(self, records: list[memoryview]) -> None:
        """Deal with the frames of several records, which are only valid during the call."""
        liveness = self._liveness
        self.last_heard = self._runtime.clock.seconds()
        liveness.records += len(records)
        self.records += len(records)
        if self.allowance is not None:
            self._check_allowance(self.allowance)
        received = self.transport.received
        self.last_read = received - liveness.bytes_at_record
        liveness.bytes_at_record = received
        useful = False
        row: list[tuple[int, memoryview]] = []
        try:
            for record in records:
                # Of a download nearly every record is one frame of data, and four come at once:
                # what lies above is called once for all of them.
                data = whole_data(record)
                if data is not None:
                    row.append(data)
                    continue
                if row:
                    self.receiver.data_received(self, row)
                    row = []
                    useful = True
                    if not self.connected:
                        break
                if self._record_received(record):
                    useful = True
                elif self.connected and not self._idle.spend(self.last_heard):
                    raise RemoteProtocolError("a flood of records that carry nothing")
                if not self.connected:
                    break
            if row and self.connected:
                self.receiver.data_received(self, row)
                useful = True
            if useful and liveness.next_look is None and self.connected:
                liveness.watch()
        except RemoteProtocolError as error:
            self.receiver.protocol_failed(self, error)
        self.receiver.records_done(self)

    def _record_received(self, record: memoryview) -> bool:
        """Deal with one record; return whether it carried anything for the receiver."""
        useful = False
        for kind, stream_id, payload in parse_frames(record):
            if kind == FrameType.PING:
                self._liveness.ping_received(payload)
            elif kind == FrameType.PONG:
                self._liveness.pong_received(payload)
            elif kind != FrameType.PADDING and kind < 0x80:
                useful = True
                self.receiver.frame_received(self, kind, stream_id, payload)
            if not self.connected:
                break
        return useful

    def connectionLost(self, reason: Failure) -> None:
        """Report the end upwards, once."""
        if not self.connected:
            return
        self.connected = False
        self._liveness.stop()
        closing, self._closing = self._closing, None
        if closing is not None and closing.active():
            closing.cancel()
        self._shaper.stop()
        if self._gauge is not None:
            self._gauge.stop()
        self.receiver.link_lost(self, reason)

    # -- for the session --------------------------------------------------------------

    def send_record(self, plaintext: bytes | memoryview) -> None:
        """Send whole frames as one record; ignored on a link that is gone."""
        if self.connected:
            if self._liveness.next_look is None:
                self._liveness.watch()
            self.records += 1
            if len(plaintext) < self._shaper.below:
                self._shaper.send((plaintext,))
            else:
                self.transport.write(plaintext)
            if self.allowance is not None:
                self._check_allowance(self.allowance)

    def send_aside(self, record: bytes) -> None:
        """Send a ping or a pong: they must not start the watch for quiet anew."""
        if self.connected:
            self._shaper.send_aside(record)

    def send_records(self, plaintexts: list[memoryview]) -> None:
        """Send several records in one go; each is whole frames, valid during the call."""
        if self.connected:
            if self._liveness.next_look is None:
                self._liveness.watch()
            self.records += len(plaintexts)
            if len(plaintexts[-1]) < self._shaper.below:
                self._shaper.send(plaintexts)
            else:
                self.transport.write_records(plaintexts)
            if self.allowance is not None:
                self._check_allowance(self.allowance)

    def lose(self) -> None:
        """Close after what was written has left, if that does not take for ever."""
        if self.connected and self._closing is None:
            self._shaper.flush()
            self._shaper.stop()
            self._closing = self._runtime.call_later(CLOSE_TIMEOUT, self.abort)
            self.transport.unregisterProducer()
            self.transport.loseConnection()

    def abort(self) -> None:
        """Close at once."""
        if self.connected:
            self.transport.abortConnection()

    # -- IPushProducer, called by the transport when it is full or drained --------------

    def pauseProducing(self) -> None:
        """Stop sending records for now."""
        self.congested = True
        if self._gauge is not None:
            self._gauge.full()

    def resumeProducing(self) -> None:
        """Send again."""
        self.congested = False
        if self.connected:
            self.receiver.link_ready(self)

    def stopProducing(self) -> None:
        """The transport takes no more; its end follows."""
        self.congested = True

    # -- its end --------------------------------------------------------------------------

    def fail(self, why: str, *, silent: bool = True) -> None:
        """Give the link up, at once: it is dead, whatever TCP believes.

        Args:
            why: For the log.
            silent: Whether nothing comes by it any more.
        """
        if self.connected:
            self.fell_silent = silent
            log.debug("link dead: {why}", why=why)
            transport = self.transport
            self.connectionLost(Failure(TimeoutExpired(why)))
            transport.abortConnection()

    def probe(self) -> None:
        """Ask for a sign of life now: after sleep, or when the network changed."""
        self._liveness.probe()

    def _check_allowance(self, allowance: tuple[int, int]) -> None:
        if self.received >= allowance[0] or self.records >= allowance[1]:
            self.allowance = None
            if self.on_allowance is not None:
                self.on_allowance()


# Behind the class: with a decorator it would not be compiled (decision 28).
classImplements(FrameProtocol, IProtocol, IPushProducer)
