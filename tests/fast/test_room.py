"""Room in the kernel's receive buffer, looked at by filling it."""

from __future__ import annotations

import socket

import pytest

from phantom.fast.room import give_room
from phantom.fast.tcp_info import LINUX

pytestmark = pytest.mark.skipif(not LINUX, reason="buffers grow in this way on Linux")

SIZE = 512 * 1024


def held(room: int) -> int:
    """Send to a socket that is not read until nothing more goes; return what its kernel holds."""
    with (
        socket.create_server(("127.0.0.1", 0)) as port,
        socket.create_connection(port.getsockname()) as sender,
        port.accept()[0] as receiver,
    ):
        if room:
            give_room(receiver, room)
            assert receiver.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == 1
        sender.settimeout(0.2)
        with pytest.raises(TimeoutError):
            while True:
                sender.sendall(bytes(65536))
        return len(receiver.recv(8 << 20, socket.MSG_PEEK))


def test_as_much_is_kept_as_was_asked_for() -> None:
    kept = held(SIZE)
    assert kept >= SIZE // 2  # the kernel counts its own bookkeeping, too
    assert kept > held(0)


def test_what_has_no_such_buffer_is_left_alone() -> None:
    one, other = socket.socketpair()
    with one, other:
        give_room(one, SIZE)
        other.sendall(b"x")
        assert one.recv(1) == b"x"
    give_room(one, SIZE)  # closed
