"""A server of several processes: one port, one set of sessions, whatever happens to which."""

from __future__ import annotations

import grp
import os
import pwd
import re
import signal
import socket
import ssl
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.censor import Censor, Rules
from support.destinations import TcpServer
from support.programs import (
    PATIENCE,
    SERVER_NAME,
    Process,
    Program,
    Tunnel,
    run,
    twistd,
    wait_until,
    works,
)
from support.transfers import BothWays

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

MakeTunnel = Callable[..., Tunnel]
Censored = Callable[..., tuple[Tunnel, Censor]]


@pytest.fixture
def censored(make_tunnel: MakeTunnel) -> Iterator[Censored]:
    """Makes a tunnel of two workers whose client reaches them through a censor."""
    censors: list[Censor] = []

    def make(carrier: str = "tcp", rules: Rules | None = None) -> tuple[Tunnel, Censor]:
        tunnel = make_tunnel(carrier, server={"workers": 2}, level="debug")
        tunnel.start_server()
        censors.append(Censor(tunnel.server_address, rules))
        tunnel.client_settings["server"] = f"127.0.0.1:{censors[-1].port}"
        tunnel.start_client()
        return tunnel, censors[-1]

    yield make
    for censor in censors:
        censor.close()


def children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in text.split()]


def pid_of(tunnel: Tunnel, number: str) -> int:
    """Return the process that worker `number` is now."""
    return int(re.findall(rf"worker {number} is process (\d+)", tunnel.server.log())[-1])


def owner(tunnel: Tunnel) -> str:
    """Return the number of the worker in which a session began last."""
    return re.findall(r"worker (\d): session begun", tunnel.server.log())[-1]


@contextmanager
def stopped(process: int) -> Iterator[None]:
    """Let a process do nothing for a while."""
    os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process, signal.SIGCONT)


def cut_so_that_another_accepts(tunnel: Tunnel, censor: Censor) -> None:
    """Cut the link while its session's process accepts nothing."""
    log = tunnel.server.log()
    with stopped(pid_of(tunnel, owner(tunnel))):
        censor.cut()
        tunnel.server.wait_for("link passed on to another worker", after=len(log))
    tunnel.server.wait_for(f"worker {owner(tunnel)}: session resumed", after=len(log))


def test_a_resume_that_reaches_another_worker(carrier: str, censored: Censored) -> None:
    tunnel, censor = censored(carrier, Rules(throttle=4_000_000))
    transfers = [BothWays(2_000_000, 2_000_000 + number) for number in range(3)]
    with ThreadPoolExecutor(len(transfers)) as pool:
        running = [pool.submit(transfer.run, tunnel.connect) for transfer in transfers]
        for _ in range(3):
            moved = sum(transfer.moved for transfer in transfers)
            cut_so_that_another_accepts(tunnel, censor)
            # It carries: both ways, and more than is in flight anyway.
            wait_until(
                lambda moved=moved: sum(t.moved for t in transfers) > moved + 600_000, "bytes"
            )
        for future in running:
            future.result(timeout=60)
    assert "session lost" not in tunnel.client.log()
    # One connection a link: what one worker remembers of an ML-KEM exchange the other does too.
    assert len(censor.connections) == 4
    assert len(re.findall("session begun", tunnel.server.log())) == 1
    tunnel.server.terminate()
    assert "Traceback" not in tunnel.server.log() + tunnel.client.log()


def test_a_passed_on_link_hears_what_its_session_is_told(
    censored: Censored, echo: TcpServer
) -> None:
    tunnel, censor = censored()
    with tunnel.connect(echo.port) as stream:
        cut_so_that_another_accepts(tunnel, censor)
        assert works(stream)
        # The key goes, and the session with it: over the other worker's link.
        tunnel.server_settings["allowed_clients"] = []
        tunnel.write_server()
        tunnel.server.hang_up("worker 1: reloaded; 0 clients allowed")
        tunnel.client.wait_for("the server removed this client's key", timeout=5)


def test_a_worker_that_crashes_takes_its_sessions_only(
    make_tunnel: MakeTunnel, echo: TcpServer
) -> None:
    tunnel = make_tunnel("tcp", server={"workers": 2}, level="debug").start()
    first = owner(tunnel)
    first_client = tunnel.client
    with tunnel.connect(echo.port) as lost:
        assert works(lost)
        # Another client, which the other worker has, as this one accepts nothing.
        before = len(tunnel.server.log())
        with stopped(pid_of(tunnel, first)):
            tunnel.start_client()
            tunnel.server.wait_for("session begun", after=before)
        assert owner(tunnel) != first
        with tunnel.connect(echo.port) as kept:
            assert works(kept)
            crashed = pid_of(tunnel, first)
            log = len(first_client.log())
            os.kill(crashed, signal.SIGKILL)
            lost.settimeout(5)
            with pytest.raises(ConnectionResetError):
                lost.recv(1)
            first_client.wait_for(
                "session lost: the server does not know the session any more", after=log, timeout=5
            )
            first_client.wait_for("link up after", after=log)
            tunnel.server.wait_for(rf"worker {first} was ended by signal 9, and \d+ sessions")
            wait_until(lambda: pid_of(tunnel, first) != crashed, "the worker to be started again")
            assert works(kept)
            assert "session lost" not in tunnel.client.log()
            assert "restarted" not in first_client.log()
            with tunnel.connect(echo.port) as connection:
                assert works(connection)


