"""What the proxy decides: destinations, fields, passwords."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phantom.address import Destination
from phantom.core.httphead import Field, HeadError, RequestHead, parse_request_head
from phantom.core.httphead import parse_response_head as parse_response
from phantom.core.httpproxy import (
    Forward,
    Local,
    Tunnel,
    is_authorized,
    is_repeatable,
    request_fields,
    response_fields,
    route,
    trailer_fields,
)


def head(line: str, *fields: str) -> RequestHead:
    version = "" if line.count(" ") == 2 else " HTTP/1.1"
    lines = "\r\n".join([line + version, "Host: evil.example", *fields])
    return parse_request_head(f"{lines}\r\n\r\n".encode("latin-1"))


@pytest.mark.parametrize(
    ("target", "destination", "path", "host"),
    [
        ("http://a.example/x?y", "a.example:80", b"/x?y", b"a.example"),
        ("HTTP://A.Example", "a.example:80", b"/", b"a.example"),
        ("http://a.example?q=1/2", "a.example:80", b"/?q=1/2", b"a.example"),
        ("http://a.example:8080/", "a.example:8080", b"/", b"a.example:8080"),
        ("http://a.example:80/", "a.example:80", b"/", b"a.example"),
        ("http://a.example:/", "a.example:80", b"/", b"a.example"),
        ("http://[::1]/", "[::1]:80", b"/", b"[::1]"),
        ("http://[2001:db8::1]:81/", "[2001:db8::1]:81", b"/", b"[2001:db8::1]:81"),
        ("http://192.0.2.1/@b:c", "192.0.2.1:80", b"/@b:c", b"192.0.2.1"),
        ("http://a/http://b/", "a:80", b"/http://b/", b"a"),
    ],
)
def test_absolute_form(target: str, destination: str, path: bytes, host: bytes) -> None:
    assert route(head(f"GET {target}")) == Forward(Destination.parse(destination), path, host)


def test_options_for_a_whole_server() -> None:
    forward = route(head("OPTIONS http://a.example:8001"))
    assert isinstance(forward, Forward)
    assert forward.target == b"*"


@pytest.mark.parametrize(
    "target",
    [
        *("http://user@a/", "http://a:b@c/", "http:///x", "http://", "http:a", "http:/a", "a/"),
        *("http://a:0/", "http://a:65536/", "http://a:x/", "http://a:80:80/", "http://::1/"),
        *("http://[127.0.0.1]/", "http://[::1/", "http://a%2eb/", "http://a\\b/", "http://a/#f"),
        *("http://127.1/", "http://0x7f.1/", "a.example:80", "*", "http://a#b", "http://-/"),
    ],
)
def test_what_is_no_destination(target: str) -> None:
    with pytest.raises(HeadError) as caught:
        route(head(f"GET {target}"))
    assert caught.value.status == 400


@pytest.mark.parametrize("target", ["https://a/", "HTTPS://a", "ftp://a/", "wss://a/", "ws://a/"])
def test_other_schemes_are_not_implemented(target: str) -> None:
    with pytest.raises(HeadError) as caught:
        route(head(f"GET {target}"))
    assert caught.value.status == 501
    assert "CONNECT" in caught.value.problem


@pytest.mark.parametrize("target", ["a.example:443", "[::1]:22", "192.0.2.1:1"])
def test_connect(target: str) -> None:
    assert route(head(f"CONNECT {target}")) == Tunnel(Destination.parse(target))


@pytest.mark.parametrize(
    "target",
    [
        *("a", "a:", ":443", "a:0", "a:65536", "a:+1", "http://a:443", "a:443/", "u@a:443", "/"),
        *("::1:443", "[::1]", "[127.0.0.1]:443", "a:4:4", "*", "a:443?", "[::1%25lo]:1", "a:443:"),
    ],
)
def test_connect_to_nowhere(target: str) -> None:
    with pytest.raises(HeadError) as caught:
        route(head(f"CONNECT {target}"))
    assert caught.value.status == 400


@pytest.mark.parametrize("field", ["Content-Length: 5", "Transfer-Encoding: chunked"])
def test_connect_has_no_body(field: str) -> None:
    with pytest.raises(HeadError):
        route(head("CONNECT a:443", field))
    assert route(head("CONNECT a:443", "Content-Length: 0")) == Tunnel(Destination("a", 443))


def test_requests_to_the_proxy_itself() -> None:
    assert route(head("GET /proxy.pac?x")) == Local(b"/proxy.pac?x")
    assert route(head("OPTIONS *")) == Local(b"*")


@given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=40))
def test_targets_only_ever_raise_what_is_declared(target: str) -> None:
    for request in (f"GET {target}", f"GET http://{target}", f"CONNECT {target}"):
        try:
            found = route(head(request))
        except HeadError:
            continue
        if isinstance(found, Forward):
            assert b"@" not in found.host
            assert found.target.startswith(b"/")


def sent(line: str, *fields: str) -> list[Field]:
    return request_fields(head(line, *fields), b"a.example")


def test_hop_by_hop_fields_stay_here() -> None:
    assert sent(
        "GET http://a.example/",
        "Connection: close, X-One , x-TWO,, host, Content-Length",
        "Connection: X-Three",
        "X-One: 1",
        "x-two: 2",
        "X-Three: 3",
        "Keep-Alive: timeout=5",
        "Proxy-Connection: keep-alive",
        "Proxy-Authorization: Basic eDp5",
        "Proxy-Authenticate: x",
        "TE: gzip",
        "Upgrade: websocket",
        "Trailer: X-Sum",
        "Content-Length: 3",
        "X-Four: 4",
        "Cookie: a=\xff",
    ) == [
        (b"Host", b"a.example"),
        (b"Content-Length", b"3"),
        (b"X-Four", b"4"),
        (b"Cookie", b"a=\xff"),
    ]


def test_nothing_tells_of_the_proxy() -> None:
    assert sent("GET http://a.example/") == [(b"Host", b"a.example")]


def test_trailers_are_announced_and_asked_for() -> None:
    fields = sent("POST http://a/", "Transfer-Encoding: chunked", "Trailer: X", "TE: a, Trailers")
    assert fields[1:] == [
        (b"Transfer-Encoding", b"chunked"),
        (b"Trailer", b"X"),
        (b"TE", b"trailers"),
        (b"Connection", b"TE"),
    ]


def test_an_upgrade_is_passed_on() -> None:
    fields = sent("GET http://a/", "connection: keep-alive, upgrade", "Upgrade: websocket")
    assert fields[1:] == [(b"Upgrade", b"websocket"), (b"Connection", b"Upgrade")]


def test_http_1_0_neither_upgrades_nor_expects() -> None:
    old = ("GET http://a/ HTTP/1.0", "Connection: upgrade", "Upgrade: x", "Expect: 100-continue")
    assert sent(*old) == [(b"Host", b"a.example")]


def test_max_forwards_counts_down_where_it_counts() -> None:
    assert (b"Max-Forwards", b"4") in sent("TRACE http://a/", "Max-Forwards: 5")
    assert (b"Max-Forwards", b"5") in sent("GET http://a/", "Max-Forwards: 5")
    with pytest.raises(HeadError):
        sent("OPTIONS http://a/", "Max-Forwards: x")


@pytest.mark.parametrize(
    ("status", "version", "fields", "kept"),
    [
        (200, b"1.1", "Connection: X-A\r\nX-A: 1\r\nKeep-Alive: 5\r\nX-B: 2", ["X-B"]),
        (200, b"1.1", "Connection: content-length\r\nContent-Length: 2", ["Content-Length"]),
        (200, b"1.1", "Transfer-Encoding: chunked\r\nTrailer: X", ["Trailer"]),
        (200, b"1.0", "Transfer-Encoding: chunked\r\nTrailer: X", []),
        (204, b"1.1", "Content-Length: 0\r\nX-A: 1", ["X-A"]),
        (304, b"1.1", "Content-Length: 9", ["Content-Length"]),
        (101, b"1.1", "Upgrade: x\r\nConnection: upgrade", ["Upgrade", "Connection"]),
        (200, b"1.1", "Upgrade: h2c\r\nProxy-Authenticate: Basic\r\nProxy-Connection: x", []),
    ],
)
def test_response_fields(status: int, version: bytes, fields: str, kept: list[str]) -> None:
    response = parse_response(f"HTTP/1.1 {status} X\r\n{fields}\r\n\r\n".encode())
    assert [name.decode() for name, _ in response_fields(response, version)] == kept


def test_trailers_that_would_change_the_message_are_dropped() -> None:
    names = [b"X-Sum", b"Content-Length", b"HOST", b"Set-Cookie", b"Authorization", b"grpc-status"]
    assert trailer_fields([(name, b"1") for name in names]) == [
        (b"X-Sum", b"1"),
        (b"grpc-status", b"1"),
    ]


def test_only_idempotent_requests_without_a_body_are_repeated() -> None:
    assert is_repeatable(head("GET http://a/"))
    assert not is_repeatable(head("POST http://a/"))
    assert not is_repeatable(head("PUT http://a/", "Content-Length: 1"))
    assert not is_repeatable(head("GET http://a/", "Connection: upgrade", "Upgrade: x"))


USERS = {"me": "s\u00e9cret:x", "you": ""}


def basic(text: str, scheme: str = "Basic") -> str:
    return f"Proxy-Authorization: {scheme} {base64.b64encode(text.encode()).decode()}"


@pytest.mark.parametrize(
    ("fields", "granted"),
    [
        ([basic("me:s\u00e9cret:x")], True),
        ([basic("me:s\u00e9cret:x", "bAsIc")], True),
        ([basic("you:")], True),
        ([basic("you")], False),
        ([basic("me:")], False),
        ([basic("you:s\u00e9cret:x")], False),
        ([basic("nobody:")], False),
        ([basic(":")], False),
        ([basic("me:s\u00e9cret:x", "Bearer")], False),
        ([basic("me:s\u00e9cret:x"), basic("me:s\u00e9cret:x")], False),
        (["Proxy-Authorization: Basic !!!"], False),
        (["Proxy-Authorization: Basic"], False),
        (["Authorization: Basic eW91Og=="], False),
        ([], False),
    ],
)
def test_passwords(fields: list[str], granted: bool) -> None:
    assert is_authorized(head("GET http://a/", *fields), USERS) is granted
    assert not is_authorized(head("GET http://a/", *fields), {})


@given(st.binary(max_size=40))
def test_credentials_of_any_kind_are_only_refused(data: bytes) -> None:
    value = bytes(octet for octet in data if octet > 0x20 and octet != 0x7F)
    request = b"GET http://a/ HTTP/1.1\r\nHost: a\r\nProxy-Authorization: Basic " + value
    assert not is_authorized(parse_request_head(request + b"\r\n\r\n"), {"me": "x" * 64})
