"""Connections that are accepted without detours, by a port that `quicken_port` has seen.

Twisted's port makes of each a socket of Python's (whose family and type become members of enums,
by way of two classes), buffers log lines meanwhile, and gives it two texts for log lines that
nobody reads here, of 160 bytes.
"""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.tcp import Port

from phantom.fast.sockets import QuickServer
from phantom.fast.turns import is_epoll
from phantom.fast.watching import DirectlyWatched
from phantom.telemetry import make_logger

log = make_logger()

#: Connections accepted in one turn, so that those that are there already get theirs.  All that
#: wait should be taken together: what they ask for then goes out together as well (one at a time
#: cost a short connection 15 % more calls, most of them for records of their own).
AT_ONCE = 100


class AcceptedServer(QuickServer):
    """A connection that is quick from the start.

    Attributes:
        logstr: Instead of a text of its own for each.
    """

    logstr = "phantom"

    def __init__(
        self,
        sock: socket.socket,
        protocol: Any,
        client: tuple[Any, ...],
        server: Port,
        _number: int,
        reactor: Any,
    ) -> None:
        # What Connection's and FileDescriptor's own do, which is all there is to do.
        self.reactor = reactor
        self._tempDataBuffer = []
        self._tempDataLen = 0
        sock.setblocking(False)
        self.socket = sock
        self.fileno = sock.fileno
        self.protocol = protocol
        if len(client) != 2:
            self._addressType = IPv6Address
        self.client = client
        self.server = server
        self.connected = 1
        self.startReading()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} at {id(self):#x}>"


class PromptServer(DirectlyWatched, AcceptedServer):
    """One on epoll, that inherited TCP_NODELAY from the socket that listened."""

    def setTcpNoDelay(self, enabled: bool) -> None:
        """Do what is not done."""
        if not enabled:
            super().setTcpNoDelay(enabled)


class QuickPort(Port):
    """Twisted's port for TCP over IPv4 on Linux; made by `quicken_port`."""

    factory: Any

    def doRead(self) -> None:
        """Accept what waits; leave to Twisted's own whatever is not just a connection."""
        listener: Any = self.socket
        for _ in range(AT_ONCE):
            try:
                number, address = listener._accept()
            except BlockingIOError:
                return  # that was all, or another process has the rest
            except OSError:
                super().doRead()  # out of descriptors, say: it knows what to do
                return
            connection: Any = socket.SocketType(socket.AF_INET, socket.SOCK_STREAM, 0, number)
            protocol: Any = None
            # Whatever fails is this connection's trouble and not the port's, as with Twisted's own.
            try:
                protocol = self.factory.buildProtocol(IPv4Address("TCP", *address))
                if protocol is not None:
                    transport = PromptServer(connection, protocol, address, self, 0, self.reactor)
                    protocol.makeConnection(transport)
            except Exception:
                log.failure("a connection could not be accepted")
            if protocol is None:
                connection.close()


def quicken_port(port: object) -> None:
    """Have a port make quick connections from the start, if it is Twisted's own for TCP.

    Args:
        port: What ``listenTCP`` or ``adoptStreamPort`` returned.
    """
    if type(port) is not Port or not hasattr(socket.socket, "recvmsg_into"):
        return
    quick: Any = port  # of whose class mypy knows too much
    quick.transport = AcceptedServer
    if is_epoll(quick.reactor) and quick.addressFamily == socket.AF_INET:
        # Linux hands it on to what is accepted, which saves each a call.
        quick.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        quick.__class__ = QuickPort
