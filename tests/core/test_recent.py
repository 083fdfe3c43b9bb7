"""The memory of destinations that were reached a moment ago."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from phantom.address import Destination, parse_host
from phantom.core.recent import RecentDestinations


def to(name: str, port: int = 443) -> Destination:
    return Destination(parse_host(name), port)


def test_remembers_for_its_lifetime_and_no_longer() -> None:
    recent = RecentDestinations(lifetime=600.0)
    recent.remember(to("a.example"), now=100.0)
    assert recent.knows(to("a.example"), now=699.9)
    assert not recent.knows(to("a.example"), now=700.0)
    assert len(recent) == 0


def test_a_port_and_a_kind_of_host_make_another_destination() -> None:
    recent = RecentDestinations()
    recent.remember(to("a.example"), now=0.0)
    recent.remember(to("127.0.0.1"), now=0.0)
    assert not recent.knows(to("a.example", 80), now=0.0)
    assert not recent.knows(to("::ffff:127.0.0.1"), now=0.0)
    assert recent.knows(to("A.Example."), now=0.0)


def test_asking_does_not_lengthen_but_remembering_again_does() -> None:
    recent = RecentDestinations(lifetime=10.0)
    recent.remember(to("a.example"), now=0.0)
    recent.remember(to("b.example"), now=0.0)
    assert recent.knows(to("a.example"), now=9.0)
    recent.remember(to("b.example"), now=9.0)
    assert not recent.knows(to("a.example"), now=11.0)
    assert recent.knows(to("b.example"), now=11.0)


def test_forgets_on_request_and_is_not_surprised_by_strangers() -> None:
    recent = RecentDestinations()
    recent.remember(to("a.example"), now=0.0)
    recent.forget(to("b.example"))
    recent.forget(to("a.example"))
    assert not recent.knows(to("a.example"), now=0.0)


def test_the_least_recently_used_goes_first() -> None:
    recent = RecentDestinations(capacity=2)
    recent.remember(to("a.example"), now=0.0)
    recent.remember(to("b.example"), now=1.0)
    assert recent.knows(to("a.example"), now=2.0)
    recent.remember(to("c.example"), now=3.0)
    assert not recent.knows(to("b.example"), now=4.0)
    assert recent.knows(to("a.example"), now=4.0)
    assert recent.knows(to("c.example"), now=4.0)


def test_capacity_zero_remembers_nothing() -> None:
    recent = RecentDestinations(capacity=0)
    recent.remember(to("a.example"), now=0.0)
    assert not recent.knows(to("a.example"), now=0.0)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["remember", "forget", "knows"]), st.integers(1, 6), st.integers(0, 4)
    )
)


@given(STEPS, st.integers(1, 4))
def test_never_knows_more_than_a_memory_without_bounds(
    steps: list[tuple[str, int, int]], capacity: int
) -> None:
    recent = RecentDestinations(capacity=capacity, lifetime=5.0)
    model: dict[int, float] = {}
    used: list[int] = []  # the latest at the end
    now = 0.0
    for step, port, delay in steps:
        now += delay
        destination = to("a.example", port)
        if step == "remember":
            recent.remember(destination, now)
            model[port] = now
        elif step == "forget":
            recent.forget(destination)
            model.pop(port, None)
        else:
            known = recent.knows(destination, now)
            if port not in model or now >= model[port] + 5.0:
                assert not known
            elif port in list(dict.fromkeys(reversed(used)))[:capacity]:
                # Among the last few used, and used since it was last forgotten.
                assert known
        if step == "remember" or (step == "knows" and port in model):
            used.append(port)
        assert len(recent) <= capacity
