"""What the runtime takes from the system."""

from __future__ import annotations

import time

from twisted.internet.selectreactor import SelectReactor

from phantom.runtime import steady, system_runtime


def test_timers_follow_a_clock_that_nobody_sets() -> None:
    reactor = SelectReactor()
    steady(reactor)
    assert abs(reactor.seconds() - time.monotonic()) < 1
    call = reactor.callLater(5, int)
    assert 4 < call.getTime() - time.monotonic() <= 5
    call.cancel()


def test_timers_that_are_set_already_are_not_moved() -> None:
    reactor = SelectReactor()
    call = reactor.callLater(5, int)
    steady(reactor)
    assert abs(reactor.seconds() - time.time()) < 1
    call.cancel()


def test_random_numbers_stay_within_their_bounds() -> None:
    runtime = system_runtime(SelectReactor())
    for _ in range(200):
        assert 2.0 <= runtime.uniform(2.0, 3.0) <= 3.0
        assert 5 <= runtime.randint(5, 7) <= 7
    items = list(range(20))
    runtime.shuffle(items)
    assert sorted(items) == list(range(20))
    assert runtime.boottime() >= runtime.monotonic() - 1
    assert isinstance(runtime.local_address(), str)
