"""The strict reading of heads: what is let through, what is not, however it is cut."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import h11
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from phantom.core.httphead import (
    MAX_FIELDS,
    MAX_HEAD,
    HeadError,
    HeadFinder,
    RequestHead,
    ResponseHead,
    parse_request_head,
    parse_response_head,
)

GET = b"GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n"


def read(pieces: list[bytes], *, request: bool = True, limit: int = MAX_HEAD) -> Any:
    """Return the first head and what is left, the error's status, or None."""
    finder = HeadFinder(request=request, limit=limit)
    buffer = bytearray()
    try:
        for index, piece in enumerate(pieces):
            buffer += piece
            length = finder.find(buffer)
            if length is not None:
                raw = bytes(buffer[:length])
                rest = bytes(buffer[length:]) + b"".join(pieces[index + 1 :])
                parse = parse_request_head if request else parse_response_head
                return parse(raw), rest
    except HeadError as error:
        return error.status
    return None


def cut(data: bytes, places: list[int]) -> list[bytes]:
    marks = [0, *sorted({place % (len(data) + 1) for place in places}), len(data)]
    return [data[a:b] for a, b in pairwise(marks)]


@pytest.mark.parametrize(
    "head",
    [
        GET + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
        GET + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\n",
        GET + b"Content-Length: 5, 5\r\n\r\n",
        GET + b"Content-Length: +5\r\n\r\n",
        GET + b"Content-Length: -1\r\n\r\n",
        GET + b"Content-Length: 0x5\r\n\r\n",
        GET + b"Content-Length: 1_0\r\n\r\n",
        GET + b"Content-Length: \xb2\r\n\r\n",
        GET + b"Content-Length:\r\n\r\n",
        GET + b"Content-Length: " + b"9" * 19 + b"\r\n\r\n",
        GET + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        GET + b"Transfer-Encoding: chunked\r\ncontent-length: 0\r\n\r\n",
        GET + b"Transfer-Encoding: gzip, chunked\r\n\r\n",
        GET + b"Transfer-Encoding: identity\r\n\r\n",
        GET + b"Transfer-Encoding: xchunked\r\n\r\n",
        GET + b"Transfer-Encoding: chunked,\r\n\r\n",
        GET + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        GET + b"Transfer-Encoding:\r\n\r\n",
        b"GET http://a/ HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
        GET + b"Transfer-Encoding : chunked\r\n\r\n",
        GET + b"X-Y\t: z\r\n\r\n",
        GET + b": z\r\n\r\n",
        GET + b"no colon\r\n\r\n",
        GET + b"X: a\r\n b\r\n\r\n",
        GET + b"X: a\r\n\tb\r\n\r\n",
        b"GET / HTTP/1.1\r\n Host: a\r\n\r\n",
        GET.replace(b"\r\n", b"\n") + b"\n",
        GET + b"X: a\nY: b\r\n\r\n",
        GET + b"\n",
        GET + b"X: a\rY: b\r\n\r\n",
        GET + b"X: a\r\r\n\r\n",
        GET + b"X: a\x00b\r\n\r\n",
        GET + b"X: a\x0bb\r\n\r\n",
        GET + b"X: a\x7fb\r\n\r\n",
        GET + b"X\x80: a\r\n\r\n",
        GET + b"Host: b.example\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
        b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /\xe9 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / http/1.1\r\nHost: a\r\n\r\n",
        b"GET /\r\n\r\n",
        b" GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01",
        b"\x05\x01\x00",
        b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
)
def test_what_is_ambiguous_or_malformed_is_refused(head: bytes) -> None:
    assert read([head]) == 400
    assert read([bytes((octet,)) for octet in head]) == 400


def test_a_request_is_read() -> None:
    raw = (
        b"\r\n\r\nPUT http://a/ HTTP/1.1\r\nhost:a\r\nX-Y: \t b c \t\r\nContent-Length: 007\r\n\r\n"
    )
    head, rest = read([raw + b"body"])
    assert (head.method, head.target, head.version) == (b"PUT", b"http://a/", b"1.1")
    assert head.fields == ((b"host", b"a"), (b"X-Y", b"b c"), (b"Content-Length", b"007"))
    assert (head.length, head.chunked, head.has_body) == (7, False, True)
    assert rest == b"body"


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"PRI * HTTP/2.0\r\n\r\n", 505),
        (b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", 505),
        (b"GET / HTTP/0.9\r\n\r\n", 505),
        (GET + b"X: " + b"a" * MAX_HEAD + b"\r\n\r\n", 431),
        (GET + b"X: 1\r\n" * MAX_FIELDS + b"\r\n", 431),
        (b"a" * MAX_HEAD, 431),
    ],
)
def test_what_is_not_supported_has_its_status(head: bytes, status: int) -> None:
    assert read([head]) == status


