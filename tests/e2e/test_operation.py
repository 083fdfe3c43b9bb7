"""Starting, stopping and losing the programs."""

from __future__ import annotations

import grp
import os
import pwd
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.censor import Censor
from support.destinations import WebServer, content, read_all
from support.programs import (
    PATIENCE,
    Process,
    Program,
    Tunnel,
    clean_environment,
    place,
    run,
    twistd,
    wait_until,
)

pytestmark = pytest.mark.e2e

MakeTunnel = Callable[..., Tunnel]

#: When all is closed and done, twistd ends by the signal that it was sent.
TERMINATED = -signal.SIGTERM


def request(target: str) -> bytes:
    return f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()


def fetch(tunnel: Tunnel, web: WebServer, path: str = "/bytes/1000") -> bytes:
    """Return the body of a page."""
    with tunnel.connect(web.port) as connection:
        connection.sendall(request(path))
        return read_all(connection).partition(b"\r\n\r\n")[2]


# -- starting -----------------------------------------------------------------------------------


class Daemon(Process):
    """A daemonised twistd; ended by the id in its file."""

    def __init__(self, folder: Path, *arguments: str | Path) -> None:
        self.folder = folder
        self.pid_file = folder / "daemon.pid"
        done = run(
            *(twistd(), "--pidfile", self.pid_file, "--logfile", folder / "daemon.log"),
            *arguments,
            cwd=folder,
        )
        assert done.returncode == 0, done.stderr.decode()
        wait_until(self.pid_file.exists, "the daemon writes its id")
        super().__init__(int(wait_until(self.pid_file.read_text, "the id")))

    def log(self) -> str:
        return (self.folder / "daemon.log").read_text()

    def wait_for(self, pattern: str) -> re.Match[str]:
        found = wait_until(lambda: re.search(pattern, self.log()), f"the daemon logs {pattern}")
        assert isinstance(found, re.Match)
        return found

    def end(self) -> None:
        if self.alive:
            os.kill(self.pid, signal.SIGKILL)


@pytest.fixture
def make_daemon() -> Iterator[Callable[..., Daemon]]:
    made: list[Daemon] = []

    def make(folder: Path, *arguments: str | Path) -> Daemon:
        made.append(Daemon(folder, *arguments))
        return made[-1]

    yield make
    for daemon in made:
        daemon.end()


def test_daemons_with_relative_paths(
    make_tunnel: MakeTunnel, make_daemon: Callable[..., Daemon], web: WebServer
) -> None:
    """twistd changes the folder: what the files name stays beside them, for a reload too."""
    tunnel = make_tunnel("tls")
    tunnel.server_settings |= {
        "state_dir": "state",
        "tls_cert": "server.crt",
        "tls_key": "server.pem",
        "allowed_clients": [],
        "allowed_clients_file": "clients.txt",
    }
    clients = tunnel.folder / "clients.txt"
    clients.write_text("# nobody yet\n")
    tunnel.write_server()
    elsewhere = tunnel.folder / "elsewhere"
    elsewhere.mkdir()
    server = make_daemon(
        tunnel.folder, "--rundir", elsewhere, "phantom-server", "--config", "server.toml"
    )
    listening = server.wait_for(r"listening on (\S+) for 0 clients")
    clients.write_text(f"{tunnel.client_key.public()} laptop\n")
    os.kill(server.pid, signal.SIGHUP)
    server.wait_for("reloaded; 1 clients allowed")

    tunnel.client_settings["server"] = listening[1]
    tunnel.write_client()
    folder = tunnel.folder / "client"
    folder.mkdir()
    client = make_daemon(folder, "phantom-client", "--config", "../client.toml")
    tunnel.socks5 = client.wait_for(r"SOCKS5 proxy on ([^\s,]+)")[1]
    client.wait_for("link up after")
    assert fetch(tunnel, web) == content(1000)
    assert list(elsewhere.iterdir()) == []
    assert (tunnel.folder / "state" / "replay.bin").stat().st_mode & 0o077 == 0

    for daemon in (client, server):
        os.kill(daemon.pid, signal.SIGTERM)
        wait_until(lambda daemon=daemon: not daemon.alive, "the daemon ends")
        assert not daemon.pid_file.exists()
        assert "Traceback" not in daemon.log() and "Unhandled" not in daemon.log()


