"""Notices a worker process that lives and does nothing any more.

A process that crashed closes its connection to the parent; one that hangs keeps it, and with it
its sessions, whose clients wait.  So the parent asks every worker every few seconds; the answer
comes from the worker's reactor and so says that it turns.  doc/adr/0024 has the reasons.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from twisted.internet.interfaces import IDelayedCall

from phantom.runtime import Runtime

#: Seconds between two questions.
LOOK = 5.0
#: Questions in a row without an answer after which a worker hangs: half a minute.  Nothing that
#: a worker does in its reactor takes a second, and a machine that swaps gets some more; a client
#: whose link is idle calls it dead after a minute (`keepalive`), and by then there should be
#: somebody to answer it.
MISSES = 6
#: Seconds by which a look may come late, or the boot clock get ahead of the other, before the
#: time since the last look is nobody's fault: the machine slept, or this process was stopped,
#: and the workers probably with it.
LATE = 3.0


class Watchdog:
    """Asks every worker now and then, and tells of those that do not answer.

    Args:
        runtime: The clocks.
        ask: Asks every worker that can be asked, and returns the incarnations of these.
        on_hang: Called with the incarnation of a worker that hangs.
    """

    def __init__(
        self,
        runtime: Runtime,
        ask: Callable[[], Iterable[int]],
        on_hang: Callable[[int], object],
    ) -> None:
        self._runtime = runtime
        self._ask = ask
        self._on_hang = on_hang
        # How many questions each has left unanswered.
        self._silent: dict[int, int] = {}
        self._last = 0.0
        self._lead = 0.0
        self._timer: IDelayedCall | None = None

    def start(self) -> None:
        """Ask from now on."""
        self._last, self._lead = self._clocks()
        self._timer = self._runtime.call_later(LOOK, self._look)

    def stop(self) -> None:
        """Ask no longer; harmless when nobody is asked."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def answered(self, incarnation: int) -> None:
        """Note that a worker has answered."""
        self._silent.pop(incarnation, None)

    def _look(self) -> None:
        self._timer = self._runtime.call_later(LOOK, self._look)
        last, lead = self._last, self._lead
        self._last, self._lead = self._clocks()
        if self._last - last >= LOOK + LATE or self._lead - lead >= LATE:
            self._silent.clear()
        most = max(self._silent.values(), default=0)
        if most >= MISSES:
            # Only those that have been silent the longest.  A worker that is stopped while it
            # has a table's lock silences its siblings, one after the other; it is among these,
            # and they go on when it is gone.
            for incarnation in [each for each, count in self._silent.items() if count == most]:
                self._on_hang(incarnation)
        self._silent = {each: self._silent.get(each, 0) + 1 for each in self._ask()}

    def _clocks(self) -> tuple[float, float]:
        """Return the time, and how far the boot clock is ahead of it by sleep."""
        now = self._runtime.monotonic()
        return now, self._runtime.boottime() - now
