"""Room in the kernel's receive buffer."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from phantom.fast.room import give_room
from phantom.fast.tcp_info import LINUX

pytestmark = pytest.mark.skipif(not LINUX, reason="buffers grow in this way on Linux")

SIZE = 512 * 1024


def receive_buffer(handle: socket.socket) -> int:
    return handle.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)


def test_as_much_is_kept_as_was_asked_for() -> None:
    most = int(Path("/proc/sys/net/ipv4/tcp_rmem").read_text().split()[2])
    with (
        socket.create_server(("127.0.0.1", 0)) as port,
        socket.create_connection(port.getsockname()),
        port.accept()[0] as receiver,
    ):
        before = receive_buffer(receiver)
        give_room(receiver, SIZE)
        assert receive_buffer(receiver) >= min(SIZE, most // 2)
        assert receiver.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == 1
        grown = receive_buffer(receiver)
        give_room(receiver, 1024)
        assert receive_buffer(receiver) == grown >= before, "it never shrinks"


def test_what_has_no_such_buffer_is_left_alone() -> None:
    one, other = socket.socketpair()
    with one, other:
        give_room(one, SIZE)
        assert one.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == 1
    give_room(one, SIZE)  # closed
