from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phantom.core.limits import Limits


def test_limits() -> None:
    limits = Limits(total=3, per_key=2)
    assert limits.acquire("a")
    assert limits.acquire("a")
    assert not limits.acquire("a"), "its own limit"
    assert limits.acquire("b")
    assert not limits.acquire("c"), "the limit of all"
    limits.release("a")
    assert limits.acquire("c")
    assert (limits.used, limits.held("a"), limits.held("x")) == (3, 1, 0)


def test_releasing_what_is_not_held() -> None:
    limits = Limits(2, 2)
    with pytest.raises(ValueError, match="more often"):
        limits.release("a")
    limits.acquire("a")
    limits.release("a")
    with pytest.raises(ValueError, match="more often"):
        limits.release("a")
    assert limits.used == 0


def test_lower_limits_take_nothing_away() -> None:
    limits = Limits(4, 4)
    assert all(limits.acquire("a") for _ in range(3))
    limits.total = limits.per_key = 1
    assert not limits.acquire("b")
    for _ in range(3):
        limits.release("a")
    assert limits.acquire("b")


@given(
    st.integers(0, 5),
    st.integers(0, 5),
    st.lists(st.tuples(st.booleans(), st.sampled_from("abc")), max_size=60),
)
def test_against_a_model(total: int, per_key: int, steps: list[tuple[bool, str]]) -> None:
    limits, model = Limits(total, per_key), Counter[str]()
    for take, key in steps:
        if take:
            expected = model.total() < total and model[key] < per_key
            assert limits.acquire(key) is expected
            model[key] += expected
        elif model[key]:
            limits.release(key)
            model[key] -= 1
        assert limits.used == model.total()
        assert all(limits.held(name) == model[name] for name in "abc")
    assert len(limits._held) == sum(count > 0 for count in model.values())
