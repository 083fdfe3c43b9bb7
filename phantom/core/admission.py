"""Who may hold one of a limited number of places, and who makes room when they are taken.

Pure bookkeeping: the caller owns the connections and ends the one that is named.
"""

from __future__ import annotations

from collections.abc import Hashable
from ipaddress import IPv4Address, IPv6Address

IPAddress = IPv4Address | IPv6Address

#: The most places ever given out by default: at about 1 KB of state and one descriptor each
#: this is small change for a server, and a scanner of one network fills a sixteenth of it.
MAX_PLACES = 4096

#: The share of the file descriptors that strangers may hold, as a divisor.
DESCRIPTOR_SHARE = 4

#: The share of the places that one network prefix may hold, as a divisor.
PREFIX_SHARE = 16

# A /24 and a /56 are what one household, office or rented machine is usually given at most
# (RFC 6177, section 2, for the latter).
_IPV4_HOST_BITS = 32 - 24
_IPV6_HOST_BITS = 128 - 56


def place_limits(descriptors: int) -> tuple[int, int]:
    """Return how many places there are in all and per prefix.

    Args:
        descriptors: How many file descriptors the process may have open.
    """
    limit = max(1, min(MAX_PLACES, descriptors // DESCRIPTOR_SHARE))
    return limit, max(1, limit // PREFIX_SHARE)


def prefix_of(address: IPAddress | None) -> tuple[int, int] | None:
    """Return what stands for the network of `address`: its version and the leading bits.

    An IPv4 address mapped into IPv6 counts as the IPv4 address.  None (a local socket) has
    no network and stands for itself.
    """
    if address is None:
        return None
    if isinstance(address, IPv6Address):
        mapped = address.ipv4_mapped
        if mapped is None:
            return 6, int(address) >> _IPV6_HOST_BITS
        address = mapped
    return 4, int(address) >> _IPV4_HOST_BITS


class Admission:
    """A table of at most `limit` places, of which one prefix has at most `per_prefix`.

    Args:
        limit: All places; at least 1.
        per_prefix: Places for each /24 (IPv4) or /56 (IPv6); at least 1.  Connections
            without an address (local sockets) are bound by `limit` alone.
    """

    def __init__(self, limit: int, per_prefix: int) -> None:
        if limit < 1 or per_prefix < 1:
            raise ValueError("an admission needs at least one place")
        self.limit = limit
        self.per_prefix = per_prefix
        # Dicts keep the order of insertion, so the first key of each is its oldest.
        self._prefixes: dict[Hashable, tuple[int, int] | None] = {}
        self._members: dict[tuple[int, int] | None, dict[Hashable, None]] = {}

    def __len__(self) -> int:
        """Return how many places are taken."""
        return len(self._prefixes)

    def __contains__(self, key: Hashable) -> bool:
        """Say whether `key` holds a place."""
        return key in self._prefixes

    def admit(self, key: Hashable, address: IPAddress | None) -> Hashable | None:
        """Give `key` a place.

        Args:
            key: Stands for the connection; must not hold a place already.
            address: Where it comes from.

        Returns:
            The key whose place was taken for it (the oldest of its prefix when that has
            all it may, else the oldest of all), already released; or None.

        Raises:
            ValueError: `key` holds a place.
        """
        if key in self._prefixes:
            raise ValueError("this key holds a place already")
        prefix = prefix_of(address)
        evicted: Hashable | None = None
        members = self._members.get(prefix)
        if prefix is not None and members is not None and len(members) >= self.per_prefix:
            evicted = next(iter(members))
        elif len(self._prefixes) >= self.limit:
            evicted = next(iter(self._prefixes))
        if evicted is not None:
            self.release(evicted)
        self._prefixes[key] = prefix
        self._members.setdefault(prefix, {})[key] = None
        return evicted

    def release(self, key: Hashable) -> None:
        """Free the place of `key`; nothing happens when it holds none."""
        if key not in self._prefixes:
            return
        prefix = self._prefixes.pop(key)
        members = self._members[prefix]
        del members[key]
        if not members:
            del self._members[prefix]