def test_several_addresses_of_both_families(make_tunnel: MakeTunnel, web: WebServer) -> None:
    tunnel = make_tunnel(
        "tls", server={"listen": ["127.0.0.1:0", "[::1]:0"]}, client={"socks5_listen": "[::1]:0"}
    )
    with Program(
        "server",
        [twistd(), "-n", "--pidfile=", "phantom-server", "--config", tunnel.write_server()],
        tunnel.folder / "run",
    ) as server:
        found = server.wait_for(r"listening on 127\.0\.0\.1:\d+, (\[::1\]:\d+) for")
        tunnel.server = server
        tunnel.client_settings["server"] = found[1]
        tunnel.start_client()
        assert tunnel.socks5.startswith("[::1]:")
        with socket.create_connection(place(tunnel.http), timeout=PATIENCE) as connection:
            connection.sendall(request(web.url("/bytes/100")))
            assert read_all(connection).endswith(content(100))


@pytest.mark.parametrize(("level", "shown"), [("warn", False), ("info", True)])
def test_log_level_on_the_command_line(
    make_tunnel: MakeTunnel, tmp_path: Path, level: str, shown: bool
) -> None:
    tunnel = make_tunnel("tcp", level="error", server={"allowed_clients": []})
    with Program(
        "server",
        [
            *(twistd(), "-n", "--pidfile=", "phantom-server", "--config", tunnel.write_server()),
            *("--log-level", level),
        ],
        tmp_path / "run",
    ) as server:
        server.wait_for("nobody can connect")
        server.terminate()
        assert ("listening on" in server.log()) == shown


@pytest.mark.parametrize("carrier", ["tcp", "tls"])
def test_dropping_privileges(make_tunnel: MakeTunnel, web: WebServer, carrier: str) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can drop privileges")
    nobody = pwd.getpwnam("nobody")
    tunnel = make_tunnel(carrier)
    command = [twistd(), "-n", "--pidfile=", "--uid", "nobody"]
    command += ["--gid", grp.getgrgid(nobody.pw_gid).gr_name, "phantom-server", "--config"]
    for attempt in range(2):  # the second finds the state that the first left
        folder = tunnel.folder / f"run-{attempt}"
        with Program("server", [*command, str(tunnel.write_server())], folder) as server:
            found = server.wait_for(r"listening on (127\.0\.0\.1:\d+) for")
            tunnel.server = server
            tunnel.client_settings["server"] = found[1]
            client = tunnel.start_client()
            assert server.users() == {nobody.pw_uid}
            assert fetch(tunnel, web) == content(1000)
            # The file is root's: it cannot be read any more, and nothing may change.
            server.popen.send_signal(signal.SIGHUP)
            server.wait_for("not reloaded, everything stays as it was")
            assert fetch(tunnel, web) == content(1000)
            client.terminate()
            assert server.terminate() == TERMINATED
            assert "Traceback" not in server.log()


def test_demo() -> None:
    program = Path(twistd()).with_name("phantom")
    if not program.exists():
        pytest.skip("not installed: phantom")
    done = run(
        *(program, "demo", "--once", "--socks5-port", "0", "--http-port", "0"),
        *("--megabytes", "8"),
    )
    assert done.returncode == 0, done
    assert done.stdout.count(b"8 MB intact") == 2, done


# -- stopping -------------------------------------------------------------------------------------


class Download(threading.Thread):
    """A download in the background.

    Attributes:
        body: What came, once it has ended.
        error: How it broke, if it did.
    """

    def __init__(self, tunnel: Tunnel, web: WebServer, path: str) -> None:
        super().__init__(daemon=True)
        self._connection = tunnel.connect(web.port)
        self._connection.sendall(request(path))
        self.body = b""
        self.error: OSError | None = None
        # It is under way, beyond doubt.
        self._received = self._connection.recv(1)
        self.start()

    def run(self) -> None:
        try:
            with self._connection:
                self._received += read_all(self._connection)
        except OSError as error:
            self.error = error
        self.body = self._received.partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize("which", ["server", "client"])
def test_what_runs_is_let_finish(
    make_tunnel: MakeTunnel, carrier: str, web: WebServer, which: str
) -> None:
    """SIGTERM: nothing new, but what is under way comes to its end."""
    tunnel = make_tunnel(
        carrier,
        server={"drain_timeout": 15},
        client={"drain_timeout": 15, "link_wait": 0.3},
    ).start()
    download = Download(tunnel, web, "/trickle/400000/2.5")
    stopping = getattr(tunnel, which)
    stopping.popen.terminate()
    time.sleep(0.5)
    with pytest.raises(OSError):  # refused by the proxy, or no proxy at all
        tunnel.connect(web.port)
    assert stopping.popen.poll() is None
    download.join(PATIENCE)
    assert download.error is None
    assert download.body == content(400000)
    assert stopping.popen.wait(5) == TERMINATED
    assert "Traceback" not in stopping.log()


