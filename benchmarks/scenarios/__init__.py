"""The scenarios: what is done to each peer."""

from __future__ import annotations

from benchmarks.scenarios import cuts, idle, loopback, wide
from benchmarks.scenarios.base import Effort, Scenario

__all__ = ["SCENARIOS", "Effort", "Scenario"]

#: All of them by name, in the order of reports.
SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario
    for scenario in [
        *loopback.SCENARIOS,
        *idle.SCENARIOS,
        *wide.SCENARIOS,
        *cuts.SCENARIOS,
    ]
}
