"""NoiseResponder: the server's handshake of a link.

Everything that may be seen from outside before authentication is decided here: a message
that does not prove a known key is handed, with every byte read so far, to the stranger
policy (a decoy, or silence), whatever was wrong with it.
"""

from __future__ import annotations

import contextlib
from typing import Any, Protocol

from twisted.python.failure import Failure

from phantom.core.handshake import Feature, HandshakePayload, Mode, PostQuantum
from phantom.core.opening import MessageOne, NeedMore
from phantom.crypto.header import prologue, seal_header
from phantom.crypto.noise_ik import Ephemeral, Responder
from phantom.errors import HandshakeError, RemoteProtocolError
from phantom.interfaces import Expect, StrangerPolicy
from phantom.layer import forward_half_close
from phantom.runtime import Runtime
from phantom.tunnel.noise import NoiseProtocol
from phantom.tunnel.openings import ServerOpening
from phantom.tunnel.post_quantum import (
    NOBODY,
    Agreed,
    ExchangeMemory,
    ServerExchange,
    stand_in,
)

#: Bytes of padding in the second message, at least and at most: it varies like the first, and
#: needs no least size anywhere.
REPLY_PADDING = (16, 600)
#: The same for a client on whose path links die young.
LEAN_REPLY_PADDING = (16, 80)


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

    def handshake_received(self, data: bytes) -> None:
        """Take the client's message."""
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
        self.lean = bool(payload.features & Feature.LEAN)
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
        padding = LEAN_REPLY_PADDING if self.lean else REPLY_PADDING
        payload = HandshakePayload(
            timestamp=int(self._runtime.wall_time() * 1000),
            instance=self._instance,
            **exchange.answer(),
        ).encode(padding=self._runtime.randint(*padding))
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
