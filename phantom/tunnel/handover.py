"""A link in one worker process, its session in another.

The process that accepted a link keeps its socket, its TLS and its keys for as long as it
lives; none of them can move.  When the link's ATTACH names a session of another process, what
moves is the plaintext of whole records, over a local socket (`phantom.core.handover`)::

    bearer                                            owner
    carrier - Noise - Junction - LinkBearer  ======  BorneLink - FrameProtocol - Session

`BorneLink` looks to the owner's `FrameProtocol` as the Noise layer would, so the owner's
sessions know nothing of any of this: keepalive, pings and acknowledgements are the owner's.
Back-pressure goes through both ways: each side stops reading while the next socket is full.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IDelayedCall, IProtocol, IPushProducer
from twisted.python.failure import Failure
from zope.interface import implementer

from phantom.core.handover import (
    Message,
    MessageReader,
    decode_progress,
    encode,
    encode_progress,
)
from phantom.core.wire import Attach, FrameType, parse_frames
from phantom.errors import RemoteProtocolError
from phantom.runtime import Runtime
from phantom.telemetry import make_logger
from phantom.tunnel.frame import CLOSE_TIMEOUT, FrameProtocol

log = make_logger()

#: Seconds between looks at whether part of a record has come, for links so slow that one takes
#: long.  The owner judges silence after a second at the soonest (`phantom.tunnel.liveness.QUIET`),
#: and by then asks first.
PROGRESS_INTERVAL = 1.0
#: Seconds a process that connected may take to say what for: it is a sibling and has it ready.
GREETING_TIMEOUT = 5.0

#: Connects a protocol to the owner of a session; cancellable.
Connect = Callable[[Any], Deferred[Any]]
#: ``route(client_key, session_id)`` says how to reach the owner; None when it is this process.
Route = Callable[[bytes, bytes], Connect | None]


def first_attach(record: bytes | memoryview) -> Attach | None:
    """Return the ATTACH of a link's record; None when the record begins otherwise.

    Frames that may stand before it (PING, PONG, PADDING and unknown ones that nobody needs)
    are passed over.  What breaks a rule is left to whoever takes the record.
    """
    try:
        for kind, _stream, payload in parse_frames(memoryview(record)):
            if kind == FrameType.ATTACH:
                return Attach.decode(payload)
            if kind not in (FrameType.PING, FrameType.PONG, FrameType.PADDING) and kind < 0x80:
                break
    except RemoteProtocolError:
        pass
    return None


@implementer(IProtocol)
class Junction:
    """Stands above a link's Noise layer until its first ATTACH, and then leaves or carries it.

    Args:
        runtime: Timers.
        frames: The link's own frames, for a session of this process.
        route: Where sessions are.
        on_bearer: Told of a link that is carried from now on, and again with False when no
            more.
    """

    transport: Any = None

    def __init__(
        self,
        runtime: Runtime,
        frames: FrameProtocol,
        route: Route,
        on_bearer: Callable[[LinkBearer, bool], object],
    ) -> None:
        self._runtime = runtime
        self._frames = frames
        self._route = route
        self._on_bearer = on_bearer
        self._bearer: LinkBearer | None = None
        self._take: Callable[[bytes | memoryview], None] | None = None

    def makeConnection(self, transport: Any) -> None:
        """Start the link's frames on the established record transport."""
        self.transport = transport
        self._frames.makeConnection(transport)

    connectionMade = None

    def records_received(self, records: list[memoryview]) -> None:
        """Take the records of one read."""
        for record in records:
            self.dataReceived(record)

    def dataReceived(self, data: bytes | memoryview) -> None:
        """Take one record; the first ATTACH decides who gets it and all that follow."""
        if self._take is None:
            attach = first_attach(data)
            if attach is None:
                self._frames.dataReceived(bytes(data))
                return
            self._take = self._decide(attach)
        self._take(data)

    def _decide(self, attach: Attach) -> Callable[[Any], None]:
        transport = self.transport
        connect = self._route(transport.peer_key, attach.session_id)
        if connect is None:
            # Out of the way: from the next read on records go straight to the frames.
            transport.upper = self._frames
            return self._frames.dataReceived
        transport.confirmed()  # only a live peer can send a valid record
        self._frames.connectionLost(Failure(ConnectionDone()))
        transport.unregisterProducer()
        bearer = self._bearer = LinkBearer(self._runtime, transport)
        self._on_bearer(bearer, True)
        bearer.begin(connect)
        return bearer.record_received

    def connectionLost(self, reason: Failure) -> None:
        """Report the link's end to whoever has it."""
        bearer, self._bearer = self._bearer, None
        if bearer is None:
            self._frames.connectionLost(reason)
        else:
            bearer.link_lost()
            self._on_bearer(bearer, False)


