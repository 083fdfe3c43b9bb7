"""What lives on when links are cut, and what that costs (doc/survival.md).

::

    python -m benchmarks.survival paths --megabytes 10
    python -m benchmarks.survival paths --way ssh --megabytes 1
    python -m benchmarks.survival typing --cuts 100
    python -m benchmarks.survival bulk --mebibytes 1024 --cuts 50
    python -m benchmarks.survival memory --sessions 1000
    python -m benchmarks.survival overhead --mebibytes 256

Every command prints the rows of a Markdown table.  Only loopback is used.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from support.censor import Censor, Rules
from support.destinations import TcpServer, read_all
from support.programs import Process, Program, Tunnel, clean_environment, key_text, wait_until
from support.transfers import BothWays, Typing, percentile, stalls

from benchmarks import ways
from benchmarks.report import markdown_row
from phantom.config.keys import PrivateKey

MEBIBYTE = 1 << 20

#: What the path does to every connection.
PATHS = {
    "untouched": Rules(),
    "freeze after 16 KB down": Rules(freeze_down=16_000),
    "freeze after 25 packets": Rules(freeze_packets=25),
    "reset after 20 KB": Rules(rst_after=20_000),
    "cut every second, 2 MB/s": Rules(cut_after=1.0, throttle=2_000_000),
    "2 MB/s": Rules(throttle=2_000_000),
}


def row(*cells: object) -> None:
    """Print a row of a Markdown table."""
    print(markdown_row(cells), flush=True)


@contextmanager
def running(way: str, rules: Rules, options: argparse.Namespace) -> Iterator[ways.Way]:
    """Run a tunnel in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="survival-") as name:
        folder = Path(name)
        made: AbstractContextManager[ways.Way]
        if way == "ssh":
            made = ways.ssh(folder, rules)
        elif way == "sing-box":
            made = ways.singbox(options.sing_box, folder, rules)
        else:
            made = ways.phantom(way, folder, rules)
        with made as tunnel:
            yield tunnel


def paths(options: argparse.Namespace) -> None:
    """Both ways over each path: seconds, links, longest stall, or where it broke."""
    size = round(options.megabytes * 1_000_000)
    row("path", "way", "each way", "outcome", "links", "longest stall")
    for path, rules in PATHS.items():
        if options.path and options.path not in path:
            continue
        for way in options.way:
            with running(way, rules, options) as tunnel:
                transfer = BothWays(size, size, timeout=options.patience)
                began = time.monotonic()
                try:
                    longest = f"{transfer.run(tunnel.connect):.1f} s"
                    outcome = f"whole after {time.monotonic() - began:.1f} s"
                except (OSError, AssertionError):
                    longest = "-"
                    outcome = f"broken after {transfer.moved / 1000:.0f} KB"
                links = len(tunnel.censor.connections)
                row(path, way, f"{options.megabytes:g} MB", outcome, links, longest)


def typing(options: argparse.Namespace) -> None:
    """An echo stream while links are cut at random times, or freeze."""
    row("cut", "way", "cuts", "p50", "p95", "longest")
    for kind in ("reset", "freeze"):
        for way in options.way:
            with running(way, Rules(), options) as tunnel:
                chance = random.Random(11)
                person = Typing(tunnel.connect, timeout=options.patience)
                moments: list[float] = []
                while len(moments) < options.cuts and person.error is None:
                    time.sleep(chance.uniform(0.1, 1.0))
                    before = len(person.echoes)
                    moments.append(time.monotonic())
                    if kind == "reset":
                        tunnel.censor.cut()
                    else:
                        tunnel.censor.freeze()
                        # A frozen path hides the next freeze: wait until it has been left.
                        while len(person.echoes) < before + 2 and person.error is None:
                            time.sleep(0.01)
                time.sleep(2)
                try:
                    waits = stalls(person.stop(), moments)
                except (OSError, AssertionError):
                    row(kind, way, len(moments), "broken", "-", "-")
                    continue
                figures = (percentile(waits, 0.5), percentile(waits, 0.95), max(waits))
                row(kind, way, len(moments), *(f"{figure:.2f} s" for figure in figures))


def bulk(options: argparse.Namespace) -> None:
    """One large download, whole in spite of cuts at random places."""
    size = options.mebibytes * MEBIBYTE
    row("way", "MiB", "cuts", "seconds", "MiB/s", "links", "longest stall")
    for way in options.way:
        for count in (0, options.cuts):
            with running(way, Rules(), options) as tunnel:
                transfer = BothWays(0, size, timeout=options.patience)
                over = threading.Event()
                cutter = threading.Thread(
                    target=cut_at_places, args=(tunnel.censor, transfer, size, count, over)
                )
                cutter.start()
                began = time.monotonic()
                try:
                    longest = f"{transfer.run(tunnel.connect):.2f} s"
                    seconds = time.monotonic() - began
                    speed: object = round(size / MEBIBYTE / seconds)
                    took = f"{seconds:.1f}"
                except (OSError, AssertionError):
                    longest, speed = "-", "-"
                    took = f"broken after {transfer.moved / MEBIBYTE:.0f} MiB"
                finally:
                    over.set()
                    cutter.join()
                links = len(tunnel.censor.connections)
                row(way, options.mebibytes, count, took, speed, links, longest)


