"""The example of doc/embedding.md, run as it stands there."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.destinations import WebServer, content
from support.programs import Tunnel, free_port, run

pytestmark = pytest.mark.e2e

PAGE = Path(__file__).resolve().parents[2] / "doc" / "embedding.md"

MakeTunnel = Callable[..., Tunnel]


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """Return the example, saved as the page says."""
    [code] = re.findall(r"(?ms)^```python\n(.*?)^```$", PAGE.read_text())
    path = tmp_path / "fetch.py"
    path.write_text(code)
    return path


@pytest.fixture
def config(make_tunnel: MakeTunnel) -> Path:
    """Return the file of a client whose server runs; the client does not."""
    tunnel = make_tunnel("tcp")
    tunnel.start_server()
    return tunnel.write_client()


def test_it_fetches_through_the_tunnel(program: Path, config: Path) -> None:
    with WebServer() as web:
        done = run(sys.executable, program, config, "127.0.0.1", str(web.port), "/bytes/100000")
    assert (done.returncode, done.stderr) == (0, b"")
    head, _, body = done.stdout.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert body == content(100_000)


def test_it_tells_what_the_server_saw(program: Path, config: Path) -> None:
    done = run(sys.executable, program, config, "127.0.0.1", str(free_port()), "/")
    assert done.returncode == 1
    assert b"refused" in done.stderr and b"Traceback" not in done.stderr


def test_it_tells_of_a_mistake_in_the_file(program: Path, tmp_path: Path) -> None:
    done = run(sys.executable, program, tmp_path / "none.toml", "127.0.0.1", "80", "/")
    assert done.returncode == 1
    assert b"none.toml" in done.stderr and b"Traceback" not in done.stderr
