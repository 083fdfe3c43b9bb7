"""Behind a front that ends TLS: nginx's stream module, or HAProxy, as the documentation has it."""

from __future__ import annotations

import getpass
import hashlib
import re
import socket
import ssl
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from support.certificates import Certificate, make_certificate
from support.destinations import TcpServer, content, content_digest, read_all
from support.programs import SERVER_NAME, Tunnel, free_port, need, run, wait_until

from phantom.audit.nginx import load_stream

pytestmark = pytest.mark.e2e

MakeTunnel = Callable[..., Tunnel]

DOCUMENT = Path(__file__).parents[2] / "doc" / "operation.md"
SIZE = 12_000_000


def documented(language: str, mark: str) -> str:
    """Return a block of the section on such fronts."""
    section = DOCUMENT.read_text().partition("## TLS that nginx ends")[2]
    for block in re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL):
        if mark in block:
            return str(block)
    raise AssertionError(f"no {language} block with {mark!r}")


class Front:
    """A running front, and the tunnel behind it.

    Attributes:
        port: Where visitors connect.
        web: The port of the web server that strangers get, over HTTP/1.1.
        folder: Where its sockets are.
        tunnel: Of real programs.
    """

    def __init__(self, folder: Path, make_tunnel: MakeTunnel) -> None:
        self.folder = folder
        self.port, self.web, self.h2c = free_port(), free_port(), free_port()
        self.certificate: Certificate = make_certificate(folder, SERVER_NAME)
        self.tunnel = make_tunnel("tcp")
        self.tunnel.client_settings |= {
            "server": f"127.0.0.1:{self.port}",
            "tls_sni": SERVER_NAME,
            "tls_pin": self.certificate.pin,
        }
        toml = documented("toml", "front_listen")
        settings = self.tunnel.server_settings
        settings |= dict(re.findall(r'(?m)^(front_listen\w*) = "(.*)"$', self.local(toml)))
        trusted = re.search(r"(?m)^trusted_proxies = \[(.*)\]$", self.local(toml))
        assert trusted is not None
        settings["trusted_proxies"] = re.findall(r'"([^"]+)"', trusted[1])
        settings |= {
            "decoy": f"http://127.0.0.1:{self.web}",
            "decoy_h2c": f"http://127.0.0.1:{self.h2c}",
        }

    def local(self, text: str) -> str:
        """Return documented text with this test's places."""
        for place, ours in {
            "/etc/phantom/fullchain.pem": str(self.certificate.cert),
            "/etc/phantom/privkey.pem": str(self.certificate.key),
            "/etc/phantom/both.pem": str(self.folder / "both.pem"),
            "/run/phantom/": f"{self.folder}/",
            "/run/nginx-": f"{self.folder}/nginx-",
            "/srv/www": str(self.folder / "site"),
            "listen [::]:443;": "",
            "listen 443;": f"listen 127.0.0.1:{self.port};",
            "bind :443": f"bind 127.0.0.1:{self.port}",
            "127.0.0.1:8080": f"127.0.0.1:{self.web}",
            "127.0.0.1:8081": f"127.0.0.1:{self.h2c}",
        }.items():
            text = text.replace(place, ours)
        return text

    def nginx(self, stream: str) -> tuple[str, ...]:
        """Write nginx's configuration and return the command."""
        load = load_stream("nginx")
        if load is None:
            pytest.skip("nginx has no stream module: install libnginx-mod-stream")
        site = self.folder / "site"
        site.mkdir()
        (site / "page.html").write_bytes(content(200_000))
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        temporary = "".join(f"{kind}_temp_path {self.folder}/{kind};" for kind in kinds)
        file = self.folder / "nginx.conf"
        file.write_text(
            f"{load} daemon off; user {getpass.getuser()}; pid {self.folder}/pid;"
            f"error_log {self.folder}/error.log info; worker_processes 1;"
            f"events {{ worker_connections 256; }} {stream}"
            f"http {{ access_log {self.folder}/access.log; {temporary}"
            f"{self.local(documented('nginx', '127.0.0.1:8081'))} }}"
        )
        return ("nginx", "-c", str(file), "-e", str(self.folder / "error.log"))

    def start_server(self, says: str = "listening on unix:") -> None:
        """Start the server, which only listens to the front."""
        self.tunnel.server_settings.pop("listen")
        tunnel = self.tunnel
        tunnel.server = tunnel._start("server", tunnel.write_server())
        tunnel.server.wait_for(says)

    def curl(self, *more: str) -> tuple[bytes, str]:
        """Return what a visitor gets, and its status and version."""
        done = run(
            *("curl", "-sS", "-q", "-k", "--noproxy", "*", "-w", "\n%{http_code} %{http_version}"),
            *("--resolve", f"{SERVER_NAME}:{self.port}:127.0.0.1", *more),
            f"https://{SERVER_NAME}:{self.port}/page.html",
        )
        body, _, status = done.stdout.rpartition(b"\n")
        return body, status.decode()


@pytest.fixture
def run_front() -> Iterator[Callable[[Front, tuple[str, ...]], None]]:
    """Starts a front's programs, and ends them."""
    with ExitStack() as stack:

        def start(front: Front, command: tuple[str, ...]) -> None:
            log = stack.enter_context((front.folder / "output.log").open("ab"))
            process = subprocess.Popen(command, stdout=log, stderr=log)
            stack.callback(process.wait)
            stack.callback(process.terminate)
            wait_until(lambda: listens(front.port) or process.poll(), "the front listens")

        yield start


