"""Real programs in tests: twistd, the tunnel's two ends, and whoever uses them.

Each program runs in a folder of its own, writes to a file, and is ended by its process id.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import pytest

from phantom.config.keys import PrivateKey
from support.certificates import Certificate, make_certificate

#: Seconds a program may take to say what is waited for.
PATIENCE = 20.0
#: The name in the server's certificate.
SERVER_NAME = "tunnel.example"

Value = str | int | float | bool | Sequence[str] | Mapping[str, str]


def need(*names: str) -> None:
    """Skip the test, visibly, where a program is not installed."""
    missing = [name for name in names if shutil.which(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


def twistd() -> str:
    """Return the twistd of the Python that runs the tests."""
    beside = Path(sys.executable).with_name("twistd")
    found = str(beside) if beside.exists() else shutil.which("twistd")
    if found is None:
        pytest.skip("not installed: twistd")
    return found


def clean_environment(**more: str) -> dict[str, str]:
    """Return this process's environment without what would choose another proxy."""
    unwanted = re.compile(r".*_proxy|pip_.*|git_.*|pytest_.*", re.IGNORECASE)
    kept = {name: value for name, value in os.environ.items() if not unwanted.fullmatch(name)}
    return kept | more


def run(
    *arguments: str | Path, timeout: float = 40.0, **options: Any
) -> subprocess.CompletedProcess[bytes]:
    """Run a program to its end and return what it said; its status is not checked."""
    return subprocess.run(
        [str(argument) for argument in arguments],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=timeout,
        env=options.pop("env", clean_environment()),
        check=False,
        **options,
    )


def wait_until(condition: Any, what: str, timeout: float = PATIENCE) -> Any:
    """Return the first true value of `condition()`.

    Raises:
        AssertionError: It did not become true in time.
    """
    end = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"not after {timeout:g} s: {what}")
        time.sleep(0.02)
    return value


