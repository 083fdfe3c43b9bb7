"""Where a measurement runs: loopback, or two network namespaces joined by an emulated road.

Everything stays on this machine.  The namespaces are ours alone and go away afterwards.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

import attrs

from benchmarks.programs import Unavailable, compiled


class NoNetwork(Unavailable):
    """There can be no such network here, whoever would use it."""


#: The addresses that wanlink gives its two ends, and a range beyond the far one: all of its
#: addresses lead to the server's namespace, so that there are destinations never seen before.
NEAR, FAR = "10.77.0.1", "10.77.0.2"
BEYOND, BEYOND_FIRST = "10.77.1.0/24", "10.77.1.1"

#: The port of the destination.
DESTINATION_PORT = 9000

#: Local ports for 10,000 streams at each hop of one namespace, below the range of X11 and such.
LOCAL_PORTS = "10240 65000"

CONGESTION = Path("/proc/sys/net/ipv4/tcp_congestion_control")

# Peers that take turns have a network each.
_numbers = itertools.count(1)


@attrs.frozen
class Road:
    """A long way between client and server, the same in both directions.

    Attributes:
        rtt: Milliseconds there and back, without queueing.
        rate: Mbit/s at the narrowest place; 0 is without limit.
        loss: Percent of packets lost at random, each way.
        queue: KiB that wait before the narrowest place; the rest is dropped.  None is one
            bandwidth-delay product, at least 64 KiB.
        schedule: Pairs of Mbit/s and seconds, over and over, in place of `rate`.
        jitter: Milliseconds by which the round trip swings, over a few seconds.
        mtu: Bytes of a packet.
        offload: Whether packets cross in the bundles that the kernel makes (GSO), for rates
            at which single packets are too many.  Each bundle has one fate.
        beyond: Whether the road is between server and destination; client and server are
            beside each other then.
    """

    rtt: float
    rate: float = 0
    loss: float = 0
    queue: int | None = None
    schedule: tuple[tuple[float, float], ...] = ()
    jitter: float = 0
    mtu: int = 1500
    offload: bool = False
    beyond: bool = False

    def arguments(self) -> list[str]:
        """Return the options of wanlink that make this road."""
        values: dict[str, object] = {
            "delay": self.rtt / 2,
            "rate": self.rate,
            "loss": self.loss,
            "mtu": self.mtu,
            "jitter": self.jitter / 2,
            "offload": int(self.offload),
        }
        if self.queue is not None:
            values["queue"] = self.queue
        if self.schedule:
            values["schedule"] = ",".join(f"{rate:g}:{secs:g}" for rate, secs in self.schedule)
        return [text for key, value in values.items() for text in (f"--{key}", str(value))]


def default_congestion() -> str:
    """Return the machine's own TCP congestion control."""
    return CONGESTION.read_text().strip()


