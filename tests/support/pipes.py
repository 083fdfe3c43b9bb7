"""Two protocols joined by a bounded in-memory connection on a fake clock.

    clock = Clock()
    pipe = join(clock, client, server, delay=0.05, split=seeded_split(7))
    run(clock)

Nothing is ever delivered from inside a call of the receiver or the sender: every delivery
is an event of the clock, as with sockets.  Each direction holds at most `capacity` bytes on
the wire; what does not fit waits with the sender, whose producer is paused meanwhile.
Closing behaves as Twisted's TCP transports do (tests/test_support.py compares the two).
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from twisted.internet import error
from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import (
    IConsumer,
    IHalfCloseableProtocol,
    IPushProducer,
    ITCPTransport,
)
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

#: ``split(available)`` says how many of the `available` bytes travel in the next piece.
Split = Callable[[int], int]

#: As much as a socket buffer commonly holds before the first autotuning.
DEFAULT_CAPACITY = 65536
#: A full sender waits for this much room.
SEGMENT = 1460


def whole(available: int) -> int:
    """Let everything travel in one piece."""
    return available


def byte_by_byte(_available: int) -> int:
    """Let every byte travel alone."""
    return 1


def seeded_split(seed: int | str | bytes) -> Split:
    """Cut at places that `seed` decides: often tiny pieces, now and then large ones."""
    source = random.Random(seed)

    def split(available: int) -> int:
        return source.randint(1, min(available, source.choice((1, 2, 7, 64, 1500, available))))

    return split


def drawn_split(sizes: Iterable[int]) -> Split:
    """Cut by a list of sizes, one from hypothesis for example; then do not cut."""
    left = iter(sizes)
    return lambda available: min(available, max(1, next(left, available)))


def step(clock: Clock) -> bool:
    """Let the next event happen; return False when there is none."""
    call = min(clock.calls, key=lambda call: call.getTime(), default=None)
    if call is None:
        return False
    clock.rightNow = max(clock.rightNow, call.getTime())
    clock.calls.remove(call)
    call.called = 1
    call.func(*call.args, **call.kw)
    return True


def run(clock: Clock, seconds: float = 0.0, *, max_events: int = 1_000_000) -> None:
    """Advance `clock` event by event.

    Args:
        clock: The clock.
        seconds: How far; events due by then happen, later ones do not.
        max_events: More events than this are a loop: fail.
    """
    until = clock.seconds() + seconds
    for _ in range(max_events):
        # Clock.advance would go round for ever with calls that schedule themselves for now.
        call = min(clock.calls, key=lambda call: call.getTime(), default=None)
        if call is None or call.getTime() > until:
            break
        clock.rightNow = max(clock.rightNow, call.getTime())
        clock.calls.remove(call)
        call.called = 1
        call.func(*call.args, **call.kw)
    else:
        raise AssertionError(f"still busy after {max_events} events")
    clock.advance(until - clock.seconds())


class _Direction:
    """One way of the pipe, from the `sender`'s write to the `receiver`'s dataReceived."""

    def __init__(self, clock: Clock, delay: float, capacity: int, split: Split) -> None:
        self.clock = clock
        self.delay = delay
        self.capacity = capacity
        self.split = split
        self.sender: PipeEnd
        self.receiver: PipeEnd
        self.unsent = bytearray()
        self.flight: deque[tuple[float, bytes]] = deque()  # b"" is the end of the direction
        self.in_flight = 0
        self.carried = 0
        self.fin_wanted = False
        self.fin_sent = False
        self.stalled = False
        self._event: Any = None

    def feed(self) -> None:
        """Move what fits from the sender to the wire."""
        while self.unsent and self.in_flight < self.capacity:
            available = min(len(self.unsent), self.capacity - self.in_flight)
            if available < min(len(self.unsent), SEGMENT, self.capacity // 2):
                break  # as TCP does (RFC 9293, 3.8.6.2.1), or pieces would shrink to a byte
            size = self.split(available)
            assert 1 <= size <= available
            piece = bytes(self.unsent[:size])
            del self.unsent[:size]
            self.in_flight += size
            self.flight.append((self.clock.seconds() + self.delay, piece))
        if self.fin_wanted and not self.unsent and not self.fin_sent:
            self.fin_sent = True
            self.flight.append((self.clock.seconds() + self.delay, b""))
        self.arm()

    def arm(self) -> None:
        """See to it that the next piece arrives when it is due."""
        if self._event is None and self.flight and not self.stalled and self.receiver.listening:
            wait = max(0.0, self.flight[0][0] - self.clock.seconds())
            self._event = self.clock.callLater(wait, self._arrive)

    def _arrive(self) -> None:
        self._event = None
        if not self.flight or self.stalled or not self.receiver.listening:
            return  # paused meanwhile; resuming arms again
        if self.flight[0][0] > self.clock.seconds():
            self.arm()
            return
        _, piece = self.flight.popleft()
        self.in_flight -= len(piece)
        self.carried += len(piece)
        # The sender learns of the room in an event of its own, not inside this delivery.
        self.clock.callLater(0, self.sender.sendable)
        if piece:
            self.receiver.receive(piece)
        else:
            self.receiver.receive_end()
        self.arm()

    def drop(self) -> None:
        """Forget everything under way."""
        self.unsent.clear()
        self.flight.clear()
        self.in_flight = 0
        if self._event is not None:
            self._event.cancel()
            self._event = None


@implementer(ITCPTransport, IConsumer, IPushProducer)
class PipeEnd:
    """The transport of one of the two protocols.

    Attributes:
        protocol: Whom it serves; may be replaced while running.
        connected: The protocol has not been told of the end.
        lost: Why the connection ended, once it has.
    """

    alpn: str | None = None

    def __init__(self, clock: Clock, protocol: Any, host: Any, peer: Any) -> None:
        self.protocol = protocol
        self.connected = False
        self.lost: Failure | None = None
        self.disconnecting = False
        self.no_delay = False
        self.keep_alive = False
        self._clock = clock
        self._host = host
        self._peer = peer
        self._reading = True
        self._read_ended = False
        self._write_ended = False
        self._write_ending = False
        self._aborting = False
        self._producer: Any = None
        self._streaming = False
        self._paused = False
        self._out: _Direction
        self._in: _Direction
        self._far: PipeEnd

    # -- events of the clock ----------------------------------------------------------

    @property
    def listening(self) -> bool:
        """Whether what arrives now would be taken (be it to be thrown away)."""
        return self._reading or self.disconnecting or not self.connected

    def receive(self, data: bytes) -> None:
        if not self.connected:
            # Bytes for a socket that is gone: the kernel answers with a reset.
            self._clock.callLater(self._out.delay, self._far.lose, error.ConnectionLost())
        elif not self.disconnecting:
            self.protocol.dataReceived(data)

    def receive_end(self) -> None:
        if not self.connected or self.disconnecting:
            return
        self._reading = False
        self._read_ended = True
        if IHalfCloseableProtocol.providedBy(self.protocol):
            self.protocol.readConnectionLost()
        else:
            self.lose(error.ConnectionDone())

    def sendable(self) -> None:
        """There may be room on the wire."""
        if self.connected and not self._aborting:
            self._out.feed()
            self._balance()

    def lose(self, reason: Exception) -> None:
        """Tell the protocol that the connection ended, once."""
        if not self.connected:
            return
        self.connected = False
        self.disconnecting = True
        # Twisted closes the descriptor: what it had not sent is lost, the wire carries on.
        self._out.unsent.clear()
        self._out.fin_wanted = True
        self._out.feed()
        self._in.arm()
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.stopProducing()
        self.lost = Failure(reason)
        self.protocol.connectionLost(self.lost)

    def _balance(self) -> None:
        """Pause or resume the producer, and finish what waited for an empty buffer."""
        full = bool(self._out.unsent)
        if self._producer is not None:
            if full and self._streaming and not self._paused:
                self._paused = True
                self._producer.pauseProducing()
            elif not full and (self._paused or not self._streaming):
                self._paused = False
                self._producer.resumeProducing()
            return
        if full:
            return
        if self.disconnecting:
            self.lose(error.ConnectionDone())
        elif self._write_ending and not self._write_ended:
            self._write_ended = True
            self._out.fin_wanted = True
            self._out.feed()
            if IHalfCloseableProtocol.providedBy(self.protocol):
                self.protocol.writeConnectionLost()

    # -- ITCPTransport ----------------------------------------------------------------

    def write(self, data: bytes) -> None:
        assert isinstance(data, bytes | bytearray | memoryview), type(data)
        if not self.connected or self._write_ended or not data:
            return
        self._out.unsent += data
        self._out.feed()
        if self._out.unsent and self._producer is not None and self._streaming:
            self._balance()

    def writeSequence(self, data: Iterable[bytes]) -> None:
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        if self.connected and not self.disconnecting:
            self.disconnecting = True
            self._clock.callLater(0, self.sendable)
            self._in.arm()

    def loseWriteConnection(self) -> None:
        if self.connected and not self._write_ending:
            self._write_ending = True
            self._clock.callLater(0, self.sendable)

    def abortConnection(self) -> None:
        if self.connected and not self._aborting:
            self._aborting = self.disconnecting = True
            self._reading = False
            self._out.drop()
            self._in.drop()
            self._out.fin_sent = True  # a reset, not an end
            self._clock.callLater(0, self.lose, error.ConnectionAborted())
            self._clock.callLater(self._out.delay, self._far.reset)

    def reset(self) -> None:
        """The peer's reset arrives."""
        self._out.drop()
        self._out.fin_sent = True
        self.lose(error.ConnectionLost())

    def getPeer(self) -> Any:
        return self._peer

    def getHost(self) -> Any:
        return self._host

    def setTcpNoDelay(self, enabled: bool) -> None:
        self.no_delay = bool(enabled)

    def getTcpNoDelay(self) -> bool:
        return self.no_delay

    def setTcpKeepAlive(self, enabled: bool) -> None:
        self.keep_alive = bool(enabled)

    def getTcpKeepAlive(self) -> bool:
        return self.keep_alive

    # -- IConsumer --------------------------------------------------------------------

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        if self._producer is not None:
            raise RuntimeError("a producer is registered already")
        if not self.connected:
            producer.stopProducing()
            return
        self._producer, self._streaming, self._paused = producer, streaming, False
        if not streaming:
            producer.resumeProducing()
        else:
            self._balance()

    def unregisterProducer(self) -> None:
        self._producer = None
        if self.connected and (self.disconnecting or self._write_ending):
            self._clock.callLater(0, self.sendable)

    # -- IPushProducer ----------------------------------------------------------------

    def pauseProducing(self) -> None:
        self._reading = False

    def resumeProducing(self) -> None:
        if self.connected and not self.disconnecting and not self._read_ended:
            self._reading = True
            self._in.arm()

    def stopProducing(self) -> None:
        self.loseConnection()


