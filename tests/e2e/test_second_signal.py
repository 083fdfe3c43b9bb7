"""Somebody who asks twice need not wait."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import pytest
from support.destinations import TcpServer
from support.programs import Program, Tunnel, wait_until

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("side", ["server", "client"])
def test_a_second_signal_ends_the_drain(make_tunnel: Callable[..., Tunnel], side: str) -> None:
    tunnel = make_tunnel("tcp", server={"drain_timeout": 60}, client={"drain_timeout": 60}).start()
    with TcpServer(lambda connection: connection.recv(1)) as destination:
        connection = tunnel.connect(destination.port)
        program: Program = getattr(tunnel, side)
        os.kill(program.pid, signal.SIGTERM)
        program.wait_for("Received SIGTERM")
        time.sleep(1)
        assert program.alive, "it lets the stream finish"
        os.kill(program.pid, signal.SIGINT)
        wait_until(lambda: not program.alive, "the program to end", 10)
        assert "Traceback" not in program.log()
        connection.close()
