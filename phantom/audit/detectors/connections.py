"""How many connections a client opens, and how many it keeps open at once.

Russia has policed TLS connections by subnet, server name, fingerprint and number since
November 2025 (net4people/bbs, issues 490 and 546; community reports).  A desktop browser opens
one connection to a host over HTTP/2 and at most six over HTTP/1.1.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from phantom.audit.flows import Flow, spoken
from phantom.audit.tls import ja4, parse_client_hello
from phantom.audit.verdict import Rule, Verdict
from phantom.errors import RemoteProtocolError

#: More at once, or more opened within `WINDOW` seconds, is not what browsers do.
MOST_LIVE, MOST_NEW, WINDOW = 6, 12, 10.0

RULE = Rule(
    detector="connections",
    threshold=f"at most {MOST_LIVE} at once and {MOST_NEW} new in {WINDOW:.0f} s",
    source="TLS policing, Russia since 2025 (community reports); browsers' own limits",
)


def _kind(flow: Flow) -> tuple[str, bytes, str]:
    """Return what a censor tells connections apart by: server, name, fingerprint."""
    try:
        hello = parse_client_hello(flow.stream(True))
    except RemoteProtocolError:
        return flow.server, b"", ""
    return flow.server, hello.server_name or b"", ja4(hello)


def count(flows: Iterable[Flow]) -> tuple[int, int, int]:
    """Return connections in all, most at once, and most opened within the window.

    The latter two are the worst of any server, name and fingerprint.
    """
    kinds: dict[tuple[str, bytes, str], list[Flow]] = defaultdict(list)
    total = 0
    for flow in spoken(flows):
        kinds[_kind(flow)].append(flow)
        total += 1
    live = new = 0
    for alike in kinds.values():
        starts = sorted(flow.start for flow in alike)
        events = sorted([(flow.start, 1) for flow in alike] + [(flow.end, -1) for flow in alike])
        open_now = 0
        for _, change in events:
            open_now += change
            live = max(live, open_now)
        first = 0
        for last, start in enumerate(starts):
            while start - starts[first] >= WINDOW:
                first += 1
            new = max(new, last - first + 1)
    return total, live, new


def detect(flows: Iterable[Flow]) -> Verdict:
    """Judge the connections of one client."""
    total, live, new = count(flows)
    if not total:
        return RULE.skip("no connection")
    return RULE.judge(
        live <= MOST_LIVE and new <= MOST_NEW,
        f"{total} in all, {live} at once, {new} new in {WINDOW:.0f} s",
    )
