"""The detectors of TLS and of what is inside it: each passes the good, finds the bad."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import traffic

from phantom.audit import report, tls
from phantom.audit.detectors import hello, inner_tls, post_handshake
from phantom.audit.flows import Flow
from phantom.audit.verdict import Status
from phantom.errors import RemoteProtocolError

REFERENCE = report.load_reference()
PAGE = REFERENCE["hellos"]["page"]


def hellos(count: int = 6, *, shuffle: bool = True, **changes: Any) -> list[Flow]:
    chance = random.Random(3)
    facts = copy.deepcopy(PAGE) | changes
    return [
        traffic.flow((True, traffic.client_hello(chance, facts, shuffle=shuffle)))
        for _ in range(count)
    ]


def test_a_hello_with_all_facts_of_the_reference_passes() -> None:
    for kind in REFERENCE["hellos"].values():
        verdict = hello.detect(hellos(**kind), REFERENCE)
        assert verdict.status is Status.PASSED, verdict
        assert kind["ja4"] in verdict.measured


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"ciphers": PAGE["ciphers"][1:]}, "ciphers"),
        ({"ciphers": PAGE["ciphers"][:1] + PAGE["ciphers"][:0:-1]}, "ciphers"),
        ({"groups": PAGE["groups"][:-1]}, "groups"),
        ({"signatures": PAGE["signatures"][1:]}, "signatures"),
        ({"key_shares": PAGE["key_shares"][2:]}, "key_shares"),
        ({"versions": ["0304"]}, "versions"),
        ({"session_id": 0}, "session_id"),
        ({"certificate_compression": [1]}, "certificate_compression"),
        ({"trust_anchors": 3}, "trust_anchors"),
        ({"record_version": 0x0303}, "record_version"),
        ({"extensions": [kind for kind in PAGE["extensions"] if kind != "001b"]}, "extensions"),
        ({"ech_outer": "0000010003"}, "ech_outer"),
    ],
)
def test_any_other_field_is_found(changes: dict[str, Any], named: str) -> None:
    verdict = hello.detect(hellos(**changes), REFERENCE)
    assert verdict.status is Status.FAILED
    assert any(detail.startswith(named) for detail in verdict.details), verdict.details


def test_extensions_in_one_order_are_found() -> None:
    verdict = hello.detect(hellos(shuffle=False), REFERENCE)
    assert verdict.status is Status.FAILED
    assert "JA3" in verdict.details[0]


def test_a_resumed_hello_is_the_same_browser() -> None:
    [flow] = hellos(1)
    parsed = tls.parse_client_hello(flow.stream(True))
    parsed.extensions.append((41, b"ticket"))
    assert tls.ja4(parsed) == "t13d1518h2_8daaf6152771_e2d80978ab2e"
    assert not hello.differences(parsed, REFERENCE["hellos"])
    parsed.extensions.insert(0, parsed.extensions.pop())
    assert hello.differences(parsed, REFERENCE["hellos"])


def test_a_hello_that_cannot_be_read_is_found_and_no_tls_is_skipped() -> None:
    broken = traffic.flow((True, traffic.record(22, b"\x01\x00\x00\x05hello")))
    assert hello.detect([broken], REFERENCE).status is Status.FAILED
    assert hello.detect([traffic.flow((True, b"GET"))], REFERENCE).status is Status.SKIPPED


def test_ja3_is_that_of_a_known_hello() -> None:
    # The fields of the example in Salesforce's description, written as a hello.
    parsed = tls.ClientHello(
        record_version=0x0301,
        version=769,
        session_id=0,
        ciphers=[47, 53, 5, 10, 49161, 49162, 49171, 49172, 50, 56, 19, 4],
        extensions=[(0, b""), (10, b"\0\6\0\x17\0\x18\0\x19"), (11, b"\1\0")],
    )
    assert tls.ja3(parsed) == "ada70206e40642a3e4461f35503241d5"


@given(st.binary(max_size=300), st.booleans(), st.integers(0, 1700))
def test_noise_is_refused_and_nothing_else(noise: bytes, real: bool, place: int) -> None:
    data = noise
    if real:
        data = bytearray(traffic.client_hello(random.Random(1), PAGE))
        data[place : place + len(noise)] = noise
    try:
        tls.facts(tls.parse_client_hello(bytes(data)))
    except RemoteProtocolError:
        pass


# -- what is inside ----------------------------------------------------------------------

#: The bursts of a handshake inside, record overhead included, as nDPI's model has them.
INNER = [
    *((True, 1874), (False, 1472), (False, 1472), (False, 1472), (False, 583)),
    *((True, 809), (False, 1075), (True, 300)),
]


def tunnel(parts: list[tuple[bool, int]]) -> Flow:
    return traffic.inside_tls(traffic.client_hello(random.Random(1), PAGE), parts)


def test_a_handshake_inside_is_found_through_tls_and_bare() -> None:
    for flow in (
        tunnel(INNER),
        traffic.flow(*((up, b"\xe5" * (size - 24)) for up, size in INNER)),
    ):
        for packets in (25, 100):
            verdict = inner_tls.detect([flow], packets)
            assert verdict.status is Status.FAILED, verdict
            assert verdict.measured.startswith("100%")


def test_bursts_of_other_sizes_are_not() -> None:
    padded = [(True, 4200), *INNER[1:]]
    browsing = [(True, 700), (False, 30000), (True, 500), (False, 60000), (True, 400)]
    for parts in (padded, browsing):
        verdict = inner_tls.detect([tunnel(parts)], 25)
        assert verdict.status is Status.PASSED, verdict


def test_a_patient_censor_sees_what_comes_late() -> None:
    # Large answers first: what stays near the model comes after 25 packets.
    late = [(True, 700), (False, 60000), *INNER]
    assert inner_tls.detect([tunnel(late)], 25).status is Status.PASSED
    assert inner_tls.detect([tunnel(late)], 100).status is Status.FAILED


def test_a_narrow_margin_is_not_enough() -> None:
    [first, *rest] = INNER
    for more in range(0, 3000, 50):
        flow = tunnel([(True, first[1] + more), *rest])
        margin = inner_tls.margin(flow, 25)
        if 0 < margin < inner_tls.MARGIN:
            assert inner_tls.detect([flow], 25).status is Status.FAILED
            return
    pytest.fail("no burst comes near")


def test_the_outer_handshake_is_left_out() -> None:
    bursts = inner_tls.bursts(tunnel([(True, 600), (False, 900)]), 25)
    assert [(burst.up, burst.size) for burst in bursts] == [(True, 576), (False, 876)]


def handshake(flight: int = 42, tickets: tuple[int, ...] = (282, 282), *, joined: bool = False):
    server = traffic.record(22, bytes(122)) + traffic.record(23, bytes(flight))
    after = [(False, traffic.record(23, bytes(size))) for size in tickets]
    if joined:
        after = [(False, b"".join(data for _, data in after))]
    return traffic.flow(
        (True, traffic.record(22, bytes(500))),
        (False, server),
        (True, traffic.record(20, b"\x01") + traffic.record(23, bytes(53))),
        *after,
    )


def test_post_handshake_records_as_the_decoys_pass() -> None:
    verdict = post_handshake.detect([handshake()], [handshake(tickets=(283, 283))])
    assert verdict.status is Status.PASSED


@pytest.mark.parametrize(
    ("ours", "named"),
    [
        (handshake(tickets=(74, 74)), "records after"),
        (handshake(tickets=()), "records after"),
        (handshake(tickets=(282, 282, 57)), "records after"),
        (handshake(joined=True), "segments after"),
        (handshake(flight=60), "flight"),
        (traffic.flow((True, b"\x16\x03")), "did not finish"),
    ],
)
def test_other_post_handshake_records_are_found(ours: Flow, named: str) -> None:
    verdict = post_handshake.detect([handshake(), ours], [handshake(), handshake()])
    assert verdict.status is Status.FAILED
    assert named in verdict.details[0]


@pytest.mark.parametrize(
    "rest", [Flow(), traffic.flow((False, b"\x17\x03")), traffic.flow((True, b"\x17\x03\x03"))]
)
def test_the_rest_of_an_earlier_connection_is_no_handshake(rest: Flow) -> None:
    """A capture begins with whatever is under way; the pairs must not be shifted by it."""
    ours, decoy = [handshake(), handshake(flight=60)], [handshake(), handshake(flight=60)]
    verdict = post_handshake.detect([rest, *ours], decoy)
    assert verdict.status is Status.PASSED, verdict
    assert "2 handshakes" in verdict.measured


def test_segments_are_not_judged_where_a_relay_has_joined_them() -> None:
    ours, decoy = [handshake(joined=True)], [handshake()]
    assert post_handshake.detect(ours, decoy, segments=False).status is Status.PASSED
