"""The emulated road is as long, as narrow and as lossy as it says.  Needs root and TUN devices."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from benchmarks import programs
from benchmarks.network import BEYOND_FIRST, Network, Road, default_congestion
from benchmarks.peers import PEERS
from benchmarks.programs import Unavailable
from benchmarks.running import Running
from benchmarks.scenarios.base import port_on_the_road
from phantom.fast.tcp_info import LINUX

# They measure, so they run beside nothing else that does.
pytestmark = pytest.mark.e2e

Open = Callable[[Road], Running]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    if shutil.which("cc") is None:
        pytest.skip("not installed: cc")
    if os.geteuid() != 0 or not Path("/dev/net/tun").exists():
        pytest.skip("not possible here: network namespaces and TUN devices")
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setattr(programs, "CACHE", folder)
        yield folder


@contextmanager
def direct(road: Road, peer: str = "direct") -> Iterator[Running]:
    with ExitStack() as stack:
        try:
            network = Network(road, default_congestion())
        except Unavailable as reason:
            pytest.skip(f"not possible here: {reason}")
        stack.callback(network.close)
        yield stack.enter_context(Running(PEERS[peer], network))


@pytest.mark.slow
def test_delay_and_rate_and_new_destinations(cache: Path) -> None:
    with direct(Road(rtt=30, rate=8)) as running:
        assert running.network.congestion == default_congestion()
        ping = running.loadgen("ping", "--secs", 0.3, "--warm", 0)
        assert ping["rtt_p50_us"] >= 30_000
        fresh = running.loadgen("ttfb", "--count", 3, "--spread", host=BEYOND_FIRST)
        assert (fresh["ok"], fresh["errors"]) == (3, 0)
        running.network.road_counters()
        began = time.monotonic()
        assert running.loadgen("down", "--secs", 0.7, "--warm", 0.3)["gbps"] > 0
        counters = running.network.road_counters()
        most = (time.monotonic() - began) * 1_000_000
        assert counters is not None
        assert 100_000 < counters["down"]["bytes"] <= most
        assert counters["down"]["queue_max_ms"] > 0


@pytest.mark.slow
def test_loss_and_a_schedule_of_bundles(cache: Path) -> None:
    way = Road(rtt=4, loss=3, schedule=((1, 0.4), (200, 0.4)), queue=64, jitter=2, offload=True)
    with direct(way) as running:
        assert running.loadgen("integrity", "--conns", 1, "--bytes", 200_000)["data_ok"] == 1
        counters = running.network.road_counters()
        assert counters is not None
        assert counters["down"]["lost"] + counters["up"]["lost"] > 0
        running.network.tell("set rate 1")
        running.network.tell("drop 0.3")
        running.network.tell("restart")
        assert running.loadgen("recover", "--secs", 20, "--timeout", 5)["ok"] == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("peer", "upload"),
    [("phantom-raw", False), ("phantom-raw", True), ("phantom-tls-workers2", True)],
    ids=["download", "upload", "TLS, to two workers"],
)
def test_bulk_has_a_link_of_its_own_where_packets_are_lost(
    cache: Path, peer: str, upload: bool
) -> None:
    """The tunnel's lanes (decision 29), with a kernel that says what it sent again."""
    if not LINUX:
        pytest.skip("only Linux says so")
    with direct(Road(rtt=40, rate=50, loss=2), peer) as running:
        port = port_on_the_road(running)
        assert running.network.connections(port) == 1
        more = ["--upload"] if upload else []
        paced = ("--pace", 50, "--conns", 1, "--secs", 5, "--warm", 1, "--timeout", 20)
        outcome = running.loadgen("load", *paced, *more)
        assert outcome["bulk_gbps"] > 0 and not outcome.get("errors")
        assert running.network.connections(port) == 2
        assert running.loadgen("integrity", "--conns", 2, "--bytes", 2_000_000)["data_ok"] == 2
