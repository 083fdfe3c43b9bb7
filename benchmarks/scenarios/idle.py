"""Many streams that are open and do nothing: memory, and CPU time while they are held."""

from __future__ import annotations

import functools
import json
import subprocess
import threading
import time

from benchmarks import accounting
from benchmarks.running import Row, Running
from benchmarks.scenarios.base import Effort, Scenario

#: Seconds after which a peer that opens or answers too slowly is given up.
LIMIT = 120

#: Seconds between the last stream and the first look, and between first and second.
SETTLE, WATCH = 1.0, 2.0


def idle(running: Running, effort: Effort, streams: int) -> Row:
    """Open streams, hold them, and check with a byte that each still echoes."""
    streams = min(streams, effort.streams)
    time.sleep(SETTLE * effort.haste)
    client, server = _resident(running)
    started = sum(running.cpu())
    command = running.loadgen_command("idle", "--conns", streams, "--hold", "--timeout", 15)
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as loadgen:
        assert loadgen.stdin is not None
        assert loadgen.stdout is not None
        timer = threading.Timer(LIMIT, loadgen.kill)
        timer.start()
        try:
            line = loadgen.stdout.readline()
            if not line:
                return {"error": f"{streams} streams were not open after {LIMIT} s"}
            row: Row = json.loads(line)
            time.sleep(SETTLE * effort.haste)
            cpu, began = sum(running.cpu()), time.monotonic()
            time.sleep(WATCH * effort.haste)
            idle_cpu = (sum(running.cpu()) - cpu) / (time.monotonic() - began)
            client_now, server_now = _resident(running)
            loadgen.stdin.write("\n")
            loadgen.stdin.close()
            line = loadgen.stdout.readline()
            if not line:
                return row | {"error": f"the streams were not checked after {LIMIT} s"}
            row |= json.loads(line)
        finally:
            timer.cancel()
            loadgen.kill()
    opened = row.get("ok") or 1
    return row | {
        "rss0": client + server,
        "rss": client_now + server_now,
        "rss_per_stream": round((client_now + server_now - client - server) / opened),
        "rss_client_per_stream": round((client_now - client) / opened),
        "rss_server_per_stream": round((server_now - server) / opened),
        "cpu_idle": round(idle_cpu, 4),
        "cpu_us_per_open": round((cpu - started) / opened * 1e6, 1),
    }


def _resident(running: Running) -> tuple[int, int]:
    client = accounting.resident([program.pid for program in running.client])[0]
    return client, accounting.resident([program.pid for program in running.server])[0]


SCENARIOS = [
    Scenario(
        f"idle{name}",
        functools.partial(idle, streams=streams),
        f"{streams:,} streams held open",
        "idle",
        "idle",
        alone=True,
    )
    for name, streams in (("2k", 2_000), ("10k", 10_000))
]
