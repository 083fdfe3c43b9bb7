"""What a scenario is."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from benchmarks.network import Road
from benchmarks.running import Row, Running


@attrs.frozen
class Effort:
    """How long scenarios take.

    Attributes:
        seconds: Measured time on loopback.
        road_seconds: Measured time of a bulk transfer on an emulated road.
        streams: At most so many streams in `idle` scenarios.
    """

    seconds: float = 3.0
    road_seconds: float = 8.0
    streams: int = 10_000

    @property
    def haste(self) -> float:
        """What warming up and settling down are multiplied with: runs under a second are tests."""
        return min(1.0, self.seconds)

    @property
    def road_haste(self) -> float:
        """The same for scenarios on roads that have a length of their own."""
        return min(1.0, self.road_seconds / 4)


def port_on_the_road(running: Running) -> int:
    """Return the port of the peer's connections between client and server."""
    return running.place.port if running.server else running.destination_port


@attrs.frozen
class Scenario:
    """Something done to a peer, and measured.

    Attributes:
        name: What it is called.
        measure: Does it.
        note: What it is.
        kind: What its table looks like (report.COLUMNS).
        group: The name that chooses several.
        road: The road it happens on; None is loopback.
        alone: Whether it wants the peer freshly started, and leaves it unfit for others.
    """

    name: str
    measure: Callable[[Running, Effort], Row]
    note: str
    kind: str
    group: str
    road: Road | None = None
    alone: bool = False