@implementer(IProtocol, IPushProducer)
class LinkBearer:
    """The bearer's end of the local socket: passes a link's records to the owner and back.

    Args:
        runtime: Timers.
        link: The link's Noise layer.

    Attributes:
        client_key: Whose link it is.
    """

    transport: Any = None

    def __init__(self, runtime: Runtime, link: Any) -> None:
        self._runtime = runtime
        self._link = link
        self.client_key: bytes = link.peer_key
        self._reader = MessageReader()
        self._connecting: Deferred[Any] | None = None
        # Messages until the socket is there: what one read of the link brought, at most.
        self._waiting: list[bytes] = []
        self._told = link.received
        self._link_over = False
        self._owner_over = False
        self._poll: IDelayedCall | None = None
        self._closing: IDelayedCall | None = None
        self._leaving: IDelayedCall | None = None

    def begin(self, connect: Connect) -> None:
        """Connect to the owner; the link is not read meanwhile."""
        self._link.registerProducer(self, True)
        self._link.pauseProducing()
        self._connecting = connect(self)
        self._connecting.addErrback(self._not_connected)

    def _not_connected(self, failure: Failure) -> None:
        """Drop the link: its client dials again, and is told by then if the owner is gone."""
        self._connecting = None
        self._owner_over = True
        if not self._link_over:
            log.warn("another worker cannot be reached: {why}", why=failure.getErrorMessage())
            self._abort_link()

    # -- from the link --------------------------------------------------------------------

    def record_received(self, data: bytes | memoryview) -> None:
        """Pass a record to the owner; `data` is only valid during the call."""
        self._told = self._link.received
        if not (self._link_over or self._owner_over):
            self._send(encode(Message.RECORD, data))

    def link_lost(self) -> None:
        """The link is gone: tell the owner, once everything before has arrived there."""
        if self._link_over:
            return
        self._link_over = True
        for timer in (self._poll, self._closing):
            if timer is not None and timer.active():
                timer.cancel()
        self._poll = self._closing = None
        if self.transport is not None:
            self._leave_owner()
        elif self._connecting is not None:
            self._connecting.cancel()

    def abort(self) -> None:
        """End the link now."""
        if not self._link_over:
            self._abort_link()

    def _abort_link(self) -> None:
        self._link.unregisterProducer()
        self._link.abortConnection()

    # -- the local socket -------------------------------------------------------------------

    def makeConnection(self, transport: Any) -> None:
        """Introduce the link, and read it from now on."""
        self._connecting = None
        self.transport = transport
        if self._link_over:
            transport.abortConnection()
            return
        transport.write(encode(Message.LINK, self._link.peer_key))
        self._link.resumeProducing()
        # The local socket, when it is full, pauses the link (a layer is a push producer) ...
        transport.registerProducer(self._link, True)
        waiting, self._waiting = self._waiting, []
        for message in waiting:
            transport.write(message)
        self._poll = self._runtime.call_later(PROGRESS_INTERVAL, self._look)

    connectionMade = None

    def _send(self, message: bytes) -> None:
        if self.transport is None:
            self._waiting.append(message)
        else:
            self.transport.write(message)

    def _look(self) -> None:
        """Tell the owner of part of a record, as its own link would show it."""
        self._poll = self._runtime.call_later(PROGRESS_INTERVAL, self._look)
        news = self._link.received - self._told
        if news and not self._owner_over:
            self._told += news
            self._send(encode_progress(news))

    def dataReceived(self, data: bytes) -> None:
        """Send the owner's records by the link."""
        try:
            for kind, payload in self._reader.receive(data):
                if kind is Message.RECORD:
                    self._link.write(payload)
                elif kind is Message.LOSE:
                    self._lose_link()
                    return
                else:
                    raise RemoteProtocolError("a message for owners")
        except RemoteProtocolError as error:
            log.error("a worker was not understood: {error}", error=str(error))
            self.transport.abortConnection()

    def _lose_link(self) -> None:
        """Close the link when all is sent, if that does not take for ever."""
        self._leave_owner()
        if not self._link_over:
            self._closing = self._runtime.call_later(CLOSE_TIMEOUT, self._link.abortConnection)
            self._link.unregisterProducer()
            self._link.loseConnection()

    def _leave_owner(self) -> None:
        if not self._owner_over:
            self._owner_over = True
            self.transport.unregisterProducer()
            self.transport.loseConnection()
            # An owner that hangs takes nothing; then what is unsent is dropped.
            self._leaving = self._runtime.call_later(CLOSE_TIMEOUT, self.transport.abortConnection)

    def connectionLost(self, reason: Failure) -> None:
        """End the link: its session is gone, or wants another one."""
        if self._leaving is not None and self._leaving.active():
            self._leaving.cancel()
        if not self._owner_over:
            self._owner_over = True
            if not self._link_over:
                self._abort_link()

    # -- IPushProducer: ... and the link, when it is full, pauses the local socket ------------

    def pauseProducing(self) -> None:
        """Take nothing from the owner for now."""
        if self.transport is not None:
            self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        """Take from the owner again."""
        if self.transport is not None and not self._owner_over:
            self.transport.resumeProducing()

    def stopProducing(self) -> None:
        """The link takes no more; its end follows."""
        self.pauseProducing()


