"""When a link that carries is replaced by a fresh one: by age, or before the path freezes it."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall

from phantom.core.backoff import backoff
from phantom.core.freezes import Freezes
from phantom.runtime import Runtime
from phantom.tunnel.frame import FrameProtocol
from phantom.tunnel.redial import Redial

#: Seconds in which a link that falls silent says nothing of its path: after sleep or a move, and
#: after the end of one that had brought much, as of two lanes one carries little, and an outage
#: ends both.
EXCUSED = 30.0
#: Networks of which it is remembered, until the process ends, how links die there.
NETWORKS = 8
#: A link is replaced at an age within this part of ``link_max_age``, at least and at most.
AGE_SPREAD = (0.5, 1.5)


class Renewal:
    """Watches the link that carries, and learns from how links end.

    Args:
        runtime: Clock and entropy.
        redial: Knows how many attempts have failed.
        dial: Makes a fresh link, which takes over while the old one still carries.
        network: Names the network that the machine is on; empty while that is not known.
    """

    def __init__(
        self,
        runtime: Runtime,
        redial: Redial,
        dial: Callable[[], object],
        network: Callable[[], str],
    ) -> None:
        self._runtime = runtime
        self._redial = redial
        self._dial = dial
        self._find_network = network
        self._network = ""
        self._freezes = Freezes()
        self._elsewhere: dict[str, Freezes] = {}
        self._excused = float("-inf")
        self._timer: IDelayedCall | None = None

    def start(self) -> None:
        """Learn of the network that the machine is on now."""
        self._network = self._find_network()

    @property
    def lean(self) -> bool:
        """Whether the next link should add nothing to what it carries."""
        return self._freezes.lean

    def cancel(self) -> None:
        """Replace nothing."""
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()

    def now(self) -> None:
        """Have the link replaced, by make before break."""
        self.cancel()
        self._dial()

    def watch(self, link: FrameProtocol | None, max_age: float) -> None:
        """Have the link that carries from now on replaced in time.

        Args:
            link: The link.
            max_age: Seconds, about; 0 for any.
        """
        self.cancel()
        if max_age > 0:
            age = max_age * self._runtime.uniform(*AGE_SPREAD)
            self._timer = self._runtime.call_later(age, self.now)
        if link is not None:
            link.hasty = self._freezes.suspected
            link.allowance = self._freezes.allowance
            link.on_allowance = self._allowance_spent

    def _allowance_spent(self) -> None:
        """The link may freeze soon: replace it, but do not storm a server that is not there."""
        if not self._redial.failures:
            self.now()
            return
        self.cancel()
        delay = backoff(self._redial.failures, self._runtime.uniform(0.0, 1.0))
        self._timer = self._runtime.call_later(delay, self.now)

    # -- what is learned ----------------------------------------------------------------------

    def replaced(self) -> None:
        """Note that a link had a successor in time."""
        self._freezes.link_replaced()

    def lost(self, link: FrameProtocol, *, reset_young: bool) -> None:
        """Learn from a link that was lost.

        Args:
            link: The link.
            reset_young: Whether a reset came to it at work, soon after it was made.
        """
        if self._runtime.clock.seconds() - self._excused < EXCUSED:
            return  # they end for a reason that says nothing of the path
        much_came = self._freezes.link_lost(
            link.received,
            link.records,
            sent=link.sent,
            fell_silent=link.fell_silent,
            reset=reset_young,
        )
        if much_came:
            self._excused = self._runtime.clock.seconds()

    def woken(self, moved: bool) -> None:
        """Note that the machine slept, or is on another network now."""
        if moved:
            self._remember_network()
        self._excused = self._runtime.clock.seconds()

    def _remember_network(self) -> None:
        """Put away what was learned about the network before, take out what is known of this."""
        elsewhere = self._elsewhere
        if self._network:
            elsewhere.pop(self._network, None)
            elsewhere[self._network] = self._freezes
            if len(elsewhere) > NETWORKS:
                del elsewhere[next(iter(elsewhere))]
        self._network = self._find_network()
        self._freezes = elsewhere.get(self._network) or Freezes()
