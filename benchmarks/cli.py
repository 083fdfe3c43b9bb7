"""Measures tunnels side by side: CPU time per gigabyte, throughput, latency, memory.

::

    python -m benchmarks list                         peers and scenarios
    python -m benchmarks setup all                    install the peers (apt-get, pip)
    python -m benchmarks run phantom,base             main scenarios, 3 interleaved runs
    python -m benchmarks run phantom-raw,sb-ss2022 -s down1,up1 -n 5 --out rows.jsonl
    python -m benchmarks run phantom-raw --tree before=/some/checkout -s down1 -n 5
    python -m benchmarks run phantom-raw --python debian=/some/venv/bin/python -s ping
    python -m benchmarks run phantom-raw --compiled -s churn
    python -m benchmarks run phantom-raw,sb-ss2022 --turns 8 --secs 0.8 --base sb-ss2022
    python -m benchmarks run phantom-raw --variant w=phantom-raw,client.window=65536
    python -m benchmarks report rows.jsonl --base phantom-raw --markdown
    python -m benchmarks plot rows.jsonl              pictures for doc/performance.md

PEERS and SCENARIOS are names or groups, with commas between them; `list` shows them.
doc/performance.md says what each scenario and each figure means.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import resource
import signal
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from benchmarks import report, turns
from benchmarks.network import default_congestion
from benchmarks.peers import PEERS, phantom
from benchmarks.peers.base import Peer
from benchmarks.peers.wheel import compiled_tree
from benchmarks.programs import ROOT, Unavailable, compiled
from benchmarks.scenarios import SCENARIOS, Effort, Scenario

#: prctl(2): orphaned descendants become ours, to account for and to end.
PR_SET_CHILD_SUBREAPER = 36

#: Open files: 10,000 streams with a socket on each side of a hop, and room.
OPEN_FILES = 65_536

#: Where the documentation's pictures are.
PICTURES = ROOT / "doc" / "performance"

#: The peers of "all".
ALL = ("base", "phantom", "optional", "peer")

T = TypeVar("T", Peer, Scenario)


def chosen(text: str, table: Mapping[str, T], everything: Iterable[str] = ()) -> list[T]:
    """Return what a list of names and groups means, each once.

    Args:
        text: Names, groups or "all", with commas between them.
        table: What there is.
        everything: The groups of "all".

    Raises:
        SystemExit: A name is unknown.
    """
    found: dict[str, T] = {}
    for word in filter(None, (part.strip() for part in text.split(","))):
        groups = everything if word == "all" else (word,)
        named = {word: table[word]} if word in table else {}
        found |= named or {name: item for name, item in table.items() if item.group in groups}
        if word != "all" and not named and not any(i.group == word for i in table.values()):
            raise SystemExit(f"unknown: {word}; `python -m benchmarks list` lists what there is")
    return list(found.values())


def list_all() -> None:
    """Print peers and scenarios, with their groups."""
    print('peers ("all" is every group but `more`):')
    for peer in PEERS.values():
        print(f"  {peer.name:22s} {peer.group:9s} {peer.wire:5s} {peer.note}")
    print("\nscenarios (`main` is what runs unless others are named):")
    for scenario in SCENARIOS.values():
        print(f"  {scenario.name:22s} {scenario.group:9s} {scenario.note}")


def peers_of(options: argparse.Namespace) -> list[Peer]:
    """Return the peers asked for, and behind them those of other checkouts and interpreters.

    Raises:
        SystemExit: Something that was asked for is not there.
    """
    peers = chosen(options.peers, PEERS, ALL)
    asked = [peer.name for peer in peers]
    more: list[Peer] = []
    for tree in options.tree:
        label, _, path = tree.partition("=")
        if not path:
            raise SystemExit(f"--tree {tree}: NAME=FOLDER is wanted")
        more += phantom.peers(Path(path), label)
    for python in options.python:
        label, _, path = python.partition("=")
        if phantom.version_of(path) == "unknown":
            raise SystemExit(f"--python {python}: NAME=PROGRAM is wanted, a Python")
        more += phantom.peers(label=label, python=path)
        if options.compiled:
            more += compiled_peers(f"{label}-compiled", path)
    if options.compiled:
        more += compiled_peers("compiled")
    peers += [peer for peer in more if peer.name.partition("@")[0] in asked]
    try:
        return peers + [phantom.with_settings(text) for text in options.variant]
    except ValueError as error:
        raise SystemExit(f"--variant {error}") from None


def compiled_peers(label: str, python: str | None = None) -> list[Peer]:
    """Return the phantom peers of this checkout, compiled for an interpreter.

    Raises:
        SystemExit: It cannot be compiled.
    """
    print("compiling phantom, unless it was", file=sys.stderr)
    try:
        tree = compiled_tree(python or sys.executable)
    except Unavailable as error:
        raise SystemExit(f"--compiled: {error}") from None
    return phantom.peers(tree, label, python, source=ROOT)


def run(options: argparse.Namespace) -> int:
    """Measure; return 1 if something failed."""
    from benchmarks import runner
    from benchmarks.peers.install import install, make_keys

    peers = peers_of(options)
    scenarios = chosen(options.scenarios, SCENARIOS)
    if options.install:
        install(peers)
    make_keys()
    try:
        for name in ("loadgen", "wanlink"):
            compiled(name)
    except Unavailable as error:
        raise SystemExit(str(error)) from None
    raise_open_files()
    plan = runner.Plan(
        peers,
        scenarios,
        options.runs,
        Effort(options.secs, options.road_secs, options.streams),
        options.cc.split(",") if options.cc else [default_congestion()],
        private=not options.no_netns,
        turns=options.turns,
    )
    output = options.out.open("a") if options.out else None
    rows = runner.Runner(plan, output, lambda line: print(line, flush=True)).run()
    print("\n" + report.text(rows, options.base), end="", flush=True)
    return int(any(row.get("error") for row in rows))


def raise_open_files() -> None:
    """Raise the limit of open files as far as we may."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError):  # root, but without CAP_SYS_RESOURCE
        if os.geteuid() == 0 and hard < OPEN_FILES:
            resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, OPEN_FILES))
            return
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def show(options: argparse.Namespace) -> int:
    """Print the tables of files."""
    rows = report.read(options.files)
    form = report.markdown if options.markdown else report.text
    print(form(rows, options.base), end="")
    return 0


