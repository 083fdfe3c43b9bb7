"""HTTP messages of both sides that are none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.http_inbound import CONNECT, GET, OK, POST, TRUNCATED, World

from phantom.inbound.http_origin import MAX_INTERIM


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
