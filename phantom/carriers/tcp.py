"""The sockets beneath a link, and their options."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocolFactory, IStreamClientEndpoint
from twisted.internet.tcp import Connection
from zope.interface import implementer

from phantom.layer import Layer

#: Unsent bytes the kernel may hold before it calls the socket full.  More would only queue
#: ahead of a keystroke; what is in flight does not count towards it.
UNSENT_LOW_WATER = 128 * 1024

# Linux's number, for Pythons that do not name it (linux/tcp.h).
_TCP_NOTSENT_LOWAT = getattr(
    socket, "TCP_NOTSENT_LOWAT", 25 if hasattr(socket, "TCP_CORK") else None
)

#: The most that is read away before a close; whoever has sent more finds a reset.
_DISCARD_LIMIT = 1 << 20

_DISCARD_READ = 1 << 16


def bottom(transport: Any) -> Any:
    """Return the transport beneath every `Layer`."""
    while isinstance(transport, Layer):
        transport = transport.transport
    return transport


def prepare_link_socket(transport: Any) -> None:
    """Set the options of a link's socket: no delay, keepalive, little unsent data.

    Args:
        transport: A TCP transport, layers upon one, or anything else, which is left alone
            (a local socket, an in-memory transport).
    """
    transport = bottom(transport)
    if not hasattr(transport, "setTcpNoDelay") or not getattr(transport, "connected", True):
        return
    transport.setTcpNoDelay(True)
    transport.setTcpKeepAlive(True)
    if _TCP_NOTSENT_LOWAT is not None and hasattr(transport, "getHandle"):
        try:
            transport.getHandle().setsockopt(
                socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, UNSENT_LOW_WATER
            )
        except OSError:
            # A kernel without the option queues more; nothing else changes.
            return


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
    """

    def __init__(self, inner: IStreamClientEndpoint) -> None:
        self._inner = inner

    def connect(self, factory: IProtocolFactory) -> Deferred[Any]:
        """Connect; the Deferred fires with the factory's protocol."""

        def prepare(protocol: Any) -> Any:
            prepare_link_socket(protocol.transport)
            return protocol

        return self._inner.connect(factory).addCallback(prepare)
