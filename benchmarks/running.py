"""A peer that runs, with the destination beyond it, and what it spends while it is used."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Self

from benchmarks import accounting, turns
from benchmarks.network import DESTINATION_PORT, Network, wait_for_port
from benchmarks.peers.base import Peer, Place
from benchmarks.programs import CACHE, compiled

#: Result of one run of loadgen, and what is added to it.
Row = dict[str, Any]

#: Ports in a namespace of our own: the tunnel, behind it, SOCKS5, HTTP.
PRIVATE_PORTS = (8443, 8444, 1080, 1081)

#: Seconds a peer has until requests get through.
START = 15


class Failed(Exception):  # noqa: N818
    """A peer does not do what it should; the message ends with its last words."""


def free_ports(count: int) -> tuple[int, ...]:
    """Return ports that nothing listens on at the moment."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return tuple(each.getsockname()[1] for each in sockets)
    finally:
        for each in sockets:
            each.close()


class Running:
    """A destination and a peer's server and client, up and answering.

    Args:
        peer: What to run.
        network: Where to run it.

    Raises:
        Unavailable: The peer cannot run here.
        Failed: It started, and no request gets through.
    """

    def __init__(self, peer: Peer, network: Network) -> None:
        self.peer, self.network = peer, network
        self.folder = Path(tempfile.mkdtemp(prefix="bench-"))
        self.loadgen_program = str(compiled("loadgen"))
        self.server: list[subprocess.Popen[bytes]] = []
        self.client: list[subprocess.Popen[bytes]] = []
        self._destination: subprocess.Popen[bytes] | None = None
        self._log = (self.folder / "log").open("wb")
        ports = (*PRIVATE_PORTS, DESTINATION_PORT) if network.private else free_ports(5)
        self.destination_port = ports[-1]
        self.place = Place(self.folder, network.server_host, network.destination_host, *ports)
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    def _start(self) -> None:
        self.commands = self.peer.make(self.place)
        serve = [self.loadgen_program, "serve", "--listen", f"0.0.0.0:{self.destination_port}"]
        if not self.network.private:
            serve[-1] = f"127.0.0.1:{self.destination_port}"
        self._destination = subprocess.Popen(self.network.far(serve), stdout=subprocess.PIPE)
        assert self._destination.stdout is not None
        self._destination.stdout.readline()  # it listens
        self.server = [self._spawn(self.network.middle(each)) for each in self.commands.server]
        if self.server:
            self._wait(self.server[-1], self.place.port, "server")
        self.start_client()
        outcome = self.loadgen("recover", "--secs", START, "--timeout", 3)
        if not outcome.get("ok"):
            raise Failed(f"no request gets through: {self.last_words()}")

    def _spawn(self, command: list[str]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **self.commands.environment},
        )

    def _wait(self, program: subprocess.Popen[bytes], port: int, side: str) -> None:
        if not wait_for_port(program.pid, port, lambda: program.poll() is None, START):
            how = "does not listen" if program.poll() is None else "ended"
            raise Failed(f"the {side} {how}: {self.last_words()}")

    def start_client(self) -> None:
        """Start the client and wait until it listens, without a connection through it."""
        self.client = [self._spawn(self.network.near(each)) for each in self.commands.client]
        if self.client:
            self._wait(self.client[-1], self.place.socks_port, "client")

    def restart_client(self) -> None:
        """Begin anew, as after a reboot of the client's machine."""
        accounting.stop(self.client)
        time.sleep(0.2)
        self.start_client()

    def last_words(self) -> str:
        """Return the end of what the peer wrote, on one line, without paths of this machine."""
        text = (self.folder / "log").read_text(errors="replace")[-600:]
        text = re.sub(r"\x1b\[[0-9;]*m", "", text).replace("\n", " | ")
        return text.replace(str(self.folder), "FOLDER").replace(str(CACHE), "CACHE")[-300:]

    @property
    def roots(self) -> list[int]:
        """The peer's processes, without their descendants."""
        return [program.pid for program in (*self.server, *self.client)]

    # -- load -------------------------------------------------------------------------------

    def loadgen_command(
        self, mode: str, *options: object, host: str = "", http: bool = False
    ) -> list[str]:
        """Return the command that puts load on the peer."""
        proxy = f"http://{self.commands.http}" if http else self.commands.proxy
        where = f"{host or self.network.destination_host}:{self.destination_port}"
        command = [self.loadgen_program, mode, "--proxy", proxy, "--dst", where]
        return self.network.near([*command, *map(str, options)])

    def loadgen(
        self, mode: str, *options: object, limit: float = 90, host: str = "", http: bool = False
    ) -> Row:
        """Put load on the peer; return what loadgen says, or an "error".

        Args:
            mode: What to do.
            options: More arguments for loadgen.
            limit: Seconds after which it is given up.
            host: The destination, if not the usual one.
            http: Whether to use the HTTP proxy.
        """
        command = self.loadgen_command(mode, *options, host=host, http=http)
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
        except subprocess.TimeoutExpired:
            return {"error": f"not done after {limit:g} s"}
        return self.understand(done.stdout, done.returncode, done.stderr)

    @staticmethod
    def understand(output: str, status: int = 0, complaint: str = "") -> Row:
        """Return the last line of loadgen's output."""
        try:
            row: Row = json.loads(output.strip().splitlines()[-1])
        except (ValueError, IndexError):
            return {"error": f"loadgen ended with {status}: {complaint[-200:]}"}
        return row

    def cpu(self) -> tuple[float, float]:
        """Return the CPU seconds of client and server so far."""
        client = accounting.cpu_seconds([program.pid for program in self.client])
        return client, accounting.cpu_seconds([program.pid for program in self.server])

    def measured(self, mode: str, *options: object, **keywords: Any) -> Row:
        """Put load on the peer; add what it spent meanwhile, and what the machine did besides."""
        turns.bring_along(accounting.family(self.roots, accounting.table()))
        assert self._destination is not None
        destination = [self._destination.pid, *self.network.roots]
        beyond, before, spent = (
            accounting.cpu_seconds(destination),
            accounting.machine(),
            self.cpu(),
        )
        with accounting.PeakMemory(self.roots) as peak:
            row = self.loadgen(mode, *options, **keywords)
        client, server = (now - then for now, then in zip(self.cpu(), spent, strict=True))
        after = accounting.machine()
        beyond = accounting.cpu_seconds(destination) - beyond
        own = client + server + beyond + row.get("loadgen_cpu", 0)
        seconds = max(0.01, after.time - before.time)
        row |= {
            "loadgen_server_cpu": round(beyond, 3),  # with what emulates the road
            "foreign_cores": round(max(0.0, after.busy - before.busy - own) / seconds, 3),
            "steal_cores": round((after.stolen - before.stolen) / seconds, 3),
            "cpu_client": round(client, 3),
            "cpu_server": round(server, 3),
            "rss_peak": peak.bytes,
        }
        if gigabytes := row.get("total_bytes", 0) / 1e9:
            row |= {
                "cpu_s_per_gb": round((client + server) / gigabytes, 4),
                "cpu_client_per_gb": round(client / gigabytes, 4),
                "cpu_server_per_gb": round(server / gigabytes, 4),
                "loadgen_cpu_per_gb": round((row.get("loadgen_cpu", 0) + beyond) / gigabytes, 4),
            }
        if mode == "churn" and row.get("ok"):
            each = 1e6 / row["ok"]
            row |= {
                "cpu_us_per_conn": round((client + server) * each, 1),
                "cpu_client_us_per_conn": round(client * each, 1),
                "cpu_server_us_per_conn": round(server * each, 1),
            }
        return row

    # -- end --------------------------------------------------------------------------------

    def close(self) -> None:
        """End everything; keep the folder where ``BENCH_KEEP`` is set."""
        accounting.stop([*self.client, *self.server])
        if self._destination is not None:
            accounting.stop([self._destination])
        self._log.close()
        if os.environ.get("BENCH_KEEP"):
            print(f"kept {self.folder}", flush=True)
        else:
            shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()
