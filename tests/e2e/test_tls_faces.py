"""The tunnel inside TLS, by each library the server may speak it with."""

from __future__ import annotations

import getpass
import hashlib
import importlib.util
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.destinations import TcpServer, content, content_digest, read_all
from support.programs import Tunnel, free_port, need, run, wait_until

pytestmark = pytest.mark.e2e

MEGABYTE = 1_000_000

MakeTunnel = Callable[..., Tunnel]


def upload(tunnel: Tunnel) -> None:
    """Send 20 MB to a destination, half-close, and have it say what it got."""

    def serve(connection: socket.socket) -> None:
        connection.sendall(hashlib.sha256(read_all(connection)).hexdigest().encode())

    with TcpServer(serve) as server, tunnel.connect(server.port) as connection:
        connection.sendall(content(20 * MEGABYTE))
        connection.shutdown(socket.SHUT_WR)
        assert read_all(connection).decode() == content_digest(20 * MEGABYTE)


def download(tunnel: Tunnel) -> None:
    def serve(connection: socket.socket) -> None:
        connection.sendall(content(20 * MEGABYTE))

    with TcpServer(serve) as server, tunnel.connect(server.port) as connection:
        assert hashlib.sha256(read_all(connection)).hexdigest() == content_digest(20 * MEGABYTE)


@pytest.mark.parametrize("engine", ["openssl", "boringssl"])
def test_both_ends_seal_the_records_of_tls_themselves(make_tunnel: MakeTunnel, engine: str) -> None:
    if engine == "boringssl" and importlib.util.find_spec("utls") is None:
        pytest.skip("the package utls is not installed")
    tunnel = make_tunnel("tls", server={"tls_engine": engine}, level="debug").start()
    upload(tunnel)
    download(tunnel)
    for program in (tunnel.client, tunnel.server):
        program.wait_for("the records of TLS are sealed and opened by phantom from here on")


NGINX = """
daemon off;
user {user};
pid {folder}/pid;
error_log {folder}/error.log info;
worker_processes 1;
events {{ worker_connections 256; }}
http {{
  access_log {folder}/access.log;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{http1};
    listen 127.0.0.1:{h2c} http2;
    root {folder}/site;
    # Asks itself for the page once a body has arrived whole. Refused before that, curl fails now
    # and then over HTTP/2 without any tunnel: nginx ends the stream while curl still sends.
    location = /form {{ proxy_pass http://127.0.0.1:{http1}/page.html; }}
  }}
}}
"""


@pytest.fixture
def nginx(tmp_path: Path) -> Iterator[tuple[int, int]]:
    """A web server with HTTP/1.1 on one port and HTTP/2 in the clear on another."""
    need("nginx")
    folder = tmp_path / "nginx"
    site = folder / "site"
    site.mkdir(parents=True)
    (site / "page.html").write_bytes(content(200_000))
    http1, h2c = free_port(), free_port()
    config = folder / "nginx.conf"
    config.write_text(NGINX.format(folder=folder, http1=http1, h2c=h2c, user=getpass.getuser()))
    with subprocess.Popen(["nginx", "-c", str(config)], stderr=subprocess.DEVNULL) as process:
        wait_until(lambda: _listens(http1) and _listens(h2c), "nginx listens")
        yield http1, h2c
        process.terminate()


def _listens(port: int) -> bool:
    with socket.socket() as attempt:
        return attempt.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("engine", ["openssl", "boringssl"])
def test_links_and_visitors_over_http2(
    make_tunnel: MakeTunnel, nginx: tuple[int, int], engine: str
) -> None:
    http1, h2c = nginx
    if engine == "boringssl" and importlib.util.find_spec("utls") is None:
        pytest.skip("no utls")
    tunnel = make_tunnel(
        "tls",
        server={
            "decoy": f"http://127.0.0.1:{http1}",
            "decoy_h2c": f"http://127.0.0.1:{h2c}",
            "tls_engine": engine,
        },
    ).start()
    upload(tunnel)
    download(tunnel)
    need("curl")
    host, port = tunnel.server_address
    name = tunnel.client_settings["tls_sni"]
    for protocol, version in (("--http2", "2"), ("--http1.1", "1.1")):
        done = run(
            *("curl", "-sS", "-q", "-k", "--noproxy", "*", protocol),
            *("-w", "\n%{http_code} %{http_version}"),
            *("--resolve", f"{name}:{port}:{host}", f"https://{name}:{port}/page.html"),
        )
        body, _, status = done.stdout.rpartition(b"\n")
        assert (body == content(200_000), status.decode()) == (True, f"200 {version}"), done.stderr
        done = run(
            *("curl", "-sS", "-q", "-k", "--noproxy", "*", protocol, "--data-binary", "x" * 9000),
            *("-o", "/dev/null", "-w", "%{http_code} %{http_version}"),
            *("--resolve", f"{name}:{port}:{host}", f"https://{name}:{port}/form"),
        )
        assert done.stdout.decode() == f"405 {version}", done.stderr
