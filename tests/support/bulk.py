"""Both ends of the tunnel in one process, with real sockets wherever bytes are pumped.

Programs and destinations are plain sockets; relays, streams, sessions, frames and records
are the real ones, and so are the links' sockets.  Timers are a `Clock`'s.  Everything is
driven step by step on a reactor of its own, so that a seed decides what happens when.
"""

from __future__ import annotations

import random
import socket
import struct
from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.internet.tcp import Server
from twisted.python.failure import Failure

from phantom.address import Destination
from phantom.core.detached import DetachedLimits
from phantom.core.handshake import Cipher
from phantom.crypto.noise_ik import TransportKeys
from phantom.errors import Outcome
from phantom.fast.sockets import QuickConnection, quicken
from phantom.fast.timeouts import Timeouts
from phantom.relay import HALF_CLOSED_TIMEOUT, relay_pair
from phantom.tunnel import noise
from phantom.tunnel.frame import FrameProtocol
from phantom.tunnel.noise import NoiseProtocol
from phantom.tunnel.post_quantum import Agreed
from phantom.tunnel.stream import Stream
from support.tunnel import CLIENT_KEY, SERVER_KEY, SOMEWHERE, Joined

#: What the programs say: of each direction another part of it, so that nothing is repeated.
TALK = random.Random(11).randbytes(1 << 20) * 2


def talk(seed: int, start: int, size: int) -> bytes:
    """Return `size` bytes of an endless text that `seed` chooses."""
    place = (seed * 7919 + start) % (1 << 20)
    return TALK[place : place + size]


class Established(NoiseProtocol):
    """Records of a link whose handshake is done; what it lends is spoilt afterwards."""

    def __init__(self, runtime: Any, upper: Any, peer_key: bytes, keys: TransportKeys) -> None:
        super().__init__(runtime, upper, lambda transport, data: transport.abortConnection())
        self.peer_key = peer_key
        self._keys = keys

    def connectionMade(self) -> None:
        quicken(self.transport)
        self._establish(Agreed(self._keys, False, lambda: None), b"")


class Program:
    """An application or a destination: a plain socket, and what is known of its talk.

    Attributes:
        sent: Bytes that the kernel took.
        received: Bytes that arrived; each was compared.
        read_end: "" while input goes on, then "end" or "reset".
        finished: Whether it has ended its output.
        broken: Whether it has reset the connection.
        failed: Whether it found the connection broken as it said something.
        reading: Whether it reads.
    """

    def __init__(self, own: socket.socket, says: int, hears: int) -> None:
        self.socket = own
        self.socket.setblocking(False)
        self.says, self.hears = says, hears
        self.sent = self.received = 0
        self.read_end = ""
        self.finished = self.broken = self.failed = False
        self.reading = True

    def say(self, size: int) -> int:
        """Say up to `size` bytes more; return how many the kernel took."""
        taken = 0
        if self.finished or self.broken or self.failed:
            return 0
        while taken < size:
            piece = talk(self.says, self.sent, min(size - taken, 65_536))
            try:
                count = self.socket.send(piece)
            except BlockingIOError:
                break
            except OSError:
                self.read_end = self.read_end or "reset"
                self.failed = True
                break
            self.sent += count
            taken += count
        return taken

    def listen(self, size: int) -> int:
        """Read up to `size` bytes, and compare them; return how many there were."""
        got = 0
        while self.reading and not self.read_end and not self.broken and got < size:
            try:
                data = self.socket.recv(min(size - got, 65_536))
            except BlockingIOError:
                break
            except OSError:
                self.read_end = "reset"
                break
            if not data:
                self.read_end = "end"
                break
            assert data == talk(self.hears, self.received, len(data)), "other bytes arrived"
            self.received += len(data)
            got += len(data)
        return got

    def finish(self) -> None:
        """Say no more."""
        if not self.finished and not self.broken:
            self.finished = True
            try:
                self.socket.shutdown(socket.SHUT_WR)
            except OSError:
                self.failed = True

    def reset(self) -> None:
        """Break off."""
        if not self.broken:
            self.broken = True
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.socket.close()

    @property
    def over(self) -> bool:
        """Whether nothing more will happen here."""
        broken = self.broken or self.failed or self.read_end == "reset"
        return broken or bool(self.read_end and self.finished)


