"""A visitor inside TLS who may be a stranger, and the web server that is ready for it.

What a web server does unprompted cannot wait until a visitor is known to be a stranger: over
HTTP/2 it speaks first, and whoever says nothing, or half of something, is closed after a
time that is counted from the beginning.  So the web server is connected as soon as the
visitor is not a client at once, it gets what any visitor may say, and what it says is passed
on.

nginx counts from the connection, not from the end of the TLS handshake, which is at least a
round trip later.  So where the server does the TLS itself the web server is connected when it
answers the visitor's hello, which is when the protocol is known; a client's is let go.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure

from phantom.carriers.strangers import Strangers
from phantom.core.opening_h2 import ServerTalk, frame
from phantom.errors import RemoteProtocolError
from phantom.layer import Layer, lose_without_notice, switch_protocol, write_pieces
from phantom.runtime import Runtime

#: ``pair(ended)`` makes two protocols, each of which writes what the other receives, and the
#: first of which holds what it receives until the second is connected
#: (`phantom.relay.relay_pair`).
RelayPair = Callable[..., tuple[Any, Any]]


#: GOAWAY frames (RFC 9113, section 6.8): PROTOCOL_ERROR, and NO_ERROR.
_NO_PREFACE = frame(7, 0, 0, bytes(7) + b"\1")
_GOODBYE = frame(7, 0, 0, bytes(8))


#: The most that is kept of what a web server says before TLS is up.  None is known to say
#: anything but that its patience is at an end.
_MAX_EARLY = 16384


def _nobody() -> None:
    """Whom to tell of a stranger before TLS is up."""


class Once(Factory):
    """Builds one protocol, for one attempt."""

    noisy = False

    def __init__(self, protocol: Any) -> None:
        self._protocol = protocol

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """Return the protocol."""
        return self._protocol


class Backend(Protocol):
    """A web server to join visitors to."""

    #: What it says unprompted over HTTP/2; empty while unknown, and over HTTP/1.1.
    greeting: bytes
    h2: bool

    def unreachable(self, transport: Any, received: bytes) -> None:
        """Take over a visitor for whom the web server could not be reached."""
        ...

    def learn(self) -> object:
        """Find out anew what it says unprompted."""
        ...


class _Ahead(Layer):
    """The connection to the web server; a relay is put upon it once it is needed."""

    def __init__(self, visit: ExpectedVisitor) -> None:
        super().__init__(None)
        self._visit = visit

    def connectionMade(self) -> None:
        self._visit.connected(self)

    def dataReceived(self, data: bytes) -> None:
        data = self._visit.heard(data)
        if data and self.upper is not None:
            self.upper.dataReceived(data)

    def write(self, data: bytes) -> None:
        self._visit.asked = True
        super().write(data)

    def readConnectionLost(self) -> None:
        if self.upper is None:
            self._visit.left()
        elif self._visit.out_of_time():
            lose_without_notice(self._visit.transport)
        else:
            super().readConnectionLost()

    def writeConnectionLost(self) -> None:
        if self.upper is not None:
            super().writeConnectionLost()

    def connectionLost(self, reason: Failure) -> None:
        if self.upper is None:
            self._visit.left()
        else:
            super().connectionLost(reason)


class ExpectedVisitor:
    """A `phantom.interfaces.Expected` for visitors of a real web server.

    Args:
        runtime: Timers.
        backend: What the web server is like.
        endpoint: Where it is.
        pair: Joins the two in the end.
        strangers: Counts visitors that hold a connection to the web server.
        transport: The visitor's.
        stranger: See `phantom.interfaces.Expect`; None while TLS is not up yet: `up` tells.

    Attributes:
        transport: As given.
        asked: Whether the web server was sent anything.
    """

    def __init__(
        self,
        runtime: Runtime,
        backend: Backend,
        endpoint: IStreamClientEndpoint,
        pair: RelayPair,
        strangers: Strangers,
        transport: Any,
        stranger: Callable[[], None] | None,
    ) -> None:
        self._runtime = runtime
        self._backend = backend
        self._endpoint = endpoint
        self._pair = pair
        self._strangers = strangers
        self.transport = transport
        self._stranger: Callable[[], None] = _nobody
        self._up = False
        self._early = b""  # what the web server says before TLS is up
        self._left_early = False
        self._talk = ServerTalk()
        self._ahead: _Ahead | None = None  # once connected
        self._connecting: Deferred[Any] | None = None
        self._queued = b""  # for the web server, until it is connected
        self._far: Any = None  # our side towards the web server, once the visitor is taken
        self._decided = False
        self._failed = False  # the web server cannot be reached, or has left
        self.asked = False
        self._answered = False  # the web server has said something
        self._spoken = False  # the visitor has said something that was passed on
        # What was said in the web server's place, and is still to come from itself.
        self._greeting = backend.greeting
        self._swallow = b""
        if stranger is None:
            self._connect().addErrback(self._unreachable)
        else:
            self.up(stranger)

    @property
    def h2(self) -> bool:
        """Whether the visitor is expected to speak HTTP/2."""
        return self._backend.h2

    def up(self, stranger: Callable[[], None]) -> None:
        """TLS is up: the visitor can be spoken to.

        Args:
            stranger: See `phantom.interfaces.Expect`.
        """
        self._up = True
        self._stranger = stranger
        self._greeting = self._backend.greeting
        self._runtime.at_turn_end(self._connect_undecided)

    # -- from the link's side -----------------------------------------------------------

    def pass_on(self, data: bytes) -> None:
        """See `phantom.interfaces.Expected.pass_on`."""
        self._spoken = True
        if self._ahead is not None:
            self._ahead.write(data)
        elif not self._failed:
            self._queued += data  # of which an opening hands out little

    def take(self, received: bytes) -> None:
        """See `phantom.interfaces.Expected.take`."""
        self._decided = True
        transport = self.transport
        if self._failed:
            self._strangers.release(transport)
            self._leave_alone(received)
            return
        near, self._far = self._pair(lambda: self._strangers.release(transport))
        connecting = self._connect()
        rest = self._talk.rest()
        if rest:
            transport.write(rest)
        switch_protocol(transport, near)  # which pauses it
        if received:
            near.dataReceived(received)
        if self._ahead is not None:
            self._join(self._ahead)
        else:
            connecting.addErrback(lambda _failure: self._unreached(near, received))

    def release(self) -> ServerTalk:
        """See `phantom.interfaces.Expected.release`."""
        self._decided = True
        self._strangers.release(self.transport)
        if self._greeting and not self._talk.settings:
            self._talk.unsaid = self._talk.whole_frames(self._greeting)
        if self._ahead is not None:
            self._ahead.abortConnection()
        elif self._connecting is not None:
            self._connecting.addErrback(lambda _failure: None)
            self._connecting.cancel()
        return self._talk

    # -- from the web server's side -----------------------------------------------------

    def connected(self, ahead: _Ahead) -> None:
        """The web server is there."""
        self._ahead = ahead
        if self._decided and self._far is None:
            ahead.abortConnection()  # it was not needed after all
            return
        if self._queued:
            ahead.write(self._queued)
            self._queued = b""
        if self._far is not None:
            self._join(ahead)

    def heard(self, data: bytes) -> bytes:
        """Take what the web server says; return what is for the relay."""
        if not self._up:
            self._early += data
            if len(self._early) > _MAX_EARLY and self._ahead is not None:
                self._ahead.abortConnection()
            return b""
        self._answered = True
        if self._swallow:
            data = self._swallowed(data)
        if self._decided:
            return data
        if not data:
            return b""
        if self._backend.h2:
            try:
                self.transport.write(self._as_with_tls(self._talk.whole_frames(data)))
            except RemoteProtocolError:
                self._stranger()
            return b""
        self.transport.write(data)
        self._stranger()
        return b""

    def left(self) -> None:
        """The web server has ended the connection."""
        self._failed = True
        if not self._up:
            self._left_early = True
        elif not self._decided:
            self._stranger()

    def out_of_time(self) -> bool:
        """Tell whether the web server ends it in the middle of the first request."""
        return self.asked and not self._answered

    # -- inside -------------------------------------------------------------------------

    def _connect_undecided(self) -> None:
        if self._decided:
            self._hear_early()
            return
        if self._greeting and not self._spoken:
            # A web server with TLS speaks first.  To one who has spoken already it says this
            # and its answer in one record, and so will ours, in a moment.
            self._swallow = self._greeting
            write_pieces(self.transport, [self._talk.whole_frames(self._greeting)])
        self._connect().addErrback(self._unreachable)
        self._hear_early()
        if self._left_early and not self._decided:
            self._stranger()

    def _hear_early(self) -> None:
        early, self._early = self._early, b""
        if early and self._ahead is not None:
            self._ahead.dataReceived(early)

    def _connect(self) -> Deferred[Any]:
        if self._connecting is None:
            self._strangers.admit(self.transport)
            self._connecting = self._endpoint.connect(Once(_Ahead(self)))
        return self._connecting

    def _unreachable(self, failure: Failure) -> Failure | None:
        self._failed = True
        # Whoever takes the visitor meanwhile has an errback of its own.
        return failure if self._far is not None else None

    def _unreached(self, near: Any, received: bytes) -> None:
        self._strangers.release(self.transport)
        if near.transport is not None:  # the visitor is still there
            self._backend.unreachable(self.transport, received)

    def _leave_alone(self, received: bytes) -> None:
        """Take over a visitor whose web server is not there, or has closed already."""
        if self._ahead is None:
            self._backend.unreachable(self.transport, received)
            return
        if received and not self._backend.h2 and not self._answered:
            # It ran out of time with the visitor before it was sent that half of a request.
            lose_without_notice(self.transport)
        else:
            self.transport.loseConnection()
        self._ahead.loseConnection()

    def _join(self, ahead: _Ahead) -> None:
        ahead.upper = self._far
        ahead.start_upper()

    def _as_with_tls(self, frames: bytes) -> bytes:
        """Return what nginx says where it does TLS itself.

        To who has been silent for too long it says GOAWAY with NO_ERROR then, and with
        PROTOCOL_ERROR in the clear, where it had expected a preface (measured with 1.22).
        """
        return frames if self._spoken else frames.replace(_NO_PREFACE, _GOODBYE)

    def _swallowed(self, data: bytes) -> bytes:
        """Return `data` less what was said in the web server's place."""
        size = min(len(data), len(self._swallow))
        if data[:size] == self._swallow[:size]:
            self._swallow = self._swallow[size:]
            return data[size:]
        # It says something else than it used to.  The visitor gets that too: a second SETTINGS
        # is in order (RFC 9113, section 6.5).
        before = self._greeting[: len(self._greeting) - len(self._swallow)]
        self._swallow = b""
        self._backend.learn()
        return before + data
