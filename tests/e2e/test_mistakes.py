"""A mistake in a file or an option is one clean line and a status, under twistd as well."""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from support.programs import Tunnel, clean_environment, run, twistd

pytestmark = pytest.mark.e2e

FOREGROUND = pytest.mark.parametrize("mode", [("-n",), ()], ids=["foreground", "daemon"])


def start(
    mode: tuple[str, ...], name: str, *options: str | Path, folder: Path, **environment: str
) -> subprocess.CompletedProcess[bytes]:
    """Run twistd until it gives up, or its daemon is on its own."""
    return run(
        *(twistd(), *mode, "--pidfile", folder / "pid", "--logfile", folder / "log"),
        *(f"phantom-{name}", *options),
        timeout=15,
        cwd=folder,
        env=clean_environment(**environment),
    )


def complaint(done: subprocess.CompletedProcess[bytes], lines: int = 1) -> str:
    """Return the line of a mistake, or of several."""
    assert done.returncode in (1, 2), done
    text = done.stderr.decode()
    assert "Traceback" not in text + done.stdout.decode()
    assert re.fullmatch(rf"(phantom: .+\n){{{lines}}}", text), text
    return text


@FOREGROUND
def test_no_config(tmp_path: Path, mode: tuple[str, ...]) -> None:
    text = complaint(start(mode, "server", folder=tmp_path))
    assert "--config" in text and "phantom init server" in text
    text = complaint(
        start(
            mode, "client", folder=tmp_path, HOME=str(tmp_path), XDG_CONFIG_HOME=str(tmp_path / "c")
        )
    )
    assert str(tmp_path / "c/phantom/client.toml") in text


@FOREGROUND
@pytest.mark.parametrize("name", ["server", "client"])
def test_missing_file(tmp_path: Path, mode: tuple[str, ...], name: str) -> None:
    text = complaint(start(mode, name, "--config", "nowhere.toml", folder=tmp_path))
    assert "nowhere.toml" in text


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("server", {"private_key": "c2hvcnQ="}, ["server.private_key", "32"]),
        ("server", {"allowed_client": ["x"]}, ["allowed_client", "allowed_clients"]),
        ("server", {"listen": "192.0.2.1:0"}, ["server.listen", "192.0.2.1"]),
        ("server", {"state_dir": "/dev/null/state"}, ["server.state_dir"]),
        ("client", {"server": "example.com"}, ["client.server", "port"]),
        ("client", {"socks_listen": "127.0.0.1:0"}, ["socks_listen", "socks5_listen"]),
        ("client", {"http_listen": "0.0.0.0:0"}, ["client.http_listen", "open_proxy"]),
        ("client", {"tls_ca": "gone.crt", "tls_sni": "a.example"}, ["client.tls_ca", "gone.crt"]),
    ],
)
def test_bad_settings(
    make_tunnel: Callable[..., Tunnel],
    tmp_path: Path,
    name: str,
    settings: Mapping[str, object],
    words: list[str],
) -> None:
    tunnel = make_tunnel("tcp", **{name: settings})
    tunnel.client_settings.setdefault("server", "127.0.0.1:1")
    path = tunnel.write_server() if name == "server" else tunnel.write_client()
    text = complaint(start(("-n",), name, "--config", path, folder=tmp_path))
    for word in words:
        assert word in text
    for key in (tunnel.server_settings, tunnel.client_settings):
        assert str(key["private_key"]) not in text


@FOREGROUND
@pytest.mark.parametrize("name", ["server", "client"])
def test_port_in_use(
    make_tunnel: Callable[..., Tunnel], tmp_path: Path, mode: tuple[str, ...], name: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        tunnel = make_tunnel(
            "tcp", server={"listen": address}, client={"server": address, "http_listen": address}
        )
        path = tunnel.write_server() if name == "server" else tunnel.write_client()
        text = complaint(start(mode, name, "--config", path, folder=tmp_path))
    assert f"{address} is in use" in text
    assert not (tmp_path / "pid").exists()


def test_a_readable_key(make_tunnel: Callable[..., Tunnel], tmp_path: Path) -> None:
    path = make_tunnel("tcp").write_server()
    path.chmod(0o644)
    text = complaint(start(("-n",), "server", "--config", path, folder=tmp_path))
    assert f"chmod 600 {path}" in text


def test_no_such_level(make_tunnel: Callable[..., Tunnel], tmp_path: Path) -> None:
    path = make_tunnel("tcp").write_server()
    done = start(("-n",), "server", "--config", path, "--log-level", "loud", folder=tmp_path)
    text = complaint(done)
    assert "--log-level" in text and "warn" in text


def test_no_certificate(make_tunnel: Callable[..., Tunnel], tmp_path: Path) -> None:
    settings = {"tls_cert": "gone.crt", "tls_key": "server.toml"}
    path = make_tunnel("tcp", server=settings).write_server()
    text = complaint(start(("-n",), "server", "--config", path, folder=tmp_path), lines=2)
    assert "server.tls_cert" in text and "gone.crt: no such file" in text
    assert "server.tls_key" in text and "no private key" in text


def test_several_mistakes_are_told_at_once(
    make_tunnel: Callable[..., Tunnel], tmp_path: Path
) -> None:
    path = make_tunnel("tcp", server={"listen": "here", "max_streams": -1}).write_server()
    text = complaint(start(("-n",), "server", "--config", path, folder=tmp_path), lines=2)
    assert "server.listen" in text and "server.max_streams" in text
