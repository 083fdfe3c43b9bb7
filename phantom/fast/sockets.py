"""Twisted's TCP connections, made quick: fewer system calls, and no buffer in between.

A stock connection allocates ``bytes`` for each read of at most 64 KiB, and a write waits for
the reactor's next turn, where it is joined with others.  A quick one

* reads into one buffer that all share, and lends it to a protocol that says it can do with
  that (`BufferReceiver`);
* lets someone else read the socket, straight into memory of its own (`SocketReader`);
* sends at once what the kernel takes, and keeps the rest without a copy (`send_buffer`);
* sends pieces as segments of their own (`send_apart`);
* ends without waiting where there is nothing to wait for (`phantom.fast.ends`).

What the stock one promises stays true; `quicken` changes a transport's class in place, so
whoever made it (a port, a connector, an endpoint of an embedding program) need not know.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence
from typing import Any, Protocol

from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from twisted.internet.tcp import Client, Server
from twisted.python.failure import Failure

from phantom.fast.ends import QuickEnds
from phantom.fast.gathering import Gatherer, Unhurried
from phantom.fast.tcp_info import LINUX

#: Bytes read at once where a protocol takes buffers, at most: eight whole records.  Larger reads
#: keep everybody else waiting, smaller ones cost more (doc/adr/0020).
READ_SIZE = 512 * 1024
#: And at first, until a link is known to be one: what a visitor sends is kept by who reads slowly.
VISITOR_READ_SIZE = 64 * 1024
#: Bytes offered to the kernel in one call; Twisted's own limit of 128 KiB would cut our
#: batches in two.
SEND_LIMIT = 1024 * 1024
#: Pieces offered to the kernel in one call: Linux takes 1024 (UIO_MAXIOV), POSIX promises
#: less, and more than these are so small that joining them costs less than telling of them.
MOST_PIECES = 256

#: A rest that must wait is copied up to this size: a link that stalls would otherwise keep a
#: whole buffer of sealed records for a few bytes (measured: a copy of 128 KiB takes 2.9 us,
#: another such buffer 4.1 us).
COPIED_REST = 128 * 1024

# Nothing is appended to a segment that was sent so, whatever it waits for: the congestion window,
# pacing, or the network card (automatic corking, which TCP_NODELAY does not end).
_END_OF_RECORD = socket.MSG_EOR if LINUX else 0

#: Bytes of a piece that still counts as small: a segment on most paths.
MOST_APART = 1400

# What a send says when it could be done later: no room, or no memory as Twisted has it.
_FULL = frozenset({errno.EAGAIN, errno.EWOULDBLOCK, errno.ENOBUFS})

# One for the whole process: what is read is dealt with before anything else is.
_READ_BUFFER = memoryview(bytearray(READ_SIZE))


class BufferReceiver(Protocol):
    """A protocol that takes what was received in a buffer that is lent.

    Attributes:
        read_size: Bytes to read next, at most `READ_SIZE`.
    """

    read_size: int

    def buffer_received(self, data: memoryview) -> None:
        """Take bytes, as ``dataReceived``; the buffer is only valid during the call."""


class SocketReader(Protocol):
    """Reads a connection's socket itself."""

    def read_from(self, connection: QuickConnection) -> Exception | None:
        """Read, as the socket is readable.

        Returns:
            None to go on, or what `QuickConnection.read_into` found instead of data.
        """
        ...


