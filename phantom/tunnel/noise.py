"""NoiseProtocol: the handshake of a link, then its records.

Below is a carrier's byte stream.  Above, once the handshake is done, is a transport of
whole records: each ``write`` seals one, each ``dataReceived`` hands up the plaintext of
one.  The layer above is started only then, so nothing unauthenticated ever reaches it.

Everything that may be seen from outside before authentication is decided here: a message
that does not prove a known key is handed, with every byte read so far, to the stranger
policy (a decoy, or silence), whatever was wrong with it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, Protocol

import attrs
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from phantom.core.handshake import Cipher, HandshakePayload, Mode, PostQuantum
from phantom.core.opening import MessageOne, MessageTwo, NeedMore
from phantom.crypto.header import prologue, seal_header
from phantom.crypto.noise_ik import Ephemeral, Initiator, Responder
from phantom.crypto.records import RecordOpener, RecordReader, RecordSealer
from phantom.errors import HandshakeError, PhantomError, RemoteProtocolError, TimeoutExpired
from phantom.interfaces import Expect, StrangerPolicy
from phantom.layer import Layer, forward_half_close
from phantom.runtime import Runtime
from phantom.telemetry import make_logger
from phantom.tunnel.openings import ClientOpening, ServerOpening, mode_on
from phantom.tunnel.post_quantum import (
    NOBODY,
    Agreed,
    ClientExchange,
    ClientSecrets,
    ExchangeMemory,
    ServerExchange,
    stand_in,
)
from phantom.tunnel.server_clock import ServerClock

log = make_logger()

#: Bytes of padding in the first message on bare TCP, at least and at most: no two clients
#: share a length, and one TCP segment holds it.
BARE_PADDING = (24, 700)
#: The same with an ML-KEM key in the message, which makes it 1.3 to 1.8 KB.
BARE_KEY_PADDING = (24, 420)
#: Such a message leaves in two packets.  In one piece nearly every first packet would be a full
#: segment, and the length of the first packet no secret.  Bytes of the first packet: below the
#: 411 that a rule seen in Russia in 2024 counts as a large one, of which it wants three.
FIRST_PACKET = (100, 400)
#: Bytes of the second at most: a segment on a path with an MTU of 1,432 or more.
SECOND_PACKET = 1380
#: Seconds between the two, so that the kernel does not join them.
BETWEEN_PACKETS = (0.001, 0.004)
#: Bytes of the first message's payload inside TLS, padding included.  The first burst is at
#: least 3.4 KB, so that it does not look like a small encapsulated ClientHello (detector: the
#: nDPI TLS-in-TLS rule; margin measured in design), whether an ML-KEM key is in it or not.
TLS_PAYLOAD = (3400, 4600)
#: What a TLS server says to a bare link: an alert (RFC 8446, section 6), or a web server's
#: complaint about plain HTTP.
_TLS_ANSWERS = (b"\x15\x03", b"HTTP/1.")
#: The answer needs no such size; it varies.
REPLY_PADDING = (16, 600)


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


@attrs.frozen(slots=True, kw_only=True)
class InitiatorSettings:
    """What a client needs to open a link.

    Attributes:
        private_key: Its static X25519 key, 32 bytes.
        server_key: The server's static public key, 32 bytes.
        cipher: For the handshake and the records.
        mode: How the link opens: bare, or inside TLS, as the HTTP that ALPN chose.
        host: The Host of the HTTP request, inside TLS.
        prefix: Whether a bare link begins with random printable bytes.
        timeout: Seconds for the whole handshake.
        post_quantum: Whether to do an ML-KEM exchange.
        secrets: What earlier links left of one; None to do it for every link.
        clock: The server's time; its web site sets it right.
    """

    private_key: bytes = attrs.field(repr=False)
    server_key: bytes
    cipher: Cipher
    mode: Mode
    host: str = ""
    prefix: bool = True
    timeout: float = 10.0
    post_quantum: PostQuantum = PostQuantum.AUTO
    secrets: ClientSecrets | None = None
    clock: ServerClock = attrs.field(factory=ServerClock)


class NoiseInitiator(NoiseProtocol):
    """The client's side of a link.

    Args:
        runtime: Clock and entropy.
        upper: Started when the link is established.
        settings: Keys and ways.
        abandon: See `NoiseProtocol`.
        on_failure: Called once when the link could not be established; the transport is
            being left then.
    """

    def __init__(
        self,
        runtime: Runtime,
        upper: Any,
        settings: InitiatorSettings,
        abandon: StrangerPolicy,
        on_failure: Callable[[Failure], None],
    ) -> None:
        super().__init__(runtime, upper, abandon)
        self._settings = settings
        self._on_failure = on_failure
        self._handshake: Initiator
        self._exchange: ClientExchange
        self._second: IDelayedCall | None = None
        self._opening: ClientOpening

    def connectionMade(self) -> None:
        """Send the first message."""
        self._timer = self._runtime.call_later(self._settings.timeout, self._timed_out)
        self._began = self._runtime.clock.seconds()
        try:
            self._send_message()
        except HandshakeError as error:  # a server key with which nobody can agree on anything
            self._failed(Failure(error))

    def _send_message(self) -> None:
        settings = self._settings
        self.peer_key = settings.server_key
        mode = mode_on(self.transport, settings.mode)
        bare = mode is Mode.BARE
        ephemeral = self._make_ephemeral(bare)
        self._exchange = ClientExchange(
            settings.post_quantum,
            settings.server_key,
            settings.secrets,
            self._runtime.entropy,
            self._began,
        )
        content = HandshakePayload(
            timestamp=int(settings.clock.time(self._runtime.wall_time()) * 1000),
            **self._exchange.fields,
        )
        large = content.encapsulation_key is not None
        if bare:
            padding = self._runtime.randint(*(BARE_KEY_PADDING if large else BARE_PADDING))
        else:
            padding = max(0, self._runtime.randint(*TLS_PAYLOAD) - len(content.encode()))
        payload = content.encode(padding=padding)
        rest_length = 48 + len(payload) + 16  # sealed static key, payload and its tag
        header = seal_header(
            settings.server_key, ephemeral.wire, b"client", rest_length, settings.cipher
        )
        self._handshake = Initiator(
            static_private=settings.private_key,
            server_public=settings.server_key,
            cipher=settings.cipher,
            prologue=prologue(mode, header),
            ephemeral=ephemeral,
        )
        message = self._handshake.write_message_1(payload)
        self._opening = ClientOpening(
            self._runtime,
            self.transport,
            mode,
            settings.server_key,
            host=settings.host,
            prefix=settings.prefix,
        )

        def write(flight: bytes) -> None:
            self._write_flight(flight, large)

        self._opening.send(message[:32], header, message[32:], write)

    def _write_flight(self, flight: bytes, large: bool) -> None:
        if not large:
            self.transport.write(flight)
            return
        low, high = FIRST_PACKET
        first = self._runtime.randint(min(high, max(low, len(flight) - SECOND_PACKET)), high)
        self.transport.write(flight[:first])
        self._second = self._runtime.call_later(
            self._runtime.uniform(*BETWEEN_PACKETS), self._write_second, flight[first:]
        )

    def _write_second(self, rest: bytes) -> None:
        self._second = None
        self.transport.write(rest)

    def _stop_timer(self) -> None:
        second, self._second = self._second, None
        if second is not None:
            second.cancel()
        super()._stop_timer()

    def _make_ephemeral(self, bare: bool) -> Ephemeral:
        if not bare:
            return Ephemeral.plain(self._runtime.entropy)
        while True:
            ephemeral = Ephemeral.elligator(self._runtime.entropy)
            # Without a prefix the server tells one by its first six bytes being printable.
            if self._settings.prefix or not all(0x20 <= b < 0x7F for b in ephemeral.wire[:6]):
                return ephemeral

    def dataReceived(self, data: bytes) -> None:
        """Take the server's message, then records."""
        if self.established:
            self._records_received(data)
            return
        if self._ended:
            return
        try:
            reply = self._opening.receive(data)
        except (HandshakeError, RemoteProtocolError) as error:
            self._failed(Failure(self._explain(error)))
            return
        if isinstance(reply, NeedMore):
            return
        try:
            self._message_received(reply)
        except (HandshakeError, RemoteProtocolError) as error:
            self._failed(Failure(error))

    def _explain(self, error: PhantomError) -> PhantomError:
        """Name the cause where the answer gives it away."""
        date = self._opening.date
        if date is not None:
            return self._settings.clock.refused(date, self._runtime.wall_time()) or error
        if self._settings.mode is Mode.BARE and self._opening.received.startswith(_TLS_ANSWERS):
            return HandshakeError(
                "this server speaks TLS: set tls_sni (and tls_pin or tls_ca, if its certificate "
                "is its own)"
            )
        return error

    def _message_received(self, reply: MessageTwo) -> None:
        if reply.cipher != self._settings.cipher:
            raise HandshakeError("the server answered with another cipher")
        payload = HandshakePayload.decode(self._handshake.read_message_2(reply.e + reply.rest))
        agreed = self._exchange.finish(payload, self._handshake.keys)
        self.handshake_time = self._runtime.clock.seconds() - self._began
        self.peer_instance = payload.instance or b""
        self._establish(agreed, reply.leftover)

    def _timed_out(self) -> None:
        self._timer = None
        self._failed(
            Failure(
                TimeoutExpired(
                    "no answer to the handshake. Either server_public_key is not this "
                    "server's, this client's key is not among its allowed_clients, the clocks "
                    "differ by more than 2 minutes, or something on the way blocks the link"
                )
            )
        )

    def _failed(self, failure: Failure) -> None:
        if self._ended:
            return
        self._ended = True
        self._stop_timer()
        self._abandon(self.transport, b"")
        self._on_failure(failure)

    def connectionLost(self, reason: Failure) -> None:
        """Report a link that ended before it was one."""
        failed_early = not self.established and not self._ended
        super().connectionLost(reason)
        if failed_early:
            self._on_failure(
                Failure(HandshakeError("the connection was closed during the handshake"))
            )

    def cancel(self) -> None:
        """Give up an unfinished handshake, at once and without a word."""
        if not self.established and not self._ended:
            self._ended = True
            self._stop_timer()
            if self.transport is not None:
                self.transport.abortConnection()


