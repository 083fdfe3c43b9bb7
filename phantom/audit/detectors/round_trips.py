"""The round trip of what travels inside, against that of the path.

Xue et al., "The Discriminative Power of Cross-layer RTTs in Fingerprinting Proxy Traffic",
NDSS 2025: a proxy answers TCP itself, yet requests go on to the site, so answers take longer
than the connection's own round trip.  Every proxy whose sites are elsewhere shows it; nothing
here hides it, so the figure is told and not judged.
"""

from __future__ import annotations

from collections.abc import Iterable

from phantom.audit.flows import Flow, quantile
from phantom.audit.verdict import Rule, Verdict

#: Seconds beyond the path's round trip from which on an answer has come from further away.
THRESHOLD = 0.025
#: Exchanges of the handshakes, which the server answers itself.
_SKIPPED = 2
#: Think time and queues only ever add, so a low quantile is what the site's distance gives.
_QUANTILE = 0.2
#: Bytes of a client's burst that can be a request.
_MOST_REQUEST = 4000
#: Bytes of the server's first segment that is an answer; smaller ones are a tunnel's own
#: acknowledgements, which a patient censor leaves out.
_LEAST_ANSWER = 300

RULE = Rule(
    detector="round-trip",
    threshold=f"{THRESHOLD * 1000:.0f} ms beyond the path's own; told, not judged",
    source="Xue et al., NDSS 2025 (as summarised elsewhere)",
)


def answers(flow: Flow) -> list[float]:
    """Return the seconds from each of the client's requests to the server's next answer."""
    found: list[float] = []
    asked: float | None = None
    size = bursts = 0
    for segment in flow.segments:
        if segment.up:
            if asked is None:
                bursts, size = bursts + 1, 0
            asked = segment.time
            size += len(segment.data)
        elif asked is not None and len(segment.data) >= _LEAST_ANSWER:
            if bursts > _SKIPPED and size <= _MOST_REQUEST:
                found.append(segment.time - asked)
            asked = None
    return found


def detect(flows: Iterable[Flow]) -> Verdict:
    """Measure the flows whose opening was seen."""
    extra = []
    for flow in flows:
        delays = answers(flow)
        if flow.round_trip is not None and len(delays) >= 3:
            extra.append(quantile(delays, _QUANTILE) - flow.round_trip)
    if not extra:
        return RULE.skip("no connection whose SYN and requests were seen")
    visible = sum(value > THRESHOLD for value in extra)
    return RULE.note(
        f"{visible} of {len(extra)} beyond it, median {quantile(extra, 0.5) * 1000:.1f} ms more"
    )