@pytest.mark.slow
def test_a_worker_that_hangs_is_replaced(make_tunnel: MakeTunnel, echo: TcpServer) -> None:
    tunnel = make_tunnel("tcp", server={"workers": 2}, level="debug").start()
    first, first_client = owner(tunnel), tunnel.client
    with tunnel.connect(echo.port) as lost:
        assert works(lost)
        process = pid_of(tunnel, first)
        before, start = len(tunnel.server.log()), time.monotonic()
        os.kill(process, signal.SIGSTOP)
        try:
            tunnel.start_client()
            tunnel.server.wait_for("session begun", after=before)
            assert owner(tunnel) != first
            kept = tunnel.connect(echo.port)
            while f"worker {first} has not answered" not in tunnel.server.log():
                assert works(kept), "its sibling goes on"
                assert Process(process).alive
                time.sleep(0.1)
                assert time.monotonic() < start + 50
        except BaseException:
            os.kill(process, signal.SIGKILL)  # nobody else would end it
            raise
        with kept:
            tunnel.server.wait_for(rf"worker {first} was ended by signal 9, and 1 sessions")
            wait_until(lambda: pid_of(tunnel, first) != process, "another worker in its place")
            first_client.wait_for("session lost: the server does not know")
            assert works(kept)
    assert len(re.findall("has not answered", tunnel.server.log()[before:])) == 1


