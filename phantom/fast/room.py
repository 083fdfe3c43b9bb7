"""Room in the kernel for what comes in, without taking from the kernel to make more.

SO_RCVBUF would fix the size of a receive buffer, and far below what Linux lets it grow to by
itself.  Asking to be woken only by so much data makes room for that much, as far as ``tcp_rmem``
allows, and the buffer goes on growing when that is taken back (Linux 4.20, net/ipv4/tcp.c,
``tcp_set_rcvlowat``).
"""

from __future__ import annotations

import contextlib
import socket

from phantom.fast.tcp_info import LINUX


def give_room(handle: socket.socket, size: int) -> None:
    """Have the kernel keep so many bytes, or more, for a socket that is not being read.

    Args:
        handle: A TCP socket; with others, and on other systems, no room is made.
        size: Bytes.  The kernel sets aside twice as much, for its own bookkeeping.
    """
    if LINUX:
        with contextlib.suppress(OSError):  # no TCP, or its connection is gone
            handle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)
            handle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
