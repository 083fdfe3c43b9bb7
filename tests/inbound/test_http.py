"""The HTTP inbound in memory: what goes to the origin, what comes back, and when."""

from __future__ import annotations

import base64
from html import escape
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.runtime import fake_runtime
from support.transports import ByteTransport
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.task import Clock

from phantom.address import Destination
from phantom.errors import EXPLANATIONS, Outcome, RelayError, SessionError, StreamError
from phantom.inbound import http
from phantom.inbound.http import HttpProxyFactory
from phantom.inbound.http_forward import FRESH_FOR
from phantom.inbound.http_origin import MAX_INTERIM
from phantom.inbound.http_server import (
    EXCHANGE_TIMEOUT,
    HALF_CLOSED_TIMEOUT,
    KEEP_ALIVE_TIMEOUT,
    LINGER,
    MAX_PENDING,
)

GET = b"GET http://a.example/x HTTP/1.1\r\nHost: a.example\r\n\r\n"
SENT = b"GET /x HTTP/1.1\r\nHost: a.example\r\n\r\n"
POST = b"POST http://a.example/ HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\n"
CONNECT = b"CONNECT b.example:443 HTTP/1.1\r\nHost: b.example\r\n\r\n"
ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
UPGRADE = (
    b"GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n"
    b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
)


class ScriptedOutbound:
    """An outbound whose attempts the test decides."""

    def __init__(self) -> None:
        self.asked: list[tuple[Destination, Any, Deferred[Any]]] = []
        self.cancelled = 0

    def connect(self, destination: Destination, protocol: Any) -> Deferred[Any]:
        def cancel(attempt: Deferred[Any]) -> None:
            self.cancelled += 1
            attempt.errback(RelayError(Outcome.CANCELLED))

        attempt: Deferred[Any] = Deferred(cancel)
        self.asked.append((destination, protocol, attempt))
        return attempt


class World:
    """One connection of an application to the proxy."""

    def __init__(self, **options: Any) -> None:
        self.clock = Clock()
        self.outbound = ScriptedOutbound()
        self.factory = HttpProxyFactory(
            fake_runtime(self.clock), self.outbound, greeting_timeout=10.0, **options
        )
        self.app = ByteTransport(self.factory.buildProtocol(None)).connect()

    def origin(self) -> ByteTransport:
        """Let the latest attempt connect."""
        _, protocol, attempt = self.outbound.asked[-1]
        transport = ByteTransport(protocol).connect()
        attempt.callback(transport)
        return transport

    def request(self, data: bytes = GET) -> ByteTransport:
        """Send a request and connect its origin."""
        self.app.deliver(data)
        return self.origin()

    def fail(self, outcome: Outcome) -> None:
        self.outbound.asked[-1][2].errback(RelayError(outcome))

    def status(self) -> int:
        """Return the status of the one response that has been written."""
        head = self.app.written.partition(b"\r\n\r\n")[0]
        return int(head.split(b" ")[1])

    def lingering(self) -> bool:
        return self.app.write_closed and not self.app.aborted

    def nothing_left(self) -> bool:
        self.app.flush()
        return not self.factory.waiting and not self.clock.getDelayedCalls()


# -- CONNECT --------------------------------------------------------------------------------


def test_connect_answers_only_when_the_outbound_has_and_passes_on_what_came_early() -> None:
    world = World()
    world.app.deliver(CONNECT + b"early ")
    world.app.deliver(b"bird")
    assert world.outbound.asked[0][0] == Destination("b.example", 443)
    assert world.app.take() == b""
    far = world.origin()
    assert world.app.take() == ESTABLISHED
    assert far.take() == b"early bird"
    far.deliver(b"one")
    world.app.deliver(b"GET / two")
    assert (world.app.take(), far.take()) == (b"one", b"GET / two")
    assert world.factory.relayed == 1
    world.app.lose(ConnectionDone())
    far.flush()
    assert world.factory.relayed == 0
    assert world.nothing_left()


def test_a_half_close_before_the_tunnel_opens_reaches_the_other_side() -> None:
    world = World()
    world.app.deliver(CONNECT + b"bye")
    world.app.end()
    far = world.origin()
    assert far.take() == b"bye"
    assert far.write_closed
    assert not world.app.disconnecting


