"""Scheduler, token bucket, back-off, and the table of stream states."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phantom.core.backoff import LONGEST, SHORTEST, backoff
from phantom.core.budget import TokenBucket
from phantom.core.scheduler import NEW, SMALL, URGENT_RUN, Scheduler
from phantom.core.stream import RECEIVING, SENDING, TRANSITIONS, Event, State


def test_little_goes_before_much() -> None:
    scheduler: Scheduler[str] = Scheduler()
    scheduler.add("bulk", SMALL + 1, NEW)
    scheduler.add("key", 1, 10**9)
    scheduler.add("new", 10**6, 0)
    assert scheduler.waiting == 3
    assert [scheduler.take() for _ in range(3)] == ["key", "new", "bulk"]
    assert not scheduler.waiting


def test_bulk_shares_round_robin() -> None:
    scheduler: Scheduler[int] = Scheduler()
    for i in range(3):
        scheduler.add(i, 10**6, 10**6)
    order = []
    for _ in range(6):
        stream = scheduler.take()
        order.append(stream)
        scheduler.add(stream, 10**6, 10**6)
    assert order == [0, 1, 2, 0, 1, 2]


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=20))
def test_who_is_removed_is_not_taken(streams: list[tuple[bool, bool]]) -> None:
    scheduler: Scheduler[int] = Scheduler()
    for number, (bulk, _) in enumerate(streams):
        scheduler.add(number, 10**6 if bulk else 1, 10**6)
    for number, (_, removed) in enumerate(streams):
        if removed:
            scheduler.remove(number)
    left = [number for number, (_, removed) in enumerate(streams) if not removed]
    assert scheduler.waiting == len(left)
    assert sorted(scheduler.take() for _ in left) == left


def test_a_crowd_of_small_streams_does_not_starve_bulk() -> None:
    scheduler: Scheduler[str] = Scheduler()
    scheduler.add("bulk", 10**6, 10**6)
    served = 0
    for turn in range(1, 1000):
        scheduler.add("small", 1, 10**6)
        if scheduler.take() == "bulk":
            served = turn
            break
    assert 0 < served <= URGENT_RUN + 1


def test_a_bucket_allows_a_burst_and_then_its_rate() -> None:
    bucket = TokenBucket(rate=10, burst=5)
    assert [bucket.spend(0.0) for _ in range(6)] == [True] * 5 + [False]
    assert bucket.spend(0.1) and not bucket.spend(0.1)
    assert sum(bucket.spend(1000.0) for _ in range(100)) == 5


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_backoff_stays_within_its_bounds(failures: int, random: float) -> None:
    assert SHORTEST <= backoff(failures, random) <= LONGEST


def test_backoff_grows_to_its_cap() -> None:
    assert backoff(1, 1.0) == 1.0
    assert backoff(100, 1.0) == LONGEST
    assert backoff(100, 0.0) == SHORTEST


@pytest.mark.parametrize("state", [s for s in State if s is not State.CLOSED])
@pytest.mark.parametrize("event", [Event.SEND_RESET, Event.RECEIVE_RESET])
def test_every_live_state_can_be_reset(state: State, event: Event) -> None:
    assert TRANSITIONS[state, event] is State.CLOSED


def test_closed_is_final_and_reachable_from_everywhere() -> None:
    assert not [pair for pair in TRANSITIONS if pair[0] is State.CLOSED]
    ends = {
        state: {after for (before, _), after in TRANSITIONS.items() if before is state}
        for state in State
    }
    assert all(State.CLOSED in ends[state] for state in State if state is not State.CLOSED)


def test_who_may_send_and_receive_data() -> None:
    assert State.PENDING not in SENDING and State.OPENING not in RECEIVING
    assert State.LOCAL_CLOSED not in SENDING and State.REMOTE_CLOSED not in RECEIVING
    assert State.OPEN in SENDING & RECEIVING
