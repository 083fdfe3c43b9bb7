"""Many clients in one process, each with a key, a session and one open stream.

``python -m benchmarks.crowd CLIENT.TOML KEYS PORT`` says "open" when every stream is, and
then stands still until it is killed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.protocol import Protocol
from twisted.internet.task import react

from phantom.address import Destination, parse_host
from phantom.app.client import make_tunnel
from phantom.config.keys import PrivateKey
from phantom.config.load import load_client
from phantom.runtime import system_runtime
from phantom.telemetry import Meters

#: How many dial at a time.
AT_ONCE = 32


async def crowd(reactor: Any, config: Path, keys: Path, port: int) -> None:
    """Open everything, say so, and wait."""
    base = load_client(config).client
    runtime = system_runtime(reactor)
    destination = Destination(parse_host("127.0.0.1"), port)
    lines = keys.read_text().split()
    kept = []
    for start in range(0, len(lines), AT_ONCE):
        opening = []
        for line in lines[start : start + AT_ONCE]:
            client = attrs.evolve(base, private_key=PrivateKey.parse(line))
            dialer, outbound = make_tunnel(runtime, client, Meters())
            dialer.start()
            kept.append(dialer)
            opening.append(outbound.connect(destination, Protocol()))
        await gatherResults(opening)
    print("open", flush=True)
    await Deferred()


if __name__ == "__main__":
    react(crowd, (Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])))
