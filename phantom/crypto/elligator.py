"""Ephemeral keys, plain and in the Elligator2 form that looks like random bytes.

An X25519 public key is a point of the curve, and a censor can test for that: random bytes
pass half the time, keys always.  Elligator2 (Bernstein et al., 2013; RFC 9380, 6.7.1)
gives about half of all points a second, uniform form.  Three rules keep it uniform and
unambiguous:

- the point is *dirty*: a random low-order component is added, else every key would lie in
  the prime-order subgroup, which the map's inverse would show;
- the form has 254 bits, so the two highest bits of the last byte are random;
- those two bits do not change the point, so the handshake hashes the 32 bytes as they
  stand on the wire; otherwise flipping them would make a "new" first message that passes
  the replay filter.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from monocypher import elligator_key_pair, elligator_map

Entropy = Callable[[int], bytes]


def point_of(wire: bytes) -> bytes:
    """Return the point that 32 bytes stand for in Elligator2 form; every string has one."""
    return bytes(elligator_map(wire))


@attrs.frozen(slots=True, repr=False)
class Ephemeral:
    """A key pair for one handshake.

    Attributes:
        private: The private scalar, 32 bytes.
        wire: The public key as it travels and is hashed, 32 bytes.
        point: The point to do Diffie-Hellman with, 32 bytes.
        hidden: Whether `wire` is in Elligator2 form.
    """

    private: bytes
    wire: bytes
    point: bytes
    hidden: bool

    @classmethod
    def plain(cls, entropy: Entropy) -> Ephemeral:
        """Make an ordinary X25519 key (RFC 7748), for use inside TLS."""
        private = entropy(32)
        wire = X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()
        return cls(private, wire, wire, False)

    @classmethod
    def elligator(cls, entropy: Entropy) -> Ephemeral:
        """Make a key in Elligator2 form; all its randomness comes from one 32-byte seed.

        `private` times the base point is the clean part of `point` only, so it is `point`
        that a peer must use; X25519's clamping clears the low-order part when the peer
        multiplies, and both sides agree.
        """
        wire, private = elligator_key_pair(entropy(32))
        return cls(bytes(private), bytes(wire), point_of(wire), True)

    def __repr__(self) -> str:
        return f"<Ephemeral {'elligator' if self.hidden else 'plain'}>"
