"""The base of everything that sits between two protocols.

A layer is a protocol to what is below it and a transport to what is above it.  Twisted's
``ProtocolWrapper`` delegates by ``__getattr__`` and hides half-close; this one forwards an
explicit list, so a reader sees what crosses, and a layer overrides what it changes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from twisted.internet.interfaces import (
    IHalfCloseableProtocol,
    IProtocol,
    IPushProducer,
    ITransport,
)
from twisted.python.failure import Failure
from zope.interface import implementer


@implementer(IProtocol, IHalfCloseableProtocol, ITransport, IPushProducer)
class Layer:
    """Forwards everything, both ways.

    The layer starts its upper protocol itself (`start_upper`), when what it does below
    (a handshake, say) is done; the lower side only ever sees this object.

    Args:
        upper: The protocol above.

    Attributes:
        upper: The protocol above; may be replaced while running (`switch_protocol`).
        transport: What is below; None before `makeConnection`.
    """

    # Any: a layer works on whatever transport offers the methods it is asked to forward.
    transport: Any = None

    def __init__(self, upper: Any) -> None:
        self.upper = upper

    # -- from below -------------------------------------------------------------------

    def makeConnection(self, transport: Any) -> None:
        """Accept the transport below, then call `connectionMade`."""
        self.transport = transport
        self.connectionMade()

    def connectionMade(self) -> None:
        """Start the upper protocol; a layer with a handshake of its own overrides this."""
        self.start_upper()

    def start_upper(self) -> None:
        """Give the upper protocol this layer as its transport."""
        self.upper.makeConnection(self)

    def dataReceived(self, data: bytes) -> None:
        """Pass received bytes up."""
        self.upper.dataReceived(data)

    def readConnectionLost(self) -> None:
        """Pass the peer's half-close up; an upper protocol that knows none is closed."""
        if IHalfCloseableProtocol.providedBy(self.upper):
            self.upper.readConnectionLost()
        else:
            self.loseConnection()

    def writeConnectionLost(self) -> None:
        """Pass up that our own half-close is done."""
        if IHalfCloseableProtocol.providedBy(self.upper):
            self.upper.writeConnectionLost()

    def connectionLost(self, reason: Failure) -> None:
        """Pass the end up."""
        self.upper.connectionLost(reason)

    # -- from above: ITransport -------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Pass bytes down."""
        self.transport.write(data)

    def writeSequence(self, data: Iterable[bytes]) -> None:
        """Pass several pieces down as one write."""
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        """Close once everything written has left."""
        self.transport.loseConnection()

    def loseWriteConnection(self) -> None:
        """Half-close: no more from us, the peer may go on."""
        self.transport.loseWriteConnection()

    def abortConnection(self) -> None:
        """Close at once and drop what is unsent."""
        self.transport.abortConnection()

    def getPeer(self) -> Any:
        """Return the peer's address."""
        return self.transport.getPeer()

    def getHost(self) -> Any:
        """Return our own address."""
        return self.transport.getHost()

    def trust_peer(self) -> None:
        """Pass down that the peer has proven a key of ours; TLS below works quicker then."""
        trust = getattr(self.transport, "trust_peer", None)
        if trust is not None:
            trust()

    # -- from above: IConsumer --------------------------------------------------------

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Let the transport below pause and resume the upper producer."""
        self.transport.registerProducer(producer, streaming)

    def unregisterProducer(self) -> None:
        """Undo `registerProducer`."""
        self.transport.unregisterProducer()

    # -- from above: IPushProducer ----------------------------------------------------

    def pauseProducing(self) -> None:
        """Stop reading."""
        self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        """Read again."""
        self.transport.resumeProducing()

    def stopProducing(self) -> None:
        """Stop for good."""
        self.transport.stopProducing()


def bottom(transport: Any) -> Any:
    """Return the transport beneath every `Layer`."""
    while isinstance(transport, Layer):
        transport = transport.transport
    return transport


def switch_protocol(transport: Any, protocol: Any) -> None:
    """Put `protocol` in the place of the one that `transport` serves now.

    The old protocol hears nothing any more, not even `connectionLost`.

    Args:
        transport: A `Layer` or one of Twisted's own TCP transports.
        protocol: Its ``makeConnection`` is called with the transport.
    """
    if isinstance(transport, Layer):
        transport.upper = protocol
    else:
        transport.protocol = protocol
    protocol.makeConnection(transport)


def forward_half_close(transport: Any) -> None:
    """Tell whoever serves `transport` now that the peer has ended its direction.

    For a layer that hands its transport over at the very moment of the half-close.
    """
    protocol = transport.upper if isinstance(transport, Layer) else transport.protocol
    if IHalfCloseableProtocol.providedBy(protocol):
        protocol.readConnectionLost()
    else:
        transport.loseConnection()


def write_pieces(transport: Any, pieces: Iterable[bytes]) -> None:
    """Write each piece as a TLS record and a segment of its own, where the transport can."""
    separately = getattr(transport, "write_separately", None)
    if separately is not None:
        separately(pieces)
        return
    for piece in pieces:
        transport.write(piece)


def lose_without_notice(transport: Any) -> None:
    """Close without a close_notify of TLS, where the transport has such a thing.

    nginx does so to a visitor who ran out of time in the middle of a request, and sends one
    to a visitor who said nothing.
    """
    lose = getattr(transport, "lose_without_notice", None) or transport.loseConnection
    lose()
