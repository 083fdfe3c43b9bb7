"""The only two-way pump: two protocols, each of which writes what the other receives.

An inbound and an outbound each get one side of a pair and connect it when they are ready::

    near, far = relay_pair()
    outbound.connect(destination, far)      # calls far.makeConnection(...)
    switch_protocol(inbound_transport, near)

What one side hears from its transport becomes what the other side does to its own:

================================  ====================================================
heard                             done on the other side
================================  ====================================================
bytes                             ``write``
end of input (FIN)                ``loseWriteConnection``; after the second, both close
lost, `ConnectionDone`            what was written is flushed, then ``loseConnection``
lost, anything else (RST, ...)    ``abortConnection``
================================  ====================================================

The last line is what keeps a truncated download from looking like a complete one: a reset
stays a reset (RFC 9293, section 3.10.7.4), it never turns into an orderly end.

A connection of which one direction has ended may be of use for as long as it moves bytes.  One
that is silent besides is given up in the end (`HALF_CLOSED_TIMEOUT`): what an application has
closed and what it has half-closed look the same from here, so without a limit a destination
that never answers a FIN could use up a session's streams for good.

Back-pressure: each side is the push producer of the other's transport, so a reader that
stalls stops the source, and no more than the transport's own high-water mark plus one read
is ever in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import (
    IHalfCloseableProtocol,
    IProtocol,
    IPushProducer,
)
from twisted.python.failure import Failure
from zope.interface import classImplements

from phantom.fast.sockets import QuickConnection, quicken
from phantom.fast.timeouts import Timeouts

Data = bytes | memoryview

#: Seconds for which a half-closed pair may be silent.  TCP itself sets no limit; what waits this
#: long for an answer, with nothing more to say itself, is a script at most.
HALF_CLOSED_TIMEOUT: Final = 600.0

# What a side that connects late finds when its peer has come and gone.
_CLOSE: Final = 1
_ABORT: Final = 2


class RelayProtocol:
    """One side of a pair; made by `relay_pair` only.

    It is also the producer registered with the other side's transport.  The transport
    itself will not do there: Twisted calls ``stopProducing`` on the producer of a transport
    that was lost, for a transport that means ``loseConnection``, and a reset would go out as
    an orderly end before this class hears the reason.

    Attributes:
        transport: What this side is connected by; None before and after.
    """

    __slots__ = (
        "_fate",
        "_held",
        "_on_end",
        "_paused",
        "_peer",
        "_quick",
        "_read_ended",
        "_seen",
        "_timeouts",
        "_watched",
        "transport",
    )

    #: A stream of the tunnel may hand over a ``memoryview`` in place of ``bytes``.
    accepts_views = True

    # Any: Twisted's TCP transports and the tunnel's streams share no typed interface.
    transport: Any
    _peer: RelayProtocol | None

    def __init__(self, on_end: Callable[[], None] | None, timeouts: Timeouts | None) -> None:
        self.transport = None
        self._timeouts = timeouts
        #: Counts among those that time out.
        self._watched = False
        self._peer = None
        self._on_end = on_end
        #: Bytes for this side's transport that came before it did.
        self._held = b""
        #: What became of a peer that ended before this side was connected.
        self._fate = 0
        #: The other side's transport asked for no more.
        self._paused = False
        self._read_ended = False
        #: As of the last look, the bytes that went past this object.
        self._seen = 0
        #: The other side's transport, where writing to it is all there is to do, the quick way.
        self._quick: QuickConnection | None = None

    # -- IProtocol --------------------------------------------------------------------

    def makeConnection(self, transport: Any) -> None:
        """Start pumping if the other side is there; what comes before it is held.

        The transport is paused by the first bytes that come, not before: mostly the other side
        is there in the same turn, and pausing costs a system call, and so does resuming.
        """
        self.transport = transport
        peer = self._peer
        if peer is None:
            self._follow()
        elif peer.transport is not None:
            _join(self, peer)

    def connectionMade(self) -> None:
        """Do nothing: `makeConnection` has done it."""

    def dataReceived(self, data: Data) -> None:
        """Write to the other side."""
        quick = self._quick
        if quick is not None:
            quick.send_now(data)
        else:
            self._pass_on(data)

    def pieces_received(self, pieces: list[memoryview]) -> None:
        """Write several pieces, in one system call where that can be."""
        quick = self._quick
        if quick is not None:
            if len(pieces) == 1:
                quick.send_now(pieces[0])
            else:
                quick.send_pieces(pieces)
        else:
            for piece in pieces:
                self._pass_on(piece)

    def connectionLost(self, reason: Failure) -> None:
        """End the other side the way this one ended."""
        peer, self._peer = self._peer, None
        on_end, self._on_end = self._on_end, None
        self.transport = self._quick = None
        if self._watched:
            self._unwatch()
        if peer is None:
            if on_end is not None:
                on_end()
            return
        # The side that is lost last keeps `_on_end` and calls it.
        peer._peer = peer._quick = None
        peer._fate = _CLOSE if isinstance(reason.value, ConnectionDone) else _ABORT
        if peer.transport is not None:
            if not self._read_ended:
                peer.transport.unregisterProducer()
            peer._follow()

    # -- IHalfCloseableProtocol -------------------------------------------------------

    def readConnectionLost(self) -> None:
        """Pass the end of input on; the second of the two ends both connections."""
        if self._read_ended:
            return
        self._read_ended = True
        self._quick = None
        if self._watched:
            self._unwatch()
        peer = self._peer
        if peer is None or peer.transport is None:
            return  # `_join` will see to it
        # Before the other transport is told to shut down: with a paused producer registered,
        # Twisted's would resume that instead of sending its FIN, and this side, resumed, would
        # report the end of its input once more.
        peer.transport.unregisterProducer()
        _pass_end(self, peer)

    def writeConnectionLost(self) -> None:
        """Do nothing: that our own FIN has left changes nothing here."""

    # -- IPushProducer, called by the other side's transport --------------------------

    def pauseProducing(self) -> None:
        """Stop reading: the other side's transport has enough to write."""
        self._paused = True
        if self.transport is not None:
            self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        """Read again."""
        self._paused = False
        if self.transport is not None:
            self.transport.resumeProducing()

    def stopProducing(self) -> None:
        """Do nothing: the other side's `connectionLost` follows and tells why."""

    # -- inside -----------------------------------------------------------------------

    def _watch(self) -> None:
        """Give the pair up when this side, the only one still heard of, stays silent."""
        timeouts = self._timeouts
        if timeouts is None:
            return
        self._seen = self._sent_directly
        self._watched = True
        self._quick = None  # what comes is to be noted
        timeouts.start(self, self._silent)

    @property
    def _sent_directly(self) -> int:
        """Bytes that the other side has sent; it may read this side's socket itself."""
        return getattr(self._peer.transport, "sent", 0) if self._peer is not None else 0

    def _unwatch(self) -> None:
        self._watched = False
        if self._timeouts is not None:
            self._timeouts.stop(self)

    def _silent(self) -> None:
        if self.transport is None or self._timeouts is None:
            return
        sent = self._sent_directly
        if self._paused or sent != self._seen:
            # It is the reader that takes nothing: somebody is there and slow.  Or bytes have
            # moved, past this object.
            self._seen = sent
            self._timeouts.start(self, self._silent)
            return
        self.transport.abortConnection()

    def _pass_on(self, data: Data) -> None:
        """Write to the other side, if it is there and wants it; hold what came before it.

        A transport that is paused delivers at most the chunk it has in hand.
        """
        peer = self._peer
        if peer is None or self._read_ended:
            return  # nobody is left to write to
        sink = peer.transport
        if sink is None:
            peer._held += data
            self.transport.pauseProducing()
            return
        if self._watched and self._timeouts is not None:
            self._timeouts.start(self, self._silent)
        quick = quicken(sink)
        if quick is not None:
            quick.send_now(data)
        else:
            # It keeps what is written until it can be sent, and a view is only lent.
            sink.write(bytes(data))

    def _follow(self) -> None:
        """End this side, as the other has ended already."""
        transport = self.transport
        if self._fate == _ABORT:
            self._held = b""
            transport.abortConnection()
            return
        if self._held:
            held, self._held = self._held, b""
            transport.write(held)
        transport.loseConnection()


