from __future__ import annotations

from conftest import LoggedFailures
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from phantom.fast.timeouts import Timeouts


def test_each_is_called_in_its_own_time() -> None:
    clock, called = Clock(), []
    timeouts = Timeouts(clock, 10.0)
    timeouts.start("a", lambda: called.append("a"))
    clock.advance(4)
    timeouts.start("b", lambda: called.append("b"))
    assert len(timeouts) == 2
    assert len(clock.getDelayedCalls()) == 1
    clock.advance(5.5)
    assert called == []
    clock.advance(0.5)
    assert called == ["a"]
    clock.advance(4)
    assert called == ["a", "b"]
    assert not clock.getDelayedCalls()


def test_a_start_anew_waits_from_then() -> None:
    clock, called = Clock(), []
    timeouts = Timeouts(clock, 10.0)
    timeouts.start("a", lambda: called.append("first"))
    clock.advance(9)
    timeouts.start("a", lambda: called.append("second"))
    clock.advance(9)
    assert called == []
    clock.advance(1)
    assert called == ["second"]


def test_one_that_fails_is_not_everybodys_trouble(logged_failures: LoggedFailures) -> None:
    clock, called = Clock(), []
    timeouts = Timeouts(clock, 1.0)
    timeouts.start("bad", lambda: 1 // 0)
    timeouts.start("again", lambda: timeouts.start("again", lambda: called.append("again")))
    timeouts.start("good", lambda: called.append("good"))
    clock.advance(1)
    assert called == ["good"]
    clock.advance(1)
    assert called == ["good", "again"]
    assert not clock.getDelayedCalls()
    assert len(logged_failures.flush(ZeroDivisionError)) == 1


@given(
    st.lists(st.tuples(st.sampled_from(["start", "stop", "wait"]), st.integers(0, 4)), max_size=60)
)
def test_like_timers_of_their_own(steps: list[tuple[str, int]]) -> None:
    clock = Clock()
    timeouts = Timeouts(clock, 3.0)
    called: list[int] = []
    due: dict[int, float] = {}
    for what, n in steps:
        if what == "start":
            timeouts.start(n, lambda n=n: called.append(n))  # type: ignore[misc]
            due.pop(n, None)
            due[n] = clock.seconds() + 3
        elif what == "stop":
            timeouts.stop(n)
            due.pop(n, None)
        else:
            called.clear()
            clock.advance(n)
            expected = [key for key, when in due.items() if when <= clock.seconds()]
            assert called == expected
            for key in expected:
                del due[key]
        assert len(timeouts) == len(due)
        assert bool(clock.getDelayedCalls()) is bool(due)
