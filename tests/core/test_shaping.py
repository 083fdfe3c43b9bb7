"""What is padded, by how much, and within which bounds."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phantom.core.shaping import (
    BLOCK,
    BULK,
    FIRST_ANSWERS,
    MOST_ALLOWANCE,
    MOST_BLUR,
    MOST_RANDOM,
    MOST_SHARE,
    BurstPadding,
    Padding,
    Said,
    Scheme,
    padding_policy,
)
from phantom.core.wire import HEADER_SIZE
from phantom.errors import RemoteProtocolError

CHANCE = random.Random()
DRAW = CHANCE.randint


@pytest.fixture(autouse=True)
def draws() -> None:
    """Draw the same in every test, whichever ran before it in this process."""
    CHANCE.seed(3)


def said(size: int, before: int = 0, received: int = 0, now: float = 0.0) -> Said:
    return Said(size, before, received, now)


def total(size: int, **rest: int) -> int:
    return size + BurstPadding(Scheme()).pad(said(size, **rest), DRAW)


@pytest.mark.parametrize("size", [7, 41, 200, 229])
def test_what_is_short_stays_short_but_not_its_own_length(size: int) -> None:
    scheme = Scheme()
    found = {total(size) for _ in range(60)}
    assert len(found) > 20
    assert min(found) >= scheme.tiny_low and max(found) <= scheme.tiny_high


@pytest.mark.parametrize("size", [301, 517, 700, 1850, 3000, 3400])
def test_what_could_be_an_inner_handshake_is_filled_up(size: int) -> None:
    scheme = Scheme()
    found = {total(size) for _ in range(60)}
    assert len(found) > 20
    assert min(found) >= scheme.low and max(found) <= scheme.high


@pytest.mark.parametrize("size", [291, 300, 3420, 4000, 65449])
def test_other_sizes_go_as_they_are(size: int) -> None:
    assert total(size) == size


def test_a_burst_counts_as_a_whole() -> None:
    policy = BurstPadding(Scheme())
    assert policy.pad(said(2000, before=2000), DRAW) == 0
    assert policy.pad(said(500, now=0.001), DRAW) == 0, "the same burst, and long enough"
    assert policy.pad(said(500, now=0.001, received=1), DRAW) > 2500, "an answer came between"
    assert policy.pad(said(500, now=0.002, received=1), DRAW) == 0
    assert policy.pad(said(500, now=1.0, received=1), DRAW) > 2500, "a pause: perhaps another one"


def test_small_records_that_add_up_are_filled_up_together() -> None:
    policy = BurstPadding(Scheme())
    first = 50 + policy.pad(said(50), lambda low, high: high)
    assert first == Scheme().tiny_high
    second = 50 + policy.pad(said(50), DRAW)
    assert Scheme().low <= first + second <= Scheme().high


def test_small_records_that_add_up_to_little_stay_short() -> None:
    policy = BurstPadding(Scheme())
    first = 50 + policy.pad(said(50), lambda low, high: low)
    assert first == Scheme().tiny_low
    second = 50 + policy.pad(said(50), DRAW)
    assert first + second <= Scheme().least


def test_a_link_spends_its_allowance_and_then_a_share() -> None:
    scheme = Scheme(allowance=10_000, share=20)
    policy = BurstPadding(scheme)
    padded = [policy.pad(said(600, received=i, now=i), DRAW) for i in range(100)]
    assert all(padded[:3])
    assert sum(padded) == policy.spent <= 10_000 + 100 * 600 * 20 // 1000
    assert policy.pad(said(600, received=1_000_000, now=1e3), DRAW) > 0, "it carried a megabyte"


@given(
    st.lists(
        st.tuples(st.integers(7, 4096), st.integers(0, 5000), st.floats(0, 0.01)), max_size=200
    ),
    st.integers(0, MOST_SHARE),
    st.integers(0, MOST_ALLOWANCE),
)
def test_padding_is_nothing_or_a_frame_and_never_more_than_allowed(
    steps: list[tuple[int, int, float]], share: int, allowance: int
) -> None:
    policy = BurstPadding(Scheme(share=share, allowance=allowance))
    received, now, sent, spent = 0, 0.0, 0, 0
    for size, came, passed in steps:
        received += came
        now += passed
        sent += size
        padding = policy.pad(said(size, received=received, now=now), DRAW)
        assert padding == 0 or padding >= HEADER_SIZE
        assert padding == 0 or size + padding <= max(size, policy.below) + 600
        spent += padding
    assert spent <= allowance + (sent + received) * share // 1000


@pytest.mark.parametrize("padding", Padding)
@pytest.mark.parametrize("client", [True, False])
def test_bulk_is_never_asked_about(padding: Padding, client: bool) -> None:
    policy = padding_policy(padding, client=client, scheme=Scheme())
    assert policy is None or policy.below <= BULK
    assert (policy is None) == (padding is Padding.NONE)


@given(st.integers(1, BULK - 1))
def test_blocks_are_whole(size: int) -> None:
    policy = padding_policy(Padding.BLOCK, client=True, scheme=Scheme())
    assert policy is not None
    padding = policy.pad(said(size), DRAW)
    assert (size + padding) % BLOCK == 0
    assert padding == 0 or HEADER_SIZE <= padding < BLOCK + HEADER_SIZE


@given(st.integers(HEADER_SIZE, BULK - 1))
def test_powers_of_two_are_reached(size: int) -> None:
    policy = padding_policy(Padding.POWER_OF_TWO, client=False, scheme=Scheme())
    assert policy is not None
    padding = policy.pad(said(size), DRAW)
    whole = size + padding
    assert whole & (whole - 1) == 0
    assert padding == 0 or padding >= HEADER_SIZE
    assert whole <= 4 * size or size < HEADER_SIZE


def test_random_padding_is_as_long_as_it_says() -> None:
    policy = padding_policy(Padding.RANDOM, client=True, scheme=Scheme())
    assert policy is not None
    found = {policy.pad(said(100), DRAW) for _ in range(4000)}
    assert found == set(range(HEADER_SIZE, HEADER_SIZE + MOST_RANDOM + 1))


def test_a_server_blurs_its_first_answers_and_no_more() -> None:
    policy = padding_policy(Padding.DEFAULT, client=False, scheme=Scheme())
    assert policy is not None
    padded = [policy.pad(said(60), DRAW) for _ in range(FIRST_ANSWERS)]
    assert len(set(padded)) > FIRST_ANSWERS // 2 and max(padded) <= MOST_BLUR
    assert policy.below == 0


def test_a_scheme_survives_the_wire() -> None:
    scheme = Scheme(
        version=7, tiny_low=1, tiny_high=2, least=3, low=4, high=5, share=6, allowance=7
    )
    assert scheme.encode().hex() == "0000000700010002000300040005000600000007"
    assert Scheme.decode(scheme.encode()) == scheme
    assert Scheme.decode(scheme.encode() + b"a later version's") == scheme


@pytest.mark.parametrize(
    "figures",
    [
        {"tiny_low": 291},
        {"tiny_high": 301},
        {"least": 3420},
        {"low": 3881},
        {"high": 4097},
        {"share": 101},
        {"allowance": MOST_ALLOWANCE + 1},
    ],
)
def test_figures_out_of_bounds_are_refused(figures: dict[str, int]) -> None:
    scheme = Scheme(version=1, **figures)
    assert scheme.problem()
    with pytest.raises(RemoteProtocolError):
        Scheme.decode(scheme.encode())


@given(st.binary(max_size=64))
def test_any_bytes_are_a_scheme_or_an_error_of_the_peer(payload: bytes) -> None:
    try:
        scheme = Scheme.decode(payload)
    except RemoteProtocolError:
        return
    assert scheme.problem() is None
    policy = BurstPadding(scheme)
    assert policy.pad(said(100), DRAW) <= scheme.high
