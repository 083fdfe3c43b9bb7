"""HTTP connections of which one side ends, or says nothing any more."""

from __future__ import annotations

from html import escape

import pytest
from support.http_inbound import CONNECT, GET, OK, POST, SENT, TRUNCATED, World
from twisted.internet.error import ConnectionLost

from phantom.errors import EXPLANATIONS, Outcome, SessionError, StreamError
from phantom.inbound import http
from phantom.inbound.http_forward import FRESH_FOR
from phantom.inbound.http_server import (
    EXCHANGE_TIMEOUT,
    HALF_CLOSED_TIMEOUT,
    KEEP_ALIVE_TIMEOUT,
    LINGER,
)

# -- the end of one side ----------------------------------------------------------------------


def test_a_client_that_goes_away_aborts_the_origin() -> None:
    world = World()
    origin = world.request()
    world.app.lose(ConnectionLost())
    assert origin.aborted
    assert world.nothing_left()


def test_a_client_that_has_nothing_more_to_say_still_gets_its_answer() -> None:
    world = World()
    origin = world.request()
    world.app.end()
    origin.deliver(OK)
    assert world.app.take() == OK
    assert world.app.disconnecting
    assert not world.app.aborted


def test_a_client_that_ended_its_side_is_waited_for_only_so_long() -> None:
    world = World()
    origin = world.request()
    world.app.end()
    world.clock.advance(HALF_CLOSED_TIMEOUT)
    assert origin.aborted
    assert world.app.disconnecting


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (StreamError("not reached", Outcome.REFUSED), Outcome.REFUSED),
        (StreamError("not reached", Outcome.FORBIDDEN), Outcome.FORBIDDEN),
        (StreamError("reset", Outcome.CANCELLED), Outcome.RESET),
        (SessionError("the link was lost"), Outcome.SESSION_LOST),
        (ConnectionLost(), Outcome.RESET),
    ],
)
def test_a_stream_that_was_answered_early_still_tells_why_it_failed(
    error: Exception, outcome: Outcome
) -> None:
    world = World()
    world.request().lose(error)
    explanation = EXPLANATIONS[outcome]
    assert world.status() == explanation.http
    assert escape(explanation.advice).encode() in world.app.written


def test_a_client_that_never_takes_its_last_answer_is_let_go_of() -> None:
    world = World()
    origin = world.request()
    world.app.end()
    origin.deliver(OK)
    world.app.congest()
    world.app.flush()
    assert world.app.disconnecting
    assert world.app.connected
    assert world.factory.waiting, "it is open, so it counts"
    world.clock.advance(EXCHANGE_TIMEOUT)
    assert world.app.aborted
    assert world.nothing_left()


def test_an_upload_cut_short_is_not_passed_on_as_complete() -> None:
    world = World()
    origin = world.request(POST + b"12")
    world.app.end()
    assert origin.aborted
    assert world.app.aborted


@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize("response", TRUNCATED)
def test_a_truncated_response_never_ends_cleanly(response: bytes, clean: bool) -> None:
    world = World()
    origin = world.request()
    origin.deliver(response)
    if clean:
        origin.end()
    else:
        origin.lose(ConnectionLost())
    assert world.app.aborted
    assert not world.app.written.endswith(b"0\r\n\r\n")


def test_a_reset_is_no_end_of_a_response_without_framing() -> None:
    world = World()
    origin = world.request()
    origin.deliver(b"HTTP/1.1 200 OK\r\n\r\nhi")
    origin.lose(ConnectionLost())
    assert world.app.aborted


def test_an_origin_that_closes_without_an_answer() -> None:
    world = World()
    origin = world.request()
    origin.end()
    assert world.status() == 502
    assert not world.app.disconnecting
    assert len(world.outbound.asked) == 1


def test_a_request_lost_on_a_reused_connection_is_sent_again_once() -> None:
    world = World()
    origin = world.request()
    origin.deliver(OK)
    world.app.take()
    world.app.deliver(GET)
    origin.lose(ConnectionLost())
    second = world.origin()
    assert second.take() == SENT
    second.lose(ConnectionLost())
    assert world.status() == 502
    assert len(world.outbound.asked) == 2


def test_a_post_is_never_sent_twice() -> None:
    world = World()
    origin = world.request()
    origin.deliver(OK)
    world.app.take()
    world.app.deliver(POST + b"12345")
    origin.lose(ConnectionLost())
    assert world.status() == 502
    assert len(world.outbound.asked) == 1


def test_a_post_is_not_trusted_to_a_connection_that_has_rested() -> None:
    world = World()
    origin = world.request()
    origin.deliver(OK)
    world.clock.advance(FRESH_FOR)
    world.app.deliver(POST + b"12345")
    assert origin.disconnecting
    assert world.origin().take().endswith(b"12345")


def test_an_unasked_answer_is_nobodys() -> None:
    world = World()
    origin = world.request()
    origin.deliver(OK + OK)
    assert origin.disconnecting
    assert world.app.take() == OK
    world.app.deliver(GET)
    second = world.origin()
    second.deliver(OK)
    second.deliver(b"HTTP/1.1 200 Evil\r\n\r\n")
    assert second.aborted
    assert world.app.take() == OK


# -- time -------------------------------------------------------------------------------------


def test_a_client_that_says_nothing_is_closed() -> None:
    world = World()
    world.clock.advance(10)
    assert world.app.disconnecting
    assert world.app.written == b""
    assert world.nothing_left()


def test_a_head_that_takes_too_long_is_a_408() -> None:
    world = World()
    world.app.deliver(GET)
    world.origin().deliver(OK)
    world.app.take()
    world.clock.advance(KEEP_ALIVE_TIMEOUT - 1)
    world.app.deliver(b"GET ")
    world.clock.advance(9)
    world.app.deliver(b"http://a/")
    world.clock.advance(1)
    assert world.status() == 408
    assert world.lingering()


def test_an_idle_connection_is_closed_with_its_origin() -> None:
    world = World()
    origin = world.request()
    origin.deliver(OK)
    world.clock.advance(KEEP_ALIVE_TIMEOUT)
    assert world.app.disconnecting
    assert origin.disconnecting
    assert world.nothing_left()


def test_an_origin_that_never_answers_is_a_504_and_one_that_trickles_is_not() -> None:
    world = World()
    origin = world.request()
    for _ in range(3):
        world.clock.advance(EXCHANGE_TIMEOUT - 1)
        origin.deliver(b"HTTP/1.1 103 Early\r\n\r\n")
    world.app.take()
    world.clock.advance(EXCHANGE_TIMEOUT)
    assert world.status() == 504
    assert origin.aborted


def test_a_client_that_will_not_close_is_closed() -> None:
    world = World()
    world.app.deliver(b"\x05")
    world.app.flush()
    world.clock.advance(LINGER)
    assert world.app.disconnecting
    assert world.nothing_left()


def test_connections_beyond_the_limit_are_logged_once_a_minute(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines: list[str] = []
    monkeypatch.setattr(http.log, "warn", lambda text, **values: lines.append(text))
    world = World()
    world.factory.max_connections = 0
    for _ in range(3):
        assert world.factory.buildProtocol(None) is None
    assert len(lines) == 1
    world.clock.advance(http.WARNING_INTERVAL)
    world.factory.buildProtocol(None)
    assert len(lines) == 2


def test_connections_are_limited() -> None:
    world = World(max_connections=1)
    assert world.factory.buildProtocol(None) is None
    world.app.deliver(CONNECT)
    world.origin()
    assert world.factory.buildProtocol(None) is None