@pytest.fixture
def state_dir() -> Iterator[Path]:
    """A state directory whose path is short enough for sockets."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def test_nothing_is_left_behind(make_tunnel: MakeTunnel, echo: TcpServer, state_dir: Path) -> None:
    stale = state_dir / "phantom-workers-stale"
    stale.mkdir()
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(stale / "1"))
    settings = {"workers": 3, "state_dir": str(state_dir)}
    tunnel = make_tunnel("tcp", server=settings).start()
    workers = children(tunnel.server.pid)
    assert len(workers) == 3
    with tunnel.connect(echo.port) as stream:
        assert works(stream)
        (folder,) = state_dir.glob("phantom-workers-*")
        assert folder != stale
        assert folder.stat().st_mode & 0o777 == 0o700
        tunnel.server.terminate()
    assert not any(Process(pid).alive for pid in workers)
    assert not folder.exists()
    assert "Traceback" not in tunnel.server.log()
    tunnel.start_server()  # the port is free


def test_workers_end_with_their_parent(
    make_tunnel: MakeTunnel, echo: TcpServer, state_dir: Path
) -> None:
    settings = {"workers": 2, "state_dir": str(state_dir)}
    tunnel = make_tunnel("tcp", server=settings).start()
    workers = children(tunnel.server.pid)
    with tunnel.connect(echo.port) as stream:
        assert works(stream)
        os.kill(tunnel.server.pid, signal.SIGKILL)
        tunnel.server.popen.wait()
        wait_until(lambda: not any(Process(pid).alive for pid in workers), "the workers' end")
    wait_until(lambda: not list(state_dir.glob("phantom-workers-*")), "the folder's end")
    tunnel.start_server()


def test_a_second_signal_hurries_all(make_tunnel: MakeTunnel, echo: TcpServer) -> None:
    settings = {"workers": 2, "drain_timeout": 60}
    tunnel = make_tunnel("tcp", server=settings).start()
    with tunnel.connect(echo.port) as stream:
        assert works(stream)
        os.kill(tunnel.server.pid, signal.SIGTERM)
        tunnel.server.wait_for("Received SIGTERM")
        time.sleep(0.5)
        assert tunnel.server.alive and works(stream), "it lets the stream finish"
        os.kill(tunnel.server.pid, signal.SIGINT)
        wait_until(lambda: not tunnel.server.alive, "the server to end", 10)


def test_a_worker_that_is_asked_to_end_drains_and_is_replaced(
    make_tunnel: MakeTunnel, echo: TcpServer
) -> None:
    tunnel = make_tunnel("tcp", server={"workers": 2}, level="debug").start()
    number = owner(tunnel)
    asked = pid_of(tunnel, number)
    with tunnel.connect(echo.port) as stream:
        assert works(stream)
        os.kill(asked, signal.SIGTERM)
        tunnel.client.wait_for("the server takes no new streams here")
        assert works(stream)
    tunnel.server.wait_for(f"worker {number} ended with status 0, and 0 sessions with it")
    wait_until(lambda: pid_of(tunnel, number) != asked, "another worker")
    tunnel.client.wait_for(r"link up after[^$]*link up after")
    with tunnel.connect(echo.port) as stream:
        assert works(stream)


def test_one_worker_is_this_process(make_tunnel: MakeTunnel) -> None:
    tunnel = make_tunnel("tcp", server={"workers": 1}).start()
    assert children(tunnel.server.pid) == []


def test_tickets_of_one_worker_are_good_for_the_other(make_tunnel: MakeTunnel) -> None:
    """With nginx they are; where they are not, a prober can tell."""
    tunnel = make_tunnel("tls", server={"workers": 2}, level="debug")
    tunnel.start_server()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE

    def visit(session: ssl.SSLSession | None) -> tuple[bool, ssl.SSLSession | None]:
        with (
            socket.create_connection(tunnel.server_address, timeout=PATIENCE) as connection,
            context.wrap_socket(connection, server_hostname=SERVER_NAME, session=session) as tls,
        ):
            tls.sendall(b"GET / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n")
            while tls.recv(65536):
                pass
            return bool(tls.session_reused), tls.session

    def all_resume() -> None:
        resumed, session = visit(None)
        assert not resumed and session is not None
        for number in ("1", "2"):
            with stopped(pid_of(tunnel, number)):
                assert visit(session)[0]

    all_resume()
    tunnel.server.hang_up(r"worker \d: reloaded[^$]*worker \d: reloaded")
    all_resume()  # with the certificate that was read again


def test_without_privileges(make_tunnel: MakeTunnel, echo: TcpServer) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can drop privileges")
    nobody = pwd.getpwnam("nobody")
    tunnel = make_tunnel("tls", server={"workers": 2}, level="debug")
    command = [twistd(), "-n", "--pidfile=", "--uid", "nobody"]
    command += ["--gid", grp.getgrgid(nobody.pw_gid).gr_name, "phantom-server", "--config"]
    program = Program("server", [*command, str(tunnel.write_server())], tunnel.folder / "run")
    with program as server:
        found = server.wait_for(r"listening on (127\.0\.0\.1:\d+) for")
        tunnel.server = server
        tunnel.client_settings["server"] = found[1]
        tunnel.start_client()
        processes = [server.pid, *children(server.pid)]
        assert [Process(pid).users() for pid in processes] == [{nobody.pw_uid}] * 3
        with tunnel.connect(echo.port) as stream:
            assert works(stream)
        # Key, certificate and replay filter are root's; a new worker has them all the same.
        for number in ("1", "2"):
            os.kill(pid_of(tunnel, number), signal.SIGKILL)
        server.wait_for(r"(worker \d was ended[^$]*){2}(worker \d is process[^$]*){2}")
        wait_until(lambda: _try(tunnel, echo), "a new link")
        assert "no file for the replay filter" not in server.log()
        server.terminate()
        assert "Traceback" not in server.log()


def _try(tunnel: Tunnel, echo: TcpServer) -> bool:
    try:
        with tunnel.connect(echo.port) as stream:
            return works(stream)
    except OSError:
        return False


@pytest.mark.parametrize("mode", [("-n",), ()], ids=["foreground", "daemon"])
def test_a_port_in_use_is_one_line(
    make_tunnel: MakeTunnel, tmp_path: Path, mode: tuple[str, ...]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        path = make_tunnel("tcp", server={"listen": address, "workers": 2}).write_server()
        done = run(
            *(twistd(), *mode, "--pidfile", tmp_path / "pid", "--logfile", tmp_path / "log"),
            *("phantom-server", "--config", path),
        )
    assert done.returncode == 1
    assert done.stderr.count(b"\n") == 1
    assert f"{address} is in use".encode() in done.stderr
    assert not (tmp_path / "pid").exists()


def test_a_daemon_and_its_log(make_tunnel: MakeTunnel, tmp_path: Path) -> None:
    tunnel = make_tunnel("tcp", server={"workers": 2})
    pid_file, log = tmp_path / "pid", tmp_path / "log"
    done = run(
        *(twistd(), "--pidfile", pid_file, "--logfile", log),
        *("phantom-server", "--config", tunnel.write_server()),
    )
    assert done.returncode == 0, done
    daemon = Process(int(wait_until(lambda: pid_file.exists() and pid_file.read_text(), "a pid")))
    try:
        found = wait_until(
            lambda: re.search(r"listening on (\S+) for", log.read_text()), "it listens"
        )
        workers = children(daemon.pid)
        tunnel.client_settings["server"] = found[1]
        tunnel.server = daemon  # type: ignore[assignment]
        tunnel.start_client(linked=False).wait_for("link up after")
        wait_until(lambda: "session begun" in log.read_text(), "a worker's line")
    finally:
        os.kill(daemon.pid, signal.SIGTERM)
        wait_until(lambda: not daemon.alive, "the daemon's end")
    assert len(workers) == 2
    assert not any(Process(pid).alive for pid in workers)
    assert not pid_file.exists()
    assert "Traceback" not in log.read_text()
    # One process writes: no line is torn or lost.
    assert all(re.match(r"20\d\d-", line) for line in log.read_text().splitlines())
