"""Tunnels of real programs, and their logs under every test that fails."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from support.destinations import TcpServer, WebServer
from support.programs import Tunnel

_TUNNELS = pytest.StashKey[list[Tunnel]]()

#: How much of a log is shown.
_TAIL = 6000


@pytest.fixture(autouse=True, scope="session")
def _private_files() -> Iterator[None]:
    """Write files that only their owner can read, as keys must be."""
    before = os.umask(0o077)
    yield
    os.umask(before)


@pytest.fixture(scope="session")
def _all_tunnels(request: pytest.FixtureRequest) -> list[Tunnel]:
    return request.config.stash.setdefault(_TUNNELS, [])


@pytest.fixture(scope="session", params=["tcp", "tls"])
def carrier(request: pytest.FixtureRequest) -> str:
    """Both carriers, one after the other."""
    return str(request.param)


@pytest.fixture(scope="session")
def tunnel(
    carrier: str, tmp_path_factory: pytest.TempPathFactory, _all_tunnels: list[Tunnel]
) -> Iterator[Tunnel]:
    """A tunnel that many tests share; none may disturb it."""
    with Tunnel(tmp_path_factory.mktemp(f"tunnel-{carrier}"), carrier) as made:
        _all_tunnels.append(made)
        yield made.start()
        _all_tunnels.remove(made)


@pytest.fixture
def make_tunnel(tmp_path: Path, _all_tunnels: list[Tunnel]) -> Iterator[Callable[..., Tunnel]]:
    """Makes tunnels of the test's own; ``make_tunnel(carrier, ...)`` as `Tunnel`."""
    with ExitStack() as stack:
        made: list[Tunnel] = []

        def make(carrier: str = "tcp", **settings: Any) -> Tunnel:
            folder = tmp_path / f"tunnel-{len(made)}"
            folder.mkdir()
            made.append(stack.enter_context(Tunnel(folder, carrier, **settings)))
            _all_tunnels.append(made[-1])
            return made[-1]

        yield make
        for tunnel in made:
            _all_tunnels.remove(tunnel)


@pytest.fixture(scope="session")
def web() -> Iterator[WebServer]:
    """A web server that many tests share."""
    with WebServer() as server:
        yield server


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Show the programs' logs where a test failed."""
    report: Any = yield
    if report.failed:
        for tunnel in item.config.stash.get(_TUNNELS, []):
            for name, text in tunnel.logs():
                report.sections.append((f"{tunnel.carrier} {name}", text[-_TAIL:]))
    return report


@pytest.fixture
def echo() -> Iterator[TcpServer]:
    """A destination that sends back what it gets."""

    def serve(connection: socket.socket) -> None:
        while piece := connection.recv(65536):
            connection.sendall(piece)

    with TcpServer(serve) as server:
        yield server
