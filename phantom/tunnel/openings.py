"""How both Noise messages of a handshake are dressed on each carrier.

What is pure about it is in `phantom.core.opening` and `phantom.core.opening_h2`; here it
meets a transport.  Inside TLS it is the protocol that ALPN chose which decides between
HTTP/1.1 and HTTP/2.
"""

from __future__ import annotations

from collections.abc import Callable
from email.utils import formatdate
from typing import Any

from phantom.core.handshake import Cipher, Mode
from phantom.core.opening import (
    BareOpening,
    BareReply,
    HttpOpening,
    HttpReply,
    MessageOne,
    MessageTwo,
    NeedMore,
    Opening,
    Stranger,
    bare_first_flight,
    http_request,
    http_response,
    random_prefix,
)
from phantom.core.opening_h2 import (
    SETTINGS_ACK,
    H2Opening,
    H2Reply,
    h2_acknowledgement,
    h2_request,
    h2_response,
)
from phantom.crypto.header import open_header, secret_path
from phantom.interfaces import Expect, Expected, StrangerPolicy
from phantom.layer import write_pieces
from phantom.runtime import Runtime


def mode_on(transport: Any, mode: Mode) -> Mode:
    """Return how a link opens on `transport`.

    Args:
        transport: Inside TLS, it has the protocol agreed on as ``alpn``.
        mode: What the configuration says: bare, or either of the modes inside TLS.
    """
    if mode is Mode.BARE:
        return mode
    return Mode.TLS_H2 if getattr(transport, "alpn", None) == "h2" else Mode.TLS_HTTP1


class ClientOpening:
    """The client's side of an opening.

    Args:
        runtime: Entropy.
        transport: What the link is made on.
        mode: From `mode_on`.
        server_key: The server's static public key.
        host: The authority of the request, inside TLS.
        prefix: Whether random printable bytes come first, on bare TCP.
    """

    def __init__(
        self,
        runtime: Runtime,
        transport: Any,
        mode: Mode,
        server_key: bytes,
        *,
        host: str,
        prefix: bool,
    ) -> None:
        self._runtime = runtime
        self._transport = transport
        self._mode = mode
        self._server_key = server_key
        self._host = host
        self._prefix = prefix

        def open_reply(e: bytes, sealed: bytes) -> tuple[int, Cipher]:
            return open_header(server_key, e, b"server", sealed)

        self._reply: BareReply | HttpReply | H2Reply
        if mode is Mode.BARE:
            self._reply = BareReply(open_reply)
        elif mode is Mode.TLS_H2:
            self._reply = H2Reply(open_reply)
        else:
            self._reply = HttpReply(open_reply)

    @property
    def received(self) -> bytes:
        """What the server has said so far."""
        return self._reply.received

    @property
    def date(self) -> float | None:
        """The Date of the answer inside TLS, in seconds since the Unix epoch, if any."""
        return None if isinstance(self._reply, BareReply) else self._reply.date

    def send(
        self, e: bytes, header: bytes, rest: bytes, write_bare: Callable[[bytes], None]
    ) -> None:
        """Send message 1.

        Args:
            e: The ephemeral key as it stands on the wire.
            header: Its sealed header.
            rest: What follows e in the message.
            write_bare: Writes it on bare TCP, in whatever packets.
        """
        if self._mode is Mode.BARE:
            prefix = random_prefix(self._runtime.entropy) if self._prefix else b""
            write_bare(bare_first_flight(prefix, e, header, rest))
            return
        path, body = secret_path(self._server_key), e + header + rest
        if self._mode is Mode.TLS_H2:
            write_pieces(self._transport, h2_request(path, self._host, body))
        else:
            self._transport.write(http_request(path, self._host, body))

    def receive(self, data: bytes) -> NeedMore | MessageTwo:
        """Take bytes of the server's; return its message once it is whole.

        Raises:
            HandshakeError: The server's web site answered, or the message is no message.
            RemoteProtocolError: The answer makes no sense.
        """
        reply = self._reply.receive(data)
        if isinstance(self._reply, H2Reply):
            outgoing = self._reply.outgoing()
            if outgoing:
                self._transport.write(outgoing)
        return reply


class ServerOpening:
    """The server's side of an opening, for one visitor.

    Args:
        runtime: The time of day.
        mode: Bare, or either of the modes inside TLS.
        public_key: The server's static public key.
        stranger: Gets the visitor if it turns out to be one.
        expect: Prepares for that while the visitor is undecided, if there is anything to
            prepare.
    """

    def __init__(
        self,
        runtime: Runtime,
        mode: Mode,
        public_key: bytes,
        stranger: StrangerPolicy,
        expect: Expect | None,
    ) -> None:
        self._runtime = runtime
        self.mode = mode
        self._public_key = public_key
        self._stranger = stranger
        self._expect = expect
        self._expected: Expected | None = None
        self._transport: Any = None
        self._reader: Opening

    def begin(self, transport: Any, turn_away: Callable[[], None]) -> None:
        """Wait for the first message.

        Args:
            transport: What the visitor is connected by.
            turn_away: Called when the visitor is a stranger for reasons of the decoy's.
        """
        self._transport = transport
        self.mode = mode = mode_on(transport, self.mode)

        def open_first(e: bytes, sealed: bytes) -> tuple[int, Cipher]:
            return open_header(self._public_key, e, b"client", sealed)

        if mode is Mode.BARE:
            self._reader = BareOpening(open_first)
        elif mode is Mode.TLS_H2:
            self._reader = H2Opening(secret_path(self._public_key), open_first)
        else:
            self._reader = HttpOpening(secret_path(self._public_key), open_first)
        if self._expect is not None:
            self._expected = self._expect(transport, turn_away)

    def receive(self, data: bytes) -> NeedMore | Stranger | MessageOne:
        """Take bytes of the visitor's and say what they are by now."""
        result = self._reader.receive(data)
        if self._expected is not None and isinstance(result, NeedMore):
            early = self._reader.early()
            if early:
                self._expected.pass_on(early)
        return result

    def turn_away(self) -> None:
        """Hand the visitor, and all it sent, over for good."""
        expected, self._expected = self._expected, None
        if expected is not None:
            expected.take(self._reader.received)
        else:
            self._stranger(self._transport, self._reader.received)

    def gone(self) -> None:
        """The visitor has left, and was nobody yet."""
        expected, self._expected = self._expected, None
        if expected is not None:
            expected.release()

    def answer(self, body: bytes) -> bytes:
        """Send message 2: the visitor is no stranger.

        Args:
            body: ``e | sealed header | rest``.

        Returns:
            What the client says before its first record.
        """
        expected, self._expected = self._expected, None
        said = expected.release() if expected is not None else None
        if self.mode is Mode.BARE:
            self._transport.write(body)
            return b""
        date = formatdate(self._runtime.wall_time(), usegmt=True)
        if self.mode is Mode.TLS_HTTP1:
            self._transport.write(http_response(body, date))
            return b""
        first = h2_acknowledgement(said is not None and said.acknowledged)
        if said is not None:
            first = said.unsaid + first
        write_pieces(self._transport, [first, h2_response(body, date)])
        return SETTINGS_ACK * (said.settings if said is not None else 0)
