"""NoiseProtocol: the records of a link, once its handshake has made the keys.

Below is a carrier's byte stream.  Above, once the handshake is done
(`phantom.tunnel.initiator`, `phantom.tunnel.responder`), is a transport of whole records: each
``write`` seals one, each ``dataReceived`` hands up the plaintext of one.  The layer above is
started only then, so nothing unauthenticated ever reaches it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from phantom.crypto.records import RecordOpener, RecordReader, RecordSealer
from phantom.errors import RemoteProtocolError
from phantom.interfaces import StrangerPolicy
from phantom.layer import Layer
from phantom.runtime import Runtime
from phantom.telemetry import make_logger
from phantom.tunnel.post_quantum import Agreed

log = make_logger()


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
        post_quantum: Whether the keys rest on more than X25519; set when established.
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
        self._on_confirmed: Callable[[], None] | None = None
        self._ended = False
        self._seal: Callable[[bytes | memoryview], bytes]
        self._reader: RecordReader
        self._timer: IDelayedCall | None = None

    def _establish(self, agreed: Agreed, leftover: bytes) -> None:
        self._stop_timer()
        self.established = True
        keys = agreed.keys
        self.post_quantum = agreed.post_quantum
        self._on_confirmed = agreed.confirmed
        self._seal = RecordSealer(keys.send, keys.cipher).seal
        self._reader = RecordReader(RecordOpener(keys.receive, keys.cipher))
        self.start_upper()
        if leftover and not self._ended:
            self._records_received(leftover)

    def confirmed(self) -> None:
        """Note that the peer has proven itself live: the layers above have understood it."""
        confirmed, self._on_confirmed = self._on_confirmed, None
        if confirmed is not None:
            confirmed()

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _records_received(self, data: bytes) -> None:
        self.received += len(data)
        receive = self.upper.dataReceived
        try:
            for plaintext in self._reader.receive(data):
                receive(plaintext)
                if self._ended:
                    return
        except RemoteProtocolError as error:
            self._records_failed(error)

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

    def write(self, data: bytes | memoryview) -> None:
        """Send whole frames as one record."""
        if not self._ended:
            self.transport.write(self._seal(data))

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
