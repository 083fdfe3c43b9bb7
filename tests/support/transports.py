"""A transport that one test drives by hand."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from twisted.internet import error
from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import (
    IConsumer,
    IHalfCloseableProtocol,
    IPushProducer,
    ITCPTransport,
)
from twisted.python.failure import Failure
from zope.interface import implementer

#: Documentation addresses (RFC 5737), so that no test depends on the host's own.
HOST = IPv4Address("TCP", "192.0.2.1", 443)
PEER = IPv4Address("TCP", "198.51.100.7", 50123)


@implementer(ITCPTransport, IConsumer, IPushProducer)
class ByteTransport:
    """An in-memory end of a connection: the test is the network and the peer.

    What the protocol writes collects in `written`.  `deliver`, `end` and `lose` are the
    peer's doing; bytes delivered while the protocol has paused reading are kept and come
    with `resumeProducing`, as from a kernel.  `congest` makes the peer stop taking bytes:
    the producer is paused; `relieve` undoes it.  As with Twisted's own transport,
    `loseConnection` completes when nothing is congested and no producer is registered, an
    abort at once; the protocol hears of either from `flush`, never from inside its own call.

    Args:
        protocol: Served if given: `connect` starts it.

    Attributes:
        written: The bytes written and not yet taken by `take`.
        writes: The same as separate writes.
        reading: False while the protocol has paused reading.
        congested: True between `congest` and `relieve`.
        producer: The registered producer, and whether it is a `streaming` one.
        disconnecting: `loseConnection` was called.
        write_closed: `loseWriteConnection` was called.
        aborted: `abortConnection` was called.
        connected: The protocol has not been told of the end.
    """

    def __init__(self, protocol: Any = None, *, host: Any = HOST, peer: Any = PEER) -> None:
        self.protocol = protocol
        self.writes: list[bytes] = []
        self.reading = True
        self.congested = False
        self.producer: Any = None
        self.streaming = False
        self.disconnecting = False
        self.write_closed = False
        self.aborted = False
        self.connected = True
        self.no_delay = False
        self.keep_alive = False
        self._write_lost_told = False
        self._undelivered = bytearray()
        self._ending = False
        self._host = host
        self._peer = peer

    # -- what the test does -----------------------------------------------------------

    def connect(self) -> ByteTransport:
        """Start the protocol on this transport."""
        self.protocol.makeConnection(self)
        return self

    @property
    def written(self) -> bytes:
        return b"".join(self.writes)

    def take(self) -> bytes:
        """Return what was written, and forget it."""
        data = self.written
        self.writes.clear()
        return data

    def deliver(self, data: bytes) -> None:
        """Let the peer send `data`."""
        assert not self._ending, "the peer has ended its half"
        self._undelivered += data
        self._pass_on()

    def deliver_each(self, pieces: Iterable[bytes]) -> None:
        """Let the peer send several pieces, each received apart."""
        for piece in pieces:
            self.deliver(piece)

    def end(self) -> None:
        """Let the peer close its half: after the bytes sent before it."""
        self._ending = True
        self._pass_on()

    def lose(self, reason: Exception | None = None) -> None:
        """Break the connection; without a reason it is `ConnectionLost`."""
        if self.connected:
            self.connected = False
            self.protocol.connectionLost(Failure(reason or error.ConnectionLost()))

    def congest(self) -> None:
        """Let the peer stop taking bytes."""
        if not self.congested:
            self.congested = True
            if self.producer is not None and self.streaming:
                self.producer.pauseProducing()

    def relieve(self) -> None:
        """Let the peer take bytes again."""
        if self.congested:
            self.congested = False
            if self.producer is not None:
                self.producer.resumeProducing()

    def flush(self) -> None:
        """Tell the protocol what its own closing calls brought about."""
        if not self.connected:
            return
        if self.aborted:
            self.lose(error.ConnectionAborted())
        elif self.congested or self.producer is not None:
            return
        elif self.disconnecting:
            self.lose(error.ConnectionDone())
        elif self.write_closed and not self._write_lost_told:
            self._write_lost_told = True
            if IHalfCloseableProtocol.providedBy(self.protocol):
                self.protocol.writeConnectionLost()

    def _pass_on(self) -> None:
        if not self.connected or self.disconnecting or self.aborted:
            return
        if self._undelivered and self.reading:
            data = bytes(self._undelivered)
            self._undelivered.clear()
            self.protocol.dataReceived(data)
        if self._ending and self.reading and not self._undelivered and self.connected:
            self.reading = False
            if IHalfCloseableProtocol.providedBy(self.protocol):
                self.protocol.readConnectionLost()
            else:
                self.lose(error.ConnectionDone())

    # -- ITCPTransport ----------------------------------------------------------------

    def write(self, data: bytes) -> None:
        assert isinstance(data, bytes | bytearray | memoryview), type(data)
        if data and self.connected and not (self.disconnecting or self.write_closed):
            self.writes.append(bytes(data))

    def writeSequence(self, data: Iterable[bytes]) -> None:
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        self.disconnecting = True
        self.reading = False

    def loseWriteConnection(self) -> None:
        self.write_closed = True

    def abortConnection(self) -> None:
        self.aborted = self.disconnecting = True
        self.reading = False

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
        if self.producer is not None:
            raise RuntimeError("a producer is registered already")
        if not self.connected:
            producer.stopProducing()
            return
        self.producer, self.streaming = producer, streaming
        if not streaming:
            producer.resumeProducing()
        elif self.congested:
            producer.pauseProducing()

    def unregisterProducer(self) -> None:
        self.producer = None

    # -- IPushProducer ----------------------------------------------------------------

    def pauseProducing(self) -> None:
        self.reading = False

    def resumeProducing(self) -> None:
        if self.connected and not self.disconnecting:
            self.reading = True
            self._pass_on()

    def stopProducing(self) -> None:
        self.loseConnection()
