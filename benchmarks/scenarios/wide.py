"""Scenarios on emulated long roads: time to first byte, goodput, and waiting behind bulk."""

from __future__ import annotations

import functools
import statistics
import threading
import time
from typing import Any

from benchmarks.network import Road
from benchmarks.running import Row, Running
from benchmarks.scenarios.base import Effort, Scenario, port_on_the_road

#: The roads.  Queues are one bandwidth-delay product unless said otherwise.
CLEAN = Road(rtt=100, rate=200)
LOSSY = Road(rtt=200, rate=100, loss=1)
FAST = Road(rtt=20, rate=1000, offload=True)
#: Down, up again, nearly gone, and back, with a round trip between 60 and 120 ms.  A phone's
#: mast queues far more than is good for anybody.
PHONE_CYCLE = ((20, 5), (2, 5), (8, 5), (0.5, 5))
PHONE = Road(rtt=90, jitter=60, queue=256, schedule=PHONE_CYCLE)
#: A modest line with a modest queue: 50 KiB are 41 ms at 10 Mbit/s.
HOME = Road(rtt=40, rate=10, queue=50)

#: First requests of a client that has just started; the median counts.
COLD = 3

#: Requests to a destination that is known, and as many to ones that are not.
REQUESTS = 15
#: Milliseconds between them: no half of a road's round trip, or the end of one request would
#: arrive at the other side, and be dealt with on the same two cores, as the next begins.
PAUSE = 73

#: Seconds for a tunnel to set itself up after its client listens.
SETTLE = 1.0

#: A mobile or an abroad line: what it loses costs a round trip each time, and whatever waits
#: behind it the same.
LEAKY = Road(rtt=100, rate=50, loss=0.5)

#: A destination that is not beside the server.
ORIGIN = Road(rtt=30, rate=200, beyond=True)

#: Milliseconds between two keystrokes.
KEYSTROKE = 50


def first_byte(running: Running, effort: Effort) -> Row:
    """Time from a program's connection to the proxy until the first byte of a reply."""
    row: Row = {"ttfb_errors": 0}
    usual = ("--secs", 60, "--timeout", 15)
    cold = []
    for _ in range(COLD):
        running.restart_client()
        outcome = running.loadgen("ttfb", "--count", 1, *usual)
        row["ttfb_errors"] += outcome.get("errors", 1)
        if outcome.get("ok"):
            cold.append(outcome["ttfb_p50_us"] / 1e3)
    if cold:
        row["ttfb_cold_ms"] = round(statistics.median(cold), 1)
    time.sleep(SETTLE)
    many = ("--count", REQUESTS, "--pace", PAUSE)
    kinds: dict[str, dict[str, Any]] = {
        "known": {},
        "new": {"host": running.network.fresh_host},
    }
    for kind, where in kinds.items():
        spread = ["--spread"] if where else []
        outcome = running.loadgen("ttfb", *many, *usual, *spread, **where)
        row["ttfb_errors"] += outcome.get("errors", 1)
        if outcome.get("ok"):
            row[f"ttfb_{kind}_ms"] = round(outcome["ttfb_p50_us"] / 1e3, 1)
            row[f"ttfb_{kind}_p90_ms"] = round(outcome["ttfb_p90_us"] / 1e3, 1)
    return row


def goodput(running: Running, effort: Effort, streams: int) -> Row:
    """Bulk both ways, one after the other; the first half of `road_seconds` is not measured."""
    row: Row = {}
    for mode in ("down", "up"):
        seen: list[str] = []
        look = threading.Timer(effort.road_seconds, _look, (running, seen))
        look.start()
        window = ("--secs", effort.road_seconds, "--warm", effort.road_seconds / 2)
        outcome = running.measured(mode, "--conns", streams, *window)
        look.cancel()
        look.join()
        if "error" in outcome:
            return row | {"error": f"{mode}: {outcome['error']}"}
        row[f"{mode}_mbps"] = round(outcome["gbps"] * 1e3, 2)
        row[f"{mode}_cpu_s_per_gb"] = outcome.get("cpu_s_per_gb")
        row[f"{mode}_cc_seen"] = seen
        row["rss_peak"] = max(row.get("rss_peak", 0), outcome["rss_peak"])
        row["foreign_cores"] = outcome["foreign_cores"]
    return row