@pytest.mark.parametrize("which", ["server", "client"])
def test_what_does_not_finish_is_ended(
    make_tunnel: MakeTunnel, carrier: str, web: WebServer, which: str
) -> None:
    tunnel = make_tunnel(carrier, server={"drain_timeout": 1}, client={"drain_timeout": 1}).start()
    download = Download(tunnel, web, "/trickle/400000/30")
    start = time.monotonic()
    assert getattr(tunnel, which).terminate(timeout=5) == TERMINATED
    assert 0.9 < time.monotonic() - start < 3
    download.join(PATIENCE)
    assert isinstance(download.error, ConnectionResetError)  # and not a page cut off


def test_idle_programs_end_at_once(make_tunnel: MakeTunnel, carrier: str) -> None:
    for first in ("server", "client"):
        tunnel = make_tunnel(carrier).start()
        start = time.monotonic()
        second = "client" if first == "server" else "server"
        assert getattr(tunnel, first).terminate() == TERMINATED
        assert getattr(tunnel, second).terminate() == TERMINATED
        assert time.monotonic() - start < 2
        for _, log in tunnel.logs():
            assert "Traceback" not in log and "Unhandled" not in log


# -- losing the server ----------------------------------------------------------------------------


def test_a_request_waits_for_the_server_to_come_back(
    make_tunnel: MakeTunnel, carrier: str, web: WebServer
) -> None:
    tunnel = make_tunnel(carrier).start()
    assert fetch(tunnel, web) == content(1000)
    tunnel.server.kill()
    tunnel.client.wait_for("no link: ")
    bodies: list[bytes] = []
    waiting = threading.Thread(target=lambda: bodies.append(fetch(tunnel, web)), daemon=True)
    waiting.start()
    time.sleep(1)
    assert waiting.is_alive()
    tunnel.start_server()
    waiting.join(12)
    assert bodies == [content(1000)]


def test_a_request_fails_clearly_when_the_server_stays_away(
    make_tunnel: MakeTunnel, web: WebServer
) -> None:
    tunnel = make_tunnel("tcp", client={"link_wait": 1}).start()
    tunnel.server.kill()
    tunnel.client.wait_for("no link: ")
    start = time.monotonic()
    with pytest.raises(ConnectionError, match=r"SOCKS5 reply 1$"):
        tunnel.connect(web.port)
    assert 0.9 < time.monotonic() - start < 3
    with socket.create_connection(place(tunnel.http), timeout=PATIENCE) as connection:
        connection.sendall(request(web.url("/")))
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 503 ") and b"no link to its server" in answer


def test_a_restarted_server_breaks_its_streams_at_once(
    make_tunnel: MakeTunnel, carrier: str, web: WebServer
) -> None:
    """It cannot go on with them, and says so: nobody waits for nothing."""
    tunnel = make_tunnel(carrier).start()
    download = Download(tunnel, web, "/trickle/400000/30")
    tunnel.server.kill()
    tunnel.client.wait_for("no link: ")
    assert download.is_alive()
    tunnel.start_server()
    tunnel.client.wait_for("session lost: the server was restarted")
    download.join(1)
    assert isinstance(download.error, ConnectionResetError)
    assert fetch(tunnel, web) == content(1000)


def test_a_server_that_stays_away_breaks_its_streams_in_the_end(
    make_tunnel: MakeTunnel, web: WebServer
) -> None:
    tunnel = make_tunnel("tcp", client={"detached_timeout": 2}).start()
    download = Download(tunnel, web, "/trickle/400000/30")
    start = time.monotonic()
    tunnel.server.kill()
    download.join(PATIENCE)
    assert 1.9 < time.monotonic() - start < 4
    assert isinstance(download.error, ConnectionResetError)
    tunnel.client.wait_for("session lost: no link to the server for too long")


def test_a_client_that_stays_away_is_forgotten(make_tunnel: MakeTunnel, web: WebServer) -> None:
    tunnel = make_tunnel("tcp", server={"detached_timeout": 1}).start()
    Download(tunnel, web, "/trickle/400000/30")
    tunnel.client.kill()
    tunnel.server.wait_for("session without a link")
    tunnel.server.wait_for("session ended; 0 live", timeout=3)


