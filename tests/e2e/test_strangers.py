"""What those get who hold no key, over real sockets."""

from __future__ import annotations

import contextlib
import random
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.destinations import WebServer, content, reset, shut
from support.programs import PATIENCE, Tunnel, need, run, wait_until

pytestmark = pytest.mark.e2e

MakeTunnel = Callable[..., Tunnel]

#: Seconds of silence that are watched: more than ``handshake_timeout``, at which a careless
#: server would close.
SILENCE = 12.5


class Recorder:
    """A relay in front of a server that keeps what the first client sent until it was answered.

    Attributes:
        port: Where it listens.
        first: The client's bytes before the server's first.
    """

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.first = b""
        self._ends: list[socket.socket] = []

    def start(self, server: tuple[str, int]) -> None:
        def work() -> None:
            # The latter from `select`, of a socket that `close` has closed between two rounds.
            with contextlib.suppress(OSError, ValueError):
                self._relay(self._listener.accept()[0], socket.create_connection(server))

        threading.Thread(target=work, daemon=True).start()

    def _relay(self, client: socket.socket, server: socket.socket) -> None:
        self._ends = [client, server]
        answered = False
        while True:
            for ready in select.select([client, server], [], [])[0]:
                data = ready.recv(65536)
                if not data:
                    return
                if ready is server:
                    answered = True
                elif not answered:
                    self.first += data
                (client if ready is server else server).sendall(data)

    def close(self) -> None:
        for end in (self._listener, *self._ends):
            shut(end)
            end.close()


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    made = Recorder()
    yield made
    made.close()


def silent(sockets: list[socket.socket], seconds: float) -> None:
    """Watch that nothing comes, no end either, on any of these."""
    readable = select.select(sockets, [], [], seconds)[0]
    for one in readable:
        raise AssertionError((sockets.index(one), one.recv(100)))


@pytest.mark.slow
def test_bare_tcp_is_silent_to_garbage_and_replays(
    make_tunnel: MakeTunnel, recorder: Recorder, web: WebServer
) -> None:
    tunnel = make_tunnel("tcp")
    tunnel.start_server()
    recorder.start(tunnel.server_address)
    tunnel.client_settings["server"] = f"127.0.0.1:{recorder.port}"
    tunnel.start_client()
    assert 100 < len(recorder.first) < 10_000

    rng = random.Random(5)
    damaged = bytearray(recorder.first)
    damaged[-1] ^= 1
    probes = [
        b"",
        b"\n",
        b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + rng.randbytes(500),
        *(rng.randbytes(size) for size in (1, 31, 32, 50, 51, 100, 221, 500, 4000, 70_000)),
        recorder.first,  # the replay
        recorder.first + rng.randbytes(1000),
        recorder.first[:-1],
        bytes(damaged),
    ]
    with ExitStack() as stack:
        sockets = []
        for probe in probes:
            one = stack.enter_context(
                socket.create_connection(tunnel.server_address, timeout=PATIENCE)
            )
            one.sendall(probe)
            sockets.append(one)
        end = time.monotonic() + SILENCE
        while time.monotonic() < end:
            silent(sockets, 1)
            for number in (0, 5, 15):
                sockets[number].sendall(rng.randbytes(100))  # it reads on
        # All the while, and still, the client's own link stands.
        with tunnel.connect(web.port) as connection:
            connection.sendall(b"GET /bytes/10 HTTP/1.1\r\nHost: x\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
    assert tunnel.server.log().count("session begun") == 1
    assert "Traceback" not in tunnel.server.log()


def test_a_replay_after_a_restart(make_tunnel: MakeTunnel, recorder: Recorder) -> None:
    """The filter outlives the process, even one that was killed."""
    tunnel = make_tunnel("tcp")
    tunnel.start_server()
    recorder.start(tunnel.server_address)
    tunnel.client_settings["server"] = f"127.0.0.1:{recorder.port}"
    tunnel.start_client()
    first = recorder.first
    tunnel.client.kill()
    tunnel.server.kill()
    tunnel.start_server()
    with socket.create_connection(tunnel.server_address) as connection:
        connection.sendall(first)
        silent([connection], 2)
    assert "session begun" not in tunnel.server.log()


def test_idle_visitors_lock_nobody_out(make_tunnel: MakeTunnel, carrier: str) -> None:
    """They hold a place until a client needs it."""
    tunnel = make_tunnel(carrier, server={"max_unauthenticated": 64})
    tunnel.start_server()
    with ExitStack() as stack:
        visitors = [
            stack.enter_context(socket.create_connection(tunnel.server_address)) for _ in range(300)
        ]
        start = time.monotonic()
        tunnel.start_client()
        assert time.monotonic() - start < 5
        if carrier == "tcp":
            silent(visitors[-4:], 0.2)
        assert tunnel.server.descriptors() > 64
        for visitor in visitors:
            reset(visitor)
    wait_until(lambda: tunnel.server.descriptors() < 40, "the visitors' descriptors are closed")


# -- inside TLS ------------------------------------------------------------------------------------


def visit(tunnel: Tunnel, *arguments: str) -> tuple[str, bytes]:
    """Visit the server as curl does; the status, and the body."""
    host, port = tunnel.server_address
    done = run(
        *("curl", "-sS", "-q", "-k", "--noproxy", "*", "-w", "\n%{http_code}", *arguments),
        *("--resolve", f"{tunnel.client_settings['tls_sni']}:{port}:{host}"),
        f"https://{tunnel.client_settings['tls_sni']}:{port}/page.html",
    )
    body, _, status = done.stdout.rpartition(b"\n")
    return status.decode(), body


def test_visitors_get_the_real_site(make_tunnel: MakeTunnel) -> None:
    need("curl")
    with WebServer() as site:
        site.pages["/page.html"] = ("text/html", content(200_000))
        tunnel = make_tunnel("tls", server={"decoy": f"http://127.0.0.1:{site.port}"})
        tunnel.start()
        assert visit(tunnel) == ("200", content(200_000))
        assert visit(tunnel, "--http1.0") == ("200", content(200_000))
        status, body = visit(tunnel, "--data-binary", "x" * 100_000)
        assert (status, len(body)) == ("200", 64)
        assert site.requests["/page.html"] == 3


def test_visitors_get_a_folder(make_tunnel: MakeTunnel, tmp_path: Path) -> None:
    need("curl")
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "page.html").write_bytes(content(200_000))
    tunnel = make_tunnel("tls", server={"decoy": str(folder)})
    tunnel.start()
    assert visit(tunnel) == ("200", content(200_000))
    (folder / "page.html").unlink()
    assert visit(tunnel)[0] == "404"
