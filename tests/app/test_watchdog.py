"""When a worker is taken for one that hangs, and when it is not."""

from __future__ import annotations

from support.runtime import FakeTime, fake_runtime
from twisted.internet.task import Clock

from phantom.app.watchdog import LOOK, MISSES, Watchdog


class Workers:
    """Some workers, by incarnation, that answer at once unless they are silent."""

    def __init__(self, *incarnations: int) -> None:
        self.clock = Clock()
        self.time = FakeTime(self.clock)
        self.alive = set(incarnations)
        self.silent: set[int] = set()
        self.hung: list[int] = []
        self.asked = 0
        runtime = fake_runtime(self.clock, reactor=self.clock, time=self.time)
        self.watchdog = Watchdog(runtime, self.ask, self.replace)
        self.watchdog.start()

    def ask(self) -> list[int]:
        self.asked += 1
        for each in self.alive - self.silent:
            self.clock.callLater(0.01, self.watchdog.answered, each)
        return sorted(self.alive)

    def replace(self, incarnation: int) -> None:
        self.hung.append(incarnation)
        self.alive.discard(incarnation)

    def looks(self, count: float) -> None:
        self.clock.pump([LOOK / 10] * round(count * 10))


def test_a_worker_that_answers_is_left_alone() -> None:
    workers = Workers(1, 2)
    workers.looks(100)
    assert workers.asked == 100
    assert not workers.hung


def test_a_worker_that_does_not_answer_hangs_after_half_a_minute_and_is_told_once() -> None:
    workers = Workers(1, 2, 3)
    workers.looks(3.5)
    workers.silent.add(2)
    # The question that it does not answer is asked half a look later.
    workers.looks(0.5 + MISSES - 0.1)
    assert not workers.hung
    workers.looks(0.2)
    assert workers.hung == [2]
    workers.looks(20)
    assert workers.hung == [2]


def test_one_answer_in_time_is_enough() -> None:
    workers = Workers(1)
    for _ in range(5):
        workers.silent.add(1)
        workers.looks(MISSES - 1)
        workers.silent.clear()
        workers.looks(1)
    assert not workers.hung


def test_the_sleep_of_the_machine_is_no_silence() -> None:
    workers = Workers(1)
    workers.silent.add(1)
    workers.looks(MISSES - 0.5)
    workers.time.sleep(3600)  # timers do not see it
    workers.looks(MISSES)
    assert not workers.hung
    workers.looks(1)
    assert workers.hung == [1]


def test_time_in_which_the_parent_was_stopped_too_is_no_silence() -> None:
    workers = Workers(1)
    workers.silent.add(1)
    workers.looks(MISSES - 0.5)
    workers.clock.advance(600)  # a stopped process, a frozen container, a paused machine
    workers.looks(MISSES - 0.5)
    assert not workers.hung
    workers.looks(1)
    assert workers.hung == [1]


def test_who_may_have_waited_for_the_one_that_hangs_gets_another_moment() -> None:
    workers = Workers(1, 2)
    workers.silent.add(1)
    workers.looks(2)
    workers.silent.add(2)  # it waits for a lock that the first has
    workers.looks(MISSES - 0.9)
    assert workers.hung == [1]
    workers.silent.clear()
    workers.looks(50)
    assert workers.hung == [1]


def test_several_that_hang_alike_are_all_told() -> None:
    workers = Workers(1, 2, 3)
    workers.silent |= {1, 3}
    workers.looks(MISSES + 1.5)
    assert workers.hung == [1, 3]


def test_nobody_is_asked_after_the_stop() -> None:
    workers = Workers(1)
    workers.watchdog.stop()
    workers.watchdog.stop()
    workers.looks(10)
    assert not workers.asked
    assert not workers.clock.getDelayedCalls()