def _connect(source: RelayProtocol, sink: RelayProtocol) -> None:
    """Let what `source` receives be written to the transport of `sink`, the quickest way."""
    far = sink.transport
    use_source = getattr(far, "use_source", None)
    if use_source is None:
        # Twisted's own ``write`` waits for the next turn of the reactor and joins there; sending
        # now saves about a sixth of the relay's CPU time.
        source._quick = quicken(far)
        return
    quick = quicken(source.transport)
    if quick is not None:
        use_source(quick)


def _pass_end(source: RelayProtocol, sink: RelayProtocol) -> None:
    """Say on the transport of `sink` that `source` has reached the end of its input."""
    far = sink.transport
    if not sink._read_ended:
        sink._watch()
        far.loseWriteConnection()
        return
    near = source.transport
    # Either may call `connectionLost` before it returns; closing what that has closed is
    # harmless.
    far.loseConnection()
    near.loseConnection()


def _join(late: RelayProtocol, early: RelayProtocol) -> None:
    """Start pumping: `late` has just been connected, `early` was before."""
    late._paused = early._paused = False
    # Spelled out for either direction: it is done for every connection.
    if not late._read_ended:
        early.transport.registerProducer(late, True)
        _connect(late, early)
    if not early._read_ended:
        late.transport.registerProducer(early, True)
        _connect(early, late)
    if late._held:
        held, late._held = late._held, b""
        late.transport.write(held)
    # Each step may end the pair: a transport can report its loss from inside a call.
    if late._read_ended and late._peer is not None:
        _pass_end(late, early)
    if early._read_ended and early._peer is not None:
        _pass_end(early, late)
    for side in (late, early):
        if side.transport is not None and not side._paused and not side._read_ended:
            side.transport.resumeProducing()


def relay_pair(
    on_end: Callable[[], None] | None = None,
    timeouts: Timeouts | None = None,
) -> tuple[RelayProtocol, RelayProtocol]:
    """Make two protocols that are joined to each other.

    Each is connected by its ``makeConnection`` at its own time, in either order.  The one
    connected first pauses its transport with the first bytes that come before the other is
    there; a transport that was paused beforehand is resumed then.  A side that is connected
    after the other has ended is ended the same way.

    Args:
        on_end: Called once, when both sides have been connected and both are lost.
        timeouts: End half-closed pairs that are silent, after `HALF_CLOSED_TIMEOUT`; without
            them there is no such limit.

    Returns:
        The two sides; they are alike.
    """
    left, right = RelayProtocol(on_end, timeouts), RelayProtocol(on_end, timeouts)
    left._peer, right._peer = right, left
    return left, right


# Behind the class: with a decorator it would not be compiled (decision 28).
classImplements(RelayProtocol, IProtocol, IHalfCloseableProtocol, IPushProducer)
