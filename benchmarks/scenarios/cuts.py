"""What lives on when the tunnel's connections are destroyed, or the road loses everything.

`benchmarks.survival` asks more about it, through a censor between client and server.
"""

from __future__ import annotations

import functools
import subprocess
import time

from benchmarks.running import Row, Running
from benchmarks.scenarios.base import Effort, Scenario, port_on_the_road
from benchmarks.scenarios.wide import CLEAN

#: Echo streams that are watched.
STREAMS = 8

#: Bytes each way of the checked transfer that a cut on a road interrupts.
TRANSFER = 100 << 20

#: Seconds in which the road loses everything.
BLACKOUT = 3


def cut(running: Running, effort: Effort, how: str) -> Row:
    """Cut while echoes and a transfer are under way, then look who is left."""
    if running.peer.wire == "quic" and how == "reset":
        return {"skipped": "no TCP connection to cut"}
    long = running.network.road is not None
    watch = ("--conns", STREAMS, "--secs", 10 if long else 4, "--timeout", 12)
    echoes = _begin(running, "survive", *watch)
    checked = ("--conns", 1, "--bytes", TRANSFER, "--timeout", 12)
    transfer = _begin(running, "integrity", *checked) if long else None
    try:
        time.sleep(2.5 if long else 1)
        if how == "reset":
            running.network.destroy_connections(port_on_the_road(running))
        else:
            running.network.tell(f"drop {BLACKOUT}")
            time.sleep(BLACKOUT)
        recovery = running.loadgen("recover", "--secs", 12, "--timeout", 6)
        row = running.understand(echoes.communicate(timeout=60)[0])
        if transfer is not None:
            row["transfer_ok"] = _outcome(running, transfer).get("data_ok", 0)
    finally:
        for program in (echoes, transfer):
            if program is not None:
                program.kill()
                program.communicate()
    row["recover_ms"] = recovery.get("after_ms") if recovery.get("ok") else None
    return row


def _begin(running: Running, mode: str, *options: object) -> subprocess.Popen[str]:
    command = running.loadgen_command(mode, *options)
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def _outcome(running: Running, program: subprocess.Popen[str]) -> Row:
    try:
        return running.understand(program.communicate(timeout=60)[0])
    except subprocess.TimeoutExpired:
        return {}


SCENARIOS = [
    Scenario(
        name,
        functools.partial(cut, how=how),
        note,
        "cut",
        "cut",
        road,
        alone=True,
    )
    for name, how, note, road in (
        ("cut", "reset", "every connection of the tunnel destroyed, on loopback", None),
        ("wan-reset", "reset", "the same at 100 ms, with 100 MiB each way under way", CLEAN),
        ("wan-blackout", "blackout", "the road loses everything for 3 s", CLEAN),
    )
]
