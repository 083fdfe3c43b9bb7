"""Whether the bytes of handshakes, over many connections, are as random as they pretend.

Looked at are the bias of each bit, the correlation of neighbours, the high half of each byte,
repeated beginnings, and keys: the 32 bytes of a raw X25519 key are always a point of the curve
(random ones in one case of two), and a representative made only from points of the prime-order
subgroup decodes to nothing else (random ones in one case of eight).  A printable beginning is
set apart first: it is as public as the rest of the protocol.  Curve: RFC 7748; the map:
RFC 9380, section 6.7.1.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence

from phantom.audit.flows import Flow, spoken
from phantom.audit.verdict import Rule, Verdict

#: Connections needed; with fewer only gross faults would show.
LEAST = 100
#: Bytes looked at: a key, and as much again.
WIDTH = 64
#: Chance that any one test condemns random bytes.
SIGNIFICANCE = 1e-4
#: Connections whose keys are put onto the curve: chance passes with 2**-64.
_CURVE_SAMPLES = 64
#: Connections whose representatives are decoded; each costs some 2 ms.
_DECODED = 128

_P = 2**255 - 19
_A = 486662
#: The order of the base point.
_L = 2**252 + 27742317777372353535851937790883648493

#: A printable beginning and the byte that ends it.
_PREFIX = re.compile(rb"[\x20-\x7e]{6,64}[^\x20-\x7e]")

RULE = Rule(
    detector="uniformity",
    threshold=f"no bias at significance {SIGNIFICANCE:g}, in either direction",
    source="bit and byte tests; curve tests after Frolov and others on obfs4's keys",
)


def on_curve(u: int) -> bool:
    """Tell whether `u` belongs to a point of Curve25519 itself, not of its twist."""
    value = (u * u * u + _A * u * u + u) % _P
    return value == 0 or pow(value, (_P - 1) // 2, _P) == 1


def decode(representative: int) -> int:
    """Return the u-coordinate that an Elligator2 representative stands for."""
    w = (-_A * pow(1 + 2 * representative * representative, _P - 2, _P)) % _P
    return w if on_curve(w) else (-w - _A) % _P


def multiply(scalar: int, u: int) -> int:
    """Return the u-coordinate of a multiple, 0 for the point at infinity (RFC 7748)."""
    x2, z2, x3, z3, swapped = 1, 0, u, 1, 0
    for position in range(254, -1, -1):
        bit = (scalar >> position) & 1
        if swapped ^ bit:
            x2, x3, z2, z3 = x3, x2, z3, z2
        swapped = bit
        a, b = x2 + z2, x2 - z2
        aa, bb = a * a % _P, b * b % _P
        e = aa - bb
        da, cb = (x3 - z3) * a % _P, (x3 + z3) * b % _P
        x3, z3 = (da + cb) ** 2 % _P, u * (da - cb) ** 2 % _P
        x2, z2 = aa * bb % _P, e * (aa + 121665 * e) % _P
    if swapped:
        x2, z2 = x3, z3
    return x2 * pow(z2, _P - 2, _P) % _P


def _deviation(chance: float) -> float:
    """Return how many standard deviations a normal variable exceeds with `chance`."""
    low, high = 0.0, 12.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if math.erfc(middle / math.sqrt(2)) > chance else (low, middle)
    return high


def without_prefix(packets: Sequence[bytes]) -> list[bytes]:
    """Take the printable beginning off, if nearly all packets have one."""
    matches = [_PREFIX.match(packet) for packet in packets]
    if sum(match is not None for match in matches) < 0.9 * len(packets):
        return list(packets)
    return [
        packet[match.end() :]
        for packet, match in zip(packets, matches, strict=True)
        if match is not None
    ]


def _columns(packets: Sequence[bytes], width: int) -> list[Counter[int]]:
    return [Counter(packet[place] for packet in packets) for place in range(width)]


def _bias(columns: Sequence[Counter[int]], what: str, total: int) -> list[str]:
    limit = _deviation(SIGNIFICANCE / (8 * len(columns))) * math.sqrt(total / 4)
    found = []
    for place, counts in enumerate(columns):
        for bit in range(8):
            ones = sum(count for value, count in counts.items() if value >> bit & 1)
            if abs(ones - total / 2) > limit:
                found.append(f"{what} {bit} of byte {place}: {ones / total:.0%} ones")
    return found


def _halves(columns: Sequence[Counter[int]], total: int) -> list[str]:
    """Test the high half of each byte: chi-squared with 15 degrees of freedom."""
    # Wilson and Hilferty's approximation of its quantile.
    z = _deviation(2 * SIGNIFICANCE / len(columns))
    limit = 15 * (1 - 2 / 135 + z * math.sqrt(2 / 135)) ** 3
    found = []
    for place, counts in enumerate(columns):
        halves: Counter[int] = Counter()
        for value, count in counts.items():
            halves[value >> 4] += count
        chi = sum((halves[half] - total / 16) ** 2 / (total / 16) for half in range(16))
        if chi > limit:
            found.append(f"high half of byte {place}: chi squared {chi:.0f}, limit {limit:.0f}")
    return found


def _number(packet: bytes, offset: int, bits: int) -> int:
    return int.from_bytes(packet[offset : offset + 32], "little") & ((1 << bits) - 1)


def _keys(packets: Sequence[bytes], width: int) -> list[str]:
    samples = packets[:_CURVE_SAMPLES]
    return [
        f"bytes {offset} to {offset + 31} are always a point of Curve25519"
        for offset in range(width - 31)
        if all(on_curve(_number(packet, offset, 255)) for packet in samples)
    ]


def _representatives(packets: Sequence[bytes]) -> list[str]:
    samples = packets[:_DECODED]
    classes = Counter(multiply(_L, decode(_number(packet, 0, 254))) for packet in samples)
    most = classes.most_common(1)[0][1]
    # The most frequent coordinate stands for two of the eight classes.
    expected = len(samples) / 4
    if most > expected + 6 * math.sqrt(expected * 0.75):
        return [f"the first 32 bytes decode to one class of points in {most} of {len(samples)}"]
    return []


def findings(messages: Sequence[bytes]) -> list[str]:
    """Return every way in which the first messages of many connections are not random."""
    found = []
    starts = Counter(message[:4] for message in messages)
    repeated = len(messages) - len(starts)
    if repeated > 3:
        found.append(f"{repeated} messages begin with the same 4 bytes as another one")
    packets = without_prefix(messages)
    width = min(WIDTH, min(map(len, packets)))
    packets = [packet[:width] for packet in packets]
    total = len(packets)
    columns = _columns(packets, width)
    found += _bias(columns, "bit", total)
    as_numbers = [int.from_bytes(packet, "big") for packet in packets]
    neighbours = [(number ^ (number >> 1)).to_bytes(width, "big") for number in as_numbers]
    # The first bit has no neighbour before it.
    pairs = _columns(neighbours, width)[1:]
    found += _bias(pairs, "neighbours at bit", total)
    found += _halves(columns, total)
    if width >= 32:
        found += _keys(packets, width)
        found += _representatives(packets)
    return found


def detect(flows: Iterable[Flow]) -> Verdict:
    """Judge the first message of each side over all flows that are not TLS."""
    all_flows = spoken(flows)
    plain = [flow for flow in all_flows if not flow.is_tls]
    if all_flows and not plain:
        return RULE.skip("TLS: only a browser's hello is in the open")
    if len(plain) < LEAST:
        return RULE.skip(f"{len(plain)} connections, {LEAST} needed")
    found = []
    for up, side in ((True, "client"), (False, "server")):
        messages = [message for flow in plain if len(message := flow.first(up)) >= 32]
        if len(messages) >= LEAST:
            found += [f"{side}: {what}" for what in findings(messages)]
    return RULE.judge(
        not found, f"{len(found)} findings in {len(plain)} connections", tuple(found[:8])
    )
