"""Who gets a place, and who makes room."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phantom.core.admission import Admission, place_limits, prefix_of


@pytest.mark.parametrize(
    ("descriptors", "limits"),
    [(1024, (256, 16)), (65536, (4096, 256)), (40, (10, 1)), (0, (1, 1))],
)
def test_limits(descriptors: int, limits: tuple[int, int]) -> None:
    assert place_limits(descriptors) == limits


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.255", True),
        ("192.0.2.1", "192.0.3.1", False),
        ("2001:db8:0:aa00::1", "2001:db8:0:aaff::1", True),
        ("2001:db8:0:aa00::1", "2001:db8:0:ab00::1", False),
        ("192.0.2.1", "::ffff:192.0.2.9", True),
        ("0.0.0.1", "::1", False),
    ],
)
def test_prefixes(one: str, other: str, same: bool) -> None:
    assert (prefix_of(ip_address(one)) == prefix_of(ip_address(other))) is same


def test_the_oldest_makes_room() -> None:
    admission = Admission(3, 2)
    home = IPv4Address("192.0.2.1")
    assert admission.admit("a", home) is None
    assert admission.admit("b", IPv4Address("192.0.2.2")) is None
    assert admission.admit("c", home) == "a", "its own prefix is full"
    assert admission.admit("d", IPv6Address("2001:db8::1")) is None
    assert admission.admit("e", None) == "b", "everything is full"
    assert "b" not in admission and len(admission) == 3
    admission.release("b")
    admission.release("c")
    assert admission.admit("f", home) is None


def test_local_sockets_have_no_prefix() -> None:
    admission = Admission(5, 1)
    assert [admission.admit(key, None) for key in range(6)] == [None] * 5 + [0]


def test_misuse() -> None:
    admission = Admission(1, 1)
    admission.admit("a", None)
    with pytest.raises(ValueError):
        admission.admit("a", None)
    with pytest.raises(ValueError):
        Admission(0, 1)


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 30), st.integers(0, 4))),
    st.integers(1, 6),
    st.integers(1, 4),
)
def test_bounds_hold(steps: list[tuple[bool, int, int]], limit: int, per_prefix: int) -> None:
    admission = Admission(limit, per_prefix)
    held: dict[int, int] = {}
    for arrive, key, network in steps:
        if not arrive:
            admission.release(key)
            held.pop(key, None)
        elif key not in held:
            evicted = admission.admit(key, IPv4Address(network << 8))
            if evicted is not None:
                del held[evicted]  # type: ignore[arg-type]
            held[key] = network
        assert len(held) == len(admission) <= limit
        assert all(list(held.values()).count(one) <= per_prefix for one in held.values())
        assert all(one in admission for one in held)