def _look(running: Running, seen: list[str]) -> None:
    """Note which congestion controls the tunnel's connections really have."""
    seen += running.network.congestion_seen(port_on_the_road(running))


def road(running: Running, effort: Effort) -> Row:
    """Time to first byte, then bulk with one stream."""
    row = first_byte(running, effort)
    running.network.road_counters()  # from here on
    return row | goodput(running, effort, 1)


def beside_bulk(running: Running, effort: Effort, pace: int, seconds: float, warm: float) -> Row:
    """Play ping-pong beside one bulk download; what that adds to the round trip."""
    haste = effort.road_haste
    window = ("--secs", seconds * haste, "--warm", warm * haste)
    paced = ("--conns", 1, "--pace", pace, "--timeout", 30)
    row = running.measured("load", *paced, *window, limit=180)
    row["bulk_mbps"] = round(row.get("bulk_gbps", 0) * 1e3, 2)
    row["links"] = running.network.connections(port_on_the_road(running))
    for part in ("p50", "p99"):
        if f"rtt_{part}_us" in row and f"base_{part}_us" in row:
            added = row[f"rtt_{part}_us"] - row["base_p50_us"]
            row[f"added_{part}_ms"] = round(added / 1e3, 1)
    return row


def phone(running: Running, effort: Effort) -> Row:
    """Bulk each way over one whole cycle of the road's rates, with pings beside it."""
    row: Row = {}
    cycle = sum(seconds for _, seconds in PHONE_CYCLE)
    window = ("--secs", cycle * effort.road_haste, "--warm", 2 * effort.road_haste)
    for mode, upload in (("down", []), ("up", ["--upload"])):
        paced = ("--conns", 1, "--pace", 100, "--timeout", 60, *upload)
        outcome = running.measured("load", *paced, *window, limit=180)
        if "error" in outcome:
            return row | {"error": f"{mode}: {outcome['error']}"}
        row[f"{mode}_mbps"] = round(outcome["bulk_gbps"] * 1e3, 3)
        for part in ("p50", "p99"):
            row[f"{mode}_rtt_{part}_ms"] = round(outcome.get(f"rtt_{part}_us", 0) / 1e3, 1)
        row["foreign_cores"] = outcome["foreign_cores"]
    return row


def _roads() -> list[Scenario]:
    made = []
    described = {
        "wan-100ms": (CLEAN, "100 ms, 200 Mbit/s, no loss"),
        "wan-200ms-lossy": (LOSSY, "200 ms, 100 Mbit/s, 1 % lost at random each way"),
        "wan-20ms": (FAST, "20 ms, 1 Gbit/s"),
    }
    for name, (way, note) in described.items():
        made.append(Scenario(name, road, f"{note}: first byte, 1 stream", "wan", "wan", way))
        sixteen = functools.partial(goodput, streams=16)
        made.append(Scenario(f"{name}-16", sixteen, f"{note}: 16 streams", "wan", "wan", way))
    for name, streams in (("wan-origin", 1), ("wan-origin-16", 16)):
        note = f"30 ms, 200 Mbit/s between server and destination: streams: {streams}"
        several = functools.partial(goodput, streams=streams)
        made.append(Scenario(name, several, note, "wan", "wan", ORIGIN))
    return made


SCENARIOS = [
    *_roads(),
    Scenario(
        "wan-phone",
        phone,
        "60 to 120 ms, 20, 2, 8 and 0.5 Mbit/s for 5 s each",
        "phone",
        "wan",
        PHONE,
    ),
    Scenario(
        "wan-load",
        functools.partial(beside_bulk, pace=10, seconds=8, warm=4),
        "ping-pong beside a bulk download, 100 ms, 200 Mbit/s",
        "keystroke",
        "wan",
        CLEAN,
    ),
    Scenario(
        "wan-keystroke",
        functools.partial(beside_bulk, pace=KEYSTROKE, seconds=12, warm=4),
        "64 bytes every 50 ms beside a bulk download, 40 ms, 10 Mbit/s",
        "keystroke",
        "wan",
        HOME,
    ),
    Scenario(
        "wan-keystroke-lossy",
        functools.partial(beside_bulk, pace=KEYSTROKE, seconds=12, warm=4),
        "64 bytes every 50 ms beside a bulk download, 100 ms, 50 Mbit/s, 0.5 % lost each way",
        "keystroke",
        "wan",
        LEAKY,
    ),
]
