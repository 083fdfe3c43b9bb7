"""The HTTP inbound in memory: what goes to the origin, what comes back, and what is refused."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.http_inbound import CONNECT, GET, OK, POST, SENT, World

from phantom.errors import EXPLANATIONS, Outcome
from phantom.inbound.http_server import MAX_PENDING

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