def test_a_refused_tunnel_is_explained_and_what_was_meant_for_it_is_no_request() -> None:
    world = World()
    world.app.deliver(CONNECT + GET)
    world.fail(Outcome.FORBIDDEN)
    assert world.status() == 403
    assert world.app.written.count(b"HTTP/1.1") == 1
    assert world.lingering()
    world.app.deliver(GET)
    assert len(world.outbound.asked) == 1


def test_a_refused_tunnel_is_closed_even_before_anything_was_sent_for_it() -> None:
    world = World()
    world.app.deliver(CONNECT)
    world.fail(Outcome.TIMED_OUT)
    assert world.status() == 504
    assert world.lingering()
    world.app.deliver(GET)
    assert len(world.outbound.asked) == 1


def test_early_data_for_a_tunnel_is_bounded() -> None:
    world = World()
    world.app.deliver(CONNECT)
    world.app.deliver(bytes(MAX_PENDING))
    assert not world.app.reading
    far = world.origin()
    assert world.app.reading
    assert len(far.take()) == MAX_PENDING


@pytest.mark.parametrize("request_", [CONNECT, GET])
def test_a_client_that_goes_away_cancels_the_attempt(request_: bytes) -> None:
    world = World()
    world.app.deliver(request_)
    world.app.lose(ConnectionLost())
    assert world.outbound.cancelled == 1
    assert world.nothing_left()


def test_a_tunnel_that_takes_too_long_is_given_up() -> None:
    world = World()
    world.app.deliver(CONNECT)
    world.clock.advance(EXCHANGE_TIMEOUT)
    assert world.status() == 504
    assert world.outbound.cancelled == 1


# -- plain requests -------------------------------------------------------------------------


def test_a_request_and_its_response() -> None:
    world = World()
    origin = world.request()
    assert origin.take() == SENT
    origin.deliver(OK)
    assert world.app.take() == OK
    assert not world.app.disconnecting


def test_the_same_destination_uses_the_same_connection_another_one_does_not() -> None:
    world = World()
    first = world.request()
    first.deliver(OK)
    world.app.deliver(GET)
    assert first.take() == SENT * 2
    first.deliver(OK)
    world.app.deliver(GET.replace(b"//a.", b"//c."))
    assert first.disconnecting
    assert not first.aborted
    second = world.origin()
    assert b"Host: c.example" in second.take()
    second.deliver(OK)
    assert world.app.take() == OK * 3


def test_pipelined_requests_are_answered_in_order_one_at_a_time() -> None:
    world = World()
    world.app.deliver(POST + b"12345" + GET + GET)
    origin = world.origin()
    assert origin.take().endswith(b"\r\n\r\n12345")
    origin.deliver(OK)
    assert origin.take() == SENT
    origin.deliver(OK.replace(b"hi", b"ho"))
    origin.deliver(OK)
    assert world.app.take() == OK + OK.replace(b"hi", b"ho") + OK


