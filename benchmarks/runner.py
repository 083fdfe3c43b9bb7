"""Interleaved runs: every peer once, then every peer again, so that all meet the same weather.

Where the weather changes within a run, peers can stay up beside each other and take turns.
"""

from __future__ import annotations

import json
import platform
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TextIO

import attrs

from benchmarks.network import Network, NoNetwork, Road
from benchmarks.peers import phantom
from benchmarks.peers.base import Peer
from benchmarks.programs import Unavailable
from benchmarks.report import brief
from benchmarks.running import Failed, Row, Running
from benchmarks.scenarios import Effort, Scenario
from benchmarks.turns import Turn

#: Failures after which a peer is left out of the runs that remain.
PATIENCE = 2


@attrs.frozen
class Plan:
    """What is to be run.

    Attributes:
        peers: Whom to measure.
        scenarios: What to do with them.
        runs: How often.
        effort: How long.
        congestion: The TCP congestion controls to run the roads with, one after the other.
            Loopback has the first.
        private: Whether loopback scenarios may have a namespace of their own.
        turns: How often a run does each scenario of loopback, with all peers up and taking turns;
            0 starts them one after the other, for once.
    """

    peers: Sequence[Peer]
    scenarios: Sequence[Scenario]
    runs: int
    effort: Effort
    congestion: Sequence[str]
    private: bool = True
    turns: int = 0


def machine() -> dict[str, str]:
    """Return what a figure's caption needs to say about where it comes from."""
    model = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    with open("/proc/stat") as file:
        cores = sum(line[:3] == "cpu" and line[3].isdigit() for line in file)
    return {
        "machine": f"{cores} x {model or platform.machine()}",
        "kernel": platform.release(),
        "python": platform.python_version(),
        "commit": phantom.commit(),
    }


def _failure(error: Exception) -> Row:
    """Return the row of what ended with an exception."""
    return {"error": f"{type(error).__name__}: {error}"}


