"""In which order, and how far apart, the addresses of one name are tried (RFC 8305).

Pure arithmetic: who resolves, connects and waits is `phantom.outbound.direct` on the server
and the dialer on the client.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address
from itertools import zip_longest
from typing import Final

#: Seconds between the start of one attempt and the next while none has succeeded: "Connection
#: Attempt Delay", recommended value (RFC 8305, sections 5 and 8).
ATTEMPT_DELAY: Final = 0.25

#: At most this many addresses of one name are tried.  RFC 8305 sets no bound; without one, a
#: name with hundreds of addresses would make the server connect to all of them at once.
MAX_ADDRESSES: Final = 8

IPAddress = IPv4Address | IPv6Address


def connection_order(addresses: Sequence[IPAddress], *, first_family: int = 6) -> list[IPAddress]:
    """Order addresses for a race: families alternate, so that a broken one costs one delay.

    Within a family the given order stays: it is the resolver's, sorted by RFC 6724.
    (RFC 8305, section 4, with a "First Address Family Count" of 1.)

    Args:
        addresses: What the name resolved to.  Duplicates are dropped.
        first_family: 6 or 4, the family that starts, if there is any of it.

    Returns:
        At most `MAX_ADDRESSES` of them, of both families if there are both.
    """
    unique = list(dict.fromkeys(addresses))
    first = [address for address in unique if address.version == first_family]
    second = [address for address in unique if address.version != first_family]
    ordered: list[IPAddress] = []
    for pair in zip_longest(first, second):
        ordered += (address for address in pair if address is not None)
    return ordered[:MAX_ADDRESSES]
