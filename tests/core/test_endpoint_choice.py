"""Which endpoint comes first, and how slowly minds are changed."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phantom.core.endpoint_choice import (
    DEMOTE_AFTER,
    MAX_ENDPOINTS,
    MAX_NETWORKS,
    PATIENT_STAGGER,
    RETRY_FIRST,
    RETRY_LONGEST,
    SHORT_LIFE,
    STAGGER,
    EndpointChoice,
)

ABC = ("a", "b", "c")
T = 1_767_225_600.0


def fail(choice: EndpointChoice, name: str, times: int = 1, now: float = T, net="home") -> None:
    for _ in range(times):
        choice.failed(name, net, now, 1.0)


def order(choice: EndpointChoice, now: float = T, net: str = "home") -> str:
    return "".join(choice.plan(ABC, net, now, 0.5).order)


def test_at_first_the_operators_order_and_a_race() -> None:
    plan = EndpointChoice().plan(ABC, "home", T, 0.5)
    assert plan.order == ABC and plan.unsure
    assert STAGGER[0] <= plan.stagger <= STAGGER[1]


def test_what_worked_last_on_this_network_comes_first_and_alone() -> None:
    choice = EndpointChoice()
    choice.worked("b", "home", T)
    choice.worked("c", "home", T + 5)
    choice.worked("a", "cafe", T + 9)
    plan = choice.plan(ABC, "home", T + 10, 0.0)
    assert plan.order == ("c", "b", "a") and not plan.unsure
    assert plan.stagger == PATIENT_STAGGER[0]
    assert choice.plan(ABC, "home", T, 0.5, hurry=True).unsure


def test_on_a_new_network_what_worked_elsewhere_comes_first_but_races() -> None:
    choice = EndpointChoice()
    choice.worked("c", "home", T)
    plan = choice.plan(ABC, "cafe", T, 0.5)
    assert plan.order == ("c", "a", "b") and plan.unsure


def test_failures_below_the_threshold_change_no_order_but_start_a_race() -> None:
    choice = EndpointChoice()
    choice.worked("b", "home", T)
    fail(choice, "b", DEMOTE_AFTER - 1)
    plan = choice.plan(ABC, "home", T, 0.5)
    assert plan.order[0] == "b" and plan.unsure


def test_failures_in_a_row_demote_and_a_success_promotes() -> None:
    choice = EndpointChoice()
    choice.worked("b", "home", T)
    fail(choice, "b", DEMOTE_AFTER)
    assert order(choice) == "ac"
    assert order(choice, T + RETRY_FIRST) == "acb"
    choice.worked("b", "home", T + 70)
    assert order(choice, T + 70) == "bac"


def test_a_success_in_between_starts_the_count_anew() -> None:
    choice = EndpointChoice()
    for _ in range(5):
        fail(choice, "a", DEMOTE_AFTER - 1)
        choice.worked("a", "home", T)
    assert order(choice) == "abc"


def test_failures_on_one_network_mean_nothing_on_another() -> None:
    choice = EndpointChoice()
    fail(choice, "a", DEMOTE_AFTER)
    assert order(choice) == "bc"
    assert order(choice, net="cafe") == "abc"


def test_retries_grow_further_apart_up_to_an_hour() -> None:
    choice = EndpointChoice()
    fail(choice, "a", DEMOTE_AFTER)
    now, waits = T, []
    for _ in range(10):
        wait = 0.0
        while "a" not in order(choice, now + wait):
            wait += 1.0
        waits.append(wait)
        now += wait
        fail(choice, "a", now=now)
    assert waits[:4] == [RETRY_FIRST, 2 * RETRY_FIRST, 4 * RETRY_FIRST, 8 * RETRY_FIRST]
    assert waits == sorted(waits) and waits[-1] == RETRY_LONGEST


def test_when_all_are_demoted_all_are_tried_the_due_ones_first() -> None:
    choice = EndpointChoice()
    fail(choice, "c", DEMOTE_AFTER)
    for name in "ab":
        fail(choice, name, DEMOTE_AFTER, now=T + RETRY_FIRST)
    assert order(choice, T + RETRY_FIRST) == "cab"


def test_links_that_die_young_demote_although_each_came_about() -> None:
    choice = EndpointChoice()
    for _ in range(DEMOTE_AFTER):
        choice.worked("a", "home", T)
        choice.lost("a", "home", 1.0, T, 1.0)
    assert order(choice) == "bc"
    choice.worked("a", "home", T + 60)  # not enough to be believed
    assert order(choice, T + 60) == "bca"
    choice.lost("a", "home", SHORT_LIFE, T + 90, 1.0)
    assert order(choice, T + 90) == "abc"


def test_a_clock_that_was_set_back_delays_nothing() -> None:
    choice = EndpointChoice()
    fail(choice, "a", DEMOTE_AFTER, now=T + 1e6)
    assert order(choice, T) == "bca"


def test_nothing_to_choose_from() -> None:
    assert EndpointChoice().plan((), "home", T, 0.5).order == ()


def test_tables_are_bounded_and_the_least_used_give_way() -> None:
    choice = EndpointChoice()
    choice.worked("kept", "home", T)
    for i in range(MAX_NETWORKS * 2):
        choice.worked("a", f"net{i}", T)
        choice.worked("kept", "home", T)
    for i in range(MAX_ENDPOINTS * 2):
        choice.worked(f"e{i}", "home", T)
    made = choice.to_json()
    assert len(made) == MAX_NETWORKS and len(made["home"]) == MAX_ENDPOINTS
    assert "e127" in made["home"] and "kept" not in made["home"]


events = st.tuples(
    st.sampled_from(["worked", "failed", "lost"]),
    st.sampled_from(ABC),
    st.sampled_from(["home", "cafe"]),
    st.floats(0, 100),
    st.floats(0, 1),
)


def played(script) -> tuple[EndpointChoice, float]:
    choice, now = EndpointChoice(), T
    for kind, name, net, seconds, random in script:
        now += seconds
        if kind == "worked":
            choice.worked(name, net, now)
        elif kind == "failed":
            choice.failed(name, net, now, random)
        else:
            choice.lost(name, net, seconds, now, random)
    return choice, now


@given(st.lists(events, max_size=60))
def test_a_plan_always_has_something_and_no_strangers(script) -> None:
    choice, now = played(script)
    plan = choice.plan(ABC, "home", now, 0.5)
    assert plan.order and set(plan.order) <= set(ABC)
    assert len(set(plan.order)) == len(plan.order)
    assert set(choice.plan(ABC, "home", now + RETRY_LONGEST, 0.5).order) == set(ABC)


@given(st.lists(events, max_size=60))
def test_what_is_remembered_reads_back_as_the_same(script) -> None:
    choice, now = played(script)
    again = EndpointChoice.from_json(json.loads(json.dumps(choice.to_json())))
    assert again.to_json() == choice.to_json()
    assert again.plan(ABC, "home", now, 0.5) == choice.plan(ABC, "home", now, 0.5)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=12,
)


@given(json_values)
def test_nonsense_is_refused_as_such(value) -> None:
    try:
        EndpointChoice.from_json(value)
    except ValueError:
        pass


@pytest.mark.parametrize(
    "value",
    [
        [],
        {"n": []},
        {"n": {"e": {}}},
        {"n": {"e": [0, 0, 0, 0]}},
        {"n": {"e": [0, 0, 0, 0, float("nan")]}},
        {"n": {"e": [0.5, 0, 0, 0, 0]}},
        {"n": {"e": [17, 0, 0, 0, 0]}},
        {"n": {"e": [0, 0, 0, -1, 0]}},
        {"n": {"e": [0, 0, 0, "0", 0]}},
        {"n": {"e": [True, 0, 0, 0, 0]}},
        {"n" * 513: {}},
        {str(i): {} for i in range(MAX_NETWORKS + 1)},
        {"n": {str(i): [0] * 5 for i in range(MAX_ENDPOINTS + 1)}},
    ],
)
def test_records_out_of_range(value) -> None:
    with pytest.raises(ValueError):
        EndpointChoice.from_json(value)
