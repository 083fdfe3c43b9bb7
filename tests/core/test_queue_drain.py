"""The queue before a slow link is emptied, and those who fill it themselves are let be."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from phantom.core.queue_drain import (
    LEAST_LIMIT,
    PATIENCE,
    PENALTY,
    QUEUE_PART,
    SAMPLES,
    QueueDrain,
)

LEAST = 0.04
RATE = 1.2e6
STEP = 0.1


def run(
    drain: QueueDrain, seconds: float, queue: float, *, start: float = 0.0, others: bool = False
) -> tuple[float, list[int | None]]:
    """Let a path of `RATE` work; return the queue in seconds, and the limit at each step.

    BBR sends a percent too much, and no more than a round trip's worth is queued.
    """
    limits: list[int | None] = []
    for number in range(round(seconds / STEP)):
        sent = min(drain.limit or RATE * 1.01, RATE * 1.01)
        if not others:
            queue = min(LEAST, max(0.0, queue + (sent / RATE - 1) * STEP))
        rate = RATE if queue else min(sent, RATE)
        old = drain.limit
        changed = drain.observe(
            start + number * STEP, rate=rate, round_trip=LEAST + queue, least=LEAST
        )
        assert changed == (drain.limit != old)
        limits.append(drain.limit)
    return queue, limits


def test_a_queue_is_emptied_and_stays_short() -> None:
    drain = QueueDrain()
    queue, limits = run(drain, 2, LEAST)
    assert queue < 0.02
    assert any(limits)
    for _ in range(50):
        queue, limits = run(drain, 1, queue, start=100)
        assert queue <= QUEUE_PART * LEAST + 2 * STEP * 0.01


def test_a_path_without_a_queue_is_left_alone() -> None:
    drain = QueueDrain()
    assert not any(run(drain, 5, 0, others=True)[1])


def test_a_link_that_starts_is_left_alone() -> None:
    drain = QueueDrain()
    assert not any(run(drain, (SAMPLES - 1) * STEP, LEAST, others=True)[1])


def test_who_fills_the_queue_again_is_let_be_for_longer_each_time() -> None:
    drain = QueueDrain()
    _, limits = run(drain, 10 * PENALTY, 0.1, others=True)
    limited = [bool(limit) for limit in limits]
    starts = [i for i in range(1, len(limited)) if limited[i] and not limited[i - 1]]
    assert len(starts) == 3  # at once, after ten seconds, and after fifty
    assert sum(limited) * STEP <= 3 * (PATIENCE + 4 * LEAST + 2 * STEP)
    assert starts[2] - starts[1] > 3 * (starts[1] - starts[0])


def test_an_idle_link_has_no_limit() -> None:
    drain = QueueDrain()
    assert not drain.pause()
    run(drain, SAMPLES * STEP, LEAST, others=True)
    assert drain.limit is not None and drain.limit < RATE
    assert drain.pause()
    assert drain.limit is None


def test_a_path_that_stands_still_gets_no_limit() -> None:
    """The kernel goes on as if there were a queue; what arrived by then says nothing."""
    for still in range(1, SAMPLES + 1):
        drain = QueueDrain()
        rates = [RATE] * (SAMPLES - still) + [0.0] * still
        for number, rate in enumerate(rates):
            drain.observe(number * STEP, rate=rate, round_trip=2 * LEAST, least=LEAST)
        assert drain.limit is None, still


@given(st.lists(st.tuples(st.floats(0, 1e10), st.floats(0, 10), st.floats(0, 10))))
def test_a_limit_is_never_next_to_nothing(samples: list[tuple[float, float, float]]) -> None:
    drain = QueueDrain()
    for number, (rate, round_trip, least) in enumerate(samples):
        drain.observe(number * STEP, rate=rate, round_trip=round_trip, least=least)
        assert drain.limit is None or drain.limit >= LEAST_LIMIT
