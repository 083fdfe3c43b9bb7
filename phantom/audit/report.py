"""The detectors by name, what can be judged from a capture alone, and the table of verdicts."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Iterable, Sequence
from importlib.resources import files
from typing import Any

from phantom.audit.detectors import (
    connections,
    entropy,
    first_packet,
    hello,
    inner_tls,
    keepalive,
    lengths,
    post_handshake,
    probing,
    round_trips,
    uniformity,
)
from phantom.audit.flows import Flow
from phantom.audit.verdict import Status, Verdict

#: Every detector, in the order of the table.
DETECTORS = (
    "first-packet",
    "entropy",
    "first-length",
    "uniformity",
    "length-prefix",
    "client-packets",
    "client-hello",
    "post-handshake",
    "inner-tls-25",
    "inner-tls-100",
    "connections",
    "keepalive",
    "round-trip",
    "probes",
    "replays",
)

_WIDTH = 100
#: Differences printed for each detector; ``--json`` has all of them.
_DETAILS = 12


def load_reference() -> dict[str, Any]:
    """Return the recorded facts of a browser's ClientHellos."""
    text = files("phantom.audit").joinpath("reference.json").read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def judge(
    flows: Sequence[Flow],
    *,
    openings: Sequence[Flow] | None = None,
    one_client: Sequence[Flow] | None = None,
    idle: Sequence[Flow] | None = None,
    idle_interval: float | None = None,
) -> dict[str, Callable[[], Verdict]]:
    """Return the detectors that need flows alone, by name; each is run by calling it.

    Args:
        flows: Connections with everything in them.
        openings: More connections of which only the first messages matter.
        one_client: The connections of one client, for counting; `flows` otherwise.
        idle: Connections left idle, for keepalives; `flows` otherwise.
        idle_interval: See `phantom.audit.detectors.keepalive.detect`.
    """
    first = [*flows, *(openings or ())]
    counted = flows if one_client is None else one_client
    quiet = flows if idle is None else idle
    return {
        "first-packet": lambda: first_packet.detect(first),
        "entropy": lambda: entropy.detect(first),
        "first-length": lambda: lengths.detect_first(first),
        "uniformity": lambda: uniformity.detect(first),
        "length-prefix": lambda: lengths.detect(flows),
        "client-packets": lambda: lengths.detect_packets(flows),
        "client-hello": lambda: hello.detect(first, load_reference()),
        "inner-tls-25": lambda: inner_tls.detect(flows, 25),
        "inner-tls-100": lambda: inner_tls.detect(flows, 100),
        "connections": lambda: connections.detect(counted),
        "keepalive": lambda: keepalive.detect(quiet, idle_interval),
        "round-trip": lambda: round_trips.detect(flows),
    }


def judge_capture(flows: Sequence[Flow], chosen: Iterable[str]) -> list[Verdict]:
    """Return the verdicts on a capture; detectors that must ask a server are skipped.

    Args:
        flows: The connections.
        chosen: Names out of `DETECTORS`.
    """
    live = {rule.detector: rule for rule in (post_handshake.RULE, probing.PROBES_RULE)}
    live[probing.REPLAY_RULE.detector] = probing.REPLAY_RULE
    passive = judge(flows)
    names = set(chosen)
    return [
        passive[name]() if name in passive else live[name].skip("needs a live server")
        for name in DETECTORS
        if name in names
    ]


def failed(verdicts: Iterable[Verdict]) -> bool:
    """Tell whether any detector found the tunnel."""
    return any(verdict.status is Status.FAILED for verdict in verdicts)


def table(verdicts: Iterable[Verdict]) -> str:
    """Return the verdicts for people: a block for each, and what was found below it."""
    lines = []
    for verdict in verdicts:
        lines.append(f"  {verdict.status.value:<8}{verdict.detector:<16}{verdict.measured}")
        if verdict.status is Status.SKIPPED:
            continue
        lines += _indented(f"limit: {verdict.threshold}")
        lines += _indented(f"source: {verdict.source}")
        for detail in verdict.details[:_DETAILS]:
            lines += _indented(f"- {detail}")
        if len(verdict.details) > _DETAILS:
            lines += _indented(f"- and {len(verdict.details) - _DETAILS} more")
    return "\n".join(lines)


def _indented(text: str) -> list[str]:
    return textwrap.wrap(
        text, _WIDTH, initial_indent=" " * 26, subsequent_indent=" " * 28, break_long_words=False
    )


def as_json(verdicts: Iterable[Verdict]) -> list[dict[str, Any]]:
    """Return the verdicts for programs."""
    return [
        {
            "detector": verdict.detector,
            "status": verdict.status.name.lower(),
            "measured": verdict.measured,
            "threshold": verdict.threshold,
            "source": verdict.source,
            "details": list(verdict.details),
        }
        for verdict in verdicts
    ]
