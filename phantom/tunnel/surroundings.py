"""Notices that the machine slept, or that it is on another network now."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall

from phantom.runtime import Runtime
from phantom.telemetry import make_logger

log = make_logger()

#: Seconds between looks at the clocks and the local address.
LOOK = 5.0
#: A lead of the boot clock that grew by this many seconds is a sleep and no rounding.
SLEEP_NOTICED = 3.0


class Surroundings:
    """Looks around every few seconds.

    Args:
        runtime: The clocks and the local address.
        on_change: Called when the link should be looked after, with whether the network is
            another one.
    """

    def __init__(self, runtime: Runtime, on_change: Callable[[bool], None]) -> None:
        self._runtime = runtime
        self._on_change = on_change
        self._lead = 0.0
        self._address = ""
        self._timer: IDelayedCall | None = None

    def start(self) -> None:
        """Look around from now on."""
        self._lead = self._runtime.boottime() - self._runtime.monotonic()
        self._address = self._runtime.local_address()
        self._timer = self._runtime.call_later(LOOK, self._look)

    def stop(self) -> None:
        """Look no longer."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _look(self) -> None:
        self._timer = self._runtime.call_later(LOOK, self._look)
        lead = self._runtime.boottime() - self._runtime.monotonic()
        slept, self._lead = lead - self._lead, lead
        address = self._runtime.local_address()
        moved, self._address = address != self._address, address
        if slept >= SLEEP_NOTICED:
            log.info("awake after {seconds:.0f} s of sleep; probing the link", seconds=slept)
        elif moved:
            log.info("the network has changed; probing the link")
        if slept >= SLEEP_NOTICED or moved:
            self._on_change(moved)
