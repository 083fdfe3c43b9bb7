"""The rules against fully encrypted traffic, on the first packet of a connection.

Wu et al., "How the Great Firewall of China Detects and Blocks Fully Encrypted Traffic",
USENIX Security 2023, algorithm 1: a connection is let through when any of five exemptions
holds, and blocked otherwise.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from phantom.audit.flows import Flow, spoken
from phantom.audit.verdict import Rule, Verdict

#: Ex1: mean set bits of a byte outside these look compressed or like text, not random.
FEWEST_BITS, MOST_BITS = 3.4, 4.6
#: Ex2: that many printable bytes at the beginning.
PRINTABLE_START = 6
#: Ex3: a greater share of printable bytes than this.
PRINTABLE_SHARE = 0.5
#: Ex4: more contiguous printable bytes than this.
PRINTABLE_RUN = 20

_PRINTABLE = frozenset(range(0x20, 0x7F))
_HTTP = (b"GET ", b"PUT ", b"POST ", b"HEAD ")

RULE = Rule(
    detector="first-packet",
    threshold="0 blocked",
    source="GFW rules Ex1 to Ex5; Wu et al., USENIX Security 2023",
)


def exemption(packet: bytes) -> str | None:
    """Return the first rule that lets a connection through; None when it is blocked."""
    if not packet:
        return "empty"
    bits = int.from_bytes(packet, "big").bit_count() / len(packet)
    if bits <= FEWEST_BITS or bits >= MOST_BITS:
        return "Ex1"
    run = longest = printable = 0
    start: int | None = None
    for position, byte in enumerate(packet):
        if byte in _PRINTABLE:
            run += 1
            printable += 1
            longest = max(longest, run)
        else:
            run = 0
            start = position if start is None else start
    if (len(packet) if start is None else start) >= PRINTABLE_START:
        return "Ex2"
    if printable / len(packet) > PRINTABLE_SHARE:
        return "Ex3"
    if longest > PRINTABLE_RUN:
        return "Ex4"
    # The paper's TLS versions are 0x0300 to 0x0303.
    if packet[0] in (0x16, 0x17) and packet[1:2] == b"\x03" and packet[2:3] <= b"\x03":
        return "Ex5 TLS" if len(packet) > 2 else None
    return "Ex5 HTTP" if packet.startswith(_HTTP) else None


def detect(flows: Iterable[Flow]) -> Verdict:
    """Judge the first packet of every flow."""
    packets = [flow.first() for flow in spoken(flows)]
    if not packets:
        return RULE.skip("no connection")
    found = Counter(exemption(packet) for packet in packets)
    blocked = found.pop(None, 0)
    why = ", ".join(f"{rule} {count}" for rule, count in found.most_common())
    return RULE.judge(
        blocked == 0, f"{blocked} of {len(packets)} blocked" + (f" ({why})" if why else "")
    )
