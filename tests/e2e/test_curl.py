"""curl through the tunnel, in every way it knows to use a proxy."""

from __future__ import annotations

import hashlib
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.certificates import Certificate, make_certificate
from support.destinations import WebServer, content, content_digest
from support.programs import Tunnel, clean_environment, free_port, need, run

pytestmark = pytest.mark.e2e

HUNDRED = 100_000_000


@pytest.fixture(autouse=True)
def _curl() -> None:
    need("curl")


def curl(
    proxy: str, *arguments: str | Path, timeout: float = 40.0
) -> subprocess.CompletedProcess[bytes]:
    return run("curl", "-sS", "-q", "--noproxy", "", "--proxy", proxy, *arguments, timeout=timeout)


def proxies(tunnel: Tunnel) -> dict[str, str]:
    return {
        "socks4": f"socks4://{tunnel.socks5}",
        "socks4a": f"socks4a://{tunnel.socks5}",
        "socks5": f"socks5://{tunnel.socks5}",
        "socks5h": f"socks5h://{tunnel.socks5}",
        "http": f"http://{tunnel.http}",
    }


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("https"), "localhost")


@pytest.fixture(scope="module")
def secure_web(certificate: Certificate) -> Iterator[WebServer]:
    with WebServer(certificate) as server:
        yield server


# -- every way in ---------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["socks4", "socks4a", "socks5", "socks5h", "http"])
def test_a_page(tunnel: Tunnel, web: WebServer, scheme: str) -> None:
    done = curl(proxies(tunnel)[scheme], "--fail", web.url("/bytes/1000", "localhost"))
    assert done.stdout == content(1000), done.stderr


@pytest.mark.parametrize("scheme", ["socks5h", "http"])
def test_a_page_over_https(
    tunnel: Tunnel, secure_web: WebServer, certificate: Certificate, scheme: str
) -> None:
    done = curl(
        proxies(tunnel)[scheme],
        "--fail",
        "--cacert",
        certificate.cert,
        secure_web.url("/bytes/300000", "localhost"),
    )
    assert done.stdout == content(300000), done.stderr


def test_several_requests_reuse_a_connection_of_the_http_proxy(
    tunnel: Tunnel, web: WebServer
) -> None:
    url = web.url("/bytes/10")
    done = curl(proxies(tunnel)["http"], "-w", "%{num_connects} ", url, url, url)
    assert done.stdout == content(10) + b"1 " + (content(10) + b"0 ") * 2, done.stderr


def test_upload_in_chunks_through_the_http_proxy(tunnel: Tunnel, web: WebServer) -> None:
    done = subprocess.run(
        ["curl", "-sS", "-q", "--noproxy", "", "-x", tunnel.http, "-T", "-", web.url("/up")],
        input=content(3_000_000),
        capture_output=True,
        timeout=40,
        env=clean_environment(),
        check=False,
    )
    assert done.stdout.decode() == content_digest(3_000_000), done.stderr


# -- much ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def big_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("big") / "file"
    path.write_bytes(content(HUNDRED))
    return path


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@pytest.mark.parametrize("scheme", ["socks5h", "http"])
def test_a_hundred_megabytes_down(
    tunnel: Tunnel, web: WebServer, tmp_path: Path, scheme: str
) -> None:
    file = tmp_path / "down"
    done = curl(proxies(tunnel)[scheme], "--fail", "-o", file, web.url(f"/bytes/{HUNDRED}"))
    assert done.returncode == 0, done.stderr
    assert digest(file) == content_digest(HUNDRED)


@pytest.mark.parametrize("scheme", ["socks5h", "http"])
def test_a_hundred_megabytes_up(
    tunnel: Tunnel, web: WebServer, big_file: Path, scheme: str
) -> None:
    done = curl(proxies(tunnel)[scheme], "--fail", "-T", big_file, web.url("/up"))
    assert done.stdout.decode() == content_digest(HUNDRED), done.stderr