class Bulk(Joined):
    """Two multiplexers joined by real links, their streams by relays to real sockets.

    Args:
        reactor: Serves the sockets; a private one.
        buffer: Size of the sockets' buffers in bytes; small ones fill sooner.
    """

    def __init__(self, reactor: Any, *, buffer: int = 32_768, **options: Any) -> None:
        self.reactor = reactor
        self._buffer = buffer
        self._sockets: list[socket.socket] = []
        self._transports: list[QuickConnection] = []
        self._number = 0
        self.programs: list[Program] = []
        self.destinations: dict[int, Program] = {}
        self.links: list[tuple[QuickConnection, QuickConnection]] = []
        self._waiting: dict[int, Program] = {}
        super().__init__(**options)
        self.timeouts = Timeouts(self.clock, HALF_CLOSED_TIMEOUT)
        self.registry._detached_limits = DetachedLimits(timeout=1e9)

    # -- sockets ------------------------------------------------------------------------

    def serve(self, protocol: Any) -> socket.socket:
        """Give `protocol` one end of a new TCP connection; return the other."""
        listener = socket.create_server(("127.0.0.1", 0))
        outer = socket.socket()
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            outer.setsockopt(socket.SOL_SOCKET, option, self._buffer)
            listener.setsockopt(socket.SOL_SOCKET, option, self._buffer)
        outer.connect(listener.getsockname())
        inner, address = listener.accept()
        listener.close()
        self._number += 1
        transport: Any = Server(inner, protocol, address, None, self._number, self.reactor)  # type: ignore[arg-type]
        transport.repstr = f"connection {self._number}"
        protocol.makeConnection(transport)
        self._sockets.append(outer)
        self._transports.append(transport)
        return outer

    def _link(self, on_link: Any) -> Any:
        from support.tunnel import _Starter

        self._number += 1
        up, down = (bytes([self._number % 256, way]) * 16 for way in (1, 2))
        mine = TransportKeys(up, down, bytes(32), Cipher.AESGCM)
        theirs = TransportKeys(down, up, bytes(32), Cipher.AESGCM)
        self.client_link = FrameProtocol(self.runtime, _Starter(on_link), self._keepalive)
        self.server_link = FrameProtocol(self.runtime, self.registry.receive(), self._keepalive)
        server_end = Established(self.runtime, self.server_link, CLIENT_KEY, theirs)
        outer = self.serve(server_end)
        client_end = Established(self.runtime, self.client_link, SERVER_KEY, mine)
        transport: Any = Server(outer, client_end, ("127.0.0.1", 1), None, 0, self.reactor)  # type: ignore[arg-type]
        transport.repstr = "link"
        self._transports.append(transport)
        self._sockets.remove(outer)
        outer.setblocking(False)
        self.links.append((transport, server_end.transport))
        client_end.makeConnection(transport)

    def cut(self, side: int) -> None:
        """Break the newest link; one side notices first."""
        transport = self.links[-1][side]
        if transport.connected:
            transport.abortConnection()

    def stall(self, stalled: bool) -> None:
        """Let the newest link carry nothing, or something again: its ends read no more."""
        for transport in self.links[-1]:
            if transport.connected and not transport.disconnecting:
                if stalled:
                    transport.pauseProducing()
                else:
                    transport.resumeProducing()

    # -- connections --------------------------------------------------------------------

    def connection(self) -> tuple[Program, int]:
        """Open a connection through the tunnel; its destination is `destinations[id]`."""
        near, far = relay_pair(timeouts=self.timeouts)

        def on_outcome(outcome: Outcome) -> None:
            self.outcomes[stream.stream_id] = outcome
            if outcome is Outcome.CONNECTED:
                stream.attach(far)
            else:
                far.makeConnection(_Gone())
                far.connectionLost(Failure(ConnectionDone()))

        stream = self.mux.open(SOMEWHERE, on_outcome)
        own = self.serve(near)
        number = stream.stream_id
        program = Program(own, says=2 * number, hears=2 * number + 1)
        self.programs.append(program)
        return program, number

    def _accept(self, stream: Stream, destination: Destination) -> None:
        near, far = relay_pair(timeouts=self.timeouts)
        number = stream.stream_id
        own = self.serve(far)
        self.destinations[number] = Program(own, says=2 * number + 1, hears=2 * number)
        stream.accept(near)

    # -- time -----------------------------------------------------------------------------

    def turn(self, seconds: float = 0.001, *, wait: float = 0.0) -> None:
        """Let one turn of the reactor pass, and some time.

        Args:
            seconds: By the clock of all timers.
            wait: Real seconds that the kernel has, at most: its own timers are real.
        """
        self.reactor.iterate(wait)
        self.run(seconds)

    def close(self) -> None:
        """Close everything."""
        self.session.end(Failure(ConnectionDone()))
        for own in self._sockets:
            own.close()
        for _ in range(50):
            self.turn(1)
        for transport in self._transports:
            if transport.connected:
                transport.connectionLost(Failure(ConnectionDone()))


class _Gone:
    """The transport of a stream that never was."""

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: None


def spoil_lent_buffers(monkeypatch: Any) -> None:
    """Overwrite each buffer of opened records when its loan is over."""
    stock = noise.return_opened

    def spoil(buffer: memoryview) -> None:
        buffer[:] = b"\xee" * len(buffer)
        stock(buffer)

    monkeypatch.setattr(noise, "return_opened", spoil)