class QuickConnection(QuickEnds):
    """A Twisted TCP connection with ways of its own; made by `quicken`.

    Attributes:
        reader: Who reads the socket in place of this object, or None.
        patient: Whether `send_buffer` pauses the producer each time, until the kernel says that
            it wants more.  It fills its last segment (64 KiB where the path allows that)
            however little is to wait there unsent (TCP_NOTSENT_LOWAT), which is 50 ms at
            10 Mbit/s; asked first, it says no.
        separates: Whether the pieces of `send_apart` stay apart while they wait in the kernel.
        gatherer: Told of each read, if there is one; a `SocketReader` does so by itself.
        most_read: Bytes that are read at once for a protocol that takes buffers, at most.
    """

    SEND_LIMIT = SEND_LIMIT

    reader: SocketReader | None = None
    patient = False
    separates = LINUX
    gatherer: Gatherer | Unhurried | None = None
    most_read = VISITOR_READ_SIZE
    # Any: a push producer, if `streamingProducer` is set.
    producer: Any
    _read_end: Exception | None = None
    _apart = 0  # bytes of the segments in which what waits leaves, if they are to be small

    def doRead(self) -> Any:
        """Read once, for whoever reads."""
        if self._read_end is not None:
            return self._read_end
        reader = self.reader
        if reader is not None:
            return reader.read_from(self)
        protocol: Any = self.protocol
        receive = getattr(protocol, "buffer_received", None)
        most = self.bufferSize if receive is None else min(protocol.read_size, self.most_read)
        try:
            size = self.socket.recv_into(_READ_BUFFER, most)
        except BlockingIOError:
            return None
        except OSError:
            self._read_end = CONNECTION_LOST
            return CONNECTION_LOST
        if not size:
            self._read_end = CONNECTION_DONE
            return CONNECTION_DONE
        if receive is None:
            protocol.dataReceived(_READ_BUFFER[:size].tobytes())
        else:
            receive(_READ_BUFFER[:size])
            if self.gatherer is not None:
                self.gatherer.read(size)
        return None

    def pauseProducing(self) -> None:
        """Read no more for now."""
        if self.gatherer is not None:
            self.gatherer.paused()
        self.stopReading()

    def resumeProducing(self) -> None:
        """Read on."""
        if self.gatherer is not None:
            self.gatherer.resumed()
        if self.connected and not self.disconnecting:
            self.startReading()

    def readConnectionLost(self, reason: Failure) -> None:
        """End the input, if it has ended.

        Twisted's epoll reactor takes an event without input for a clean end where somebody
        reads.  But whoever reads now may not have when the event was made: an earlier event of
        the same turn has resumed it.  So what the reactor has not read is looked at here.
        """
        if self._read_end is None:
            try:
                if self.socket.recv(1, socket.MSG_PEEK):
                    self.resumeProducing()
                    return
                self._read_end = CONNECTION_DONE
            except BlockingIOError:
                self.resumeProducing()
                return
            except OSError:
                self._read_end = CONNECTION_LOST
        if self._read_end is CONNECTION_LOST:
            self.connectionLost(Failure(CONNECTION_LOST))
        else:
            super().readConnectionLost(reason)

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Let a producer be paused and resumed."""
        if self.producer is not None or self.disconnected or not streaming or self.TLS:
            super().registerProducer(producer, streaming)
        else:
            self.producer = producer  # which is all that Twisted's two methods do here
            self.streamingProducer = True

    def unregisterProducer(self) -> None:
        """Forget the producer, and that it was paused: the next one begins anew."""
        self.producerPaused = False
        if self.disconnecting or self.TLS:
            super().unregisterProducer()
        else:
            self.producer = None  # which is all that Twisted's three methods do here

    def read_into(self, buffers: Sequence[memoryview]) -> int:
        """Read what there is into `buffers`, in order; for a `SocketReader`.

        Returns:
            The bytes read; 0 when there is nothing, for now or for ever: then `read_end`
            tells.
        """
        if self._read_end is not None:
            return 0
        try:
            size = self.socket.recvmsg_into(buffers)[0]
        except BlockingIOError:
            return 0
        except OSError:
            # The kernel tells of an error once; whoever asks again would find a clean end.
            self._read_end = CONNECTION_LOST
            return 0
        if not size:
            self._read_end = CONNECTION_DONE
        return size

    @property
    def read_end(self) -> Exception | None:
        """What ended the input, None while it goes on."""
        return self._read_end

    def send_buffer(self, data: bytes | memoryview) -> bool:
        """Send now what the kernel takes, and the rest as soon as it takes more.

        If not everything could be sent, the producer is paused at once, whatever its high-water
        mark: what is queued cannot be overtaken any more.

        Args:
            data: If it is a view of memory that changes, the result says until when not.

        Returns:
            Whether the memory may be used again; if not, it is the connection's now.
        """
        if not self.connected or self._writeDisconnected:
            return True
        if self.dataBuffer or self._tempDataLen:
            self._queue_behind(data, len(data))
            return True
        try:
            sent = self.socket.send(data)
        except OSError as error:
            self._note_failure(error)
            sent = 0
        if sent == len(data):
            if self.patient:
                self._pause_producer()
            return True
        rest = memoryview(data)[sent:]
        copied = len(rest) <= COPIED_REST
        self.dataBuffer = bytes(rest) if copied else rest  # type: ignore[assignment]
        self.offset = 0
        self._apart = 0
        self._pause_producer()
        return copied

    def _queue_behind(self, data: bytes | memoryview, piece: int) -> None:
        """Queue `data`, to leave in pieces of so many bytes, behind what waits already."""
        if self._apart and not self._tempDataLen and piece <= MOST_APART:
            # Twisted would join all of it.
            self.dataBuffer = b"".join((memoryview(self.dataBuffer)[self.offset :], data))
            self.offset = 0
            self._apart = max(self._apart, piece)
        else:
            self.write(bytes(data))

    def _pause_producer(self) -> None:
        """Have the producer wait until the kernel takes more."""
        if self.producer is not None and self.streamingProducer:
            self.producerPaused = True
            self.producer.pauseProducing()
        self.startWriting()

    def send_now(self, data: bytes | memoryview) -> None:
        """As `send_buffer`, with memory that the caller keeps: what must wait is copied."""
        sent = 0
        if self.connected and not (
            self._writeDisconnected or self.dataBuffer or self._tempDataLen or self.patient
        ):
            # Nearly always, and all of it is sent.
            try:
                sent = self.socket.send(data)
            except OSError as error:
                self._note_failure(error)
            if sent == len(data):
                return
            data = memoryview(data)[sent:]
        if not self.send_buffer(data):
            self.dataBuffer = bytes(self.dataBuffer)

    def _note_failure(self, error: OSError) -> None:
        """Keep in mind that a send found the connection dead.

        The reactor ends it when it reads or writes next.  But the kernel has told of the reset
        now, and to who reads next it would look like a clean end.
        """
        if error.errno not in _FULL:
            self._read_end = CONNECTION_LOST

    def send_apart(self, pieces: Sequence[bytes]) -> None:
        """As `send_now`, each piece as a segment of its own, however many wait to leave.

        Linux (4.7) appends nothing to a segment that ends a record; other systems may.  What must
        wait here, as the kernel has no room for it, leaves in segments no larger than the pieces.
        """
        if not pieces or not self.connected or self._writeDisconnected:
            return
        if self.dataBuffer or self._tempDataLen:
            self._queue_behind(b"".join(pieces), max(map(len, pieces)))
            return
        for number, piece in enumerate(pieces):
            try:
                sent = self.socket.send(piece, _END_OF_RECORD)
            except OSError as error:
                self._note_failure(error)
                sent = 0
            if sent != len(piece):
                self.dataBuffer = b"".join((piece[sent:], *pieces[number + 1 :]))
                self.offset = 0
                self._apart = max(map(len, pieces))
                self._pause_producer()
                return
        if self.patient:
            self._pause_producer()

    def send_pieces(self, pieces: list[memoryview]) -> None:
        """As `send_now`, with several pieces in one call."""
        if len(pieces) > MOST_PIECES:
            self.send_now(b"".join(pieces))
            return
        if (
            len(pieces) == 1
            or self.dataBuffer
            or self._tempDataLen
            or not self.connected
            or self._writeDisconnected
        ):
            for piece in pieces:
                self.send_now(piece)
            return
        try:
            sent = self.socket.sendmsg(pieces)
        except OSError as error:
            self._note_failure(error)
            sent = 0
        for piece in pieces:
            if sent >= len(piece):
                sent -= len(piece)
            else:
                self.send_now(piece[sent:])
                sent = 0

    def doWrite(self) -> Any:
        """Send what is queued; then let the producer go on before epoll is asked to stop."""
        data = self.dataBuffer
        producer = self.producer if self.streamingProducer and self.producerPaused else None
        if self._writeDisconnected:
            self.stopWriting()  # a call behind the end would find an error
            return None
        if producer is None or self._tempDataLen or not (data or self.patient):
            self._apart = 0  # it joins all that waits
            return super().doWrite()
        try:
            if data and self._apart:
                self._send_rest_apart(memoryview(data))
            elif data:
                # A view: Twisted cuts `bytes` by copying.
                self.offset += self.socket.send(memoryview(data)[self.offset :])
        except OSError as error:
            return None if error.errno in _FULL else CONNECTION_LOST
        if self.offset == len(data):
            self.dataBuffer = b""
            self.offset = 0
            self._apart = 0
            self.producerPaused = False
            producer.resumeProducing()
            if not self.connected or self._aborting:
                return None  # by the producer, and how it ends is decided
            if self.producerPaused and self.patient:
                return None  # it has sent more
            if self._writeDisconnected:  # by the producer
                self.stopWriting()  # type: ignore[unreachable]
            elif not self.dataBuffer and not self._tempDataLen:
                if self.disconnecting or self._writeDisconnecting:
                    return super().doWrite()  # the end, which waited for this
                self.stopWriting()
        return None

    def _send_rest_apart(self, data: memoryview) -> None:
        while self.offset < len(data):
            piece = data[self.offset : self.offset + self._apart]
            self.offset += self.socket.send(piece, _END_OF_RECORD)


class QuickServer(QuickConnection, Server):
    """An accepted connection."""


class QuickClient(QuickConnection, Client):
    """An outgoing connection."""


_QUICK = {Server: QuickServer, Client: QuickClient}


def quicken(transport: Any) -> QuickConnection | None:
    """Make a TCP connection quick, if it is one of Twisted's own and the system can do it.

    Args:
        transport: Any transport; made quick before is fine.

    Returns:
        The same transport, or None when it stays as it is.
    """
    if isinstance(transport, QuickConnection):
        return transport
    quick = _QUICK.get(type(transport))
    # Windows has no scattered reads; a socket under Twisted's TLS is not for us to read.
    if quick is None or transport.TLS or not hasattr(transport.socket, "recvmsg_into"):
        return None
    transport.__class__ = quick
    made: QuickConnection = transport
    return made
