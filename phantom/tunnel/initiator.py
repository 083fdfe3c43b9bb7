"""NoiseInitiator: the client's handshake of a link."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from phantom.core.handshake import Cipher, Feature, HandshakePayload, Mode, PostQuantum
from phantom.core.opening import MessageTwo, NeedMore
from phantom.core.shaping import LEAST_PACKETS, PACKET
from phantom.crypto.header import prologue, seal_header
from phantom.crypto.noise_ik import Ephemeral, Initiator
from phantom.errors import HandshakeError, PhantomError, RemoteProtocolError, TimeoutExpired
from phantom.fast.sockets import quicken
from phantom.interfaces import StrangerPolicy
from phantom.runtime import Runtime
from phantom.tunnel.noise import NoiseProtocol
from phantom.tunnel.openings import ClientOpening, mode_on
from phantom.tunnel.post_quantum import ClientExchange, ClientSecrets
from phantom.tunnel.server_clock import ServerClock
from phantom.tunnel.shaper import Shaping

#: Bytes of padding in the first message on bare TCP, at least and at most: no two clients
#: share a length, and one TCP segment holds it.
BARE_PADDING = (24, 700)
#: The same with an ML-KEM key in the message, which makes it 1.3 to 1.8 KB.
BARE_KEY_PADDING = (24, 420)
#: Bytes of the first packet on bare TCP, at least and at most: too few to tell whether they are
#: random (Wang and others, CCS 2015, look at 149 and more).
FIRST_PACKET = (40, 148)
#: Seconds between two packets of the first message, so that the kernel does not join them.
BETWEEN_PACKETS = (0.001, 0.003)
#: Bytes of the first message's payload inside TLS, padding included.  The first burst is at
#: least 3.4 KB, so that it does not look like a small encapsulated ClientHello (detector: the
#: nDPI TLS-in-TLS rule; margin measured in design), whether an ML-KEM key is in it or not.
TLS_PAYLOAD = (3400, 4600)
#: Bytes of padding in the first message where links die young, on either carrier: lengths still
#: vary.
LEAN_PADDING = (24, 120)
#: What a TLS server says to a bare link: an alert (RFC 8446, section 6), or a web server's
#: complaint about plain HTTP.
_TLS_ANSWERS = (b"\x15\x03", b"HTTP/1.")


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
        shaping: How the link's records are shaped; None leaves them as they are.
        lean: Whether links die young on this path, so that every byte should be content.
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
    shaping: Shaping | None = None
    lean: bool = False


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
        self._next_packet: IDelayedCall | None = None
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
            features=Feature.LEAN if settings.lean else 0,
            **self._exchange.fields,
        )
        large = content.encapsulation_key is not None
        if settings.lean:
            padding = self._runtime.randint(*LEAN_PADDING)
        elif bare:
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

        self._opening.send(message[:32], header, message[32:], self._write_flight)

    def _write_flight(self, flight: bytes) -> None:
        if self._settings.lean:  # a path may count packets
            self._write_packets(flight, len(flight), 0)
            return
        first = self._runtime.randint(*FIRST_PACKET)
        most = min(PACKET, (len(flight) - first) // (LEAST_PACKETS - 1))
        self._write_packets(flight, first, most)

    def _write_packets(self, flight: bytes, size: int, most: int) -> None:
        """Write a packet of `size` bytes, and later others of at most `most`."""
        rest = flight[size:]
        self._next_packet = None
        if rest:
            wait = self._runtime.uniform(*BETWEEN_PACKETS)
            following = self._runtime.randint(most // 4, most)
            self._next_packet = self._runtime.call_later(
                wait, self._write_packets, rest, following, most
            )
        # Not queued, where that can be helped: two that wait for one turn would leave as one, and
        # on a busy machine the next is due before the turn is over.
        quick = quicken(self.transport)
        write = self.transport.write if quick is None else quick.send_now
        write(flight[:size])

    def _stop_timer(self) -> None:
        timer, self._next_packet = self._next_packet, None
        if timer is not None:
            timer.cancel()
        super()._stop_timer()

    def _make_ephemeral(self, bare: bool) -> Ephemeral:
        if not bare:
            return Ephemeral.plain(self._runtime.entropy)
        while True:
            ephemeral = Ephemeral.elligator(self._runtime.entropy)
            # Without a prefix the server tells one by its first six bytes being printable.
            if self._settings.prefix or not all(0x20 <= b < 0x7F for b in ephemeral.wire[:6]):
                return ephemeral

    def handshake_received(self, data: bytes) -> None:
        """Take the server's message."""
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
        self.lean = self._settings.lean
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