class Pipe:
    """A connection between two protocols.

    Attributes:
        left: The transport of the first protocol.
        right: The transport of the second.
    """

    def __init__(
        self, clock: Clock, left: PipeEnd, right: PipeEnd, ways: tuple[_Direction, _Direction]
    ) -> None:
        self.clock = clock
        self.left = left
        self.right = right
        self._ways = ways

    @property
    def carried(self) -> tuple[int, int]:
        """Bytes that have arrived: left to right, right to left."""
        return self._ways[0].carried, self._ways[1].carried

    def stall(self) -> None:
        """Let nothing arrive any more, as a censor's silent drop does."""
        for way in self._ways:
            way.stalled = True

    def unstall(self) -> None:
        """Let things arrive again."""
        for way in self._ways:
            way.stalled = False
            way.arm()

    def cut(self) -> None:
        """Break the connection for both ends, as a forged reset does."""
        for way in self._ways:
            way.drop()
            way.fin_sent = True
        for end in (self.left, self.right):
            self.clock.callLater(0, end.lose, error.ConnectionLost())


def join(
    clock: Clock,
    left: Any,
    right: Any,
    *,
    delay: float = 0.0,
    capacity: int = DEFAULT_CAPACITY,
    split: Split = whole,
    split_back: Split | None = None,
    alpn: str | None = None,
) -> Pipe:
    """Connect two protocols and start both, the right (accepting) one first.

    Args:
        clock: Drives every delivery.
        left: The initiating protocol.
        right: The accepting protocol.
        delay: Seconds each byte travels.
        capacity: Bytes the wire holds per direction.
        split: How writes are cut on the way left to right.
        split_back: The same for right to left; by default `split`.
        alpn: What the transports say was agreed on, as those of TLS do.

    Returns:
        The pipe.
    """
    addresses = (
        IPv4Address("TCP", "198.51.100.7", 50123),
        IPv4Address("TCP", "192.0.2.1", 443),
    )
    ends = (
        PipeEnd(clock, left, addresses[0], addresses[1]),
        PipeEnd(clock, right, addresses[1], addresses[0]),
    )
    ways = (
        _Direction(clock, delay, capacity, split),
        _Direction(clock, delay, capacity, split if split_back is None else split_back),
    )
    for way, sender, receiver in ((ways[0], ends[0], ends[1]), (ways[1], ends[1], ends[0])):
        way.sender, way.receiver = sender, receiver
        sender._out, receiver._in = way, way
        sender._far = receiver
    for end in reversed(ends):
        end.connected = True
        end.alpn = alpn
        end.protocol.makeConnection(end)
    return Pipe(clock, ends[0], ends[1], ways)