@implementer(IProtocol)
class BorneLink:
    """The owner's end of the local socket: a link to its `FrameProtocol`.

    Args:
        runtime: Timers.
        make_frames: Makes the frames of a link.
        give_way: Makes room for another session of a client, if it can.
        trusted: Whether the process at the other end may be believed.

    Attributes:
        peer_key: The client's static public key, as the bearer's handshake proved it.
        received: Bytes of records received, those of incomplete ones included.
    """

    transport: Any = None
    #: What a client learns from its handshake, and a server has no use for.
    handshake_time: float | None = None
    peer_instance = b""
    post_quantum = False
    lean = False

    def __init__(
        self,
        runtime: Runtime,
        make_frames: Callable[[], FrameProtocol],
        give_way: Callable[[bytes], object],
        trusted: Callable[[Any], bool],
    ) -> None:
        self._runtime = runtime
        self._make_frames = make_frames
        self._give_way = give_way
        self._trusted = trusted
        self.peer_key = b""
        self.received = 0
        self._reader = MessageReader()
        self._frames: FrameProtocol | None = None
        self._timer: IDelayedCall | None = None

    def makeConnection(self, transport: Any) -> None:
        """Wait to be told what it is for."""
        self.transport = transport
        if not self._trusted(transport):
            log.error("a process of another user at the workers' own socket")
            transport.abortConnection()
            return
        self._timer = self._runtime.call_later(GREETING_TIMEOUT, transport.abortConnection)

    connectionMade = None

    def dataReceived(self, data: bytes) -> None:
        """Take the bearer's messages."""
        try:
            for kind, payload in self._reader.receive(data):
                self._message_received(kind, payload)
        except RemoteProtocolError as error:
            log.error("a worker was not understood: {error}", error=str(error))
            self.transport.abortConnection()

    def _message_received(self, kind: Message, payload: bytes) -> None:
        frames = self._frames
        if frames is None:
            self._introduced(kind, payload)
        elif kind is Message.RECORD:
            self.received += len(payload)
            frames.dataReceived(payload)
        elif kind is Message.PROGRESS:
            self.received += decode_progress(payload)
        else:
            raise RemoteProtocolError("a message for bearers")

    def _introduced(self, kind: Message, payload: bytes) -> None:
        self._stop_timer()
        if kind is Message.LINK:
            self.peer_key = payload
            self._frames = self._make_frames()
            self._frames.makeConnection(self)
        elif kind is Message.ROOM:
            self._give_way(payload)
            self.transport.loseConnection()
        else:
            raise RemoteProtocolError("a worker that does not say what for")

    def connectionLost(self, reason: Failure) -> None:
        """Report the end of the link."""
        self._stop_timer()
        if self._frames is not None:
            self._frames.connectionLost(reason)

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()

    # -- for the frames: a transport of records -----------------------------------------------

    def confirmed(self) -> None:
        """Do nothing: where the link's keys are this is known already."""

    def read_at_once(self, records: int) -> None:
        """Do nothing: records come one by one from where the link is read."""

    def write(self, data: bytes | memoryview) -> None:
        """Send one record by the link; `data` is copied."""
        self.transport.write(encode(Message.RECORD, data))

    def write_records(self, plaintexts: list[memoryview]) -> None:
        """Send several records by the link; they are copied."""
        self.transport.write(b"".join(encode(Message.RECORD, data) for data in plaintexts))

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Let the local socket pause and resume the frames."""
        self.transport.registerProducer(producer, streaming)

    def unregisterProducer(self) -> None:
        """Undo `registerProducer`."""
        self.transport.unregisterProducer()

    def loseConnection(self) -> None:
        """Have the link closed once everything written has left.

        The bearer closes the local socket then: closing it here as well could destroy what
        it has not read yet.
        """
        self.transport.write(encode(Message.LOSE))

    def abortConnection(self) -> None:
        """Have the link closed at once."""
        self.transport.abortConnection()

    def getPeer(self) -> Any:
        """Return the bearer's address."""
        return self.transport.getPeer()

    def getHost(self) -> Any:
        """Return the local socket's."""
        return self.transport.getHost()
