"""What a server's log says of sessions, and that no client can fill it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from support.stack import Stack
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher

from phantom.core.wire import FrameType, encode_ack, pack_frame
from phantom.tunnel.session_log import LINE_RATE, LINES, MAX_CLIENTS, SessionLog

ONE, OTHER = b"1" * 32, b"2" * 32


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """Every line from level info on, but the dialer's."""
    seen: list[str] = []

    def observe(event: Any) -> None:
        if event["log_level"].name != "debug" and "dialer" not in event["log_namespace"]:
            seen.append(str(event["log_format"]).format(**event))

    globalLogPublisher.addObserver(observe)
    yield seen
    globalLogPublisher.removeObserver(observe)


def test_a_session_that_resumes_now_and_then_is_told_of_each_time(lines: list[str]) -> None:
    stack = Stack()
    stack.dialer.start()
    stack.run()
    for _ in range(5):
        stack.pipes[-1].cut()
        stack.run(5)
    assert [line.partition(";")[0].partition(":")[0] for line in lines] == [
        "session begun",
        *["session without a link", "session resumed"] * 5,
    ]


def test_a_client_that_resumes_all_the_time_does_not_fill_the_log(lines: list[str]) -> None:
    stack = Stack()
    stack.dialer.start()
    stack.run()
    start = stack.clock.seconds()
    while len(stack.pipes) < 2 * LINES:
        stack.pipes[-1].cut()
        stack.run(1)
    spent = stack.clock.seconds() - start
    assert stack.meters.counts["session.resumed"] > LINES
    assert stack.meters.counts["session.detached"] > LINES
    # What was left out is told of with the next line, so at most twice.
    assert LINES <= len(lines) <= LINES + 2 * LINE_RATE * spent + 2
    stack.run(30 / LINE_RATE)
    before = len(lines)
    stack.pipes[-1].cut()
    stack.run(1)
    left_out, *rest = lines[before:]
    assert left_out.endswith("lines about one client's sessions were left out")
    assert len(rest) == 2


def test_a_client_that_breaks_the_protocol_all_the_time_does_not_fill_the_log(
    lines: list[str],
) -> None:
    acknowledged = pack_frame(FrameType.ACK, 0, encode_ack(1 << 40))
    stack = Stack()
    stack.dialer.start()
    stack.run()
    start = stack.clock.seconds()
    broken = 0
    while broken < 2 * LINES:
        session = stack.dialer._session
        if session is not None and session.link is not None:
            session.link.send_record(acknowledged)
            broken += 1
        stack.run(1)
    spent = stack.clock.seconds() - start
    assert stack.meters.counts["session.ended"] >= 2 * LINES
    assert len(lines) <= LINES + 2 * LINE_RATE * spent + 2


def test_other_clients_are_told_of_all_the_same() -> None:
    log = SessionLog(Clock())
    while log.allows(ONE):
        pass
    assert log.allows(OTHER)
    assert not log.allows(ONE)


def test_clients_are_forgotten_the_one_of_long_ago_first() -> None:
    log = SessionLog(Clock())
    while log.allows(ONE):
        pass
    for number in range(MAX_CLIENTS - 1):
        log.allows(number.to_bytes(32, "big"))
        assert number % 1000 or not log.allows(ONE)
    for number in range(MAX_CLIENTS):
        log.allows((MAX_CLIENTS + number).to_bytes(32, "big"))
    assert log.allows(ONE)
