"""Behind a front that passes connections on, and says whose they are."""

from __future__ import annotations

import getpass
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from support.destinations import TcpServer, content, read_all
from support.programs import Tunnel, free_port, need, run, wait_until

#: The command of the Python that runs the tests, whatever PATH has.
PHANTOM = (sys.executable, "-c", "from phantom.app.cli.main import main; main()")

pytestmark = pytest.mark.e2e

MakeTunnel = Callable[..., Tunnel]

#: Where Debian and others put nginx's modules; the variable is for those who have it elsewhere.
MODULES = Path(os.environ.get("NGINX_MODULES", "/usr/lib/nginx/modules"))

NGINX = """
{load}
daemon off;
user {user};
pid {folder}/pid;
error_log {folder}/error.log info;
worker_processes 1;
events {{ worker_connections 256; }}
stream {{
  server {{
    listen 127.0.0.1:{tcp};
    proxy_protocol on;
    proxy_pass {tcp_behind};
  }}
  server {{
    listen 127.0.0.1:{local};
    proxy_protocol on;
    proxy_pass {local_behind};
  }}
}}
"""


def download(tunnel: Tunnel) -> None:
    with (
        TcpServer(lambda c: c.sendall(content(3_000_000))) as server,
        tunnel.connect(server.port) as connection,
    ):
        assert read_all(connection) == content(3_000_000)


def page(port: int) -> bytes:
    """Return what a visitor gets, over TLS."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as raw,
        context.wrap_socket(raw, server_hostname="a.example") as tls,
    ):
        tls.sendall(b"GET / HTTP/1.0\r\n\r\n")
        return read_all(tls)


def behind(make_tunnel: MakeTunnel, local: Path) -> Tunnel:
    tunnel = make_tunnel(
        "tls",
        server={
            "listen": [f"unix:{local}", "127.0.0.1:0"],
            "trusted_proxies": ["127.0.0.1/32", f"unix:{local}"],
        },
    )
    tunnel.start_server()
    return tunnel


class Front:
    """Passes connections on to a unix socket, with a PROXY header before each."""

    def __init__(self, local: Path, header: bytes) -> None:
        self._local = str(local)
        self._header = header
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.socket(socket.AF_UNIX)
            far.connect(self._local)
            far.sendall(self._header)
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            return

    def close(self) -> None:
        self._listener.close()


HEADERS = {
    "version 1": b"PROXY TCP4 192.0.2.7 192.0.2.1 50000 443\r\n",
    "version 2": b"\r\n\r\n\x00\r\nQUIT\n" + bytes.fromhex("2111000c c0000207 c0000201 c350 01bb"),
}


@pytest.mark.parametrize("version", list(HEADERS))
def test_through_a_unix_socket(make_tunnel: MakeTunnel, tmp_path: Path, version: str) -> None:
    local = tmp_path / "s"
    tunnel = behind(make_tunnel, local)
    with closing(Front(local, HEADERS[version])) as front:
        tunnel.client_settings["server"] = f"127.0.0.1:{front.port}"
        tunnel.start_client()
        download(tunnel)
        assert page(front.port).startswith(b"HTTP/1.1 200 OK\r\nServer: nginx")
    with closing(Front(local, b"")) as rude, pytest.raises(OSError):
        page(rude.port)
    assert "sent no PROXY header" in tunnel.server.log()


def test_a_unix_socket_that_was_left_behind(make_tunnel: MakeTunnel, tmp_path: Path) -> None:
    local = tmp_path / "s"
    with closing(socket.socket(socket.AF_UNIX)) as left:
        left.bind(str(local))
    tunnel = behind(make_tunnel, local)
    with closing(Front(local, HEADERS["version 1"])) as front:
        assert page(front.port).startswith(b"HTTP/1.1 200")
    done = run(*PHANTOM, "check", str(tunnel.write_server()))
    assert f"unix:{local}" in done.stdout.decode()


@pytest.fixture
def nginx(tmp_path: Path) -> Iterator[Callable[[Tunnel, Path], tuple[int, int]]]:
    """Starts an nginx with its stream module before a tunnel."""
    need("nginx")
    module = MODULES / "ngx_stream_module.so"
    options = run("nginx", "-V").stderr.decode()
    if not module.exists() and "--with-stream " not in options:
        pytest.skip("nginx has no stream module: install libnginx-mod-stream")
    folder = tmp_path / "nginx"
    folder.mkdir()
    processes: list[subprocess.Popen[bytes]] = []

    def start(tunnel: Tunnel, local_socket: Path) -> tuple[int, int]:
        tcp, local = free_port(), free_port()
        config = folder / "nginx.conf"
        config.write_text(
            NGINX.format(
                load=f"load_module {module};" if module.exists() else "",
                user=getpass.getuser(),
                folder=folder,
                tcp=tcp,
                tcp_behind=f"127.0.0.1:{tunnel.server_address[1]}",
                local=local,
                local_behind=f"unix:{local_socket}",
            )
        )
        processes.append(subprocess.Popen(["nginx", "-c", str(config)], stderr=subprocess.DEVNULL))

        def listens() -> bool:
            with socket.socket() as attempt:
                return attempt.connect_ex(("127.0.0.1", local)) == 0

        wait_until(listens, "nginx listens")
        return tcp, local

    yield start
    for process in processes:
        process.terminate()
        process.wait()


@pytest.mark.parametrize("way", [0, 1], ids=["tcp", "unix"])
def test_behind_nginx(
    make_tunnel: MakeTunnel,
    tmp_path: Path,
    nginx: Callable[[Tunnel, Path], tuple[int, int]],
    way: int,
) -> None:
    tunnel = behind(make_tunnel, tmp_path / "s")
    port = nginx(tunnel, tmp_path / "s")[way]
    tunnel.client_settings["server"] = f"127.0.0.1:{port}"
    tunnel.start_client()
    download(tunnel)
    assert page(port).startswith(b"HTTP/1.1 200 OK\r\nServer: nginx")
