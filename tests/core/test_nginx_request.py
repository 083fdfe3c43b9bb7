"""nginx's way of reading requests; `tests/carriers/test_nginx_likeness.py` asks nginx itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phantom.core.nginx_pages import banner_in, error_page, http_date, pads_for
from phantom.core.nginx_request import (
    HTTP_09,
    MAX_LINE,
    BodySkipper,
    RequestError,
    RequestReader,
    normalise,
)


def _read(data: bytes, size: int = 10_000) -> tuple[list[bytes], int | None]:
    """Return the paths of the requests in `data`, and the status of what ended them."""
    reader, paths = RequestReader(), []
    body: BodySkipper | None = None
    try:
        for start in range(0, len(data), size):
            reader.feed(data[start : start + size])
            while True:
                if body is not None:
                    reader.buffer = body.feed(reader.buffer)
                    if not body.done:
                        break
                    body = None
                request = reader.next_request()
                if request is None:
                    break
                paths.append(request.path)
                body = request.body
    except RequestError as error:
        return paths, error.status
    return paths, None


@pytest.mark.parametrize("size", [1, 3, 10_000])
@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n\r\nGET /b HTTP/1.0\n\n", ([b"/a", b"/b"], None)),
        (
            b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhiGET /b HTTP/1.0\n\n",
            ([b"/a", b"/b"], None),
        ),
        (
            b"PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"2;x\r\nhi\r\n0\r\na: b\r\n\r\nGET /b HTTP/1.0\n\n",
            ([b"/", b"/b"], None),
        ),
        (b"PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nxx\r\n", ([b"/"], 400)),
        (b"foo", ([], 400)),
        (b"GET /\x01", ([], 400)),
        (b"GET / HTTQ", ([], 400)),
        (b"GET / HTTP/2", ([], 505)),
        (b"GET / HTTP/1.1\r\n\r\n", ([], 400)),
        (b"GET / HTTP/1.1\r\na b", ([], 400)),
        (b"GET / HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n", ([], 400)),
        (b"GET / HTTP/1.1\r\nA: " + b"x" * MAX_LINE, ([], 494)),
        (b"GET /" + b"x" * MAX_LINE, ([], 414)),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 6000, ([], 494)),
        (b"TRACE / HTTP/1.1\r\nHost: x\r\n\r\n", ([], 405)),
        (b"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", ([], 501)),
    ],
)
def test_table(data: bytes, expected: tuple[list[bytes], int | None], size: int) -> None:
    assert _read(data, size) == expected


def test_http_09_takes_everything() -> None:
    reader = RequestReader()
    reader.feed(b"GET /x\r\nleft over")
    request = reader.next_request()
    assert request is not None and request.version == HTTP_09 and not reader.buffer


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"/", b"/"),
        (b"/a/./b//c/../d", b"/a/b/d"),
        (b"/a/..", b"/"),
        (b"/a/.", b"/a/"),
        (b"/%41%2fb", b"/A/b"),
        (b"/a/%2e%2e/b", b"/b"),
    ],
)
def test_normalise(target: bytes, path: bytes) -> None:
    assert normalise(target) == path


@pytest.mark.parametrize("target", [b"/..", b"/a/../..", b"/%2e%2e/x", b"/%00", b"/%zz", b"/%4"])
def test_normalise_refuses(target: bytes) -> None:
    with pytest.raises(RequestError):
        normalise(target)


@given(st.lists(st.sampled_from([b"..", b".", b"", b"a", b"%2e%2e", b"%2f", b"..."]), max_size=9))
def test_no_path_leaves_the_root(segments: list[bytes]) -> None:
    try:
        path = normalise(b"/" + b"/".join(segments))
    except RequestError:
        return
    assert path.startswith(b"/") and b".." not in path.split(b"/")


@pytest.mark.parametrize("size", [1, 3, 100])
def test_nothing_is_read_behind_http_09(size: int) -> None:
    assert _read(b"GET /\n\x00", size) == ([b"/"], None)


@given(
    st.one_of(
        st.binary(max_size=200),
        st.lists(
            st.sampled_from(
                [b"GET ", b"/", b" HTTP/1.1", b"\r\n", b"Host: x", b"a:", b"\n", b" ", b"1", b":"]
            ),
            max_size=20,
        ).map(b"".join),
    ),
    st.integers(1, 9),
)
def test_only_one_error_and_the_same_in_pieces(data: bytes, size: int) -> None:
    assert _read(data, size) == _read(data)


def test_pages() -> None:
    assert len(error_page(404, banner="nginx/1.22.1")) == 153
    assert len(error_page(404, banner="nginx/1.22.1", user_agent=b"Chrome/1")) == 555
    assert len(error_page(497, banner="nginx/1.22.1")) == 255
    assert http_date(0) == "Thu, 01 Jan 1970 00:00:00 GMT"
    assert pads_for(b"MSIE 8.0; x") and not pads_for(b"Gecko/2010 Chrome/1")


@pytest.mark.parametrize(
    ("head", "banner"),
    [
        (b"HTTP/1.1 200 OK\r\nServer: nginx\r\n\r\n", "nginx"),
        (b"HTTP/1.1 200 OK\r\nserver:  Caddy \r\n\r\n", "Caddy"),
        (b"HTTP/1.1 200 OK\r\n\r\nServer: x\r\n", None),
        (b"HTTP/1.1 200 OK\r\nServer: a\x00b\r\n\r\n", None),
    ],
)
def test_banner(head: bytes, banner: str | None) -> None:
    assert banner_in(head) == banner