def test_a_head_of_exactly_the_limit_is_read() -> None:
    head = GET + b"X: "
    head += b"a" * (MAX_HEAD - len(head) - 4) + b"\r\n\r\n"
    assert len(head) == MAX_HEAD
    assert read([head])[0].fields[1][1].startswith(b"aaa")
    assert read([head[:-4] + b"a\r\n\r\n"]) == 431


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n",
        b"HTTP/1.1 200 OK\nX: a\n\n",
        b"HTTP/1.1 200 OK\r\nX: a\rb\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\x00b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX : a\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 099 OK\r\n\r\n",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"ICY 200 OK\r\n\r\n",
        b"\r\n\r\n",
        b"<html>\r\n\r\n",
    ],
)
def test_hostile_responses_are_refused(head: bytes) -> None:
    assert read([head], request=False) == 400


def test_a_response_is_read() -> None:
    head, rest = read([b"HTTP/1.1 404\r\nSet-Cookie: a=\x01\r\n\r\nx"], request=False)
    assert isinstance(head, ResponseHead)
    assert (head.status, head.reason, head.fields) == (404, b"", ((b"Set-Cookie", b"a=\x01"),))
    assert rest == b"x"


FRAGMENTS = st.sampled_from(
    [
        *(b"\r", b"\n", b"\r\n", b"\r\n\r\n", b" ", b":", b"\x00", b"\t", b"\xff", b"a", b"5"),
        *(b"GET / HTTP/1.1", b"http://a/", b"Host: a", b"\r\nHost: a\r\n", b"HTTP/1.1 200 OK"),
        *(b"Content-Length: 5", b"Transfer-Encoding: chunked", b"Connection: x", GET),
    ]
)
INPUTS = st.one_of(st.binary(max_size=80), st.lists(FRAGMENTS, max_size=12).map(b"".join))


@given(INPUTS, st.lists(st.integers(0, 400), max_size=8), st.booleans(), st.integers(8, 90))
@example(b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", [1, 2], True, 90)
def test_the_pieces_make_no_difference(
    data: bytes, places: list[int], request: bool, limit: int
) -> None:
    whole = read([data], request=request, limit=limit)
    assert read(cut(data, places), request=request, limit=limit) == whole
    assert read([bytes((b,)) for b in data], request=request, limit=limit) == whole


@given(INPUTS)
def test_h11_takes_every_request_that_is_let_through(data: bytes) -> None:
    found = read([data + b"\r\n\r\n"])
    if isinstance(found, tuple):
        head = found[0]
        assert isinstance(head, RequestHead)
        raw = b"\r\n".join(
            [
                head.method + b" " + head.target + b" HTTP/" + head.version,
                *(name + b": " + value for name, value in head.fields),
                b"\r\n",
            ]
        )
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        connection.receive_data(raw)
        event = connection.next_event()
        assert isinstance(event, h11.Request)
        assert event.headers.raw_items() == [
            (n, v.lower() if n.lower() == b"transfer-encoding" else v) for n, v in head.fields
        ]
