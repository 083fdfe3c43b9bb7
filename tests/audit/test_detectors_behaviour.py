"""The detectors of behaviour over time and towards probers."""

from __future__ import annotations

import random
from typing import Any

import pytest
from support import traffic

from phantom.audit.detectors import connections, keepalive, probing, round_trips
from phantom.audit.detectors.probing import SILENCE, Reaction
from phantom.audit.flows import Flow, Segment
from phantom.audit.verdict import Status


def visits(*spans: tuple[float, float]) -> list[Flow]:
    return [
        Flow(client=str(i), server="s", segments=[Segment(a, True, b"\x80")], began=a, ended=b)
        for i, (a, b) in enumerate(spans)
    ]


@pytest.mark.parametrize(
    ("flows", "status"),
    [
        ([], Status.SKIPPED),
        (visits((0, 100), (1, 100)), Status.PASSED),
        (visits(*((i * 20, i * 20 + 5) for i in range(40))), Status.PASSED),
        (visits(*((i * 20, 2000) for i in range(7))), Status.FAILED),
        (visits(*((i * 0.5, i * 0.5 + 0.1) for i in range(14))), Status.FAILED),
    ],
)
def test_connections_are_counted(flows: list[Flow], status: Status) -> None:
    assert connections.detect(flows).status is status


def test_connections_to_different_servers_are_counted_apart() -> None:
    flows = visits(*((0, 100) for _ in range(8)))
    for place, flow in enumerate(flows):
        flow.server = str(place % 2)
    assert connections.count(flows) == (8, 4, 4)


@pytest.mark.parametrize("interval", [None, 20.0])
@pytest.mark.parametrize(
    ("jitter", "sizes", "status"),
    [
        (0.35, (30, 120), Status.PASSED),
        (0.0, (30, 120), Status.FAILED),
        (0.02, (30, 120), Status.FAILED),
        (0.35, (48, 48), Status.FAILED),
    ],
)
def test_clockwork_is_found(
    jitter: float, sizes: tuple[int, int], status: Status, interval: float | None
) -> None:
    flow = traffic.beacons(random.Random(5), jitter=jitter, sizes=sizes, count=60)
    verdict = keepalive.detect([flow], interval)
    assert verdict.status is status, verdict


def test_a_connection_that_is_busy_or_short_has_no_keepalives() -> None:
    chance = random.Random(6)
    busy = traffic.shadowsocks(chance, 200)
    short = traffic.beacons(chance, jitter=0.0, sizes=(9, 9), count=4)
    assert keepalive.detect([busy, short]).status is Status.SKIPPED


def test_answers_from_beyond_the_server_are_told_and_not_judged() -> None:
    def asked(delay: float) -> Flow:
        times = [(i + (delay if i % 2 else 0.0), not i % 2) for i in range(20)]
        segments = [Segment(time if up else time - 1 + 0.001, up, b"x" * 400) for time, up in times]
        return Flow(client="c", server="s", segments=segments, round_trip=0.001)

    far, near = round_trips.detect([asked(0.08)]), round_trips.detect([asked(0.0)])
    assert (far.status, near.status) == (Status.NOTED, Status.NOTED)
    assert far.measured.startswith("1 of 1")
    assert near.measured.startswith("0 of 1")
    assert round_trips.detect([traffic.flow((True, b"x"))]).status is Status.SKIPPED


def reaction(shape: str = "", close: str = "open", seconds: float = 0.01) -> Reaction:
    return Reaction(close=close, seconds=seconds, size=len(shape), shape=shape)


NGINX = {
    "GET": [reaction("HTTP/1.1 200 OK (server: nginx) body 5:1")],
    "hello": [reaction("tls 22:122 20:1 23:42 23:364"), reaction("tls 22:122 20:1 23:42 23:363")],
    "noise": [reaction(close="fin")],
}


def changed(**changes: Reaction) -> dict[str, list[Reaction]]:
    return {**NGINX, **{name: [reaction] for name, reaction in changes.items()}}


def test_a_server_that_reacts_as_the_decoy_passes() -> None:
    ours = changed(hello=reaction("tls 22:122 20:1 23:42 23:366"))
    assert probing.detect(ours, NGINX, (NGINX, NGINX)).status is Status.PASSED


@pytest.mark.parametrize(
    "ours",
    [
        changed(GET=reaction("HTTP/1.1 200 OK (server: nginx) body 5:2")),
        changed(GET=reaction("HTTP/1.1 404 Not Found (server: nginx) body 5:1")),
        changed(GET=reaction()),
        changed(hello=reaction("tls 22:122 20:1 23:60 23:364")),
        changed(hello=reaction("tls 22:122 20:1 23:42")),
        changed(noise=reaction(close="reset")),
        changed(noise=reaction("alert 2 10", close="fin")),
        {**NGINX, "noise": [reaction(close="fin"), reaction(close="open")]},
    ],
)
def test_any_difference_to_the_decoy_is_found(ours: dict[str, list[Reaction]]) -> None:
    verdict = probing.detect(ours, NGINX, ({}, {}))
    assert verdict.status is Status.FAILED
    assert len(verdict.details) == 1


def test_a_slower_answer_is_found() -> None:
    slow: Any = {"GET": [reaction("x", seconds=s) for s in (0.21, 0.19, 0.2)]}
    fast: Any = {"GET": [reaction("x", seconds=s) for s in (0.9, 0.01, 0.01)]}
    assert probing.detect(NGINX, NGINX, (slow, fast)).status is Status.FAILED
    assert probing.detect(NGINX, NGINX, (fast, fast)).status is Status.PASSED


@pytest.mark.parametrize(
    "broken", [reaction(close="fin"), reaction(close="reset"), reaction("bytes 3:a")]
)
def test_a_silent_server_that_speaks_or_closes_is_found(broken: Reaction) -> None:
    silent = {"a": [SILENCE, SILENCE], "b": [reaction(seconds=1.0)]}
    assert probing.detect_silence(silent).status is Status.PASSED
    verdict = probing.detect_silence({**silent, "c": [SILENCE, broken]})
    assert verdict.status is Status.FAILED
    assert verdict.details[0].startswith("c: ")


def test_a_replay_that_is_answered_is_found() -> None:
    expected = {"R1": [SILENCE], "R2": [SILENCE]}
    assert probing.detect_replays(expected, expected).status is Status.PASSED
    answered = {**expected, "R1": [reaction("bytes 80:a")]}
    assert probing.detect_replays(answered, expected).status is Status.FAILED
    closed = {**expected, "R2": [reaction(close="fin")]}
    assert probing.detect_replays(closed, expected).status is Status.FAILED
    assert probing.detect_replays({}, expected).status is Status.SKIPPED
