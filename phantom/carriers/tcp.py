"""The sockets beneath a link, and their options."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocolFactory, IStreamClientEndpoint
from twisted.internet.tcp import Connection
from zope.interface import implementer

from phantom.carriers.congestion import LinkSockets, set_unsent
from phantom.core.unsent import MOST_UNSENT
from phantom.fast.sockets import QuickConnection, quicken
from phantom.layer import bottom

#: The most that is read away before a close; whoever has sent more finds a reset.
_DISCARD_LIMIT = 1 << 20

_DISCARD_READ = 1 << 16


def prepare_link_socket(transport: Any, sockets: LinkSockets | None = None) -> None:
    """Set the options of a link's socket: no delay, keepalive, little unsent data.

    Args:
        transport: A TCP transport, layers upon one, or anything else, which is left alone
            (a local socket, an in-memory transport).
        sockets: Sets how it sends, and watches it; None leaves that to the system.
    """
    transport = bottom(transport)
    if not hasattr(transport, "setTcpNoDelay") or not getattr(transport, "connected", True):
        return
    transport.setTcpNoDelay(True)
    transport.setTcpKeepAlive(True)
    quicken(transport)
    if hasattr(transport, "getHandle"):
        set_unsent(transport, MOST_UNSENT)
        if sockets is not None:
            sockets.tune(transport)


def discard_unread(transport: Any) -> None:
    """Read away what lies in the socket, so that closing it sends FIN and not RST.

    On Linux close() answers unread input with a reset, which real web servers avoid and
    which may destroy the last bytes we sent before the peer has read them.
    """
    transport = bottom(transport)
    # A Twisted transport that was lost has no socket any more.
    if not hasattr(transport, "getHandle") or not getattr(transport, "connected", True):
        return
    handle = transport.getHandle()
    left = _DISCARD_LIMIT
    try:
        while left > 0:
            size = len(handle.recv(_DISCARD_READ, socket.MSG_DONTWAIT))
            if not size:
                return
            left -= size
    except OSError:
        return  # nothing left to read


def unsent(transport: Any) -> int:
    """Return how many bytes wait for the kernel to take them; 0 where that cannot be told.

    Args:
        transport: A TCP transport, or layers upon one.
    """
    transport = bottom(transport)
    if not isinstance(transport, Connection):
        return 0
    return len(transport.dataBuffer) - transport.offset + transport._tempDataLen


def write_separately(transport: Any, pieces: Iterable[bytes]) -> None:
    """Write pieces each as a segment of its own, where the transport can.

    Twisted joins what is written in one turn.  OpenSSL on a socket writes each session ticket
    by itself, and a censor sees the difference.
    """
    direct = isinstance(transport, Connection)
    for piece in pieces:
        if direct and not transport.dataBuffer and not transport._tempDataLen:
            sent = transport.writeSomeData(piece)
            if isinstance(sent, int):  # otherwise an exception, which `write` meets as well
                piece = piece[sent:]
        if piece:
            transport.write(piece)


@implementer(IStreamClientEndpoint)
class LinkSocketEndpoint:
    """Connects through another endpoint and prepares the socket for a link.

    Args:
        inner: Makes the connection; its transports are TCP's.
        sockets: See `prepare_link_socket`.
    """

    def __init__(self, inner: IStreamClientEndpoint, sockets: LinkSockets | None = None) -> None:
        self._inner = inner
        self._sockets = sockets

    def connect(self, factory: IProtocolFactory) -> Deferred[Any]:
        """Connect; the Deferred fires with the factory's protocol."""

        def prepare(protocol: Any) -> Any:
            transport = protocol.transport
            prepare_link_socket(transport, self._sockets)
            if isinstance(transport, QuickConnection):
                # Twisted's endpoints leave a protocol in between that passes everything on,
                # but knows of no buffers.
                transport.protocol = protocol
            return protocol

        return self._inner.connect(factory).addCallback(prepare)
