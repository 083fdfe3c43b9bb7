"""The tunnel's upper layers joined in memory: two multiplexers, their sessions, one pipe.

`LengthPrefixed` stands in for the Noise layer: it keeps records apart, at no cost of
cryptography, so that hypothesis can afford thousands of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from phantom.address import Destination
from phantom.core.block_pool import BlockPool
from phantom.errors import Outcome
from phantom.layer import Layer
from phantom.telemetry import Meters
from phantom.tunnel.frame import FrameProtocol
from phantom.tunnel.frame_receiver import DeadEnd
from phantom.tunnel.mux import MultiplexerProtocol, MuxLimits
from phantom.tunnel.registry import SessionRegistry
from phantom.tunnel.session import Session
from phantom.tunnel.stream import Stream
from support.pipes import Pipe, Split, join, run, whole
from support.runtime import fake_runtime

SERVER_KEY = b"S" * 32
CLIENT_KEY = b"C" * 32
SOMEWHERE = Destination("example.com", 443)


class LengthPrefixed(Layer):
    """Records as a four-byte length and the plaintext."""

    def __init__(self, upper: Any, peer_key: bytes) -> None:
        super().__init__(upper)
        self.peer_key = peer_key
        self.handshake_time = None
        self.lean = False
        self.received = 0
        self.sent = 0
        self.separates = False
        self.at_once = 0
        self._buffer = b""

    def confirmed(self) -> None:
        pass

    def write(self, data: Any) -> None:
        self.sent += len(data)
        self.transport.write(len(data).to_bytes(4, "big") + bytes(data))

    def read_at_once(self, records: int) -> None:
        self.at_once = records

    def write_apart(self, data: Any, sizes: Any) -> None:
        self.write(data)

    def write_records(self, plaintexts: list[memoryview]) -> None:
        for plaintext in plaintexts:
            self.write(plaintext)

    def dataReceived(self, data: bytes) -> None:
        self.received += len(data)
        self._buffer += data
        # As in life, what is handed up is only valid during the call.
        memory = bytearray(self._buffer)
        records, start = [], 0
        while len(memory) - start >= 4:
            end = start + 4 + int.from_bytes(memory[start : start + 4], "big")
            if len(memory) < end:
                break
            records.append(memoryview(memory)[start + 4 : end])
            start = end
        self._buffer = self._buffer[start:]
        if records:
            self.upper.records_received(records)
        memory[:] = b"\xff" * len(memory)

    def readConnectionLost(self) -> None:
        self.upper.connectionLost(Failure(ConnectionDone()))
        self.transport.loseConnection()


@implementer(IHalfCloseableProtocol)
class Recorder:
    """A protocol that writes down what it hears."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.data = b""
        self.pieces: list[int] = []
        self.read_ended = 0
        self.write_ended = 0
        self.lost: Failure | None = None
        self.on_data: Callable[[bytes], None] | None = None

    def makeConnection(self, transport: Any) -> None:
        self.transport = transport

    def dataReceived(self, data: bytes) -> None:
        assert self.lost is None and not self.read_ended
        assert isinstance(data, bytes)
        self.data += data
        self.pieces.append(len(data))
        if self.on_data is not None:
            self.on_data(data)

    def readConnectionLost(self) -> None:
        assert self.lost is None
        self.read_ended += 1

    def writeConnectionLost(self) -> None:
        self.write_ended += 1

    def connectionLost(self, reason: Failure) -> None:
        assert self.lost is None, "connectionLost twice"
        self.lost = reason

    @property
    def clean(self) -> bool:
        return self.lost is not None and self.lost.check(ConnectionDone) is not None


class Puller:
    """A pull producer, which knows no pause (`IPullProducer`)."""

    def __init__(self, stream: Stream, pieces: list[bytes]) -> None:
        self.stream = stream
        self.pieces = pieces
        self.stopped = 0

    def resumeProducing(self) -> None:
        if self.pieces:
            self.stream.write(self.pieces.pop(0))

    def stopProducing(self) -> None:
        self.stopped += 1


class _Starter(DeadEnd):
    def __init__(self, on_link: Callable[[FrameProtocol], None]) -> None:
        self._on_link = on_link

    def link_made(self, link: FrameProtocol) -> None:
        self._on_link(link)


