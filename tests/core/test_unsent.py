"""How much may wait unsent in front of a link."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from phantom.core.unsent import (
    FIRST_UNSENT,
    LEAST_SAMPLES,
    LEAST_UNSENT,
    MOST_UNSENT,
    SAMPLES,
    UNSENT_TIME,
    UnsentBound,
)
from phantom.core.wire import MAX_RECORD_PLAINTEXT


def settle(bound: UnsentBound, rate: float, *, starved: bool = False) -> None:
    for _ in range(SAMPLES):
        bound.observe(rate, starved=starved)


def test_a_fast_link_keeps_the_most() -> None:
    bound = UnsentBound()
    settle(bound, 100e6 / 8)
    assert bound.size == bound.low_water == MOST_UNSENT
    assert bound.record_limit == MAX_RECORD_PLAINTEXT


def test_ten_megabits_wait_less_than_a_keystroke_notices() -> None:
    bound = UnsentBound()
    rate = 10e6 / 8
    settle(bound, rate)
    # In the kernel, one record beyond its mark, and one that waits for it.
    assert (bound.low_water + 2 * bound.record_limit) / rate <= UNSENT_TIME
    assert bound.size >= LEAST_UNSENT


def test_a_link_that_starts_is_not_judged() -> None:
    bound = UnsentBound()
    for _ in range(LEAST_SAMPLES - 1):
        assert not bound.observe(1000.0, starved=False)
    assert bound.size == MOST_UNSENT
    assert bound.observe(1000.0, starved=False)
    assert bound.size == LEAST_UNSENT


def test_a_link_to_a_peer_far_away_begins_with_less_and_may_grow_at_once() -> None:
    bound = UnsentBound(near=False)
    assert bound.size == FIRST_UNSENT
    assert not bound.observe(1e5, starved=False)
    assert bound.observe(100e6, starved=False)
    assert bound.size == MOST_UNSENT
    assert not bound.observe(1e5, starved=False)


def test_a_link_that_becomes_slower_is_believed_after_a_second() -> None:
    bound = UnsentBound()
    settle(bound, 100e6)
    for _ in range(SAMPLES - 1):
        assert not bound.observe(1e5, starved=False)
    assert bound.observe(1e5, starved=False)
    assert bound.size == LEAST_UNSENT
    assert bound.observe(100e6, starved=False)  # upwards at once
    assert bound.size == MOST_UNSENT


def test_a_bound_that_starves_its_link_is_widened() -> None:
    """Refilled every 3 ms, the link must end at its own rate, not at what the bound lets by."""
    bound, link = UnsentBound(), 4e6
    settle(bound, 3e5)  # it was slow once
    for _ in range(10 * SAMPLES):
        carried = min(link, bound.low_water / 2 / 0.003)
        bound.observe(carried, starved=carried < link)
    assert carried == link


@given(st.lists(st.tuples(st.floats(0, 1e10), st.booleans())))
def test_always_within_its_limits(samples: list[tuple[float, bool]]) -> None:
    bound = UnsentBound()
    for rate, starved in samples:
        old = bound.size
        assert bound.observe(rate, starved=starved) == (bound.size != old)
        assert LEAST_UNSENT <= bound.size <= MOST_UNSENT
        assert bound.size & (bound.size - 1) == 0
        assert 1024 <= bound.record_limit <= MAX_RECORD_PLAINTEXT
