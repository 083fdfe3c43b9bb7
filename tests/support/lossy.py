"""A road that loses packets, as far as a link can tell."""

from __future__ import annotations

from support.pipes import Pipe


class LossyGauge:
    """What a carrier knows of a connection (`phantom.interfaces.LinkGauge`).

    Attributes:
        lossy: Whether each look finds that more was sent again.
    """

    record_limit = 65519

    def __init__(self, round_trip: float, *, lossy: bool = True) -> None:
        self._round_trip = round_trip
        self.lossy = lossy
        self._lost = 0

    def full(self) -> None:
        pass

    def stop(self) -> None:
        pass

    def least_round_trip(self) -> float | None:
        return self._round_trip

    def segments_lost(self) -> int | None:
        if self.lossy:
            self._lost += 3
        return self._lost

    def segments_under_way(self) -> int | None:
        return 0


def lose_packets(pipe: Pipe, round_trip: float, *, lossy: bool = True) -> None:
    """Let both ends of a connection believe that it is long and loses packets."""
    for end in (pipe.left, pipe.right):
        end.link_gauge = LossyGauge(round_trip, lossy=lossy)  # type: ignore[attr-defined]
