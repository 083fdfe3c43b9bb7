"""When the next attempt is due."""

from __future__ import annotations

from support.runtime import fake_runtime
from twisted.internet.task import Clock

from phantom.core.backoff import LONGEST, SHORTEST
from phantom.tunnel.redial import IMPATIENCE, QUICK_FAILURES, QUICK_REDIALS, REDIAL, Redial


class Dialling:
    """A `Redial` whose attempts are written down, and fail unless told otherwise."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.dialled: list[float] = []
        self.redial = Redial(fake_runtime(self.clock, reactor=self.clock), self.dial)
        self.redial.start()

    def dial(self) -> None:
        self.dialled.append(self.clock.seconds())
        self.redial.begun()

    def wait(self) -> float:
        """Return how long it is until the next attempt."""
        start, count = self.clock.seconds(), len(self.dialled)
        while len(self.dialled) == count:
            self.clock.advance(0.01)
            assert self.clock.seconds() < start + 2 * LONGEST
        return self.clock.seconds() - start


def test_a_link_that_carried_something_is_dialled_anew_in_a_moment_for_ever() -> None:
    dialling = Dialling()
    for _ in range(5 * QUICK_REDIALS):
        dialling.redial.after_loss(True)
        assert REDIAL[0] <= dialling.wait() <= REDIAL[1] + 0.02
    assert not dialling.redial.failures


def test_links_that_are_cut_at_once_are_dialled_ever_more_slowly() -> None:
    dialling = Dialling()
    waits = []
    for _ in range(QUICK_REDIALS + 20):
        dialling.redial.after_loss(False)
        waits.append(dialling.wait())
    assert all(wait <= REDIAL[1] + 0.02 for wait in waits[:QUICK_REDIALS])
    assert max(waits) > 5 * SHORTEST


def test_the_first_failures_in_a_row_may_be_quick() -> None:
    dialling = Dialling()
    quick = []
    for _ in range(QUICK_FAILURES + 2):
        quick.append(dialling.redial.may_be_quick())
        dialling.redial.after_failure(quickly=quick[-1])
        dialling.wait()
    assert quick == [True] * QUICK_FAILURES + [False] * 2


def test_who_asks_has_it_tried_at_once_but_not_again_and_again() -> None:
    dialling = Dialling()
    dialling.dial()
    dialling.redial.failures = 20
    dialling.redial.after_failure()
    dialling.redial.hurry()
    assert len(dialling.dialled) == 1
    dialling.clock.advance(IMPATIENCE)
    dialling.redial.hurry()
    dialling.redial.hurry()
    assert len(dialling.dialled) == 2
    dialling.redial.at_once()
    assert len(dialling.dialled) == 2, "nothing is waited for"


def test_nothing_is_due_after_the_stop() -> None:
    dialling = Dialling()
    dialling.redial.after_failure()
    dialling.redial.stop()
    dialling.redial.after_failure()
    dialling.redial.after_loss(True)
    assert not dialling.clock.getDelayedCalls()