class Process:
    """What the system says of a process."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def descriptors(self) -> int:
        """Return how many descriptors it has open."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def memory(self) -> int:
        """Return its resident bytes."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) * 1024

    def users(self) -> set[int]:
        """Return its real, effective, saved and filesystem user ids."""
        found = re.search(r"Uid:((?:\s+\d+)+)", Path(f"/proc/{self.pid}/status").read_text())
        assert found is not None
        return {int(part) for part in found[1].split()}

    @property
    def alive(self) -> bool:
        """Whether it exists and is no zombie."""
        try:
            stat = Path(f"/proc/{self.pid}/stat").read_text()
        except OSError:
            return False
        return stat.rpartition(")")[2].split()[0] != "Z"


class Program(Process):
    """A running program that writes to a file.

    Args:
        name: What it is called in reports.
        arguments: The command.
        folder: Where it runs; made if missing.
    """

    def __init__(self, name: str, arguments: Sequence[str | Path], folder: Path) -> None:
        self.name = name
        folder.mkdir(exist_ok=True)
        self.output = folder / f"{name}.log"
        with self.output.open("ab") as output:
            self.popen = subprocess.Popen(
                [str(argument) for argument in arguments],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=clean_environment(),
            )
        super().__init__(self.popen.pid)

    def log(self) -> str:
        """Return what it has written so far."""
        return self.output.read_text(errors="replace")

    def wait_for(self, pattern: str, timeout: float = PATIENCE, after: int = 0) -> re.Match[str]:
        """Wait for a line that matches.

        Args:
            pattern: A regular expression.
            timeout: Seconds to wait at most.
            after: Where in the log to begin.
        """

        def look() -> re.Match[str] | None:
            found = re.search(pattern, self.log()[after:])
            if found is None and self.popen.poll() is not None:
                raise AssertionError(
                    f"{self.name} ended with {self.popen.returncode}:\n{self.log()}"
                )
            return found

        found = wait_until(look, f"{self.name} writes {pattern!r}", timeout)
        assert isinstance(found, re.Match)
        return found

    def terminate(self, timeout: float = PATIENCE) -> int:
        """Ask it to end, and return its status."""
        self.popen.terminate()
        return self.popen.wait(timeout)

    def hang_up(self, answer: str) -> None:
        """Send SIGHUP and wait for a line in answer."""
        before = len(self.log())
        self.popen.send_signal(signal.SIGHUP)
        self.wait_for(answer, after=before)

    def kill(self) -> None:
        """End it without asking; harmless when it has ended."""
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.wait(PATIENCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.kill()


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def toml(tables: Mapping[str, Mapping[str, Value]]) -> str:
    """Return tables of settings as TOML."""
    lines = []
    for table, settings in tables.items():
        lines.append(f"[{table}]")
        lines += [f"{key} = {_toml_value(value)}" for key, value in settings.items()]
    return "\n".join(lines) + "\n"


def _toml_value(value: Value) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {json.dumps(v)}" for key, v in value.items()) + " }"
    return json.dumps(value)


def key_text(key: PrivateKey) -> str:
    """Return a private key as the configuration has it."""
    import base64

    return base64.b64encode(key.raw).decode("ascii")


class Tunnel:
    """A server and a client of phantom, with fresh keys, as two programs.

    Args:
        folder: Where their files go.
        carrier: ``tcp`` or ``tls``.
        server: Settings of ``[server]`` besides or instead of the usual ones.
        egress: Settings of ``[server.egress]``; loopback is allowed without.
        client: Settings of ``[client]`` besides or instead of the usual ones.
        level: The log level of both.

    Attributes:
        server: The running server, once started.
        client: The running client, once started.
        socks5: Where the SOCKS5 proxy listens, as "host:port".
        http: Where the HTTP proxy listens.
    """

    def __init__(
        self,
        folder: Path,
        carrier: str,
        *,
        server: Mapping[str, Value] | None = None,
        egress: Mapping[str, Value] | None = None,
        client: Mapping[str, Value] | None = None,
        level: str = "info",
    ) -> None:
        self.folder = folder
        self.carrier = carrier
        self.level = level
        self.server_key = PrivateKey.generate(os.urandom)
        self.client_key = PrivateKey.generate(os.urandom)
        self.certificate: Certificate | None = None
        self.server_settings: dict[str, Value] = {
            "listen": "127.0.0.1:0",
            "private_key": key_text(self.server_key),
            "allowed_clients": [str(self.client_key.public())],
            "state_dir": str(folder / "state"),
        }
        self.egress_settings: dict[str, Value] = dict(
            {"allow": ["127.0.0.0/8"]} if egress is None else egress
        )
        self.client_settings: dict[str, Value] = {
            "server_public_key": str(self.server_key.public()),
            "private_key": key_text(self.client_key),
            "socks5_listen": "127.0.0.1:0",
            "http_listen": "127.0.0.2:0",
        }
        if carrier == "tls":
            self.certificate = make_certificate(folder, SERVER_NAME)
            self.server_settings["tls_cert"] = str(self.certificate.cert)
            self.server_settings["tls_key"] = str(self.certificate.key)
            self.client_settings["tls_sni"] = SERVER_NAME
            self.client_settings["tls_pin"] = self.certificate.pin
        self.server_settings |= server or {}
        self.client_settings |= client or {}
        self.socks5 = self.http = ""
        self.server_address = ("127.0.0.1", 0)
        self._programs: list[Program] = []
        self.server: Program
        self.client: Program

    # -- files --------------------------------------------------------------------------

    def write_server(self) -> Path:
        """Write the server's file from the settings."""
        return self._write(
            "server.toml",
            {"server": self.server_settings, "server.egress": self.egress_settings},
        )

    def write_client(self, name: str = "client.toml") -> Path:
        """Write the client's file from the settings."""
        return self._write(name, {"client": self.client_settings})

    def _write(self, name: str, tables: Mapping[str, Mapping[str, Value]]) -> Path:
        path = self.folder / name
        path.touch(mode=0o600)
        path.write_text(toml(dict(tables) | {"logging": {"level": self.level}}))
        return path

    # -- programs -----------------------------------------------------------------------

    def start_server(self) -> Program:
        """Start the server and wait until it listens; the port stays the same from then on."""
        self.server = self._start("server", self.write_server())
        found = self.server.wait_for(r"listening on .*?127\.0\.0\.1:(\d+)")
        self.server_address = ("127.0.0.1", int(found[1]))
        self.server_settings["listen"] = f"127.0.0.1:{found[1]}"
        self.client_settings.setdefault("server", f"127.0.0.1:{found[1]}")
        return self.server

    def start_client(self, *, linked: bool = True) -> Program:
        """Start the client and wait until its proxies are open, and the link is up."""
        self.client = self._start("client", self.write_client())
        found = self.client.wait_for(r"SOCKS5 proxy on (\S+), HTTP proxy on (\S+)")
        self.socks5, self.http = found[1], found[2]
        if linked:
            self.client.wait_for("link up after")
            self.server.wait_for("session begun")
        return self.client

    def _start(self, name: str, config: Path) -> Program:
        number = len(self._programs)
        program = Program(
            f"{name}-{number}",
            [twistd(), "-n", "--pidfile=", f"phantom-{name}", "--config", config],
            self.folder / f"{name}-{number}",
        )
        self._programs.append(program)
        return program

    def start(self) -> Self:
        """Start both."""
        self.start_server()
        self.start_client()
        return self

    def connect(self, port: int, host: str = "127.0.0.1") -> socket.socket:
        """Return a connection to a destination through the SOCKS5 proxy."""
        return socks5_connect(self.socks5, port, host)

    def logs(self) -> list[tuple[str, str]]:
        """Return the name and the log of each program that ran."""
        return [(program.name, program.log()) for program in self._programs]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        for program in reversed(self._programs):
            program.kill()


def socks5_connect(proxy: str, port: int, host: str = "127.0.0.1") -> socket.socket:
    """Return a connection to a destination through a SOCKS5 proxy at "host:port".

    Raises:
        ConnectionError: The proxy refuses.
    """
    connection = socket.create_connection(place(proxy), timeout=PATIENCE)
    connection.sendall(b"\x05\x01\x00")
    assert _exactly(connection, 2) == b"\x05\x00"
    name = host.encode()
    connection.sendall(b"\x05\x01\x00\x03" + bytes([len(name)]) + name + port.to_bytes(2, "big"))
    reply = _exactly(connection, 10)
    if reply[1]:
        connection.close()
        raise ConnectionError(f"SOCKS5 reply {reply[1]}")
    return connection


def _exactly(connection: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        piece = connection.recv(size - len(received))
        if not piece:
            raise ConnectionError("closed early")
        received += piece
    return received


def place(text: str) -> tuple[str, int]:
    """Return "host:port" as a pair."""
    host, _, port = text.rpartition(":")
    return host, int(port)


def works(connection: socket.socket) -> bool:
    """Tell whether a connection to an echo still carries bytes both ways."""
    connection.settimeout(PATIENCE)
    connection.sendall(b"ping")
    return connection.recv(4, socket.MSG_WAITALL) == b"ping"
