"""NoiseProtocol: the records of a link, once its handshake has made the keys.

Below is a carrier's byte stream.  Above, once the handshake is done
(`phantom.tunnel.initiator`, `phantom.tunnel.responder`), is a transport of whole records: each
``write`` seals one, and ``records_received`` hands up the plaintexts of those that came in one
read.  The layer above is started only then, so nothing unauthenticated ever reaches it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from phantom.core.session import BATCH_RECORDS, FULL_RECORD
from phantom.crypto.records import OVERHEAD, RecordOpener, RecordReader, RecordSealer
from phantom.errors import RemoteProtocolError
from phantom.fast.buffers import SEALED_SIZE, borrow_opened, return_opened, sealed_buffer
from phantom.fast.sockets import READ_SIZE
from phantom.interfaces import StrangerPolicy
from phantom.layer import Layer, bottom, write_pieces
from phantom.runtime import Runtime
from phantom.telemetry import make_logger
from phantom.tunnel.post_quantum import Agreed

log = make_logger()

#: Bytes of a full record on the wire.  What is read next begins with what the record in hand
#: lacks, and should end with a record, so that none is copied.
FULL_SEALED = FULL_RECORD + OVERHEAD
#: Records below this are sealed into an object of their own, which costs less than the lent
#: buffer's views.
SEALED_APART = 2048


class NoiseProtocol(Layer):
    """What both roles share: the records, once the keys are there.

    Args:
        runtime: Clock and entropy.
        upper: Started when the link is established.
        abandon: Gets the transport of a link whose records fail: closing at once would
            show an attacker where a record ends.

    Attributes:
        peer_key: The peer's static public key; set when established.
        handshake_time: On the client, seconds from the first message to the answer.
        peer_instance: On the client, what names the server's running process.
        established: Whether the handshake is done.
        received: Bytes of records received, those of incomplete ones included.
        sent: Bytes of records sent.
        separates: Whether the packets of `write_apart` stay apart while they wait in the kernel.
        post_quantum: Whether the keys rest on more than X25519; set when established.
        lean: Whether nothing should be added to what is said; set when established.
    """

    def __init__(self, runtime: Runtime, upper: Any, abandon: StrangerPolicy) -> None:
        super().__init__(upper)
        self._runtime = runtime
        self._abandon = abandon
        self.peer_key = b""
        self.peer_instance = b""
        self.handshake_time: float | None = None
        self.established = False
        self.received = 0
        self.post_quantum = False
        self.lean = False
        self._on_confirmed: Callable[[], None] | None = None
        self._ended = False
        self.read_size = READ_SIZE
        self._at_once: int
        self._seal: Callable[[bytes | memoryview], bytes]
        self._seal_row: Callable[[Sequence[memoryview], memoryview], int]
        self._send_buffer: Callable[[bytes | memoryview], bool] | None = None
        self._send_apart: Callable[[Sequence[bytes]], None] | None = None
        self.separates = False
        self.sent = 0
        self._reader: RecordReader
        self._timer: IDelayedCall | None = None

    def _establish(self, agreed: Agreed, leftover: bytes) -> None:
        self._stop_timer()
        self.established = True
        keys = agreed.keys
        self.post_quantum = agreed.post_quantum
        self._on_confirmed = agreed.confirmed
        sealer = RecordSealer(keys.send, keys.cipher)
        self._seal = sealer.seal
        self._seal_row = sealer.seal_row
        self._send_buffer = getattr(self.transport, "send_buffer", None)
        self._send_apart = getattr(self.transport, "send_apart", None)
        if self._send_apart is not None:
            self.separates = getattr(bottom(self.transport), "separates", False)
        self._reader = RecordReader(RecordOpener(keys.receive, keys.cipher))
        self.read_at_once(BATCH_RECORDS)
        self.start_upper()
        if leftover and not self._ended:
            self._records_received(leftover)

    def confirmed(self) -> None:
        """Note that the peer has proven itself live: the layers above have understood it."""
        self.trust_peer()
        confirmed, self._on_confirmed = self._on_confirmed, None
        if confirmed is not None:
            confirmed()

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def dataReceived(self, data: bytes | memoryview) -> None:
        """Take the peer's handshake message, then records."""
        if self.established:
            self._records_received(data)
        elif not self._ended:
            self.handshake_received(bytes(data))

    #: Records may come in a buffer that is lent: each is opened before the call returns.
    buffer_received = dataReceived

    def handshake_received(self, data: bytes) -> None:
        """Take a part of the peer's handshake message; each role knows its own."""
        raise NotImplementedError

    def _records_received(self, data: bytes | memoryview) -> None:
        self.received += len(data)
        reader = self._reader
        buffer = borrow_opened(len(data))
        try:
            records = reader.receive(data, buffer)
            if records:
                self.upper.records_received(records)
        finally:
            return_opened(buffer)
        missing = reader.missing
        self.read_size = missing + self._at_once - FULL_SEALED if missing else self._at_once
        if reader.failure is not None:
            self._records_failed(reader.failure)

    def _records_failed(self, error: RemoteProtocolError) -> None:
        """Stop parsing; the link is over for us, but not yet for who watches it."""
        if self._ended:
            return
        self._ended = True
        log.debug("records failed: {error}", error=str(error))
        self.transport.unregisterProducer()
        transport = self.transport
        self.upper.connectionLost(Failure(error))
        self._abandon(transport, b"")

    def read_at_once(self, records: int) -> None:
        """Have at most so many full records read at once; `BATCH_RECORDS` at first."""
        self._at_once = records * FULL_SEALED
        connection = bottom(self.transport)
        if hasattr(connection, "most_read"):
            # With room for the records of TLS around.
            connection.most_read = records * (READ_SIZE // BATCH_RECORDS)

    def write(self, data: bytes | memoryview) -> None:
        """Send whole frames as one record."""
        if not self._ended:
            sealed = self._seal(data)
            self.sent += len(sealed)
            (self._send_buffer or self.transport.write)(sealed)

    def write_apart(self, data: bytes | memoryview, sizes: Sequence[int]) -> None:
        """Send whole frames as one record, in packets of its own where the transport can.

        Args:
            data: The frames.
            sizes: Bytes of each packet but the last, which has the rest.
        """
        if self._ended:
            return
        sealed = self._seal(data)
        self.sent += len(sealed)
        pieces: list[bytes] = []
        start = 0
        for size in sizes:
            pieces.append(sealed[start : start + size])
            start += size
        pieces.append(sealed[start:])
        if self._send_apart is not None:
            self._send_apart(pieces)
        else:
            write_pieces(self.transport, pieces)

    def write_records(self, plaintexts: list[memoryview]) -> None:
        """Send several records in one go, at once where the transport can."""
        if self._ended:
            return
        send_buffer = self._send_buffer
        if send_buffer is None:
            joined = b"".join(map(self._seal, plaintexts))
            self.sent += len(joined)
            self.transport.write(joined)
            return
        if len(plaintexts) == 1 and len(plaintexts[0]) < SEALED_APART:
            sealed = self._seal(plaintexts[0])
            self.sent += len(sealed)
            send_buffer(sealed)
            return
        row: list[memoryview] = []
        room = SEALED_SIZE
        for plaintext in plaintexts:
            size = len(plaintext) + OVERHEAD
            if size > room:
                self._send_row(row, send_buffer)
                row, room = [], SEALED_SIZE
            row.append(plaintext)
            room -= size
        self._send_row(row, send_buffer)

    def _send_row(
        self, row: list[memoryview], send_buffer: Callable[[bytes | memoryview], bool]
    ) -> None:
        """Seal records that fit the lent buffer, and send them."""
        buffer = sealed_buffer.view
        size = self._seal_row(row, buffer)
        self.sent += size
        if not send_buffer(buffer[:size]):
            sealed_buffer.renew()

    def readConnectionLost(self) -> None:
        """End the link: half of one is of no use."""
        if self.established and not self._ended:
            # A transport whose producer is paused would resume that instead of closing.
            self.transport.unregisterProducer()
        self.connectionLost(Failure(ConnectionDone()))
        self.transport.loseConnection()

    def connectionLost(self, reason: Failure) -> None:
        """Report the end of an established link upwards, once."""
        self._stop_timer()
        if not self._ended:
            self._ended = True
            if self.established:
                self.upper.connectionLost(reason)
