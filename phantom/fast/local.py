"""Connections that never leave the machine, and the pacing they should not have.

BBR sends by a timer, so that a long path's queues stay short.  On loopback there is no queue,
and the timers, and the small pieces they make, cost the tunnel a third of its CPU time
(1.6 CPU-s/GB in place of 1.1) and two thirds of the rate of a bare socket.

A connection that was BBR's keeps the timers whatever it is given later (Linux,
net/ipv4/tcp_bbr.c, ``bbr_init``), and then goes at about half of the rate.  So the choice is
made before there is a connection, where that is possible: on the listening socket, which passes
it on to what it accepts, and before connecting.
"""

from __future__ import annotations

import errno
import functools
import socket

_TCP_CONGESTION = getattr(socket, "TCP_CONGESTION", None)

#: The kernel's limit for a name (TCP_CA_NAME_MAX, with its final zero).
_NAME_SIZE = 16
#: What the kernel answers for one that it does not have or does not allow us.
_REFUSED = (errno.ENOENT, errno.EPERM)

#: Congestion controls without timers, the better one first; every kernel has and allows Reno.
#: One that was refused is gone from here: having root ask again makes the kernel look for a
#: module each time.
_unpaced = ["cubic", "reno"]


def congestion_of(handle: socket.socket) -> str | None:
    """Return the name of a socket's congestion control, None where the system has none."""
    if _TCP_CONGESTION is None:
        return None
    try:
        name = handle.getsockopt(socket.IPPROTO_TCP, _TCP_CONGESTION, _NAME_SIZE)
    except OSError:
        return None
    return name.split(b"\0", 1)[0].decode("ascii", "replace")


def set_congestion(handle: socket.socket, name: str) -> bool:
    """Set a socket's congestion control; return whether the kernel has and allows it."""
    return _set(handle, name) == 0


def is_loopback(host: object) -> bool:
    """Tell whether an address, as text, is one of the machine's own loopback interface."""
    if not isinstance(host, str):
        return False  # a unix socket's peer
    return host.startswith(("127.", "::ffff:127.")) or host == "::1"


def spare_pacing(handle: socket.socket, host: object) -> None:
    """Let a socket's data go out without timers if it stays on the machine.

    Does nothing, and costs nothing, where the machine's default is not BBR.

    Args:
        handle: A TCP socket, best one that is not connected yet.
        host: The address it is or will be connected to, or that it listens on, as text.
    """
    if _default() == "bbr" and is_loopback(host):
        unpace(handle)


def unpace(handle: socket.socket) -> None:
    """Give a socket a congestion control that sends without timers."""
    while _unpaced:
        error = _set(handle, _unpaced[0])
        if error not in _REFUSED:
            return
        del _unpaced[0]


@functools.cache
def _default() -> str | None:
    """Return what the machine gives to new sockets, as it was when first asked."""
    with socket.socket() as trial:
        return congestion_of(trial)


def _set(handle: socket.socket, name: str) -> int:
    """Set a congestion control; return the error's number, 0 for none."""
    if _TCP_CONGESTION is None:
        return errno.ENOENT
    try:
        handle.setsockopt(socket.IPPROTO_TCP, _TCP_CONGESTION, name.encode("ascii"))
    except OSError as error:
        return error.errno or errno.EINVAL
    return 0