def test_pipelined_requests_wait_unread_beyond_a_bound() -> None:
    world = World()
    world.app.deliver(GET)
    world.app.deliver(GET * (MAX_PENDING // len(GET) + 1))
    assert not world.app.reading
    origin = world.origin()
    while origin.take():
        origin.deliver(OK)
    assert world.app.reading
    assert world.app.take().count(OK) == MAX_PENDING // len(GET) + 2


def test_a_client_that_does_not_read_its_answers_is_not_served_more() -> None:
    world = World()
    world.app.congest()
    world.app.deliver(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert world.app.take() == b""
    world.app.relieve()
    assert world.status() == 200


@given(st.data())
def test_the_pieces_make_no_difference(data: Any) -> None:
    chunked = POST.replace(b"Content-Length: 5", b"Transfer-Encoding: chunked")
    stream = POST + b"12345" + chunked + b"3;x=y\r\nabc\r\n0\r\nX-T: 1\r\n\r\n" + GET
    answers = (
        b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\n" + OK,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX-R: 2\r\n\r\n",
        OK,
    )

    def pieces(octets: bytes) -> list[bytes]:
        marks = data.draw(st.lists(st.integers(0, len(octets)), max_size=6).map(sorted))
        return [octets[a:b] for a, b in zip([0, *marks], [*marks, len(octets)], strict=True)]

    world = World()
    world.app.deliver_each(pieces(stream))
    origin = world.origin()
    for answer in answers:
        origin.deliver_each(pieces(answer))
    sent = origin.take()
    assert sent.startswith(
        b"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\n12345POST"
    )
    assert sent.endswith(b"0\r\nX-T: 1\r\n\r\n" + SENT)
    got = world.app.take()
    assert got.startswith(answers[0] + b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert got.endswith(b"0\r\nX-R: 2\r\n\r\n" + OK)


def test_a_body_waits_for_the_origin_and_stops_when_it_is_full() -> None:
    world = World()
    size = 4 * MAX_PENDING
    world.app.deliver(POST.replace(b" 5", b" %d" % size) + b"1")
    world.app.deliver(bytes(MAX_PENDING))
    assert not world.app.reading
    origin = world.origin()
    assert len(origin.take()) > MAX_PENDING
    assert world.app.reading
    origin.congest()
    world.app.deliver(bytes(MAX_PENDING))
    assert not world.app.reading
    assert origin.take() == b""
    origin.relieve()
    assert world.app.reading
    assert len(origin.take()) == MAX_PENDING


def test_a_response_stops_when_the_client_is_full() -> None:
    world = World()
    origin = world.request()
    origin.deliver(b"HTTP/1.1 200 OK\r\n\r\n")
    world.app.congest()
    assert not origin.reading
    world.app.relieve()
    assert origin.reading
    origin.deliver(b"abc")
    assert world.app.take().endswith(b"3\r\nabc\r\n")


def test_an_origin_left_paused_by_one_request_is_read_for_the_next() -> None:
    world = World()
    origin = world.request()
    origin.deliver(OK[:-1])
    world.app.congest()
    origin.protocol.dataReceived(OK[-1:])  # was under way
    world.app.relieve()
    world.app.deliver(GET)
    origin.deliver(OK)
    assert world.app.take() == OK * 2


@pytest.mark.parametrize("status", [204, 304])
def test_responses_without_a_body(status: int) -> None:
    world = World()
    origin = world.request()
    response = b"HTTP/1.1 %d X\r\nETag: y\r\n\r\n" % status
    origin.deliver(response)
    world.app.deliver(GET)
    assert origin.take() == SENT * 2
    assert world.app.take() == response


def test_head_has_a_length_and_no_body() -> None:
    world = World()
    origin = world.request(GET.replace(b"GET", b"HEAD"))
    response = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"
    origin.deliver(response)
    assert world.app.take() == response
    world.app.deliver(GET)
    assert origin.take().count(b"\r\n\r\n") == 2


def test_a_response_that_ends_with_the_connection_goes_out_in_chunks() -> None:
    world = World()
    origin = world.request()
    origin.deliver(b"HTTP/1.0 200 OK\r\n\r\nab")
    origin.deliver(b"cd")
    origin.end()
    assert world.app.take() == (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n2\r\ncd\r\n0\r\n\r\n"
    )
    assert not world.app.write_closed
    assert origin.disconnecting


def test_http_1_0_clients_get_neither_chunks_nor_trailers_nor_interim_responses() -> None:
    world = World()
    origin = world.request(b"GET http://a.example/x HTTP/1.0\r\n\r\n")
    assert origin.take() == SENT
    origin.deliver(b"HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 200 OK\r\n")
    origin.deliver(b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX: y\r\n\r\n")
    head, _, body = world.app.take().partition(b"\r\n\r\n")
    assert head.split(b"\r\n") == [b"HTTP/1.1 200 OK", b"Connection: close"]
    assert body == b"hi"
    assert world.lingering()


def test_100_continue_is_the_origins_to_say() -> None:
    world = World()
    request = POST[:-2] + b"Expect: 100-continue\r\n\r\n"
    origin = world.request(request)
    assert b"Expect: 100-continue" in origin.take()
    assert world.app.take() == b""
    origin.deliver(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert world.app.take() == b"HTTP/1.1 100 Continue\r\n\r\n"
    world.app.deliver(b"12345")
    assert origin.take() == b"12345"
    origin.deliver(OK)
    assert world.app.take() == OK


def test_an_early_answer_is_passed_on_and_the_connection_closed_gently() -> None:
    world = World()
    origin = world.request(POST + b"12")
    origin.deliver(b"HTTP/1.1 413 No\r\nContent-Length: 2\r\n\r\nno")
    assert world.status() == 413
    assert b"Connection: close" in world.app.written
    assert world.app.written.endswith(b"no")
    assert world.lingering()
    assert origin.aborted
    assert world.app.reading
    world.app.deliver(b"345")
    world.app.end()
    assert world.nothing_left()
    assert not world.app.aborted


def test_an_early_answer_goes_on_while_the_upload_does() -> None:
    world = World()
    origin = world.request(POST + b"12")
    origin.take()
    origin.deliver(OK[:-1])
    world.app.deliver(b"345")
    assert origin.take() == b"345"
    origin.deliver(OK[-1:])
    assert world.app.written.endswith(b"hi")
    assert world.lingering()


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


TRUNCATED = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n",
]


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


# -- hostile messages -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "request_",
    [
        POST.replace(b"Content-Length: 5", b"Content-Length: 5\r\nContent-Length: 5"),
        POST.replace(b"Content-Length: 5", b"Content-Length: 5\r\nTransfer-Encoding: chunked"),
        GET.replace(b"\r\n\r\n", b"\r\nX: a\r\n b\r\n\r\n"),
        GET.replace(b"\r\n", b"\n"),
        GET.replace(b"//a", b"//user@a"),
        CONNECT.replace(b":443", b""),
        b"\x16\x03\x01",
    ],
)
def test_what_is_ambiguous_is_answered_400_and_never_forwarded(request_: bytes) -> None:
    world = World()
    world.app.deliver(request_)
    assert world.status() == 400
    assert b"\r\nConnection: close\r\n" in world.app.written
    assert b"Content-Type: text/html; charset=utf-8\r\nCache-Control: no-store" in world.app.written
    assert world.lingering()
    assert world.outbound.asked == []
    world.app.deliver(GET)
    assert world.outbound.asked == []


def test_a_malformed_chunk_is_not_the_end_of_the_upload() -> None:
    world = World()
    origin = world.request(POST.replace(b"Content-Length: 5", b"Transfer-Encoding: chunked"))
    world.app.deliver(b"zz\r\n")
    assert origin.aborted
    assert world.status() == 400


@pytest.mark.parametrize(
    "response",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n",
        b"HTTP/1.1 200 OK\nX: a\n\n",
        b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 407 No\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 100 C\r\n\r\n" * (MAX_INTERIM + 1),
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 40000,
        b"SSH-2.0-OpenSSH\r\n\r\n",
    ],
)
def test_a_hostile_response_is_a_502(response: bytes) -> None:
    world = World()
    origin = world.request()
    origin.deliver(response)
    written = world.app.written.replace(b"HTTP/1.1 100 C\r\n\r\n", b"")
    assert written.startswith(b"HTTP/1.1 502 ")
    assert b"Proxy-Authenticate" not in written
    assert origin.aborted
    assert not world.app.disconnecting


@given(st.binary(max_size=200), st.sampled_from([b"", OK[:-3], TRUNCATED[1], OK[:9]]))
def test_no_octets_of_an_origin_raise(data: bytes, start: bytes) -> None:
    world = World()
    origin = world.request()
    origin.deliver(start + data)
    if origin.reading:
        origin.end()
    assert world.app.written or world.app.aborted


@given(st.binary(max_size=200), st.sampled_from([b"", GET[:20], POST, POST + b"12345", GET[:-2]]))
def test_no_octets_of_a_client_raise(data: bytes, start: bytes) -> None:
    world = World()
    world.app.deliver(start + data)
    if world.app.reading:
        world.app.end()
    if not world.app.disconnecting and not world.app.write_closed and world.outbound.asked:
        origin = world.origin()
        origin.deliver(OK)


# -- an upgrade ---------------------------------------------------------------------------------


def test_an_upgrade_joins_both_sides() -> None:
    world = World()
    origin = world.request(UPGRADE)
    assert b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n" in origin.take()
    world.app.deliver(b"early")
    switched = b"HTTP/1.1 101 Go\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
    origin.deliver(switched + b"hello")
    assert world.app.take() == switched + b"hello"
    assert origin.take() == b"early"
    world.app.deliver(b"GET")
    origin.deliver(b"HTTP")
    assert (origin.take(), world.app.take()) == (b"GET", b"HTTP")
    origin.lose(ConnectionLost())
    assert world.app.aborted
    world.app.flush()
    assert world.factory.relayed == 0
    assert world.nothing_left()


def test_a_refused_upgrade_is_an_ordinary_response() -> None:
    world = World()
    origin = world.request(UPGRADE)
    origin.take()
    origin.deliver(OK)
    assert world.app.take() == OK
    world.app.deliver(GET)
    assert origin.take() == SENT


def test_what_was_sent_for_a_refused_upgrade_is_no_request() -> None:
    world = World()
    origin = world.request(UPGRADE + GET)
    origin.deliver(OK)
    assert b"Connection: close" in world.app.written
    assert world.lingering()


# -- passwords ----------------------------------------------------------------------------------


def test_a_password_is_asked_for_and_the_connection_kept() -> None:
    world = World(credentials={"me": "secret"})
    world.app.deliver(POST + b"12345")
    assert world.status() == 407
    assert b"\r\nProxy-Authenticate: Basic " in world.app.take()
    world.app.deliver(CONNECT)
    assert world.status() == 407
    world.app.take()
    field = b"Proxy-Authorization: Basic " + base64.b64encode(b"me:secret") + b"\r\n\r\n"
    origin = world.request(GET[:-2] + field)
    assert origin.take() == SENT


@pytest.mark.parametrize(
    "request_",
    [
        POST.replace(b" 5", b" 99999999"),
        POST.replace(b"Content-Length: 5", b"Transfer-Encoding: chunked"),
        POST[:-2] + b"Expect: 100-continue\r\n\r\n",
        CONNECT + b"early",
    ],
)
def test_what_cannot_be_skipped_ends_the_connection(request_: bytes) -> None:
    world = World(credentials={})
    world.app.deliver(request_)
    assert world.status() == 407
    assert world.lingering()


# -- failures and pages -------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", [o for o in Outcome if o is not Outcome.CONNECTED])
def test_every_failure_has_its_status_and_advice(outcome: Outcome) -> None:
    world = World()
    world.app.deliver(GET)
    world.fail(outcome)
    explanation = EXPLANATIONS[outcome]
    assert world.status() == explanation.http
    text = explanation.advice.replace("'", "&#x27;").encode()
    assert text in world.app.take()
    world.app.deliver(GET)
    assert len(world.outbound.asked) == 2


def test_https_without_connect_is_explained() -> None:
    world = World()
    world.app.deliver(GET.replace(b"http:", b"https:"))
    assert world.status() == 501
    assert b"CONNECT" in world.app.written


@pytest.mark.parametrize(
    ("host", "shown"),
    [
        (b"127.0.0.1:8118", b"127.0.0.1:8118"),
        (b"Proxy.Example", b"proxy.example:80"),
        (b"[::1]:81", b"[::1]:81"),
        (b"<script>", b"192.0.2.1:443"),
        (b'"; evil', b"192.0.2.1:443"),
    ],
)
def test_the_help_page_and_the_pac_file_show_a_sane_address(host: bytes, shown: bytes) -> None:
    world = World(socks_address="0.0.0.0:1080")
    world.app.deliver(b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")
    page = world.app.take()
    assert page.startswith(b"HTTP/1.1 200 ")
    assert b"curl -x http://" + shown in page
    assert b"<script" not in page
    world.app.deliver(b"GET /proxy.pac HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")
    page = world.app.take()
    assert b"Content-Type: application/x-ns-proxy-autoconfig\r\n" in page
    socks = shown.rpartition(b":")[0] + b":1080"
    assert b'return "PROXY ' + shown + b"; SOCKS5 " + socks + b'";' in page


def test_a_socks_proxy_on_loopback_is_not_offered_to_others() -> None:
    world = World(socks_address="127.0.0.1:1080")
    world.app.deliver(b"GET /proxy.pac HTTP/1.1\r\nHost: 192.0.2.1:8080\r\n\r\n")
    assert b'"PROXY 192.0.2.1:8080"' in world.app.take()


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"GET /favicon.ico", 404),
        (b"POST /", 405),
        (b"OPTIONS *", 204),
        (b"HEAD /", 200),
        (b"TRACE http://a/", 405),
    ],
)
def test_other_requests_to_the_proxy_itself(line: bytes, status: int) -> None:
    world = World()
    world.app.deliver(line + b" HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\n\r\n")
    assert world.status() == status
    assert world.outbound.asked == []
    if line.startswith(b"HEAD"):
        assert world.app.written.endswith(b"\r\n\r\n")


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
