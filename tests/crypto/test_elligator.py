from __future__ import annotations

import itertools
import os

from crypto.independent_ik import dh, elligator2, public_of
from hypothesis import given
from hypothesis import strategies as st

from phantom.crypto.elligator import Ephemeral, point_of

P = 2**255 - 19
#: Order of the prime-order subgroup of Curve25519 (RFC 7748, 4.1).
L = 2**252 + 27742317777372353535851937790883648493


def ladder(scalar: int, u: int) -> int:
    """Multiply without clamping (RFC 7748, section 5, the loop alone); 0 is infinity."""
    x1, x2, z2, x3, z3, swap = u, 1, 0, u, 1, 0
    for t in range(254, -1, -1):
        bit = scalar >> t & 1
        if swap ^ bit:
            x2, z2, x3, z3 = x3, z3, x2, z2
        swap = bit
        a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
        aa, bb, da, cb = a * a % P, b * b % P, d * a % P, c * b % P
        e = aa - bb
        x3, z3 = pow(da + cb, 2, P), x1 * pow(da - cb, 2, P) % P
        x2, z2 = aa * bb % P, e * (aa + 121665 * e) % P
    if swap:
        x2, z2 = x3, z3
    return x2 * pow(z2, P - 2, P) % P


@given(st.binary(min_size=32, max_size=32))
def test_the_map_is_rfc_9380s(wire):
    assert point_of(wire) == elligator2(wire)


def test_both_sides_agree():
    for _ in range(50):
        pair, other = Ephemeral.elligator(os.urandom), os.urandom(32)
        assert pair.point == elligator2(pair.wire)
        assert dh(pair.private, public_of(other)) == dh(other, pair.point)


def test_every_bit_varies():
    pairs = [Ephemeral.elligator(os.urandom).wire for _ in range(400)]
    for bit in range(256):
        ones = sum(wire[bit // 8] >> bit % 8 & 1 for wire in pairs)
        assert 120 < ones < 280, bit  # eight standard deviations
    # The two bits that no representative has vary together with all else, not as one.
    top = {wire[31] >> 6 for wire in pairs}
    assert top == {0, 1, 2, 3}


def test_points_are_dirty():
    # Clean points are all in one class of the eight; a censor could test for that.
    pairs = [Ephemeral.elligator(os.urandom) for _ in range(60)]
    classes = {ladder(L, int.from_bytes(pair.point, "little")) for pair in pairs}
    assert len(classes) >= 3
    assert any(pair.point != public_of(pair.private) for pair in pairs)


def test_plain_keys_are_ordinary():
    counter = itertools.count(1)
    pair = Ephemeral.plain(lambda size: bytes([next(counter)]) * size)
    assert pair.wire == pair.point == public_of(b"\x01" * 32)
    assert pair.private == b"\x01" * 32 and not pair.hidden
