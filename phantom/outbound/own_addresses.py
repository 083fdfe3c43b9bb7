"""The machine's own addresses, for the egress policy."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Final

IPAddress = IPv4Address | IPv6Address

# Documentation addresses (RFC 5737, RFC 3849).  Connecting a datagram socket sends nothing,
# it only chooses the route and with it the address this machine would send from.
_ELSEWHERE: Final = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))


def own_addresses(proc: Path = Path("/proc/net")) -> frozenset[IPAddress]:
    """Return the addresses of this machine's interfaces, as far as they can be found.

    On Linux these are all of them; elsewhere the one of each family that the default route
    uses.  An address that a router in front translates to this machine (a cloud's "elastic"
    address) is not known here: list it under ``deny``.

    Interfaces change: call again on reload.

    Args:
        proc: Where the kernel shows its tables.
    """
    return frozenset(_from_fib_trie(proc) | _from_if_inet6(proc) | _from_routes())


def _lines(path: Path) -> Iterator[str]:
    """Yield the lines of a file, none if it cannot be read."""
    try:
        with path.open(encoding="ascii", errors="replace") as file:
            yield from file
    except OSError:
        return


def _from_fib_trie(proc: Path) -> set[IPAddress]:
    """Read IPv4: a line ``|-- ADDRESS`` is followed by ``/32 host LOCAL`` for our own."""
    found: set[IPAddress] = set()
    leaf = ""
    for line in _lines(proc / "fib_trie"):
        fields = line.split()
        if fields[:1] == ["|--"]:
            leaf = fields[-1]
        elif fields == ["/32", "host", "LOCAL"]:
            found |= _parsed(leaf)
    return found


def _from_if_inet6(proc: Path) -> set[IPAddress]:
    """Read IPv6: 32 hexadecimal digits, then the interface and flags."""
    found: set[IPAddress] = set()
    for line in _lines(proc / "if_inet6"):
        digits = line.partition(" ")[0]
        found |= _parsed(":".join(digits[i : i + 4] for i in range(0, len(digits), 4)))
    return found


def _from_routes() -> set[IPAddress]:
    found: set[IPAddress] = set()
    for family, elsewhere in _ELSEWHERE:
        try:
            with closing(socket.socket(family, socket.SOCK_DGRAM)) as probe:
                probe.connect((elsewhere, 9))
                found |= _parsed(probe.getsockname()[0].partition("%")[0])
        except OSError:
            continue  # no such family here, or no route
    return found


def _parsed(text: str) -> set[IPAddress]:
    try:
        return {ip_address(text)}
    except ValueError:
        return set()
