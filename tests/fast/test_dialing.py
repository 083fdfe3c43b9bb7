"""Dialling where the machine has run out of something: told, never raised, nothing left open."""

from __future__ import annotations

import errno
import os
import socket
from ipaddress import IPv4Address, ip_address
from typing import Any

import pytest

from phantom.fast.dialing import dial


class Caller:
    def __init__(self) -> None:
        self.failed: list[int] = []

    def dialled(self, transport: Any) -> None:
        raise AssertionError("it is connected to nobody")

    def dial_failed(self, number: int) -> None:
        self.failed.append(number)

    def dial_lost(self) -> None:
        raise AssertionError("it was not there")


class FullReactor:
    """epoll_ctl(2): the user has as many watches as may be (ENOSPC), or no memory."""

    def addWriter(self, writer: Any) -> None:
        raise OSError(errno.ENOSPC, "too many watches")


@pytest.fixture
def silent_port() -> Any:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        yield listener.getsockname()[1]


@pytest.mark.parametrize("host", [IPv4Address("127.0.0.1"), ip_address("::1")])
def test_a_socket_that_cannot_be_prepared(host: Any, silent_port: int) -> None:
    def prepare(_skt: socket.socket, _host: str) -> None:
        raise OSError(errno.EMFILE, "too many open files")

    caller = Caller()
    before = len(os.listdir("/proc/self/fd"))
    assert dial(FullReactor(), host, silent_port, caller, prepare) is None
    assert caller.failed == [errno.EMFILE]
    assert len(os.listdir("/proc/self/fd")) <= before


def test_a_socket_that_cannot_be_waited_for(silent_port: int) -> None:
    caller = Caller()
    before = len(os.listdir("/proc/self/fd"))
    host = IPv4Address("127.0.0.1")
    assert dial(FullReactor(), host, silent_port, caller, lambda skt, text: None) is None
    assert caller.failed == [errno.ENOSPC]
    assert len(os.listdir("/proc/self/fd")) <= before
