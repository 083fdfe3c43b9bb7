from __future__ import annotations

from ipaddress import ip_address
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phantom.core.eyeballs import MAX_ADDRESSES, IPAddress, connection_order

A, B, C = (ip_address(f"93.184.216.{n}") for n in (1, 2, 3))
X, Y, Z = (ip_address(f"2606:4700::{n}") for n in (1, 2, 3))


@pytest.mark.parametrize(
    ("given_order", "expected"),
    [
        ([], []),
        ([A], [A]),
        ([A, X], [X, A]),
        ([A, B, C, X, Y, Z], [X, A, Y, B, Z, C]),
        ([X, Y, Z, A], [X, A, Y, Z]),
        ([A, B, X], [X, A, B]),
        ([B, A, B, A], [B, A]),
    ],
)
def test_order(given_order: list[IPAddress], expected: list[IPAddress]) -> None:
    assert connection_order(given_order) == expected


def test_other_family_first() -> None:
    assert connection_order([X, Y, A], first_family=4) == [A, X, Y]


addresses = st.lists(
    st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6), st.sampled_from([A, B, X, Y])),
    max_size=30,
)


@given(addresses, st.sampled_from([4, 6]))
def test_properties(found: list[IPAddress], family: int) -> None:
    ordered = connection_order(found, first_family=family)
    assert len(ordered) == min(len(set(found)), MAX_ADDRESSES)
    assert set(ordered) <= set(found)
    assert len(set(ordered)) == len(ordered)
    versions = [address.version for address in ordered]
    both = {address.version for address in found} == {4, 6}
    if both:
        assert versions[0] == family
        assert set(versions) == {4, 6}, "a broken family costs one delay, never the connection"
    for version in (4, 6):
        kept = [address for address in ordered if address.version == version]
        in_order = [a for a in dict.fromkeys(found) if a.version == version]
        assert kept == in_order[: len(kept)]
    fewer = min(versions.count(4), versions.count(6))
    assert all(a != b for a, b in pairwise(versions[: 2 * fewer]))
