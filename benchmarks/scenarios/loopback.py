"""Scenarios without a road: CPU time, throughput, latency, correctness."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

from benchmarks.running import Row, Running
from benchmarks.scenarios.base import Effort, Scenario

#: Seconds of bulk before its window opens: slow start and autotuning are over.
WARM = 0.5

#: KiB below which loadgen's receivers sleep on: cheaper for everybody on loopback.
LOW_WATER = 128

#: Seconds of a ping-pong; it settles sooner than bulk.
PING = 2.5

Measure = Callable[[Running, Effort], Row]


def bulk(mode: str, streams: int) -> Measure:
    """Transfer as much as goes."""

    def measure(running: Running, effort: Effort) -> Row:
        window = ("--secs", effort.seconds, "--warm", WARM * effort.haste)
        return running.measured(mode, "--conns", streams, *window, "--lowat", LOW_WATER)

    return measure


def ping(running: Running, effort: Effort) -> Row:
    """Play ping-pong on a machine that does nothing else."""
    return running.measured("ping", "--secs", min(effort.seconds, PING), "--warm", 0.3)


def ping_hot(running: Running, effort: Effort) -> Row:
    """Play ping-pong while an idle-priority spinner keeps every core awake."""
    seconds = min(effort.seconds, PING)
    command = [running.loadgen_program, "spin", "--secs", str(seconds + 3)]
    with subprocess.Popen(command) as spinner:
        try:
            return running.measured("ping", "--secs", seconds, "--warm", 0.3)
        finally:
            spinner.kill()


def ping_beside(streams: int, *, upload: bool) -> Measure:
    """Play ping-pong beside bulk transfers through the same proxy."""

    def measure(running: Running, effort: Effort) -> Row:
        window = ("--secs", min(effort.seconds, PING), "--warm", WARM * effort.haste)
        way = ["--upload"] if upload else []
        bulk = ("--conns", streams, "--lowat", LOW_WATER, *way)
        return running.measured("load", *bulk, *window)

    return measure


def churn(workers: int) -> Measure:
    """Open connections, one request and one reply each."""

    def measure(running: Running, effort: Effort) -> Row:
        return running.measured("churn", "--conns", workers, "--secs", effort.seconds)

    return measure


def integrity(running: Running, effort: Effort) -> Row:
    """Compare every byte, and close each half first."""
    size = int(effort.haste * (8 << 20))
    return running.measured("integrity", "--conns", 4, "--bytes", size, "--timeout", 8)


def http_connect(running: Running, effort: Effort) -> Row:
    """Send some requests through the HTTP proxy."""
    if running.commands.http is None:
        return {"skipped": "no HTTP proxy"}
    return running.measured("ttfb", "--count", 20, "--secs", 20, http=True)


_WAYS = {"down": "download", "up": "upload", "both": "both ways at once"}
#: The scenarios that say most, and are run unless others are chosen.
_MAIN = {"down1", "up1", "down16"}

SCENARIOS = [
    *(
        Scenario(
            f"{mode}{streams}",
            bulk(mode, streams),
            f"bulk, {words}, {streams} stream{'s' * (streams > 1)}",
            "bulk",
            "main" if f"{mode}{streams}" in _MAIN else "bulk",
        )
        for streams in (1, 16, 200)
        for mode, words in _WAYS.items()
    ),
    Scenario("ping", ping, "64-byte ping-pong, machine otherwise idle", "ping", "main"),
    Scenario("ping-hot", ping_hot, "the same with all cores kept awake", "ping", "main"),
    *(
        Scenario(
            f"load{'-up' * upload}{streams}",
            ping_beside(streams, upload=upload),
            f"ping-pong beside {streams} bulk {'up' if upload else 'down'}load(s)",
            "load",
            "latency" if upload else "main",
        )
        for upload in (False, True)
        for streams in (1, 4)
    ),
    Scenario("churn", churn(16), "16 workers: open, request, reply, close", "churn", "main"),
    Scenario("churn1", churn(1), "the same, one at a time", "churn", "latency"),
    Scenario("integrity", integrity, "4 streams compared; half-close", "integrity", "main"),
    Scenario("http-connect", http_connect, "20 requests, HTTP CONNECT", "churn", "latency"),
]
