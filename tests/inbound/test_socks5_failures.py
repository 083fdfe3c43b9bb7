"""The SOCKS inbound in memory: failures, passwords, time and number, and what is logged."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.socks_inbound import CONNECTED_5, HELLO, REQUEST, REQUEST_4A, World, waiting_world
from twisted.internet.error import ConnectionLost
from twisted.logger import globalLogPublisher

from phantom.errors import EXPLANATIONS, Outcome, RelayError
from phantom.inbound.socks5 import LINGER

# -- failures -------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", [o for o in Outcome if o is not Outcome.CONNECTED])
def test_every_failure_has_its_true_code(outcome: Outcome) -> None:
    world = waiting_world()
    world.outbound.fail(RelayError(outcome))
    code = EXPLANATIONS[outcome].socks
    assert code != 0
    assert world.app.take() == bytes((5, code)) + bytes.fromhex("00 01 00000000 0000")
    assert world.app.disconnecting
    assert not world.app.aborted
    world.app.flush()
    assert world.nothing_left()


def test_refused_with_unread_input_listens_on_so_that_the_reply_arrives() -> None:
    world = waiting_world()
    world.app.deliver(b"early")
    world.app.deliver(b"more")
    world.outbound.fail(RelayError(Outcome.REFUSED))
    assert world.app.take()[1] == 5
    assert world.app.write_closed
    assert not world.app.disconnecting
    assert world.app.reading
    world.app.end()
    world.app.flush()
    assert not world.app.connected
    assert not world.app.aborted
    assert world.nothing_left()


def test_an_application_that_never_stops_sending_is_cut_off() -> None:
    world = waiting_world()
    world.app.deliver(b"early")
    world.outbound.fail(RelayError(Outcome.REFUSED))
    for _ in range(8):
        world.clock.advance(LINGER / 8)
        if not world.app.disconnecting:
            world.app.deliver(b"still here")
    assert world.app.aborted
    world.app.flush()
    assert world.nothing_left()


def test_an_unexpected_error_is_logged_and_answered(logged_failures: Any) -> None:
    world = waiting_world()
    world.outbound.fail(ZeroDivisionError())
    assert world.app.take()[:2] == b"\x05\x01"
    assert len(logged_failures.flush(ZeroDivisionError)) == 1


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (b"\x05\x01\x02", b"\x05\xff"),
        (HELLO + b"\x05\x02\x00\x01\x7f\0\0\1\0\x50", b"\x05\x00" + b"\x05\x07\x00\x01" + bytes(6)),
        (HELLO + b"\x05\x01\x00\x05", b"\x05\x00" + b"\x05\x08\x00\x01" + bytes(6)),
        (HELLO + b"\x05\x01\x00\x03\x01 \0\x50", b"\x05\x00" + b"\x05\x01\x00\x01" + bytes(6)),
        (b"\x04\x02\x00\x50\x7f\0\0\1\0", b"\x00\x5b" + bytes(6)),
        (b"SSH-2.0-x\r\n", b""),
    ],
)
def test_what_cannot_be_served_is_answered_where_it_can_be_and_closed(
    sent: bytes, answer: bytes
) -> None:
    world = World()
    world.app.deliver(sent)
    assert world.app.take() == answer
    assert world.app.disconnecting
    assert world.outbound.asked == []
    world.app.flush()
    assert world.nothing_left()


@given(
    st.sampled_from(
        [HELLO, HELLO + REQUEST[:4], REQUEST_4A[:8], b"\x05\x01\x02\x01", b"\x05", b""]
    ),
    st.binary(min_size=1, max_size=600),
    st.sampled_from([None, {"ann": "secret"}]),
)
@settings(max_examples=150)
def test_random_octets_end_in_an_answer_a_close_or_a_wait(
    head: bytes, tail: bytes, credentials: dict[str, str] | None
) -> None:
    world = World(credentials=credentials)
    world.app.deliver(head + tail)
    world.clock.advance(10.0)
    if world.outbound.asked:
        world.outbound.succeed()
    else:
        assert world.app.disconnecting
        world.app.flush()
    assert world.nothing_left()


# -- credentials, time and number -------------------------------------------------------------


def test_password() -> None:
    for secret, answer in ((b"secret", b"\x01\x00"), (b"guess!", b"\x01\x01")):
        world = World(credentials={"ann": "secret"})
        world.app.deliver(b"\x05\x02\x00\x02")
        assert world.app.take() == b"\x05\x02"
        world.app.deliver(b"\x01\x03ann\x06" + secret)
        assert world.app.take() == answer
        assert world.app.disconnecting == (answer[1] != 0)
        if not world.app.disconnecting:
            world.app.deliver(REQUEST)
        assert len(world.outbound.asked) == (answer[1] == 0)


def test_socks4_is_refused_where_a_password_is_asked_for() -> None:
    world = World(credentials={"ann": "secret"})
    world.app.deliver(REQUEST_4A)
    assert world.app.take() == b"\x00\x5d" + bytes(6)
    assert world.app.disconnecting
    assert world.outbound.asked == []


@pytest.mark.parametrize("sent", [b"", HELLO, HELLO + REQUEST[:-1]])
def test_slow_greetings_time_out_however_they_trickle(sent: bytes) -> None:
    world = World()
    for octet in sent:
        world.clock.advance(0.1)
        world.app.deliver(bytes([octet]))
    world.clock.advance(9.99 - 0.1 * len(sent))
    assert not world.app.aborted
    world.clock.advance(0.02)
    assert world.app.aborted
    world.app.flush()
    assert world.nothing_left()


def test_the_wait_for_the_outbound_is_not_a_slow_greeting() -> None:
    world = waiting_world()
    world.clock.advance(1000.0)
    world.outbound.succeed()
    assert world.app.take() == CONNECTED_5


def test_connections_are_limited_and_counted_off() -> None:
    world = World(max_connections=2)
    second = world.accept()
    assert world.factory.buildProtocol(None) is None
    second.lose()
    world.app.deliver(HELLO + REQUEST)
    far = world.outbound.succeed()
    second = world.accept()
    assert world.factory.buildProtocol(None) is None
    far.lose(ConnectionLost())
    world.app.flush()
    assert world.app.aborted
    assert world.factory.buildProtocol(None) is not None


def test_stopping_aborts_what_the_relay_does_not_have() -> None:
    world = waiting_world()
    greeting, relayed = world.accept(), world.accept()
    relayed.deliver(HELLO + REQUEST)
    world.outbound.succeed()
    world.factory.abort_waiting()
    assert world.app.aborted
    assert greeting.aborted
    assert not relayed.aborted


# -- what is logged -----------------------------------------------------------------------------


def logged(record: list[dict[str, Any]]) -> str:
    return "\n".join(
        str(event.get("log_format", "")).format_map({k: str(v) for k, v in event.items()})
        for event in record
    )


@pytest.fixture
def log_record() -> Any:
    record: list[dict[str, Any]] = []
    globalLogPublisher.addObserver(record.append)
    yield record
    globalLogPublisher.removeObserver(record.append)


@pytest.mark.parametrize(
    ("sent", "line"),
    [
        (b"GET http://private.example/ HTTP/1.1\r\n\r\n", "an HTTP request arrived"),
        (b"CONNECT private.example:443 HTTP/1.1\r\n\r\n", "an HTTP request arrived"),
        (b"\x16\x03\x01\x02\x00\x01private.example", "a TLS handshake arrived"),
    ],
)
def test_a_wrong_proxy_type_is_explained_once_and_without_its_bytes(
    sent: bytes, line: str, log_record: list[dict[str, Any]]
) -> None:
    world = World()
    for _ in range(3):
        app = world.accept()
        app.deliver(sent)
        assert app.disconnecting
        assert app.written == b""
        app.flush()
    text = logged(log_record)
    assert text.count(f"{line} at the SOCKS port: set the application's proxy type to SOCKS5") == 1
    assert "private" not in repr(log_record)
    world.clock.advance(60.0)
    world.accept().deliver(sent)
    assert logged(log_record).count(line) >= 2
