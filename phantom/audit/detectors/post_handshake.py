"""What a TLS server sends around the end of the handshake, against a real web server's.

Session tickets, their sizes and segments, and the encrypted flight before them tell one TLS
library from another (Aparecium, 2025, on REALITY and ShadowTLS v3).
"""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from phantom.audit.flows import Flow
from phantom.audit.tls import APPLICATION_DATA, records
from phantom.audit.verdict import Rule, Verdict

#: Record lengths may differ by so many bytes: an ECDSA signature varies by up to three.
TOLERANCE = 4

RULE = Rule(
    detector="post-handshake",
    threshold="same records, in the same segments, as the decoy",
    source="Aparecium (2025); NewSessionTicket records after Finished",
)


@attrs.frozen(slots=True, kw_only=True)
class Profile:
    """A TLS server's records, as a client that stays silent after Finished sees them.

    Attributes:
        flight: Kinds and lengths of those before the client's Finished.
        after: Lengths of those after it.
        segments: Bytes of the segments these came in.
    """

    flight: tuple[tuple[int, int], ...]
    after: tuple[int, ...]
    segments: tuple[int, ...]


def profile(flow: Flow) -> Profile | None:
    """Return what a server sent in a captured connection, None when it is no whole handshake."""
    ups = 0
    finished: int | None = None
    for position, segment in enumerate(flow.segments):
        if segment.up:
            ups += 1
            kinds = [record.kind for record in records(segment.data)]
            if ups >= 2 and (APPLICATION_DATA in kinds):
                finished = position
                break
    if finished is None:
        return None
    before = b"".join(s.data for s in flow.segments[:finished] if not s.up)
    after = []
    for segment in flow.segments[finished + 1 :]:
        if segment.up:
            break
        after.append(segment.data)
    return Profile(
        flight=tuple((record.kind, record.size) for record in records(before)),
        after=tuple(record.size for record in records(b"".join(after))),
        segments=tuple(map(len, after)),
    )


def _apart(ones: Iterable[int], others: Iterable[int]) -> bool:
    mine, its = list(ones), list(others)
    return len(mine) != len(its) or any(
        abs(one - other) > TOLERANCE for one, other in zip(mine, its, strict=True)
    )


def differences(ours: Profile, decoy: Profile, *, segments: bool = True) -> list[str]:
    """Return what differs; without `segments` nothing is said of these."""
    found = []
    if [kind for kind, _ in ours.flight] != [kind for kind, _ in decoy.flight] or _apart(
        (size for _, size in ours.flight), (size for _, size in decoy.flight)
    ):
        found.append(f"flight: {ours.flight}; the decoy: {decoy.flight}")
    if _apart(ours.after, decoy.after):
        found.append(f"records after Finished: {ours.after}; the decoy: {decoy.after}")
    elif segments and _apart(ours.segments, decoy.segments):
        found.append(f"segments after Finished: {ours.segments}; the decoy: {decoy.segments}")
    return found


def detect(ours: Iterable[Flow], decoy: Iterable[Flow], *, segments: bool = True) -> Verdict:
    """Compare captured handshakes of two servers, in pairs made with the same client.

    Args:
        ours: The server's.
        decoy: Those of the server to be mistaken for.
        segments: Whether segments were captured as they were, and are compared as well.
    """
    found: dict[str, None] = {}
    shown = ""
    compared = 0
    # A capture may begin with the end of an earlier connection, which would shift the pairs.
    mines, theirs = ([flow for flow in flows if flow.is_tls] for flows in (ours, decoy))
    for mine, its in zip(mines, theirs, strict=False):
        one, other = profile(mine), profile(its)
        if one is None or other is None:
            found["a handshake did not finish"] = None
            continue
        compared += 1
        shown = shown or f"; records {list(one.after)}"
        found.update(dict.fromkeys(differences(one, other, segments=segments)))
    if not compared:
        return RULE.skip("no whole handshake")
    return RULE.judge(
        not found, f"{len(found)} differences in {compared} handshakes{shown}", tuple(found)
    )
