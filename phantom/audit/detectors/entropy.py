"""Whether the first bytes are distributed as random ones are.

Wang et al., "Seeing through Network-Protocol Obfuscation", CCS 2015: a first message of at
least 149 bytes, and a Kolmogorov-Smirnov test on the entropies of the 8-byte blocks in the
first 2048 bytes against those of uniform bytes.  What a censor recognises as TLS is left out:
since browsers send ML-KEM keys, many a hello would pass for random.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable
from functools import cache

from phantom.audit.flows import Flow, spoken
from phantom.audit.verdict import Rule, Verdict

#: The paper's figures.
LEAST_BYTES, LOOKED_AT, BLOCK = 149, 2048, 8
#: Significance of the test: what is random passes for random in 95 % of cases.
SIGNIFICANCE = 0.05
#: Share of connections above which the censor would act (CENSOR.md: pass below 1 %).
LIMIT = 0.01

RULE = Rule(
    detector="entropy",
    threshold="under 1 % of first packets look uniform",
    source="Wang et al., CCS 2015 (as summarised elsewhere)",
)


def _entropy(counts: Iterable[int]) -> float:
    return round(-sum(count / BLOCK * math.log2(count / BLOCK) for count in counts), 6)


@cache
def _uniform_blocks() -> tuple[list[float], list[float]]:
    """Return the entropies a block of uniform bytes can have, and their distribution function.

    A block falls into a pattern of repetitions; how many blocks have each is counted exactly.
    """
    weights: dict[float, float] = {}
    for parts in _partitions(BLOCK, BLOCK):
        ways = math.factorial(BLOCK)
        for part in parts:
            ways //= math.factorial(part)
        values = math.perm(256, len(parts))
        for repeated in Counter(parts).values():
            values //= math.factorial(repeated)
        weight = ways * values / 256**BLOCK
        entropy = _entropy(parts)
        weights[entropy] = weights.get(entropy, 0.0) + weight
    entropies = sorted(weights)
    total, cumulative = 0.0, []
    for entropy in entropies:
        total += weights[entropy]
        cumulative.append(total)
    return entropies, cumulative


def _partitions(total: int, largest: int) -> list[tuple[int, ...]]:
    if total == 0:
        return [()]
    return [
        (first, *rest)
        for first in range(min(total, largest), 0, -1)
        for rest in _partitions(total - first, first)
    ]


def looks_uniform(message: bytes) -> bool:
    """Tell whether a first message passes for uniformly random bytes."""
    data = message[:LOOKED_AT]
    if len(data) < LEAST_BYTES:
        return False
    observed = sorted(
        _entropy(Counter(data[offset : offset + BLOCK]).values())
        for offset in range(0, len(data) - BLOCK + 1, BLOCK)
    )
    entropies, cumulative = _uniform_blocks()
    distance = max(
        abs(bisect_right(observed, entropy) / len(observed) - expected)
        for entropy, expected in zip(entropies, cumulative, strict=True)
    )
    return distance < math.sqrt(-0.5 * math.log(SIGNIFICANCE / 2) / len(observed))


def detect(flows: Iterable[Flow]) -> Verdict:
    """Judge the first packet of every flow that is not TLS."""
    all_flows = spoken(flows)
    packets = [flow.first() for flow in all_flows if not flow.is_tls]
    if not packets:
        return RULE.skip("TLS is recognised as such" if all_flows else "no connection")
    share = sum(map(looks_uniform, packets)) / len(packets)
    return RULE.judge(share < LIMIT, f"{share:.0%} of {len(packets)} look uniform")
