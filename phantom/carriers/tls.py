"""The TLS layer: ciphertext below, plaintext above, one engine call for each batch.

Twisted's own wrapper cuts writes into 16 KB pieces and drains its engine after each TLS
record; this one hands the engine everything at once and writes what comes out at once,
which halves the cost of a byte.  It knows nothing of OpenSSL or BoringSSL: it drives a
`phantom.carriers.tls_engine.TLSEngine`.

Buffers: nothing is kept here.  Ciphertext waits in the transport below, whose producer
interface is passed through; decrypted bytes are delivered at once, or, while the protocol
above has paused, stay encrypted in the engine (at most one read of the transport).  What TLS
itself answers is nobody's to pause: while a peer does not take that, it is not read
(`phantom.carriers.tls_answers`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IDelayedCall, IHalfCloseableProtocol
from twisted.python.failure import Failure

from phantom.carriers.tcp import discard_unread, write_separately
from phantom.carriers.tls_answers import Answers
from phantom.carriers.tls_engine import TLSEngine
from phantom.carriers.tls_flights import looks_like_tls, tickets_apart
from phantom.carriers.tls_quick import QuickEngine
from phantom.errors import HandshakeError, RemoteProtocolError
from phantom.fast.sockets import READ_SIZE
from phantom.interfaces import StrangerPolicy
from phantom.layer import Layer
from phantom.runtime import Runtime
from phantom.telemetry import make_logger

log = make_logger()

#: Seconds a server gives the handshake: nginx's default ``client_header_timeout``.
SERVER_HANDSHAKE_TIMEOUT = 60.0

#: Seconds after which a connection that failed, and whose last bytes the peer does not
#: take, is cut off: nginx's default ``lingering_timeout``.
FAILED_LINGER = 5.0

#: How much nginx's OpenSSL reads ahead (a record of the greatest size with its overhead, and
#: what the buffer is rounded up by).  Garbage beyond that lies unread when nginx closes, so
#: the kernel resets instead of closing; measured with nginx 1.22.
READ_AHEAD = 16709


class TLSLayer(Layer):
    """One TLS connection between a transport below and a protocol above.

    The upper protocol is started when the handshake is done and `verify` has agreed; until
    then it hears nothing, not even the end.

    Args:
        runtime: Timers.
        engine: The side of the connection to play; not started.
        upper: The protocol above.
        timeout: Seconds for the handshake.
        not_tls: For servers: takes over a visitor whose first byte is not TLS, before the
            engine sees it.  None leaves such bytes to the engine.
        verify: For clients: called when the handshake is done; raises `HandshakeError` to
            refuse the peer.
        answered: For servers: called once, when the client's hello was answered, with the
            application protocol agreed on as far as is known.
        outcome: Called once: with None just after the upper protocol was started, or with
            the failure that ended the handshake.
    """

    def __init__(
        self,
        runtime: Runtime,
        engine: TLSEngine,
        upper: Any,
        *,
        timeout: float = SERVER_HANDSHAKE_TIMEOUT,
        not_tls: StrangerPolicy | None = None,
        verify: Callable[[TLSEngine], None] | None = None,
        answered: Callable[[str | None], None] | None = None,
        outcome: Callable[[Failure | None], None] | None = None,
    ) -> None:
        super().__init__(upper)
        self._runtime = runtime
        self._engine = QuickEngine(engine)
        self._timeout = timeout
        self._not_tls = not_tls
        self._verify = verify
        self._answered = answered
        self._outcome = outcome
        self._timer: IDelayedCall | None = None
        self._up = False  # the upper protocol runs
        self._received = 0  # during the handshake
        self._flown = False  # a flight of ours went out
        #: Bytes to read from the transport at once.
        self.read_size = READ_SIZE
        self._paused = False
        self._delivering = False
        self._eof = False  # the transport's input ended while paused
        self._reads_closed = False  # the peer's close_notify was passed up
        self._writes_closed = False  # our close_notify went down
        self._ended = False  # nothing more is delivered
        self._lost = False
        self._producing = False  # a pull producer is registered
        self._answers = Answers(runtime, lambda: not self._ended, self._answers_taken)
        self._after_producer: Callable[[], None] | None = None
        self._failure: Failure | None = None  # overrides the transport's reason

    @property
    def alpn(self) -> str | None:
        """The application protocol agreed on; None before the handshake is done."""
        return self._engine.alpn if self._up else None

    # -- from below -------------------------------------------------------------------

    def connectionMade(self) -> None:
        """Begin the handshake."""
        self._timer = self._runtime.call_later(self._timeout, self._timed_out)
        self._engine.start()
        self._flush()

    def dataReceived(self, data: bytes | memoryview) -> None:
        """Decrypt, and pass up what comes out; nothing counts behind a close_notify."""
        if self._ended or self._reads_closed:
            return
        if not self._up:
            data = bytes(data)
            if self._not_tls is not None and not self._received and not looks_like_tls(data):
                self._give_away(data)
                return
            self._received += len(data)
        engine = self._engine
        try:
            engine.receive(data)
        except RemoteProtocolError as error:
            self._broken(error)
            return
        if not self._up:
            flight = engine.outgoing()
            write_separately(self.transport, tickets_apart(flight))
            self._flown = self._flown or bool(flight)
            if flight and self._answered is not None:
                answered, self._answered = self._answered, None
                answered(engine.alpn)
            if not engine.handshake_done or not self._complete():
                return
        try:
            self._deliver()
        finally:
            engine.end_loan()

    def buffer_received(self, data: memoryview) -> None:
        """Take bytes in a buffer that is lent; see `phantom.fast.sockets.BufferReceiver`."""
        self.dataReceived(data)

    def readConnectionLost(self) -> None:
        """The peer closed its half of the transport: fine after close_notify, else a cut."""
        if self._reads_closed or self._ended or self._engine.peer_closed:
            return
        if self._up and self._paused:
            # The close_notify may lie in the engine, behind data that has to wait.
            self._eof = True
        elif self._up:
            # Without close_notify anyone on the path may have cut the text short (RFC 8446,
            # section 6.1), so this is never a clean end.
            self._fail(Failure(ConnectionLost("TLS was cut off without a close")))
        else:
            self._fail(Failure(ConnectionLost("the peer closed during the TLS handshake")))

    def writeConnectionLost(self) -> None:
        """Pass up that our half-close is done."""
        if self._up and not self._ended:
            super().writeConnectionLost()

    def connectionLost(self, reason: Failure) -> None:
        """Pass the end up, or report the handshake as failed."""
        if self._lost:
            return
        self._lost = self._ended = True
        self._cancel_timer()
        self._answers.stop()
        if self._failure is not None:
            reason = self._failure
        elif (
            self._up
            and not (self._writes_closed or self._reads_closed)
            and reason.check(ConnectionDone)
        ):
            reason = Failure(ConnectionLost("TLS was cut off without a close"))
        if self._up:
            self.upper.connectionLost(reason)
        else:
            self._report(reason)

    # -- from above -------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Encrypt `data` and pass it down; dropped after a close."""
        if self._writes_closed or self._ended or not data:
            return
        try:
            self._engine.send(data)
        except RemoteProtocolError as error:
            self._broken(error)
            return
        self._flush()

    def send_buffer(self, data: bytes | memoryview) -> bool:
        """Encrypt `data` and send it at once, where the transport can.

        Returns:
            True: the memory may be used again; see
            `phantom.fast.sockets.QuickConnection.send_buffer`.
        """
        if self._writes_closed or self._ended or not data:
            return True
        try:
            self._engine.send(data)
        except RemoteProtocolError as error:
            self._broken(error)
            return True
        send = getattr(self.transport, "send_buffer", None)
        if send is None:
            self.transport.write(self._engine.outgoing())
        elif not send(self._engine.outgoing_lent()):
            self._engine.kept()
        return True

    def trust_peer(self) -> None:
        """See `QuickEngine.trust_peer`."""
        self._engine.trust_peer()

    def write_separately(self, pieces: Iterable[bytes]) -> None:
        """Write pieces as records, and as segments, of their own: see `write_separately`."""
        write_separately(self.transport, self._records(pieces))

    def send_apart(self, pieces: Sequence[bytes | memoryview]) -> None:
        """The same at once, where the transport can: see `QuickConnection.send_apart`."""
        records = self._records(pieces)
        send = getattr(self.transport, "send_apart", None)
        if send is not None:
            send(records)
        else:
            write_separately(self.transport, records)

    def _records(self, pieces: Iterable[bytes | memoryview]) -> list[bytes]:
        """Encrypt pieces, each as a record of its own; none if the connection is broken."""
        records = []
        try:
            for piece in pieces:
                if not (self._writes_closed or self._ended):
                    self._engine.send(piece)
                    records.append(self._engine.outgoing())
        except RemoteProtocolError as error:
            self._broken(error)
            return []
        return records

    def loseConnection(self) -> None:
        """Send close_notify after what was written, then close.

        A pull producer is waited for until it unregisters; as with TCP, a push producer
        is not: whoever closes knows that it has no more.
        """
        if self._lost:
            return
        if self._producing:
            self._after_producer = self.loseConnection
            return
        self._ended = True
        self._notify_close()
        self._close()

    def lose_without_notice(self) -> None:
        """Close once everything written has left, without close_notify, as if it were broken."""
        self._writes_closed = True
        self.loseConnection()

    def loseWriteConnection(self) -> None:
        """Send close_notify after what was written; the peer may go on."""
        if self._writes_closed or self._ended:
            return
        if self._producing:
            self._after_producer = self.loseWriteConnection
            return
        self._notify_close()
        if self._reads_closed:
            self._ended = True
            self._close()
        else:
            self.transport.loseWriteConnection()

    def abortConnection(self) -> None:
        """Close at once, without close_notify, and drop what is unsent."""
        self._ended = True
        self.transport.abortConnection()

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Let the transport below pause and resume the upper producer."""
        self._producing = not streaming
        super().registerProducer(producer, streaming)

    def unregisterProducer(self) -> None:
        """Undo `registerProducer`, and do what waited for it."""
        self._producing = False
        super().unregisterProducer()
        waiting, self._after_producer = self._after_producer, None
        if waiting is not None:
            waiting()

    def pauseProducing(self) -> None:
        """Stop reading, and hold back what is not yet decrypted."""
        self._paused = True
        super().pauseProducing()

    def resumeProducing(self) -> None:
        """Read again; what was held back comes first, once this turn is over."""
        if not self._paused:
            return
        self._paused = False
        self._runtime.at_turn_end(self._deliver)
        if not self._answers.choked:
            super().resumeProducing()

    def stopProducing(self) -> None:
        """Close: the upper side will not read any more."""
        self.loseConnection()

    # -- inside -----------------------------------------------------------------------

    def _deliver(self) -> None:
        """Pass up what the engine holds, until it is empty or the upper side pauses."""
        if self._delivering or not self._up:
            return
        self._delivering = True
        engine = self._engine
        try:
            while not (self._paused or self._ended or self._reads_closed):
                # All of what was read at once, so that it is acknowledged once.
                data = engine.plaintext(READ_SIZE)
                if data:
                    receive = getattr(self.upper, "buffer_received", None)
                    if receive is not None:
                        receive(data)
                    else:
                        self.upper.dataReceived(bytes(data))
                elif engine.peer_closed:
                    self._peer_closed()
                elif self._eof:
                    self._eof = False
                    self.readConnectionLost()
                else:
                    break
            if not self._ended:
                self._answer()
        except RemoteProtocolError as error:
            self._broken(error)
        finally:
            self._delivering = False

    def _answer(self) -> None:
        """Send what TLS answers by itself, to a key update, say."""
        data = self._engine.outgoing()
        if data:
            self._answers.send(self.transport, data)

    def _answers_taken(self) -> None:
        if not self._paused:
            self.transport.resumeProducing()

    def _peer_closed(self) -> None:
        self._reads_closed = True
        if self._writes_closed:
            self._ended = True
            self._close()
            # The upper protocol hears of both ends at once, in connectionLost.
        elif IHalfCloseableProtocol.providedBy(self.upper):
            self.upper.readConnectionLost()
        else:
            self.loseConnection()

    def _complete(self) -> bool:
        """Start the upper protocol; False when the peer was refused instead."""
        if self._verify is not None:
            try:
                self._verify(self._engine)
            except HandshakeError:
                self._notify_close()
                self._fail(Failure())
                return False
        self._cancel_timer()
        self._up = True
        self.start_upper()
        self._report(None)
        return not self._ended

    def _report(self, failure: Failure | None) -> None:
        outcome, self._outcome = self._outcome, None
        if outcome is not None:
            outcome(failure)

    def _give_away(self, data: bytes) -> None:
        """Leave the connection, which is not TLS, to the policy for such visitors."""
        policy, self._not_tls = self._not_tls, None
        if policy is None:
            return
        self._ended = self._lost = True
        self._cancel_timer()
        policy(self.transport, data)

    def _timed_out(self) -> None:
        self._timer = None
        log.debug("a TLS handshake took too long")
        self._fail(
            Failure(
                HandshakeError(
                    "the TLS handshake timed out; the path may be blocked, or nothing at the "
                    "other end speaks TLS"
                )
            )
        )

    def _broken(self, error: RemoteProtocolError) -> None:
        """The peer broke TLS: send the alert, if the engine has one, and close."""
        log.debug("TLS failed: {reason}", reason=str(error))
        alert = self._engine.outgoing()
        if alert:
            write_separately(self.transport, [alert])  # at once: an abort would drop it
        if self._up:
            self._fail(Failure(ConnectionLost("TLS was broken")))
            return
        failure = Failure(error)
        if self._not_tls is not None and not self._flown and self._received > READ_AHEAD:
            self._failure = failure
            self._ended = True
            self._cancel_timer()
            self.transport.abortConnection()
            self._report(failure)
        else:
            self._fail(failure)

    def _fail(self, failure: Failure) -> None:
        """Close the transport in good manners, but for good, whatever the peer does."""
        if self._ended:
            return
        self._failure = failure
        self._ended = True
        self._cancel_timer()
        self._timer = self._runtime.call_later(FAILED_LINGER, self._cut_off)
        self._close()
        if not self._up:
            self._report(failure)

    def _cut_off(self) -> None:
        self._timer = None
        self.transport.abortConnection()

    def _notify_close(self) -> None:
        if self._writes_closed:
            return
        self._writes_closed = True
        if self._engine.handshake_done:
            self._engine.close()
            self._flush()

    def _close(self) -> None:
        if self._lost:
            return  # the last session's end may stop the program and close all sockets
        discard_unread(self.transport)
        self.transport.loseConnection()

    def _flush(self) -> None:
        data = self._engine.outgoing()
        if data:
            self.transport.write(data)

    def _cancel_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
