"""Signs of life on an idle connection: clockwork is not what people do.

The measure is that of beacon detectors (RITA and its kin): how far the gaps, and the sizes,
spread around their median.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from statistics import median

from phantom.audit.flows import Flow, Segment
from phantom.audit.verdict import Rule, Verdict

#: Exchanges needed on one connection.
LEAST = 8
#: Median deviation of the gaps over their median: below this they are regular.  A uniform
#: jitter of 20 % to either side has 0.1.
LEAST_SPREAD = 0.05
#: Share of exchanges with one and the same size at and above which sizes are constant.
MOST_ALIKE = 0.5
#: What comes within this share of the median gap belongs to the exchange before it: an answer.
_TOGETHER = 0.1
#: Seconds of silence that count as a pause where nothing is known of the keepalives.
PAUSE = 1.0

RULE = Rule(
    detector="keepalive",
    threshold=f"gaps spread by {LEAST_SPREAD:.0%} or more, no size in {MOST_ALIKE:.0%}",
    source="beacon detection by dispersion of gaps and sizes (as RITA); thresholds ours",
)


def exchanges(segments: Iterable[Segment], pause: float) -> list[tuple[float, int]]:
    """Return time and size of each first message after a pause of at least `pause` seconds."""
    found: list[tuple[float, int]] = []
    before: Segment | None = None
    for segment in segments:
        if before is None or segment.time - before.time >= pause:
            found.append((segment.time, len(segment.data)))
        before = segment
    return found


def spread(gaps: list[float]) -> float:
    """Return the median absolute deviation over the median."""
    middle = median(gaps)
    return median(abs(gap - middle) for gap in gaps) / middle if middle else 0.0


def _usual_gap(flow: Flow) -> float | None:
    """Return how far messages are apart on an idle connection, None on a busy one."""
    gaps = [after.time - before.time for before, after in pairwise(flow.segments)]
    pauses = [gap for gap in gaps if gap >= PAUSE]
    return median(pauses) if len(pauses) >= LEAST else None


def detect(flows: Iterable[Flow], interval: float | None = None) -> Verdict:
    """Judge the idle stretches of connections.

    Args:
        flows: Connections.
        interval: Seconds that keepalives are apart, about; found out when None.  What is
            closer than a tenth of it is one exchange, and gaps longer than thrice it are no
            idleness but absence.
    """
    gaps: list[float] = []
    sizes: Counter[int] = Counter()
    for flow in flows:
        usual = interval or _usual_gap(flow)
        if usual is None:
            continue
        found = exchanges(flow.segments, usual * _TOGETHER)
        idle = [
            (after[0] - before[0], after[1])
            for before, after in pairwise(found)
            if usual / 3 <= after[0] - before[0] <= usual * 3
        ]
        if len(idle) < LEAST:
            continue
        gaps.extend(gap for gap, _ in idle)
        sizes.update(size for _, size in idle)
    if len(gaps) < LEAST:
        return RULE.skip(f"fewer than {LEAST} exchanges on any idle connection")
    spreading = spread(gaps)
    size, count = sizes.most_common(1)[0]
    share = count / sizes.total()
    return RULE.judge(
        spreading >= LEAST_SPREAD and share < MOST_ALIKE,
        f"{len(gaps)} gaps spread by {spreading:.0%}; {len(sizes)} sizes, "
        f"{size} bytes in {share:.0%}",
    )
