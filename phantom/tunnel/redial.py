"""When the client dials again: at once, in a moment, or after a while."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall

from phantom.core.backoff import backoff
from phantom.core.budget import TokenBucket
from phantom.runtime import Runtime

#: A request that comes this long after the last attempt is a reason to try at once.
IMPATIENCE = 1.0
#: Seconds before a lost link is dialled anew, at least and at most.
REDIAL = (0.02, 0.2)
#: Such quick redials in a row, and a second in the long run; beyond, back-off applies.  A
#: path that cuts every second is borne, a server that cuts at once is not stormed.
QUICK_REDIALS = 20
QUICK_REDIAL_RATE = 0.5
#: Attempts in a row that may end in the middle of the handshake before back-off applies: a
#: path that cuts links now and then cuts a new one too, and the waits would add up.
QUICK_FAILURES = 3


class Redial:
    """Waits until the next attempt is due.

    Args:
        runtime: Clock and entropy.
        dial: Called when it is.

    Attributes:
        failures: In a row; nothing that worked came between.
        last_attempt: When the last attempt began, on the clock of timers.
    """

    def __init__(self, runtime: Runtime, dial: Callable[[], object]) -> None:
        self._runtime = runtime
        self._dial = dial
        self.failures = 0
        self.last_attempt = float("-inf")
        self._quick = TokenBucket(QUICK_REDIAL_RATE, QUICK_REDIALS)
        self._timer: IDelayedCall | None = None
        self._stopped = True

    def start(self) -> None:
        """Wait for attempts from now on, when told to."""
        self._stopped = False

    def stop(self) -> None:
        """Wait no more, whatever happens."""
        self._stopped = True
        self.cancel()

    def cancel(self) -> None:
        """Wait for nothing."""
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()

    def begun(self) -> None:
        """Note that an attempt begins."""
        self.last_attempt = self._runtime.clock.seconds()

    def hurry(self) -> None:
        """Somebody asks for the tunnel: wait no longer, unless an attempt was just made."""
        if self._runtime.clock.seconds() - self.last_attempt >= IMPATIENCE:
            self.at_once()

    def at_once(self) -> None:
        """Wait no longer; without effect where nothing is waited for."""
        if self._timer is not None:
            self.cancel()
            self._dial()

    def may_be_quick(self) -> bool:
        """Whether an attempt that was cut off may be made again in a moment; counts it."""
        return self.failures < QUICK_FAILURES and self._quick.spend(self._runtime.clock.seconds())

    def after_loss(self, progress: bool) -> None:
        """Wait after a link is lost.

        Args:
            progress: Whether it had carried something new.
        """
        if progress or self._quick.spend(self._runtime.clock.seconds()):
            self._wait(self._runtime.uniform(*REDIAL))
        else:
            self.after_failure()

    def after_failure(self, *, quickly: bool = False) -> float:
        """Count a failure and wait.

        Args:
            quickly: A moment only, and not as long as so many failures ask for.

        Returns:
            Seconds until the next attempt.
        """
        self.failures += 1
        if quickly:
            delay = self._runtime.uniform(*REDIAL)
        else:
            delay = backoff(self.failures, self._runtime.uniform(0.0, 1.0))
        self._wait(delay)
        return delay

    def _wait(self, delay: float) -> None:
        if not self._stopped and self._timer is None:
            self._timer = self._runtime.call_later(delay, self._due)

    def _due(self) -> None:
        self._timer = None
        self._dial()
