"""A server pushes how its clients pad: real programs, real sockets."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.censor import Censor
from support.destinations import TcpServer
from support.programs import Tunnel, wait_until, works

from phantom.core.shaping import Scheme

pytestmark = pytest.mark.e2e

MakeTunnel = Callable[..., Tunnel]

#: What the scheme of version 5 makes of the shortest message.
LEAST = 2000
FIFTH = f"5 tiny={LEAST}-2100 least=2100 fill=4000-4090 allowance=200000"
#: Messages whose bytes are counted.
MESSAGES = 6


def said_a_message(tunnel: Tunnel, censor: Censor, echo: TcpServer) -> float:
    """Return how many bytes the client's link needs for a message of a few bytes."""
    with tunnel.connect(echo.port) as connection:
        assert works(connection)
        time.sleep(0.2)
        link = censor.connections[-1]
        before = link.bytes[0]
        for _ in range(MESSAGES):
            assert works(connection)
            time.sleep(0.1)
        return (link.bytes[0] - before) / MESSAGES


def test_a_client_takes_the_highest_version_and_keeps_it(
    make_tunnel: MakeTunnel, carrier: str, echo: TcpServer, tmp_path: Path
) -> None:
    state = tmp_path / "client-state"
    with ExitStack() as stack:
        tunnel = make_tunnel(
            carrier,
            server={"padding_scheme": FIFTH},
            client={"state_dir": str(state), "keepalive": 60},
        )
        tunnel.start_server()
        censor = Censor(tunnel.server_address)
        stack.callback(censor.close)
        tunnel.client_settings["server"] = f"127.0.0.1:{censor.port}"

        def kept() -> Scheme:
            [path] = state.glob("padding-*")
            assert path.stat().st_mode & 0o777 == 0o600
            return Scheme.decode(bytes.fromhex(path.read_text()))

        def restart_both(scheme: str) -> None:
            tunnel.client.terminate()
            tunnel.server.terminate()
            tunnel.server_settings["padding_scheme"] = scheme
            tunnel.start_server()
            tunnel.start_client()

        tunnel.start_client()
        tunnel.client.wait_for("the server has sent version 5 of its padding")
        wait_until(lambda: [*state.glob("padding-*")], "the scheme is kept")
        assert kept().version == 5 and kept().tiny_low == LEAST
        assert said_a_message(tunnel, censor, echo) < LEAST, "from the next link on"

        tunnel.client.terminate()
        tunnel.start_client()
        assert said_a_message(tunnel, censor, echo) >= LEAST, "after a start, from the first link"

        # An older version does not replace what is kept.
        restart_both("4 tiny=236-290")
        assert said_a_message(tunnel, censor, echo) >= LEAST
        assert kept().version == 5
        assert "of its padding" not in tunnel.client.log()

        restart_both("6 allowance=0 share=0")
        tunnel.client.wait_for("the server has sent version 6 of its padding")
        sixth = Scheme(version=6, allowance=0, share=0)
        wait_until(lambda: kept() == sixth, "the scheme is kept")
        tunnel.client.terminate()
        tunnel.start_client()
        assert said_a_message(tunnel, censor, echo) < 400