@pytest.fixture
def censored(make_tunnel: MakeTunnel) -> Iterator[Callable[..., tuple[Tunnel, Censor]]]:
    """Makes a tunnel whose client reaches its server through a relay."""
    with ExitStack() as stack:

        def make(carrier: str, **settings: object) -> tuple[Tunnel, Censor]:
            tunnel = make_tunnel(carrier, **settings)
            tunnel.start_server()
            censor = Censor(tunnel.server_address)
            stack.callback(censor.close)
            tunnel.client_settings["server"] = f"127.0.0.1:{censor.port}"
            tunnel.start_client()
            return tunnel, censor

        yield make


def test_a_link_that_is_cut_is_made_again(
    censored: Callable[..., tuple[Tunnel, Censor]], carrier: str, web: WebServer
) -> None:
    """The download goes on as if nothing had happened."""
    tunnel, censor = censored(carrier)
    download = Download(tunnel, web, "/trickle/400000/1.5")
    for _ in range(2):
        before = len(tunnel.client.log())
        censor.cut()
        tunnel.client.wait_for(
            r"link lost \(.+\); resumed after \d+ ms, \d+ bytes sent again", after=before
        )
        assert fetch(tunnel, web) == content(1000)
    download.join(PATIENCE)
    assert download.error is None
    assert download.body == content(400000)
    log = tunnel.server.log()
    assert log.count("session begun") == 1 and log.count("session resumed") == 2
    assert "session ended" not in log


def test_a_link_that_falls_silent_is_found_out(
    censored: Callable[..., tuple[Tunnel, Censor]], carrier: str, web: WebServer
) -> None:
    """Nothing arrives and nothing breaks, as when a network address is gone."""
    tunnel, censor = censored(carrier)
    download = Download(tunnel, web, "/trickle/400000/1.5")
    censor.freeze()
    tunnel.client.wait_for(r"link lost \(no answer to a probe\); resumed after", timeout=8)
    download.join(PATIENCE)
    assert download.error is None
    assert download.body == content(400000)
    assert "session ended" not in tunnel.server.log()


@pytest.mark.slow
def test_an_idle_link_that_falls_silent_is_found_out(
    censored: Callable[..., tuple[Tunnel, Censor]], web: WebServer
) -> None:
    """By the keepalive alone, since nobody waits for anything."""
    tunnel, censor = censored("tcp", server={"keepalive": 1}, client={"keepalive": 1})
    assert fetch(tunnel, web) == content(1000)
    time.sleep(1)
    censor.freeze()
    tunnel.client.wait_for(r"link lost|link up after(?s:.*)link up after", timeout=10)
    assert fetch(tunnel, web) == content(1000)


# -- the log --------------------------------------------------------------------------------------


def test_logs_name_no_destination_and_no_secret(
    make_tunnel: MakeTunnel, carrier: str, web: WebServer
) -> None:
    tunnel = make_tunnel(carrier, client={"link_wait": 0.5}).start()
    assert fetch(tunnel, web) == content(1000)
    secrets = ["secret-name", str(web.port), "/bytes"]
    for host, port in (("secret-name.invalid", 80), ("127.0.0.1", 1), ("10.11.12.13", 80)):
        with pytest.raises(ConnectionError):
            tunnel.connect(port, host)
        secrets.append(host if port != 1 else "127.0.0.1:1\n")
    for method in ("GET http://secret-name.invalid/path", "CONNECT secret-name.invalid:443"):
        with socket.create_connection(place(tunnel.http), timeout=PATIENCE) as connection:
            connection.sendall(f"{method} HTTP/1.1\r\nHost: secret-name.invalid\r\n\r\n".encode())
            assert connection.recv(100).startswith(b"HTTP/1.1 502 ")
    for settings in (tunnel.server_settings, tunnel.client_settings):
        secrets.append(str(settings["private_key"]))
    secrets += [str(tunnel.client_key.public()), str(tunnel.server_key.public())]
    tunnel.client.terminate()
    tunnel.server.terminate()
    for name, log in tunnel.logs():
        assert log.count("\n") > 3
        for secret in secrets:
            assert secret not in log, name


def test_environment_of_twistd_is_clean() -> None:
    """The proxies of whoever runs the tests do not reach the programs."""
    assert not any("proxy" in name.lower() for name in clean_environment())
    done = subprocess.run([twistd(), "--help"], capture_output=True, check=True)
    assert b"phantom-server" in done.stdout and b"phantom-client" in done.stdout
