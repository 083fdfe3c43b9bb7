"""A TLS handshake inside a tunnel, by the sizes of the first bursts: nDPI's rule.

Xue et al., "Fingerprinting Obfuscated Proxy Traffic with Encapsulated TLS Handshakes", USENIX
Security 2024, as nDPI (4.12 to 6.0, ``check_set`` in ``tls.c``) applies it: four bursts in a
row of which the client sends the first, in at most three packets, are compared with the
sizes of known handshakes by Mahalanobis distance.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from phantom.audit.flows import Flow, cut, quantile, spoken
from phantom.audit.tls import APPLICATION_DATA, CHANGE_CIPHER_SPEC, records
from phantom.audit.verdict import Rule, Verdict

#: What nDPI takes off each packet inside TLS: a record's head and tag, and some.
OVERHEAD = 24
#: The most packets in the first of the four bursts.
FIRST_PACKETS = 3
#: What passes: the share caught, and the margin of the worst tenth (CENSOR.md, section 4).
SHARE, MARGIN = 0.05, 0.9

Four = tuple[float, float, float, float]


class Model(NamedTuple):
    """A known handshake.

    Attributes:
        name: Whose it is.
        threshold: The distance below which bursts are taken for it.
        centre: Mean bytes of the four bursts.
        inverse: The inverse of their covariance.
        least: Bytes of the first burst at the least.
    """

    name: str
    threshold: float
    centre: Four
    inverse: tuple[Four, Four, Four, Four]
    least: int


#: nDPI's own parameters.
MODELS = (
    Model(
        "Firefox, TLS 1.2",
        3.5,
        (212.883690341977, 4514.71195039459, 107.770762871101, 307.580232995115),
        (
            (2.92421113167604e-4, 4.43677617831228e-7, -5.69966093492813e-5, -2.18124698406311e-6),
            (4.43677617831228e-7, 5.98954952745268e-7, -3.59798436724817e-7, 5.71638172955893e-7),
            (-5.69966093492813e-5, -3.59798436724817e-7, 7.6893788148309e-4, 2.22278496185964e-5),
            (-2.18124698406311e-6, 5.71638172955893e-7, 2.22278496185964e-5, 5.72770077086287e-5),
        ),
        0,
    ),
    Model(
        "Firefox, TLS 1.3",
        3.0,
        (640.657378447541, 4649.30338356554, 448.408302530566, 1094.2013079329),
        (
            (3.08030337925007e-5, 1.16179172096944e-7, 1.05356744968627e-7, 3.8862884355278e-8),
            (1.16179172096944e-7, 6.93179117519316e-7, 2.77413220880937e-8, -3.63723200682445e-9),
            (1.05356744968627e-7, 2.77413220880937e-8, 1.0260950589675e-6, -1.08769813590053e-8),
            (3.88628843552779e-8, -3.63723200682445e-9, -1.08769813590053e-8, 8.63307792288604e-8),
        ),
        517,
    ),
    Model(
        "Chrome, post-quantum",
        3.0,
        (1850.43045387994, 4903.07735480722, 785.25280624695, 1051.22303562714),
        (
            (6.72374390966642e-6, -2.32109583941723e-8, 6.67140014394388e-8, 1.2526322628285e-8),
            (-2.32109583941723e-8, 5.64668947932086e-7, 4.58963631972597e-8, 6.41254684791958e-9),
            (6.67140014394388e-8, 4.58963631972597e-8, 6.04057768431344e-7, -9.1507432597718e-10),
            (1.2526322628285e-8, 6.41254684791958e-9, -9.1507432597718e-10, 1.01184796635481e-7),
        ),
        0,
    ),
)


class Burst(NamedTuple):
    """What one side sends until the other one does.

    Attributes:
        up: Whether the client sends.
        size: Bytes, less what the outer TLS adds.
        packets: In how many packets.
    """

    up: bool
    size: int
    packets: int


def _after_handshake(flow: Flow) -> int:
    """Return how many of the client's bytes belong to the outer TLS handshake."""
    offset = 0
    changed = False
    for record in records(flow.stream(True)):
        offset += 5 + record.size
        if changed or record.kind == APPLICATION_DATA:
            return offset  # the record with Finished
        changed = record.kind == CHANGE_CIPHER_SPEC
    return offset


def bursts(flow: Flow, most_packets: int) -> list[Burst]:
    """Return the bursts that begin with the client's first after the outer handshake.

    Args:
        flow: The connection; in TLS its handshake is left out.
        most_packets: How many packets are looked at.
    """
    overhead = OVERHEAD if flow.is_tls else 0
    skip = _after_handshake(flow) if flow.is_tls else 0
    found: list[Burst] = []
    packets = 0
    sent = 0
    for segment in cut(flow.segments):
        size = len(segment.data)
        if segment.up:
            sent += size
            size = min(size, sent - skip)
        if size <= 0 or (not segment.up and sent < skip):
            continue
        packets += 1
        if packets > most_packets:
            break
        size = max(0, size - overhead)
        if not size or not (found or segment.up):
            continue
        if found and found[-1].up == segment.up:
            last = found[-1]
            found[-1] = Burst(last.up, last.size + size, last.packets + 1)
        else:
            found.append(Burst(segment.up, size, 1))
    return found


def distance(sizes: Four, model: Model) -> float:
    """Return the Mahalanobis distance of four bursts from a known handshake."""
    apart = [size - mean for size, mean in zip(sizes, model.centre, strict=True)]
    return math.sqrt(
        max(
            0.0,
            sum(
                one * weight * other
                for one, row in zip(apart, model.inverse, strict=True)
                for weight, other in zip(row, apart, strict=True)
            ),
        )
    )


def margin(flow: Flow, most_packets: int) -> float:
    """Return how far a flow stays clear of every model; below 0 it is caught."""
    best = math.inf
    found = bursts(flow, most_packets)
    for start in range(len(found) - 3):
        first = found[start]
        if not first.up or first.packets > FIRST_PACKETS:
            continue
        one, two, three, four = (float(burst.size) for burst in found[start : start + 4])
        for model in MODELS:
            if one >= model.least:
                best = min(best, distance((one, two, three, four), model) - model.threshold)
    return best


def detect(flows: Iterable[Flow], most_packets: int) -> Verdict:
    """Judge every flow by its first `most_packets` packets."""
    rule = Rule(
        detector=f"inner-tls-{most_packets}",
        threshold=f"at most {SHARE:.0%} caught, margin {MARGIN} at the tenth percentile",
        source=f"nDPI's rule at {most_packets} packets; Xue et al., USENIX Security 2024",
    )
    talks = [flow for flow in spoken(flows) if len(flow.segments) >= 5]
    if not talks:
        return rule.skip("no connection with enough in it")
    margins = [margin(flow, most_packets) for flow in talks]
    caught = sum(value < 0 for value in margins) / len(margins)
    worst = quantile(margins, 0.1)
    return rule.judge(
        caught <= SHARE and worst >= MARGIN,
        f"{caught:.0%} of {len(talks)} caught, margin {worst:.2f}",
    )
