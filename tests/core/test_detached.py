"""Which sessions without a link go when together they hold too much."""

from __future__ import annotations

from phantom.core.detached import DetachedLimits, Holding, too_many

LIMITS = DetachedLimits(memory_per_client=100, memory=250)
A, B, C = b"a", b"b", b"c"


def test_what_fits_stays() -> None:
    held = {1: Holding(A, 100), 2: Holding(B, 100), 3: Holding(C, 50)}
    assert too_many(held, LIMITS) == []


def test_a_clients_own_oldest_goes_first() -> None:
    held = {1: Holding(A, 10), 2: Holding(B, 90), 3: Holding(A, 80), 4: Holding(A, 15)}
    assert too_many(held, LIMITS) == [1]
    assert too_many(held | {5: Holding(A, 85)}, LIMITS) == [1, 3]


def test_then_the_one_that_holds_most() -> None:
    held = {1: Holding(A, 90), 2: Holding(B, 100), 3: Holding(C, 80)}
    assert too_many(held, LIMITS) == [2]


def test_what_a_client_had_too_much_does_not_count_twice() -> None:
    held = {1: Holding(A, 200), 2: Holding(A, 60), 3: Holding(B, 90), 4: Holding(C, 100)}
    assert too_many(held, LIMITS) == [1]


def test_one_that_exceeds_everything_alone_goes() -> None:
    assert too_many({1: Holding(A, 101)}, LIMITS) == [1]
