"""TCP connections to destinations, made without Twisted's connector.

Twisted's way to a connected socket leads over a connector, a Deferred and a timer of no seconds
for a name that is an address already, a second ``connect``, and ten system calls more than it
takes.  Here it is a socket, ``connect``, and one wait for it to be writable: of the 200 us that
a short connection cost a server, about 30 went with this and `phantom.fast.timeouts`.  The
result is an ordinary TCP transport of Twisted's, a quick one (`phantom.fast.sockets`).
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Protocol

from twisted.internet import address
from twisted.internet.abstract import FileDescriptor
from twisted.python.failure import Failure

from phantom.fast.sockets import QuickClient
from phantom.fast.turns import is_epoll
from phantom.fast.watching import DirectlyWatched


class Caller(Protocol):
    """Who has dialled."""

    def dialled(self, transport: Dialled) -> None:
        """Take the connection; nothing was received yet, nothing is before this returns."""

    def dial_failed(self, number: int) -> None:
        """Take the failure, an ``errno``; 0 if the system does not tell."""


class Dialled(DirectlyWatched, QuickClient):
    """A connection that was made by `dial`.

    Attributes:
        on_lost: Called when it is gone, after its protocol was told.
    """

    logstr = "phantom"  # Twisted's has one made of the protocol's name, for each

    on_lost: Callable[[], None] | None = None

    def connectionLost(self, reason: Failure) -> None:
        """Tell the protocol, then who has dialled; there is no connector."""
        super().connectionLost(reason)
        on_lost, self.on_lost = self.on_lost, None
        if on_lost is not None:
            on_lost()


class Dialling(Dialled):
    """A connection that is being made; it becomes a `Dialled` in place."""

    _caller: Caller | None

    def __init__(self, reactor: Any, skt: socket.socket, to: tuple[Any, ...], caller: Caller):
        # Not Client's own, which does all that this module is there to avoid.
        FileDescriptor.__init__(self, reactor)
        self.socket = skt
        self.fileno = skt.fileno
        self.addr = self.realAddress = to
        if len(to) > 2:
            self._addressType = address.IPv6Address  # type: ignore[assignment]
        self._caller = caller

    def doWrite(self) -> None:
        """Go over to reading, as the connection is made: a failed one has an error pending."""
        caller, self._caller = self._caller, None
        assert caller is not None  # once given up, the socket is not waited for
        number = self.fileno()
        reactor: Any = self.reactor  # of the class that `can_dial` wants
        # What addReader and removeWriter do, with one call of epoll_ctl instead of two.
        reactor._poller.modify(number, reactor._POLL_IN)
        reactor._reads.add(number)
        reactor._writes.discard(number)
        self.connected = 1
        self.__class__ = Dialled  # type: ignore[assignment]
        caller.dialled(self)

    def connectionLost(self, _reason: Failure) -> None:
        """Tell why there is no connection; called by the reactor, which waits no more."""
        caller, number = self._caller, self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        self._drop()
        if caller is not None:
            caller.dial_failed(number)

    def disconnect(self) -> None:
        """Give up, without a word to the caller."""
        if self._caller is not None:
            self.stopWriting()
            self._drop()

    def _drop(self) -> None:
        self._caller = None
        self.disconnected = 1
        self.socket.close()


def dial(
    reactor: Any,
    host: IPv4Address | IPv6Address,
    port: int,
    caller: Caller,
    prepare: Callable[[socket.socket, str], object],
) -> Dialling | None:
    """Begin to connect.

    Args:
        reactor: One for which `can_dial` is true.
        host: Where to.
        port: Likewise.
        caller: Told once how it went, perhaps before this returns if it went wrong.
        prepare: Called with the socket before it connects, and the address as text.

    Returns:
        What gives it up by ``disconnect`` until the caller was told; None if it was told.
    """
    try:
        if isinstance(host, IPv4Address):
            to: tuple[Any, ...] = (str(host), port)
            family = socket.AF_INET
        else:
            to = (str(host), port, 0, 0)  # a scope is part of the text, if there is one
            family = socket.AF_INET6
        # Non-blocking from the start saves two calls of ioctl.
        skt: Any = socket.SocketType(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    except OSError as error:
        caller.dial_failed(error.errno or 0)
        return None
    dialling = Dialling(reactor, skt, to, caller)
    try:
        prepare(skt, to[0])
        number = skt.connect_ex(to)
        if number in (0, errno.EINPROGRESS):
            reactor.addWriter(dialling)
            return dialling
    except OSError as error:  # the system is short of something
        number = error.errno or 0
    skt.close()
    caller.dial_failed(number)
    return None


def can_dial(reactor: Any) -> bool:
    """Return whether `dial` knows this reactor; elsewhere there is ``connectTCP``."""
    return is_epoll(reactor)
