"""Reactions of a server to those who probe it: against a real web server's, or against silence.

Probes and what their reactions tell: Alice et al., "How China Detects and Blocks Shadowsocks",
IMC 2020; Frolov et al., "Detecting Probe-resistant Proxies", NDSS 2020.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from statistics import median

import attrs

from phantom.audit.verdict import Rule, Verdict

#: Record lengths may differ by so many bytes: signatures vary by that much.
TOLERANCE = 4
#: Times differ when the medians are further apart than both.
SLACK, RATIO = 0.05, 1.6

PROBES_RULE = Rule(
    detector="probes",
    threshold="no difference to the decoy",
    source="probes of IMC 2020 and NDSS 2020, and in-TLS ones",
)
SILENCE_RULE = Rule(
    detector="probes",
    threshold="no answer and no close, ever",
    source="probes of IMC 2020 and NDSS 2020 (the best silent behaviour: read for ever)",
)
REPLAY_RULE = Rule(
    detector="replays",
    threshold="a replay gets what a stranger gets",
    source="replays R1 to R5 of the GFW; Alice et al., IMC 2020",
)


@attrs.frozen(slots=True, kw_only=True)
class Reaction:
    """What a server did.

    Attributes:
        close: How the connection ended: ``open``, ``fin``, ``reset``, ``refused``, or a TLS
            error's name.
        seconds: To the first byte, or to the end without any.
        size: Bytes of the answer.
        shape: The answer's kind: TLS records, status and headers, or a digest.
    """

    close: str
    seconds: float
    size: int
    shape: str

    def __str__(self) -> str:
        """Return it in a few words."""
        return f"{self.shape or 'nothing'}, then {self.close}"


Reactions = Mapping[str, Sequence[Reaction]]


def _alike(one: str, other: str) -> bool:
    if one == other:
        return True
    if not (one.startswith("tls ") and other.startswith("tls ")):
        return False
    numbers = re.compile(r"\d+")
    if numbers.sub("#", one) != numbers.sub("#", other):
        return False
    pairs = zip(numbers.findall(one), numbers.findall(other), strict=True)
    return all(abs(int(a) - int(b)) <= TOLERANCE for a, b in pairs)


def _covered(ones: Sequence[Reaction], others: Sequence[Reaction]) -> bool:
    return all(
        any(one.close == other.close and _alike(one.shape, other.shape) for other in others)
        for one in ones
    )


def differences(ours: Reactions, decoy: Reactions, than: str = "the decoy") -> list[str]:
    """Return what tells two servers apart, a line for each probe.

    Args:
        ours: Reactions by the probe's name.
        decoy: Likewise, of the server to be mistaken for.
        than: What the latter is called.
    """
    return [
        f"{name}: {ones[0]}; {than}: {others[0]}"
        for name, ones in ours.items()
        if ones
        and (others := decoy.get(name, ()))
        and not (_covered(ones, others) and _covered(others, ones))
    ]


def late(ours: Reactions, decoy: Reactions) -> list[str]:
    """Return the probes that one of two servers answers later than the other.

    Args:
        ours: Several reactions to each probe, by its name.
        decoy: Likewise, of the server to be mistaken for.
    """
    found = []
    for name in ours.keys() & decoy.keys():
        mine, its = (median(r.seconds for r in group[name]) for group in (ours, decoy))
        if abs(mine - its) > SLACK and max(mine, its) > RATIO * min(mine, its):
            found.append(f"{name}: after {mine:.3f} s; the decoy: after {its:.3f} s")
    return found


def detect(ours: Reactions, decoy: Reactions, timed: tuple[Reactions, Reactions]) -> Verdict:
    """Compare all reactions, and the times of some that were measured one by one."""
    if not ours:
        return PROBES_RULE.skip("nothing probed")
    found = differences(ours, decoy) + late(*timed)
    return PROBES_RULE.judge(
        not found, f"{len(found)} differences in {len(ours)} probes", tuple(found)
    )


#: What a server that stays silent does.
SILENCE = Reaction(close="open", seconds=0.0, size=0, shape="")


def _silent(reaction: Reaction) -> bool:
    return reaction.close == "open" and not reaction.size


def detect_silence(ours: Reactions) -> Verdict:
    """Judge a server that has no decoy: it says nothing and leaves the closing to others."""
    if not ours:
        return SILENCE_RULE.skip("nothing probed")
    broken = [
        f"{name}: {reaction}"
        for name, reactions in ours.items()
        for reaction in reactions
        if not _silent(reaction)
    ]
    return SILENCE_RULE.judge(
        not broken, f"{len(broken)} reactions to {len(ours)} probes", tuple(broken)
    )


def detect_replays(replays: Reactions, expected: Reactions) -> Verdict:
    """Compare what replayed first flights get with what they should.

    Args:
        replays: Reactions by the replay's name.
        expected: What strangers get.
    """
    if not replays or not expected:
        return REPLAY_RULE.skip("nothing to compare with")
    found = differences(replays, expected, "a stranger")
    return REPLAY_RULE.judge(
        not found, f"{len(found)} of {len(replays)} treated otherwise", tuple(found)
    )