class Gatekeeper(Protocol):
    """Who may have a link."""

    def authorise(self, client_key: bytes, payload: HandshakePayload, e: bytes) -> bool:
        """Decide on a first message.

        Called once a message; its only effect is the replay filter's, and that only for a
        known key.  It must take the same time for each.

        Args:
            client_key: The static public key the message proves; `NOBODY` if it proves none.
            payload: Its payload.
            e: The ephemeral's 32 bytes on the wire, by which a replay is known.

        Returns:
            Whether the key is allowed and the message fresh.
        """
        ...


class Visitors(Protocol):
    """Who keeps count of visitors that are neither known nor turned away yet."""

    def arrived(self, visitor: NoiseResponder) -> None:
        """A visitor is connected; the carrier's own handshake, if any, is done."""
        ...

    def settled(self, visitor: NoiseResponder) -> None:
        """The visitor is established, handed over, or gone.  Called once for each."""
        ...


class NoiseResponder(NoiseProtocol):
    """The server's side of a link.

    Args:
        runtime: Clock and entropy.
        upper: Started when the link is established.
        private_key: The server's static X25519 key, 32 bytes.
        public_key: Its public half.
        mode: How links open here.
        gatekeeper: Decides who may enter.
        stranger: Gets everybody else.
        expect: Prepares for that while it is open who the visitor is, if at all.
        abandon: Gets the transport of an established link whose records fail.
        timeout: Seconds until a visitor without a message is a stranger.
        visitors: Counts the undecided.
        instance: Names this process to clients, 16 random bytes.
        post_quantum: Whether to do an ML-KEM exchange.
        secrets: What earlier links left of one.
    """

    def __init__(
        self,
        runtime: Runtime,
        upper: Any,
        *,
        private_key: bytes,
        public_key: bytes,
        mode: Mode,
        gatekeeper: Gatekeeper,
        stranger: StrangerPolicy,
        expect: Expect | None = None,
        abandon: StrangerPolicy,
        timeout: float,
        visitors: Visitors,
        instance: bytes,
        post_quantum: PostQuantum,
        secrets: ExchangeMemory,
    ) -> None:
        super().__init__(runtime, upper, abandon)
        self._post_quantum = post_quantum
        self._secrets = secrets
        self._private_key = private_key
        self._public_key = public_key
        self._gatekeeper = gatekeeper
        self._timeout = timeout
        self._visitors = visitors
        self._instance = instance
        self._settled = False

        self._opening = ServerOpening(runtime, mode, public_key, stranger, expect)
        # Until the client has said what comes before its first record.
        self._agreed: Agreed | None = None
        self._awaited = b""

    def connectionMade(self) -> None:
        """Wait for the first message, but not for ever."""
        self._timer = self._runtime.call_later(self._timeout, self._timed_out)
        self._visitors.arrived(self)
        self._opening.begin(self.transport, self._turn_away)

    def dataReceived(self, data: bytes) -> None:
        """Take the client's message, then records."""
        if self.established:
            self._records_received(data)
            return
        if self._ended:
            return
        if self._agreed is not None:
            self._await(self._agreed, data)
            return
        result = self._opening.receive(data)
        if isinstance(result, MessageOne):
            self._message_received(result)
        elif not isinstance(result, NeedMore):
            self._turn_away()

    def _message_received(self, message: MessageOne) -> None:
        mode = self._opening.mode
        handshake = Responder(
            static_private=self._private_key,
            cipher=message.cipher,
            prologue=prologue(mode, message.sealed_header),
            elligator=mode is Mode.BARE,
        )
        # Each step is taken by every message, so that all failures take the same time; after
        # one that fails, by a stand-in.
        client_key, raw = NOBODY, stand_in()
        with contextlib.suppress(HandshakeError):
            client_key, raw = handshake.read_message_1(message.e + message.rest)
        try:
            payload = HandshakePayload.decode(raw)
        except RemoteProtocolError:
            client_key, payload = NOBODY, HandshakePayload.decode(stand_in())
        try:
            exchange = self._begin_exchange(client_key, payload)
        except RemoteProtocolError:
            client_key = NOBODY
            exchange = self._begin_exchange(NOBODY, HandshakePayload.decode(stand_in()))
        if not self._gatekeeper.authorise(client_key, payload, message.e):
            self._turn_away()
            return
        self._answer(handshake, message, client_key, exchange)

    def _begin_exchange(self, client_key: bytes, payload: HandshakePayload) -> ServerExchange:
        return ServerExchange(
            self._post_quantum,
            self._secrets,
            client_key,
            payload,
            self._runtime.clock.seconds(),
        )

    def _answer(
        self,
        handshake: Responder,
        message: MessageOne,
        client_key: bytes,
        exchange: ServerExchange,
    ) -> None:
        bare = self._opening.mode is Mode.BARE
        make = Ephemeral.elligator if bare else Ephemeral.plain
        ephemeral = make(self._runtime.entropy)
        payload = HandshakePayload(
            timestamp=int(self._runtime.wall_time() * 1000),
            instance=self._instance,
            **exchange.answer(),
        ).encode(padding=self._runtime.randint(*REPLY_PADDING))
        header = seal_header(
            self._public_key, ephemeral.wire, b"server", len(payload) + 16, message.cipher
        )
        reply = handshake.write_message_2(payload, ephemeral)
        self._awaited = self._opening.answer(reply[:32] + header + reply[32:])
        if exchange.redo:
            self._leave_unfinished()
            return
        self.peer_key = client_key
        self._settle()
        self._await(exchange.finish(handshake.keys), message.leftover)

    def _await(self, agreed: Agreed, data: bytes) -> None:
        """Take what the client says before its first record, to the byte."""
        awaited = self._awaited
        if data[: len(awaited)] != awaited[: len(data)]:
            self._leave_unfinished()
            return
        self._awaited = awaited[len(data) :]
        if self._awaited:
            self._agreed = agreed
            return
        self._agreed = None
        self._establish(agreed, data[len(awaited) :])

    def _leave_unfinished(self) -> None:
        """Leave one that was answered: without an ML-KEM key, say, there is no link."""
        self._ended = True
        self._stop_timer()
        self._settle()
        self._abandon(self.transport, b"")

    def _timed_out(self) -> None:
        self._timer = None
        self._turn_away()

    def _turn_away(self) -> None:
        """Hand the visitor and all it sent to the stranger policy.  One path for all."""
        if self._ended:
            return
        if self._agreed is not None:
            self._leave_unfinished()
            return
        self._ended = True
        self._stop_timer()
        self._settle()
        self._opening.turn_away()

    def readConnectionLost(self) -> None:
        """A visitor that half-closes before it is known is a stranger like any other."""
        if self.established:
            super().readConnectionLost()
        elif not self._ended:
            transport = self.transport
            self._turn_away()
            forward_half_close(transport)

    def connectionLost(self, reason: Failure) -> None:
        """Note the end."""
        self._settle()
        if not self._ended and not self.established:
            self._opening.gone()
        super().connectionLost(reason)

    def evict(self) -> None:
        """Drop an undecided visitor to make room for another: the way a stranger leaves."""
        self._turn_away()

    def _settle(self) -> None:
        if not self._settled:
            self._settled = True
            self._visitors.settled(self)
