"""A client whose machine has a wrong clock."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from support.destinations import WebServer
from support.programs import Tunnel

pytestmark = pytest.mark.e2e

MakeTunnel = Callable[..., Tunnel]

#: Makes a Python program see another time of day, as if the machine's clock were wrong.
WRONG = """
import time
right = time.time
time.time = lambda: right() + {ahead}
"""


@pytest.fixture
def set_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Give programs that are started from now on a wrong clock."""

    def wrong(ahead: int) -> None:
        (tmp_path / "sitecustomize.py").write_text(WRONG.format(ahead=ahead))
        path = [str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))

    return wrong


@pytest.mark.parametrize(
    ("ahead", "words"), [(5000, r"500[0-3] s ahead of"), (-5000, r"(4999|500[0-3]) s behind")]
)
def test_inside_tls_it_connects_all_the_same(
    make_tunnel: MakeTunnel,
    set_clock: Callable[[int], None],
    web: WebServer,
    ahead: int,
    words: str,
) -> None:
    tunnel = make_tunnel("tls")
    tunnel.start_server()
    set_clock(ahead)
    tunnel.start_client()
    with tunnel.connect(web.port) as connection:
        connection.sendall(b"GET /bytes/10 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 200")
    log = tunnel.client.log()
    assert log.count("this machine's clock is") == 1 and re.search(words, log)
    assert "no link" not in log


def test_on_bare_tcp_it_says_what_it_may_be(
    make_tunnel: MakeTunnel, set_clock: Callable[[int], None]
) -> None:
    tunnel = make_tunnel("tcp", client={"handshake_timeout": 1})
    tunnel.start_server()
    set_clock(5000)
    tunnel.start_client(linked=False)
    tunnel.client.wait_for(r"no link: no answer to the handshake.*key.*clocks.*blocks the link")