class Runner:
    """Carries out a plan, and writes a row for each scenario as soon as it is known.

    Args:
        plan: What to do.
        output: A file for the rows, one JSON object a line.
        tell: Told of each row as text.
    """

    def __init__(self, plan: Plan, output: TextIO | None, tell: Callable[[str], None]) -> None:
        self.rows: list[Row] = []
        self._plan, self._output, self._tell = plan, output, tell
        self._turn = Turn()
        self._failures: dict[str, int] = {}
        self._about = machine()
        self._commits: dict[Path, str] = {}

    def run(self) -> list[Row]:
        """Run it all; return the rows."""
        roads: dict[Road | None, list[Scenario]] = {}
        for scenario in self._plan.scenarios:
            roads.setdefault(scenario.road, []).append(scenario)
        try:
            for road, scenarios in roads.items():
                controls = self._plan.congestion if road else self._plan.congestion[:1]
                together: list[Scenario] = []
                if self._plan.turns and road is None:
                    together = [scenario for scenario in scenarios if not scenario.alone]
                    scenarios = [scenario for scenario in scenarios if scenario.alone]
                for number in range(1, self._plan.runs + 1):
                    if together:
                        self._in_turn(together, number)
                    for congestion in controls:
                        for peer in self._plan.peers:
                            if not self._gave_up(peer):
                                self._peer(peer, road, congestion, scenarios, number)
        finally:
            self._turn.drop()
        return self.rows

    def _peer(
        self,
        peer: Peer,
        road: Road | None,
        congestion: str,
        scenarios: Sequence[Scenario],
        number: int,
    ) -> None:
        """Run a peer through scenarios of one road: short ones on one start, others alone."""
        together = [scenario for scenario in scenarios if not scenario.alone]
        batches = [together] if together else []
        batches += [[scenario] for scenario in scenarios if scenario.alone]
        for batch in batches:
            left = list(batch)
            while left:
                self._turn.take()
                try:
                    self._batch(peer, road, congestion, left, number)
                except Unavailable as reason:
                    self._unavailable(peer, left, number, congestion, reason)
                    return
                except (Failed, OSError, subprocess.SubprocessError) as error:
                    self._failed(peer, [left.pop(0)], number, congestion, error)
                    if self._gave_up(peer):
                        return

    def _batch(
        self, peer: Peer, road: Road | None, congestion: str, left: list[Scenario], number: int
    ) -> None:
        """Start a peer and measure, taking what is done off the list, until one has an error."""
        network = Network(road, congestion, private=self._plan.private)
        try:
            with Running(peer, network) as running:
                while left:
                    self._turn.take()
                    row = left[0].measure(running, self._plan.effort)
                    if counters := network.road_counters():
                        row["road"] = counters
                        row["queue_mean_ms"] = counters["down"]["queue_mean_ms"]
                        row["queue_max_ms"] = counters["down"]["queue_max_ms"]
                    self._emit(peer, left.pop(0), number, network.congestion, row)
                    if row.get("error"):
                        return
        finally:
            network.close()

    def _in_turn(self, scenarios: Sequence[Scenario], number: int) -> None:
        """Start every peer; do each scenario with one after the other, as often as there are turns.

        Every other turn goes the other way round, so that a drift falls on all alike.
        """
        congestion = self._plan.congestion[0]
        together = round(time.time(), 3)
        with ExitStack() as all_of_them:
            self._turn.take()
            up: dict[Peer, Running] = {}
            ends: dict[Peer, ExitStack] = {}
            for peer in self._plan.peers:
                if self._gave_up(peer):
                    continue
                ends[peer] = all_of_them.enter_context(ExitStack())
                try:
                    network = Network(None, congestion, private=self._plan.private)
                    ends[peer].callback(network.close)
                    up[peer] = ends[peer].enter_context(Running(peer, network))
                except Unavailable as reason:
                    self._unavailable(peer, scenarios, number, congestion, reason)
                except (Failed, OSError, subprocess.SubprocessError) as error:
                    self._failed(peer, scenarios, number, congestion, error)
            for turn in range(1, self._plan.turns + 1):
                for scenario in scenarios:
                    for peer in list(up)[:: 1 if turn % 2 else -1]:
                        self._turn.take()
                        try:
                            row = scenario.measure(up[peer], self._plan.effort)
                        except (Failed, OSError, subprocess.SubprocessError) as error:
                            row = _failure(error)
                        control = up[peer].network.congestion
                        place = {"together": together, "turn": turn}
                        self._emit(peer, scenario, number, control, {**place, **row})
                        if row.get("error"):
                            # It shall not take from the others what it does not give.
                            ends[peer].close()
                            del up[peer]

    def _unavailable(
        self,
        peer: Peer,
        scenarios: Sequence[Scenario],
        number: int,
        congestion: str,
        reason: Unavailable,
    ) -> None:
        """Skip scenarios; without a network those of another road may go, without the peer none."""
        for scenario in scenarios:
            self._emit(peer, scenario, number, congestion, {"skipped": str(reason)})
        if not isinstance(reason, NoNetwork):
            self._failures[peer.name] = PATIENCE

    def _failed(
        self,
        peer: Peer,
        scenarios: Sequence[Scenario],
        number: int,
        congestion: str,
        error: Exception,
    ) -> None:
        """Note one failure, for every scenario that it took."""
        for scenario in scenarios:
            self._emit(peer, scenario, number, congestion, _failure(error))
        self._failures[peer.name] = self._failures.get(peer.name, 0) + 1

    def _gave_up(self, peer: Peer) -> bool:
        return self._failures.get(peer.name, 0) >= PATIENCE

    def _commit(self, tree: Path) -> str:
        if tree not in self._commits:
            self._commits[tree] = phantom.commit(tree)
        return self._commits[tree]

    def _emit(
        self, peer: Peer, scenario: Scenario, number: int, congestion: str, measured: Row
    ) -> None:
        row: Row = {
            "peer": peer.name,
            "scenario": scenario.name,
            "kind": scenario.kind,
            "cc": congestion,
            "run": number,
            "time": round(time.time()),
            **self._about,
            **({"commit": self._commit(peer.tree)} if peer.tree else {}),
            **({"python": phantom.version_of(peer.python)} if peer.python else {}),
            **measured,
        }
        self.rows.append(row)
        if self._output is not None:
            self._output.write(json.dumps(row) + "\n")
            self._output.flush()
        self._tell(f"[{number}] {peer.name:22s} {scenario.name:16s} {brief(measured)}")