def draw(options: argparse.Namespace) -> int:
    """Write the pictures of files."""
    from benchmarks import plot

    options.folder.mkdir(parents=True, exist_ok=True)
    for path in plot.draw(report.read(options.files), options.folder):
        print(path)
    return 0


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    top = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="`python -m benchmarks.survival` measures what lives on when links are cut.",
    )
    commands = top.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="peers and scenarios")
    setup = commands.add_parser("setup", help="install peers from Debian and PyPI")
    setup.add_argument("peers")
    measure = commands.add_parser("run", help="measure")
    add = measure.add_argument
    add("peers", help="names or groups, with commas between them")
    add("-s", "--scenarios", default="main", help="names or groups (default: main)")
    add("-n", "--runs", type=int, default=3, help="interleaved runs (default: 3)")
    add(
        "--turns",
        type=int,
        default=0,
        metavar="N",
        help="keep all peers up beside each other in a run, and have them take turns, N times a "
        "scenario (loopback, none that wants a peer afresh): ratios for a machine whose speed "
        "changes",
    )
    add("--secs", type=float, default=3.0, help="measured time on loopback (default: 3)")
    add("--road-secs", type=float, default=8.0, help="and of bulk on a road (default: 8)")
    add("--streams", type=int, default=10_000, help="most streams of idle scenarios")
    add("--cc", help="TCP congestion controls for the roads, with commas (default: the machine's)")
    add("--base", default="", metavar="PEER", help="show ratios to this peer")
    add("--out", type=Path, metavar="FILE", help="append JSON lines")
    add(
        "--tree",
        action="append",
        default=[],
        metavar="NAME=FOLDER",
        help="run the phantom peers of another checkout as well, named PEER@NAME",
    )
    add(
        "--python",
        action="append",
        default=[],
        metavar="NAME=PROGRAM",
        help="run the phantom peers by another interpreter as well, named PEER@NAME",
    )
    add(
        "--compiled",
        action="store_true",
        help="run the phantom peers compiled as well (`pip install .`), named PEER@compiled, "
        "and by each --python, PEER@NAME-compiled",
    )
    add(
        "--variant",
        action="append",
        default=[],
        metavar="NAME=PEER,client.KEY=VALUE,...",
        help="run a phantom peer with other settings as well, named PEER+NAME",
    )
    add("--nice", type=int, default=-15, help="priority as root; 0 leaves it (default: -15)")
    add("--install", action="store_true", help="install missing peers first, as `setup` does")
    add("--no-netns", action="store_true", help="loopback scenarios without a namespace")
    tables = commands.add_parser("report", help="tables from JSON lines")
    tables.add_argument("files", nargs="+", type=Path)
    tables.add_argument("--base", default="", metavar="PEER", help="show ratios to this peer")
    tables.add_argument("--markdown", "--md", action="store_true")
    pictures = commands.add_parser("plot", help="pictures (SVG) from JSON lines")
    pictures.add_argument("files", nargs="+", type=Path)
    pictures.add_argument("--folder", type=Path, default=PICTURES, help="where they go")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; return the exit status."""
    options: Any = parser().parse_args(arguments)
    if options.command == "list":
        list_all()
        return 0
    if options.command == "report":
        return show(options)
    if options.command == "plot":
        return draw(options)
    if options.command == "setup":
        from benchmarks.peers.install import install

        install(chosen(options.peers, PEERS, ALL))
        return 0
    if options.nice and os.geteuid() == 0:
        turns.go_first(options.nice)
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def end(_number: int, _frame: FrameType | None) -> None:
        sys.exit(128 + signal.SIGTERM)

    signal.signal(signal.SIGTERM, end)
    return run(options)