class Joined:
    """A client's multiplexer and a server's, joined by a pipe.

    Attributes:
        accepted: (stream, destination) of each stream the server accepted or was asked for.
        outcomes: What the client's opens came to, by stream id.
    """

    def __init__(
        self,
        *,
        limits: MuxLimits | None = None,
        server_limits: MuxLimits | None = None,
        delay: float = 0.0,
        split: Split = whole,
        keepalive: float = 0.0,
        accept: bool = True,
        capacity: int = 65536,
        max_links: int = 4,
    ) -> None:
        self.clock = Clock()
        self.runtime = fake_runtime(self.clock, seed=1)
        self.auto_accept = accept
        self.accepted: list[tuple[Stream, Destination]] = []
        self.server_protocols: dict[int, Recorder] = {}
        self.outcomes: dict[int, Outcome] = {}
        self.ended: list[Failure] = []
        self.limits = limits or MuxLimits()
        self.meters = Meters()
        self.registry = SessionRegistry(
            self.runtime,
            server_limits or self.limits,
            max_links=max_links,
            acceptor=lambda key: self._accept,
            attach_timeout=10.0,
            meters=self.meters,
        )
        self.goaways: list[int] = []
        self.mux = MultiplexerProtocol(
            self.runtime,
            self.limits,
            client=True,
            on_goaway=lambda mux, reason: self.goaways.append(reason),
        )
        self.detached: list[Failure] = []
        self.session = Session(
            self.runtime,
            b"I" * 16,
            self.mux,
            BlockPool(),
            on_detached=lambda s, r: self.detached.append(r),
            on_end=lambda s, r: self.ended.append(r),
        )
        self._keepalive, self._delay, self._split = keepalive, delay, split
        self._capacity = capacity
        self.resumed: list[int] = []
        self.pipe = self._link(self.session.begin)
        self.run(0.0)

    def _link(self, on_link: Callable[[FrameProtocol], None]) -> Pipe:
        self.client_link = FrameProtocol(self.runtime, _Starter(on_link), self._keepalive)
        self.server_link = FrameProtocol(self.runtime, self.registry.receive(), self._keepalive)
        self.client_end = LengthPrefixed(self.client_link, SERVER_KEY)
        self.server_end = LengthPrefixed(self.server_link, CLIENT_KEY)
        return join(
            self.clock,
            self.client_end,
            self.server_end,
            delay=self._delay,
            split=self._split,
            capacity=self._capacity,
        )

    def relink(self) -> None:
        """Give the session another link; the old one, if it lives, is superseded."""
        self.pipe = self._link(lambda link: self.session.resume(link, self.resumed.append))

    def _accept(self, stream: Stream, destination: Destination) -> None:
        self.accepted.append((stream, destination))
        if self.auto_accept:
            protocol = self.server_protocols[stream.stream_id] = Recorder()
            stream.accept(protocol)

    @property
    def server_mux(self) -> MultiplexerProtocol:
        return next(iter(self.registry._sessions.values()))[1]

    @property
    def server_session(self) -> Session:
        return next(iter(self.registry._sessions.values()))[0]

    def open(
        self, destination: Destination = SOMEWHERE, *, early: bool = False
    ) -> tuple[Stream, Recorder]:
        """Open a stream; the protocol is attached on success, or at once when `early`."""
        protocol = Recorder()

        def on_outcome(outcome: Outcome) -> None:
            self.outcomes[stream.stream_id] = outcome
            if outcome is Outcome.CONNECTED and not early:
                stream.attach(protocol)

        stream = self.mux.open(destination, on_outcome)
        if early:
            stream.attach(protocol)
        return stream, protocol

    def run(self, seconds: float = 1.0) -> None:
        run(self.clock, seconds)

    def inject(self, *frames: bytes) -> None:
        """Send frames to the server as the client's link, past the client's session."""
        self.client_link.send_record(b"".join(frames))
        self.run()


def sizes_written(joined: Joined, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the sizes of the records that the client writes from now on, as they come."""
    sizes: list[int] = []
    write = LengthPrefixed.write

    def watched(layer: LengthPrefixed, data: Any) -> None:
        if layer is joined.client_end:
            sizes.append(len(data))
        write(layer, data)

    monkeypatch.setattr(LengthPrefixed, "write", watched)
    return sizes