class Network:
    """Where a peer's client, its server and the destination run.

    Without a road and not as root it is the machine's own loopback; as root a namespace with
    nothing but loopback; with a road, two namespaces.

    Args:
        road: The road between client and server, or beyond the server; None for loopback.
        congestion: The TCP congestion control in the namespaces.
        private: Whether loopback may be in a namespace.

    Raises:
        NoNetwork: This needs root, or the congestion control is not allowed here.
    """

    def __init__(self, road: Road | None, congestion: str, *, private: bool = True) -> None:
        self.road = road
        self.destination_host = FAR if road else "127.0.0.1"
        self.server_host = FAR if road and not road.beyond else "127.0.0.1"
        self.fresh_host = BEYOND_FIRST if road else "127.1.0.1"
        self.names: list[str] = []
        self._link: subprocess.Popen[str] | None = None
        root = os.geteuid() == 0
        if road and not root:
            raise NoNetwork("an emulated road needs root: namespaces and TUN devices")
        if root and (road or private):
            tag = f"bench{os.getpid()}-{next(_numbers)}"
            self.names = [f"{tag}a", f"{tag}b"] if road else [f"{tag}l"]
        try:
            for name in self.names:
                self._make(name, congestion)
            if road:
                self._join(road)
        except BaseException:
            self.close()
            raise
        self.congestion = self._congestion()

    @property
    def roots(self) -> list[int]:
        """The processes that make it."""
        return [] if self._link is None else [self._link.pid]

    @property
    def private(self) -> bool:
        """Whether its ports are ours alone."""
        return bool(self.names)

    def _make(self, name: str, congestion: str) -> None:
        made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
        if made.returncode:
            raise NoNetwork(f"no network namespace: {made.stderr.strip()}")
        self._shell(name, "ip link set lo up")
        self._shell(name, f"echo {LOCAL_PORTS} > /proc/sys/net/ipv4/ip_local_port_range")
        if self._shell(name, f"echo {congestion} > {CONGESTION}").returncode:
            allowed = Path("/proc/sys/net/ipv4/tcp_allowed_congestion_control").read_text().strip()
            raise NoNetwork(
                f"the congestion control {congestion} is not allowed in a namespace; "
                f'`sysctl net.ipv4.tcp_allowed_congestion_control="{allowed} {congestion}"` '
                "allows it"
            )

    def _join(self, road: Road) -> None:
        near, far = self.names
        command = [str(compiled("wanlink")), near, far, *road.arguments()]
        self._link = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._link.stdout is not None
        if self._link.stdout.readline().strip() != "READY":
            raise NoNetwork("the emulated road did not start; it needs /dev/net/tun")
        self._shell(far, f"ip route add local {BEYOND} dev lo")
        self._shell(near, f"ip route add {BEYOND} dev wan0")

    def _congestion(self) -> str:
        """Read back what new sockets get, on both sides."""
        texts = [self._shell(name, f"cat {CONGESTION}").stdout.strip() for name in self.names]
        return "/".join(dict.fromkeys(texts)) if texts else default_congestion()

    def _shell(self, name: str, command: str) -> subprocess.CompletedProcess[str]:
        inside = ["nsenter", f"--net=/run/netns/{name}", "sh", "-c", command]
        return subprocess.run(inside, capture_output=True, text=True)

    # -- programs ---------------------------------------------------------------------------

    def near(self, command: Sequence[str]) -> list[str]:
        """Return the command that runs this one where clients are."""
        return self._inside(0, command)

    def middle(self, command: Sequence[str]) -> list[str]:
        """Return the command that runs this one where servers are."""
        beside = self.road is not None and self.road.beyond
        return self.near(command) if beside else self.far(command)

    def far(self, command: Sequence[str]) -> list[str]:
        """Return the command that runs this one where the destination is."""
        return self._inside(-1, command)

    def _inside(self, index: int, command: Sequence[str]) -> list[str]:
        if not self.names:
            return list(command)
        return ["nsenter", f"--net=/run/netns/{self.names[index]}", *command]

    # -- the road ---------------------------------------------------------------------------

    def tell(self, line: str) -> None:
        """Give the road a command (wanlink.c lists them)."""
        assert self._link is not None
        assert self._link.stdin is not None
        self._link.stdin.write(line + "\n")
        self._link.stdin.flush()

    def road_counters(self) -> dict[str, Any] | None:
        """Return what the road has carried, lost and delayed since last asked."""
        if self._link is None:
            return None
        self.tell("stats")
        stream: IO[str] | None = self._link.stdout
        assert stream is not None
        counters: dict[str, Any] = json.loads(stream.readline())
        return counters

    # -- the tunnel's connections -----------------------------------------------------------

    def destroy_connections(self, port: int) -> None:
        """Destroy every TCP connection to or from a port at both ends, as a reset would."""
        for name in self.names:
            self._shell(name, f"ss -K -t '( dport = :{port} or sport = :{port} )'")

    def congestion_seen(self, port: int) -> list[str]:
        """Return the congestion controls of the live connections of a port, both ends."""
        found = set()
        for name in self.names:
            text = self._shell(name, f"ss -Htin '( dport = :{port} or sport = :{port} )'").stdout
            found |= {line.split()[0] for line in text.splitlines() if line[:1].isspace()}
        return sorted(found)

    def connections(self, port: int) -> int:
        """Return how many connections there are to a port, over all namespaces."""
        question = f"ss -Htn state established '( dport = :{port} )'"
        return sum(len(self._shell(name, question).stdout.splitlines()) for name in self.names)

    def close(self) -> None:
        """Take it all down."""
        if self._link is not None:
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                self.tell("quit")
                self._link.wait(2)
            if self._link.poll() is None:
                self._link.kill()
                self._link.wait()
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


def wait_for_port(pid: int, port: int, alive: Callable[[], bool], seconds: float = 15) -> bool:
    """Wait until something in the namespace of a process listens on a port, TCP or UDP.

    Looking at the tables makes no connection, which a tunnel might take for something.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end and alive():
        for table, listening in (("tcp", "0A"), ("tcp6", "0A"), ("udp", "07"), ("udp6", "07")):
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
                    field = line.split()
                    if field[1].endswith(f":{port:04X}") and field[3] == listening:
                        return True
        time.sleep(0.02)
    return False