def cut_at_places(
    censor: Censor, transfer: BothWays, size: int, count: int, over: threading.Event
) -> None:
    """Cut so often, at random places of the transfer."""
    chance = random.Random(12)
    for place in sorted(chance.uniform(0, 0.98) * size for _ in range(count)):
        while transfer.moved < place:
            if over.wait(0.002):
                return
        censor.cut()


def overhead(options: argparse.Namespace) -> None:
    """Bytes on the wire beside the content: with the content, and against it.

    What goes against a download is acknowledgements and window updates, and nothing else.
    """
    size = options.mebibytes * MEBIBYTE
    row("way", "MiB", "direction", "beside it", "against it")
    for way in options.way:
        for direction in ("down", "up"):
            with running(way, Rules(), options) as tunnel:
                time.sleep(1)
                link = tunnel.censor.connections[0]
                before = list(link.bytes)
                up, down = (size, 0) if direction == "up" else (0, size)
                BothWays(up, down, timeout=options.patience).run(tunnel.connect)
                time.sleep(0.2)
                after = [now - was for now, was in zip(link.bytes, before, strict=True)]
                beside, against = after if direction == "up" else reversed(after)
                row(
                    way,
                    options.mebibytes,
                    direction,
                    f"{(beside - size) / size:.4%}",
                    f"{against / size:.4%}",
                )


def memory(options: argparse.Namespace) -> None:
    """The server's memory with many sessions, each with a stream, before and after a cut."""
    count = options.sessions
    kept = options.kept * 1024
    row("state", "sessions", "resident MiB", "KiB a session")
    with tempfile.TemporaryDirectory(prefix="survival-") as name:
        folder = Path(name)
        keys = [PrivateKey.generate(os.urandom) for _ in range(count)]
        settings = {
            "allowed_clients": [str(key.public()) for key in keys],
            "max_connections": 4 * count,
            "detached_timeout": 60,
        }
        with Tunnel(folder, options.way[0], server=settings) as tunnel:
            tunnel.start_server()
            server = tunnel.server
            start = report("started", server, count, 0)
            go = threading.Event()

            def serve(connection: object) -> None:
                go.wait()
                connection.sendall(bytes(kept))  # type: ignore[attr-defined]
                read_all(connection)  # type: ignore[arg-type]

            with TcpServer(serve) as destination:
                config = tunnel.write_client()
                (folder / "keys").write_text("".join(f"{key_text(key)}\n" for key in keys))
                command = [sys.executable, "-m", "benchmarks.crowd"]
                command += [str(config), str(folder / "keys"), str(destination.port)]
                environment = clean_environment()
                crowd = subprocess.Popen(
                    command,
                    stdout=subprocess.PIPE,
                    env=environment,
                )
                assert crowd.stdout is not None
                crowd.stdout.readline()  # all streams are open
                report("linked, a stream each", server, count, start)
                crowd.kill()
                crowd.wait()
                wait_until(
                    lambda: server.log().count("session without a link") == count, "all are cut"
                )
                time.sleep(1)
                report("without a link", server, count, start)
                go.set()
                time.sleep(5)
                report(f"... and {options.kept} KiB kept for each", server, count, start)
                wait_until(lambda: "session ended; 0 live" in server.log(), "all end", timeout=120)
                time.sleep(1)
                report("given up", server, count, start)


def report(state: str, server: Program, count: int, start: int) -> int:
    """Print a row about the server's memory, and return its bytes."""
    size = Process(server.pid).memory()
    each = f"{(size - start) / count / 1024:.1f}" if start else "-"
    row(state, count if start else 0, f"{size / MEBIBYTE:.1f}", each)
    return size


def main() -> None:
    """Run one measurement."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    for command in (paths, typing, bulk, memory, overhead):
        sub = commands.add_parser(command.__name__, help=(command.__doc__ or "").splitlines()[0])
        sub.set_defaults(command=command)
        sub.add_argument(
            *("--way", "-w"),
            action="append",
            choices=["tcp", "tls", "ssh", "sing-box"],
            help="a carrier of this program, or another tunnel (default: tcp and tls)",
        )
        sub.add_argument("--sing-box", type=Path, help="the program of that name", metavar="FILE")
        sub.add_argument("--patience", type=float, default=60, help="seconds without a byte")
        if command is paths:
            sub.add_argument("--megabytes", type=float, default=10, help="each way")
            sub.add_argument("--path", help="only those with this in their name")
        elif command is typing:
            sub.add_argument("--cuts", type=int, default=100)
        elif command is bulk:
            sub.add_argument("--mebibytes", type=int, default=1024)
            sub.add_argument("--cuts", type=int, default=50)
        elif command is memory:
            sub.add_argument("--sessions", type=int, default=1000)
            sub.add_argument("--kept", type=int, default=32, help="KiB sent after the cut")
        else:
            sub.add_argument("--mebibytes", type=int, default=256)
    options = parser.parse_args()
    options.way = options.way or ["tcp", "tls"]
    os.umask(0o077)
    options.command(options)


if __name__ == "__main__":
    main()
