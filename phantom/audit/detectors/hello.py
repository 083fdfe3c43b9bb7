"""The ClientHello against those of a real browser.

JA4 (FoxIO, 2023) and JA3 (Salesforce, 2017) are what boxes on the path compute; behind them
every field is compared with the recorded facts in ``reference.json``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from phantom.audit.flows import Flow, spoken
from phantom.audit.tls import ClientHello, facts, ja3, ja4, parse_client_hello
from phantom.audit.verdict import Rule, Verdict
from phantom.errors import RemoteProtocolError

_PRE_SHARED_KEY = 41
#: Hellos from which on a single extension order cannot be chance: Chromium shuffles some
#: fifteen extensions.
_SHUFFLED = 4

RULE = Rule(
    detector="client-hello",
    threshold="JA4 and every field as Chromium's; JA3 varies",
    source="captures of Chromium (phantom/audit/reference.json); JA4 by FoxIO, JA3 by Salesforce",
)


def fresh(hello: ClientHello) -> ClientHello:
    """Return a hello without what resumption adds: the pre-shared key at its end."""
    kept = [item for item in hello.extensions if item[0] != _PRE_SHARED_KEY]
    return attrs.evolve(hello, extensions=kept)


def differences(hello: ClientHello, reference: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the fields that differ from the browser's hello that is most alike."""
    if not facts(hello)["pre_shared_key_last"]:
        return ["pre_shared_key is not the last extension"]
    ours = facts(fresh(hello))
    found = []
    for name, theirs in reference.items():
        differing = [
            f"{field}: {ours.get(field)!r}, Chromium's {name} {theirs.get(field)!r}"
            for field in theirs
            if ours.get(field) != theirs[field]
        ]
        found.append(differing)
    return min(found, key=len)


def detect(flows: Iterable[Flow], reference: Mapping[str, Any]) -> Verdict:
    """Judge the hello of every flow that is TLS.

    Args:
        flows: Connections.
        reference: The content of ``reference.json``.
    """
    hellos = []
    unreadable = 0
    for flow in spoken(flows):
        if not flow.is_tls:
            continue
        try:
            hellos.append(parse_client_hello(flow.stream(True)))
        except RemoteProtocolError:
            unreadable += 1
    if not hellos and not unreadable:
        return RULE.skip("no TLS")
    details: dict[str, None] = {}
    strange = unreadable
    if unreadable:
        details[f"{unreadable} hellos cannot be read"] = None
    for hello in hellos:
        found = differences(hello, reference["hellos"])
        strange += bool(found)
        details.update(dict.fromkeys(found))
    orders = {ja3(hello) for hello in hellos}
    if len(hellos) >= _SHUFFLED and len(orders) == 1:
        details["one JA3 only: Chromium shuffles its extensions"] = None
        strange = max(strange, 1)
    names = ", ".join(sorted({ja4(hello) for hello in hellos})[:3])
    return RULE.judge(
        not details,
        f"{strange} of {len(hellos) + unreadable} strange; JA4 {names}; {len(orders)} JA3s",
        tuple(details)[:8],
    )