def listens(port: int) -> bool:
    with socket.socket() as attempt:
        return attempt.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short path: nginx cuts PROXY headers off at 107 bytes, its own path in it."""
    with tempfile.TemporaryDirectory(prefix="front-") as made:
        Path(made).chmod(0o755)
        yield Path(made)


@pytest.fixture
def front(folder: Path, make_tunnel: MakeTunnel, run_front: Any) -> Front:
    """nginx as documented, before a server that runs."""
    need("nginx", "curl")
    made = Front(folder, make_tunnel)
    run_front(made, made.nginx(made.local(documented("nginx", "ssl_alpn"))))
    made.start_server()
    return made


def both_ways(tunnel: Tunnel) -> None:
    """Send 12 MB each way at once, and see that nothing is changed."""

    def serve(connection: socket.socket) -> None:
        digest = hashlib.sha256()
        while piece := connection.recv(65536):
            digest.update(piece)
        connection.sendall(digest.hexdigest().encode() + content(SIZE))

    with TcpServer(serve) as server, tunnel.connect(server.port) as connection:
        connection.sendall(content(SIZE))
        connection.shutdown(socket.SHUT_WR)
        answer = read_all(connection)
    assert answer[:64].decode() == content_digest(SIZE)
    assert hashlib.sha256(answer[64:]).hexdigest() == content_digest(SIZE)


def test_clients_and_strangers(front: Front) -> None:
    front.tunnel.start_client()
    both_ways(front.tunnel)
    for protocol, version in (("--http2", "2"), ("--http1.1", "1.1")):
        assert front.curl(protocol) == (content(200_000), f"200 {version}")
        assert front.curl(protocol, "--data-binary", "x" * 9000)[1] == f"405 {version}"


def test_links_over_http1(folder: Path, make_tunnel: MakeTunnel, run_front: Any) -> None:
    """A front that agrees to HTTP/1.1 alone, and is reached by an address of this machine."""
    need("nginx")
    made = Front(folder, make_tunnel)
    plain = free_port()
    stream = made.local(documented("nginx", "ssl_alpn")).replace("ssl_alpn h2 ", "ssl_alpn ")
    stream = stream.replace(f"unix:{folder}/front.sock", f"127.0.0.1:{plain}")
    run_front(made, made.nginx(stream))
    settings = made.tunnel.server_settings
    del settings["front_listen_h2"]
    settings |= {"front_listen": f"127.0.0.1:{plain}", "trusted_proxies": ["127.0.0.1/32"]}
    made.start_server(f"listening on 127.0.0.1:{plain}")
    made.tunnel.start_client()
    both_ways(made.tunnel)
    assert made.curl("--http2") == (content(200_000), "200 1.1")


def test_what_is_not_tls_gets_the_web_servers_answer(front: Front) -> None:
    with socket.create_connection(("127.0.0.1", front.port), timeout=10) as visitor:
        visitor.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b"plain HTTP request was sent to HTTPS port" in read_all(visitor)


def visit(front: Front, *pieces: bytes) -> bytes:
    """Say something inside TLS, without ALPN, and return the answer."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", front.port), timeout=10) as raw,
        context.wrap_socket(raw, server_hostname=SERVER_NAME) as tls,
    ):
        for piece in pieces:
            tls.sendall(piece)
        return read_all(tls)


def test_a_visitors_own_header_is_a_visitors_bytes(front: Front) -> None:
    """Else anybody could choose the address that limits go by."""
    get = b"GET /page.html HTTP/1.0\r\n\r\n"
    version_2 = b"\r\n\r\n\x00\r\nQUIT\n" + bytes.fromhex("2111000c c0000207 c0000201 c350 01bb")
    for header in (b"PROXY TCP4 192.0.2.7 192.0.2.1 50000 443\r\n", version_2):
        assert visit(front, header + get).startswith(b"HTTP/1.1 400 ")
        with closing(socket.create_connection(("127.0.0.1", front.web), timeout=10)) as web:
            web.sendall(header + get)
            assert read_all(web).startswith(b"HTTP/1.1 400 ")
    assert visit(front, get).endswith(content(200_000))
    assert "PROXY" not in front.tunnel.server.log()


def test_nothing_without_a_header_reaches_the_server(front: Front) -> None:
    for name in ("front.sock", "front-h2.sock"):
        with closing(socket.socket(socket.AF_UNIX)) as direct:
            direct.settimeout(10)
            direct.connect(str(front.folder / name))
            direct.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            try:
                assert direct.recv(100) == b""
            except ConnectionResetError:
                pass
    assert front.tunnel.server.log().count("sent no PROXY header") == 2


def test_haproxy_says_which_protocol_it_is(
    folder: Path, make_tunnel: MakeTunnel, run_front: Any
) -> None:
    need("haproxy", "nginx", "curl")
    front = Front(folder, make_tunnel)
    port, front.port = front.port, front.web
    run_front(front, front.nginx(""))
    front.port = port
    certificate = front.certificate
    (folder / "both.pem").write_bytes(certificate.cert.read_bytes() + certificate.key.read_bytes())
    file = folder / "haproxy.cfg"
    file.write_text(front.local(documented("haproxy", "send-proxy-v2")))
    run_front(front, ("haproxy", "-db", "-f", str(file)))
    front.tunnel.server_settings.pop("front_listen_h2")
    front.start_server()
    front.tunnel.start_client()
    both_ways(front.tunnel)
    for protocol, version in (("--http2", "2"), ("--http1.1", "1.1")):
        assert front.curl(protocol) == (content(200_000), f"200 {version}")
