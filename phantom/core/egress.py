"""Which addresses a server may be asked to connect to.

A tunnel server that connects anywhere lets its clients reach what only the server should:
its own loopback, the network it stands in, the cloud's metadata service.  `EgressPolicy`
says no to those.  It judges addresses, never names: a name is resolved once, every address
it gave is judged, and what was judged is what is connected to, so that a name whose answer
changes (DNS rebinding) gains nothing.

The order of judgement, first match wins:

1. a rule under ``deny``: refused;
2. an IPv6 address that carries an IPv4 address (`embedded_ipv4`): refused if any IPv4
   address in it is refused, by this same order;
3. a rule under ``allow``: permitted;
4. one of the server's own addresses: refused;
5. a range of `DENIED_IPV4` or `DENIED_IPV6`: refused;
6. anything else: permitted.

So ``allow`` exempts from the default denials and from nothing else, and no way of writing an
IPv4 address inside an IPv6 address turns a refusal into a permission.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_interface,
    ip_network,
)
from typing import Final

import attrs

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network

#: IPv4 ranges that no client may reach unless ``allow`` names them.  The registry is RFC 6890
#: (section 2.2.2 and its successors at IANA); each line cites the range's own source.
DENIED_IPV4: Final = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # this network, and 0.0.0.0 means loopback on Linux: RFC 1122, 3.2.1.3
        "10.0.0.0/8",  # private: RFC 1918, section 3
        "100.64.0.0/10",  # shared by carrier-grade NAT, also some clouds' metadata: RFC 6598
        "127.0.0.0/8",  # loopback: RFC 1122, 3.2.1.3
        "168.63.129.16/32",  # Azure's host agent, a public address that never leaves the host
        "169.254.0.0/16",  # link-local: RFC 3927; 169.254.169.254 is the metadata service
        "172.16.0.0/12",  # private: RFC 1918, section 3
        "192.0.0.0/24",  # protocol assignments: RFC 6890, 2.1; also Oracle's metadata
        "192.0.2.0/24",  # documentation: RFC 5737
        "192.88.99.0/24",  # anycast of 6to4 relays, withdrawn: RFC 7526
        "192.168.0.0/16",  # private: RFC 1918, section 3
        "198.18.0.0/15",  # benchmarks: RFC 2544, C.2.2
        "198.51.100.0/24",  # documentation: RFC 5737
        "203.0.113.0/24",  # documentation: RFC 5737
        "224.0.0.0/4",  # multicast: RFC 5771
        "240.0.0.0/4",  # reserved: RFC 1112, section 4; 255.255.255.255: RFC 919, section 7
    )
)

#: The same for IPv6.  Global unicast addresses are given out of 2000::/3 only (RFC 4291,
#: section 2.4; RFC 3587), so all the rest is refused whole and what is listed singly lies
#: within 2000::/3.
DENIED_IPV6: Final = tuple(
    IPv6Network(text)
    for text in (
        # unspecified and loopback: RFC 4291, 2.5.2 and 2.5.3; NAT64 for local use: RFC 8215;
        # discard only: RFC 6666; dummy prefix: RFC 9780; the rest unassigned
        "::/3",
        "2001:2::/48",  # benchmarks: RFC 5180, section 8
        "2001:10::/28",  # ORCHID, expired: RFC 4843
        "2001:20::/28",  # ORCHIDv2, not routed: RFC 7343
        "2001:db8::/32",  # documentation: RFC 3849
        "3fff::/20",  # documentation: RFC 9637
        "4000::/2",  # segment routing identifiers, 5f00::/16: RFC 9602; the rest unassigned
        # unique local, fc00::/7: RFC 4193 (fd00:ec2::254 is a metadata service);
        # link-local, fe80::/10: RFC 4291, 2.5.6; site-local, fec0::/10: RFC 3879;
        # multicast, ff00::/8: RFC 4291, 2.7; the rest unassigned
        "8000::/1",
    )
)

_LOW32: Final = 0xFFFFFFFF

# The first 96 bits of the forms that are nothing but an IPv4 address.
_WHOLE_FORMS: Final = frozenset(
    {
        0,  # IPv4-compatible, ::a.b.c.d: RFC 4291, 2.5.5.1
        0xFFFF,  # IPv4-mapped, ::ffff:a.b.c.d: RFC 4291, 2.5.5.2
        0xFFFF_0000,  # IPv4-translated, ::ffff:0:a.b.c.d: RFC 2765, 2.1
        0x0064_FF9B << 64,  # NAT64, 64:ff9b::a.b.c.d: RFC 6052, 2.1
    }
)
_6TO4: Final = 0x2002  # the first 16 bits: RFC 3056, section 2
_TEREDO: Final = 0x2001_0000  # the first 32 bits: RFC 4380, 2.6
_NAT64_LOCAL: Final = 0x0064_FF9B_0001  # the first 48 bits: RFC 8215


def _local_nat64(value: int) -> list[int]:
    """Return what `value` may mean to a translator that uses part of 64:ff9b:1::/48.

    Where the IPv4 address stands depends on the length of the site's prefix (RFC 6052,
    section 2.2), which nobody tells us; every layout that fits is taken to be meant.  Bits
    64 to 71 are skipped by all but the longest, and what follows the address is zero.
    """
    found = [value & _LOW32] if value & _LOW32 else []
    without_u = (value >> 64 << 56) | (value & ((1 << 56) - 1))  # 120 bits, bits 64-71 cut out
    if not value >> 56 & 0xFF:
        for prefix in (48, 56, 64):
            below = 120 - prefix - 32
            if not without_u & ((1 << below) - 1) and (reading := without_u >> below & _LOW32):
                found.append(reading)
    return found


def _embedded(value: int) -> tuple[list[int], bool]:
    """Return the IPv4 addresses in an IPv6 address, and whether it is nothing else."""
    if value >> 32 in _WHOLE_FORMS:
        # :: and ::1 are addresses of their own, not IPv4-compatible ones.
        return ([value & _LOW32], True) if value > 1 else ([], False)
    found: list[int] = []
    if value >> 112 == _6TO4:
        found.append(value >> 80 & _LOW32)
    elif value >> 96 == _TEREDO:
        # The server, then the client with its bits inverted: RFC 4380, section 4.
        found += (value >> 64 & _LOW32, value & _LOW32 ^ _LOW32)
    elif value >> 80 == _NAT64_LOCAL:
        found += _local_nat64(value)
    if value >> 32 & 0xFDFF_FFFF == 0x0000_5EFE:
        found.append(value & _LOW32)  # ISATAP, under any prefix: RFC 5214, 6.1
    return found, False


def embedded_ipv4(address: IPv6Address) -> list[IPv4Address]:
    """Return the IPv4 addresses that an IPv6 address leads to or by way of.

    Known are IPv4-compatible, -mapped and -translated addresses, NAT64 (64:ff9b::/96 and the
    layouts possible in 64:ff9b:1::/48), 6to4, Teredo (server and client) and ISATAP.
    """
    return [IPv4Address(value) for value in _embedded(int(address))[0]]


def _parse_ports(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", text, re.ASCII)
    if match is None:
        raise ValueError(f"{text!r} is neither a port nor a range of ports such as 8000-8099")
    low = int(match[1])
    high = int(match[2]) if match[2] is not None else low
    if not (0 < low < 65536 and 0 < high < 65536):
        raise ValueError("a port is a number from 1 to 65535")
    if low > high:
        raise ValueError(f"the range of ports {text} is upside down; write {high}-{low}")
    return low, high


def _parse_network(text: str) -> IPNetwork:
    if "%" in text:
        raise ValueError("an address with a zone means something on one machine only")
    try:
        network = ip_network(text)
    except ValueError:
        try:
            meant = ip_interface(text).network
        except ValueError:
            raise ValueError(
                f"{text!r} is no address and no network such as 10.0.0.0/8 or [fd00::/8]"
            ) from None
        raise ValueError(f"{text} has bits set beyond its prefix; the network is {meant}") from None
    value = int(network.network_address)
    if network.version == 6 and network.prefixlen >= 96 and value >> 32 == 0xFFFF:
        # The same host as the plain IPv4 address, and that is the form that is judged.
        return IPv4Network((value & _LOW32, network.prefixlen - 96))
    return network


@attrs.frozen(slots=True)
class EgressRule:
    """Some addresses at some ports.

    Attributes:
        network: The addresses; None for all of them, IPv4 and IPv6.
        low: The lowest port.
        high: The highest port, included.
    """

    network: IPNetwork | None
    low: int = 1
    high: int = 65535

    @classmethod
    def parse(cls, text: str) -> EgressRule:
        """Parse a rule as it stands in the config.

        ``10.0.0.0/8``, ``10.0.0.1``, ``10.0.0.0/8:443``, ``10.0.0.0/8:8000-8099``,
        ``fd00::/8``, ``[fd00::/8]:443`` and ``:25`` (every address at that port).

        Raises:
            ValueError: The text is no rule; the message says why, in terms of the text.
        """
        text = text.strip()
        if not text:
            raise ValueError("the rule is empty")
        if text.startswith("["):
            host, bracket, rest = text[1:].partition("]")
            if not bracket or (rest and not rest.startswith(":")):
                raise ValueError("expected [network]:port")
            ports = rest[1:] if rest else None
        elif text.count(":") > 1:
            head, slash, tail = text.partition("/")
            if slash and ":" in tail:
                prefix, _, port = tail.partition(":")
                raise ValueError(
                    f"an IPv6 network with a port needs brackets: [{head}/{prefix}]:{port}"
                )
            host, ports = text, None
        else:
            host, colon, rest = text.partition(":")
            ports = rest if colon else None
        low, high = (1, 65535) if ports is None else _parse_ports(ports)
        if not host and ports is not None and not text.startswith("["):
            return cls(None, low, high)
        return cls(_parse_network(host), low, high)

    def __str__(self) -> str:
        """Return the text that `parse` reads back as this rule."""
        ports = str(self.low) if self.low == self.high else f"{self.low}-{self.high}"
        if self.network is None:
            return f":{ports}"
        if (self.low, self.high) == (1, 65535):
            return str(self.network)
        host = f"[{self.network}]" if self.network.version == 6 else str(self.network)
        return f"{host}:{ports}"


# (mask, network, lowest port, highest port): an address and a port match when
# ``value & mask == network and low <= port <= high``.
_Compiled = tuple[tuple[int, int, int, int], ...]


def _compile(rules: Iterable[EgressRule], version: int) -> _Compiled:
    compiled = []
    for rule in rules:
        if rule.network is None:
            compiled.append((0, 0, rule.low, rule.high))
        elif rule.network.version == version:
            mask, network = int(rule.network.netmask), int(rule.network.network_address)
            compiled.append((mask, network, rule.low, rule.high))
    return tuple(compiled)


_DENIED_4: Final = _compile(map(EgressRule, DENIED_IPV4), 4)
_DENIED_6: Final = _compile(map(EgressRule, DENIED_IPV6), 6)


def _matches(rules: _Compiled, value: int, port: int) -> bool:
    # A plain loop: this runs for every connection, and any() with a generator takes twice as
    # long.
    for mask, network, low, high in rules:
        if value & mask == network and low <= port <= high:
            return True
    return False


class EgressPolicy:
    """Says which destinations are permitted; immutable, a changed config makes a new one.

    Args:
        allow: Exemptions from the default denials.
        deny: Further denials, which no exemption outweighs.
        own_addresses: The server's own addresses, denied by default: what listens on them
            need not expect visitors from the machine itself.
    """

    __slots__ = ("_allow4", "_allow6", "_deny4", "_deny6", "_own4", "_own6")

    def __init__(
        self,
        allow: Iterable[EgressRule] = (),
        deny: Iterable[EgressRule] = (),
        own_addresses: Iterable[IPAddress | str] = (),
    ) -> None:
        allow, deny = tuple(allow), tuple(deny)
        own = [ip_address(address) for address in own_addresses]
        self._allow4, self._allow6 = _compile(allow, 4), _compile(allow, 6)
        self._deny4, self._deny6 = _compile(deny, 4), _compile(deny, 6)
        self._own4 = frozenset(int(address) for address in own if address.version == 4)
        self._own6 = frozenset(int(address) for address in own if address.version == 6)

    def permits(self, address: IPAddress, port: int) -> bool:
        """Tell whether `address` may be connected to at `port`."""
        if isinstance(address, IPv4Address):
            return self._permits4(int(address), port)
        return self._permits6(int(address), port)

    def _permits4(self, value: int, port: int) -> bool:
        if self._deny4 and _matches(self._deny4, value, port):
            return False
        if self._allow4 and _matches(self._allow4, value, port):
            return True
        return value not in self._own4 and not _matches(_DENIED_4, value, port)

    def _permits6(self, value: int, port: int) -> bool:
        if _matches(self._deny6, value, port):
            return False
        carried, nothing_else = _embedded(value)
        for inner in carried:
            if not self._permits4(inner, port):
                return False
        if nothing_else:
            return value not in self._own6
        if _matches(self._allow6, value, port):
            return True
        return value not in self._own6 and not _matches(_DENIED_6, value, port)