def test_both_ways_at_once(tunnel: Tunnel, web: WebServer, big_file: Path, tmp_path: Path) -> None:
    command = ["curl", "-sS", "-q", "--noproxy", "", "--fail", "--proxy"]
    down = [*command, proxies(tunnel)["socks5h"], "-o", str(tmp_path / "down")]
    up = [*command, proxies(tunnel)["socks5h"], "-T", str(big_file), web.url("/up")]
    with ExitStack() as stack:
        running = [
            stack.enter_context(
                subprocess.Popen(one, stdout=subprocess.PIPE, env=clean_environment())
            )
            for one in ([*down, web.url(f"/bytes/{HUNDRED}")], up)
        ]
        outputs = [one.communicate(timeout=50)[0] for one in running]
    assert digest(tmp_path / "down") == content_digest(HUNDRED)
    assert outputs[1].decode() == content_digest(HUNDRED)


# -- one port, and passwords --------------------------------------------------------------------


def test_one_port_for_both_with_passwords(
    make_tunnel: Callable[..., Tunnel], web: WebServer
) -> None:
    shared = f"127.0.0.1:{free_port()}"
    tunnel = make_tunnel(
        "tcp",
        client={
            "socks5_listen": shared,
            "http_listen": shared,
            "proxy_users": {"alice": "a long password"},
        },
    ).start()
    assert tunnel.socks5 == tunnel.http
    url = web.url("/bytes/100", "localhost")
    for scheme in ("http", "socks5", "socks5h"):
        proxy = f"{scheme}://{tunnel.http}"
        with_password = curl(proxy, "--proxy-user", "alice:a long password", url)
        assert with_password.stdout == content(100), (scheme, with_password.stderr)
        for wrong in ((), ("--proxy-user", "alice:another")):
            assert curl(proxy, "--fail", *wrong, url).returncode in (22, 97), scheme
    assert b"Proxy-Authenticate: Basic" in curl(f"http://{tunnel.http}", "-i", url).stdout


# -- failures --------------------------------------------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def closed_port() -> Iterator[int]:
    """A port that refuses: bound, so that nobody else takes it, and not listening.

    From the beginning: a client that remembers that somebody answered there says so at once.
    """
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@pytest.fixture
def mute_port() -> Iterator[int]:
    """A port that never answers: its queue of connections is full."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(8):
            filling = stack.enter_context(socket.socket())
            filling.setblocking(False)
            filling.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


def socks_reply(tunnel: Tunnel, host: str, port: int) -> str:
    """The number of the reply, in curl's words."""
    done = curl(f"socks5h://{tunnel.socks5}", f"http://{host}:{port}/")
    assert done.returncode == 97, done  # CURLE_PROXY
    return done.stderr.decode().rpartition("(")[2].rstrip(")\n")


def http_status(tunnel: Tunnel, url: str) -> tuple[str, str]:
    """The status and the body of the answer to a plain request."""
    done = curl(f"http://{tunnel.http}", "-w", "\n%{http_code} %{content_type}", url)
    body, _, status = done.stdout.decode().rpartition("\n")
    assert status.endswith("text/html; charset=utf-8"), done
    assert body.startswith("<!DOCTYPE html>") and body.rstrip().endswith("</html>")
    return status.split()[0], body


def test_refused(tunnel: Tunnel, closed_port: int) -> None:
    assert socks_reply(tunnel, "127.0.0.1", closed_port) == "5"
    status, body = http_status(tunnel, f"http://127.0.0.1:{closed_port}/")
    assert status == "502" and "refused" in body
    done = curl(f"http://{tunnel.http}", f"https://127.0.0.1:{closed_port}/")
    assert done.returncode == 56 and b"502" in done.stderr


def test_unresolved(tunnel: Tunnel) -> None:
    assert socks_reply(tunnel, "no-such-host.invalid", 80) == "4"
    status, body = http_status(tunnel, "http://no-such-host.invalid/")
    assert status == "502" and "could not be resolved" in body


def test_forbidden_and_timed_out(make_tunnel: Callable[..., Tunnel], mute_port: int) -> None:
    allowed = f"127.0.0.1/32:{mute_port}"
    tunnel = make_tunnel("tcp", server={"connect_timeout": 0.7}, egress={"allow": [allowed]})
    tunnel.start()
    for host in ("127.0.0.1", "localhost", "10.0.0.1", "169.254.169.254", "0.0.0.0"):
        assert socks_reply(tunnel, host, 1) == "2", host
    status, body = http_status(tunnel, "http://127.0.0.1:1/")
    assert status == "403" and "[server.egress]" in body
    assert socks_reply(tunnel, "127.0.0.1", mute_port) == "6"
    status, body = http_status(tunnel, f"http://127.0.0.1:{mute_port}/")
    assert status == "504" and "in time" in body
