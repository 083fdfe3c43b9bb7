from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phantom.core.handshake import Cipher
from phantom.core.opening import (
    BareOpening,
    BareReply,
    HttpOpening,
    HttpReply,
    MessageOne,
    MessageTwo,
    NeedMore,
    Stranger,
    bare_first_flight,
    http_request,
    http_response,
    looks_prefixed,
    random_prefix,
)
from phantom.errors import HandshakeError, LocalProtocolError, RemoteProtocolError

PATH = "/upload/0123456789abcdefABCDEF"
DATE = "Sun, 06 Nov 1994 08:49:37 GMT"
E = bytes(range(0x80, 0xA0))


def seal(length, cipher=Cipher.AESGCM):
    """A header that `open_header` below takes for authentic."""
    return b"HEADER" + bytes((length >> 8, length & 255, cipher)) + bytes(10)


def open_header(e, sealed):
    assert (len(e), len(sealed)) == (32, 19)
    if not sealed.startswith(b"HEADER"):
        raise HandshakeError("forged")
    return int.from_bytes(sealed[6:8], "big"), Cipher(sealed[8])


def body(rest, e=E):
    return e + seal(len(rest)) + rest


def feed(reader, chunks):
    """Give chunks until there is a verdict; return it and the bytes given after."""
    for number, chunk in enumerate(chunks):
        verdict = reader.receive(chunk)
        if not isinstance(verdict, NeedMore):
            return verdict, b"".join(chunks[number + 1 :])
    return NeedMore(), b""


def cut(data, places):
    places = sorted(places)
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


def bytewise(data):
    return [data[i : i + 1] for i in range(len(data))]


def bare():
    return BareOpening(open_header)


def http():
    return HttpOpening(PATH, open_header)


def fields(message, after=b""):
    return (
        message.e,
        message.sealed_header,
        message.rest,
        message.cipher,
        message.leftover + after,
    )


# -- bare TCP -------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    st.sampled_from([b"", b"abcdef\x80", b" " * 32 + b"\xff", b"~" * 31 + b"\xc0"]),
    st.binary(min_size=64, max_size=300),
    st.binary(max_size=50),
    st.data(),
)
def test_bare_openings_however_they_are_cut(prefix, rest, leftover, data):
    flight = bare_first_flight(prefix, E, seal(len(rest), Cipher.CHACHAPOLY), rest)
    places = data.draw(st.lists(st.integers(0, len(flight + leftover)), max_size=12))
    reader = bare()
    verdict, after = feed(reader, cut(flight + leftover, places))
    assert isinstance(verdict, MessageOne)
    assert fields(verdict, after) == (
        E,
        seal(len(rest), Cipher.CHACHAPOLY),
        rest,
        Cipher.CHACHAPOLY,
        leftover,
    )
    assert reader.received + after == flight + leftover


@pytest.mark.parametrize("printable", range(33))
def test_prefix_lengths(printable):
    # Up to five printable bytes are a key's own.
    start = b"x" * printable
    if printable < 6:
        e = start + E[printable:]
        stream = body(bytes(64), e)
    else:
        e = E
        stream = start + b"\x80" + body(bytes(64))
    verdict, _ = feed(bare(), bytewise(stream))
    assert isinstance(verdict, MessageOne) and verdict.e == e


@pytest.mark.parametrize(
    "start",
    [
        b"GET / HTTP/1.1\r\n",
        b"SSH-2.0-OpenSSH_9.2p1\r\n",
        b"x" * 33,
        b"abcdef\x00",
        b"abcdef\x1f",
        b"abcdefg\x7f",
        b"\x00" * 51,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(40)),
        b"abcdef\x80" + b"\xee" * 51,
    ],
)
def test_bare_strangers(start):
    for chunks in ([start], bytewise(start), [start + b"more"]):
        reader = bare()
        verdict, after = feed(reader, chunks)
        assert isinstance(verdict, Stranger)
        assert reader.received + after == b"".join(chunks)


@pytest.mark.parametrize("start", [b"", b"abcde", b"abcdef", b"x" * 32, b"\x80" * 50])
def test_bare_verdicts_wait(start):
    assert isinstance(bare().receive(start), NeedMore)


def test_the_prefix_varies_and_keeps_its_rule():
    prefixes = [random_prefix(os.urandom) for _ in range(2000)]
    assert {len(prefix) for prefix in prefixes} == set(range(7, 34))
    assert {prefix[0] for prefix in prefixes} == set(range(0x20, 0x7F))
    assert len({prefix[-1] for prefix in prefixes}) > 100
    assert len({prefix[:6] for prefix in prefixes}) > 1990
    for prefix in prefixes:
        assert all(0x20 <= byte <= 0x7E for byte in prefix[:-1]) and prefix[-1] >= 0x80


def test_a_flight_the_server_would_misread_is_refused():
    printable = b"abcdef" + E[6:]
    assert looks_prefixed(printable) and not looks_prefixed(b"abcde" + E[5:])
    with pytest.raises(LocalProtocolError):
        bare_first_flight(b"", printable, seal(64), bytes(64))
    for prefix in (b"abcde\x80", b"abcdef", b"x" * 33 + b"\x80", b"abc\x80def\x80", b"abcdef\x7f"):
        with pytest.raises(LocalProtocolError):
            bare_first_flight(prefix, E, seal(64), bytes(64))
    verdict = bare().receive(bare_first_flight(b"abcdef\x99", printable, seal(64), bytes(64)))
    assert isinstance(verdict, MessageOne) and verdict.e == printable


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=150), st.lists(st.integers(0, 150), max_size=5))
def test_random_bytes_on_bare_tcp(data, places):
    whole = bare().receive(data)
    reader = bare()
    verdict, after = feed(reader, cut(data, [min(p, len(data)) for p in places]))
    assert type(verdict) is type(whole) and not isinstance(verdict, MessageOne)
    assert isinstance(verdict, NeedMore) or reader.received + after == data


def test_a_decided_reader_takes_no_more():
    for reader, last in ((bare(), b"\x00" * 51), (bare(), body(bytes(64)))):
        reader.receive(last)
        with pytest.raises(LocalProtocolError):
            reader.receive(b"x")


# -- inside TLS -----------------------------------------------------------------------------


@settings(deadline=None)
@given(st.binary(min_size=64, max_size=400), st.binary(max_size=50), st.data())
def test_http_openings_however_they_are_cut(rest, leftover, data):
    stream = http_request(PATH, "example.com", body(rest)) + leftover
    reader = http()
    places = data.draw(st.lists(st.integers(0, len(stream)), max_size=12))
    verdict, after = feed(reader, cut(stream, places))
    assert isinstance(verdict, MessageOne)
    assert fields(verdict, after) == (E, seal(len(rest)), rest, Cipher.AESGCM, leftover)
    assert reader.received + after == stream


def test_the_longest_message_byte_by_byte():
    rest = os.urandom(16384)
    stream = http_request(PATH, "example.com", body(rest))
    reader = http()
    verdict, _ = feed(reader, bytewise(stream))
    assert isinstance(verdict, MessageOne) and verdict.rest == rest
    assert len(reader.received) < 32768


def test_bytes_are_held_only_while_they_can_become_ours():
    line = f"POST {PATH} HTTP/1.1\r\n".encode()
    for length in range(len(line)):
        reader = http()
        assert isinstance(reader.receive(line[:length]), NeedMore)
        wrong = bytes((line[length] ^ 1,))
        assert isinstance(reader.receive(wrong), Stranger)
        assert reader.received == line[:length] + wrong


REQUEST = http_request(PATH, "example.com", body(bytes(64)))
HEAD, _, BODY = REQUEST.partition(b"\r\n\r\n")


@pytest.mark.parametrize(
    "stream",
    [
        pytest.param(REQUEST.replace(b"POST", b"GET ", 1), id="method"),
        pytest.param(REQUEST.replace(b"HTTP/1.1", b"HTTP/1.0", 1), id="version"),
        pytest.param(REQUEST.replace(b"\r\n", b"\n", 1), id="bare LF at once"),
        pytest.param(HEAD.replace(b"keep-alive\r\n", b"keep-alive\n"), id="bare LF"),
        pytest.param(HEAD + b"\r\nTransfer-Encoding: chunked\r\n", id="chunked"),
        pytest.param(HEAD + b"\r\nExpect: 100-continue\r\n", id="expect"),
        pytest.param(HEAD + b"\r\nContent-Length: 115\r\n", id="two lengths"),
        pytest.param(HEAD + b"\r\n folded\r\n", id="folded line"),
        pytest.param(HEAD + b"\r\nno colon\r\n", id="no colon"),
        pytest.param(HEAD + b"\r\nX : y\r\n", id="blank before colon"),
        pytest.param(HEAD + b"\r\nX: \x00\r\n", id="NUL"),
        pytest.param(REQUEST.replace(b"Content-Length: 115\r\n", b""), id="no length"),
        pytest.param(REQUEST.replace(b": 115", b": 0115"), id="leading zero"),
        pytest.param(REQUEST.replace(b": 115", b": +115"), id="sign"),
        pytest.param(REQUEST.replace(b": 115", b": 114"), id="too short for any message"),
        pytest.param(REQUEST.replace(b": 115", b": 116"), id="not the header's length"),
        pytest.param(REQUEST.replace(b": 115", b": 16436"), id="too long for any message"),
        pytest.param(REQUEST.replace(b": 115", b": 9999999"), id="seven digits"),
        pytest.param(HEAD + b"\r\n\r\n" + b"\x01" * 51, id="forged"),
        pytest.param(f"POST {PATH} HTTP/1.1\r\n".encode() + b"X: " + b"x" * 9000, id="long line"),
        pytest.param(
            f"POST {PATH} HTTP/1.1\r\n".encode()
            + b"".join(b"X-%d: y\r\n" % i for i in range(1000)),
            id="many lines",
        ),
    ],
)
def test_http_strangers(stream):
    for chunks in ([stream], bytewise(stream), [stream + bytes(10000)]):
        reader = http()
        verdict, after = feed(reader, chunks)
        assert isinstance(verdict, Stranger)
        assert reader.received + after == b"".join(chunks)


@pytest.mark.parametrize(
    "extra", [b"X-A: b\r\n", b"X-Empty:\r\n", b"x-tab:\t y \r\n", b"Cookie: a=b; c=d\r\n"]
)
def test_other_headers_do_no_harm(extra):
    stream = HEAD + b"\r\n" + extra + b"\r\n" + BODY
    assert isinstance(http().receive(stream), MessageOne)


def test_the_limit_of_the_head_does_not_depend_on_how_it_is_cut():
    for spare in (0, 1):
        filler = b"\r\nX: " + b"x" * (8192 - len(HEAD) - 4 - 5 + spare)
        stream = HEAD + filler + b"\r\n\r\n" + BODY
        assert stream.index(b"\r\n\r\n") + 4 == 8192 + spare
        for chunks in ([stream], bytewise(stream)):
            verdict, _ = feed(http(), chunks)
            assert isinstance(verdict, Stranger if spare else MessageOne)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.booleans(), st.lists(st.integers(0, 300), max_size=5))
def test_random_bytes_inside_tls(data, on_path, places):
    stream = (f"POST {PATH} HTTP/1.1\r\n".encode() if on_path else b"") + data
    whole = http().receive(stream)
    verdict, _ = feed(http(), cut(stream, [min(p, len(stream)) for p in places]))
    assert type(verdict) is type(whole) and not isinstance(verdict, MessageOne)


def test_the_request_is_chromiums():
    # Captured from Chromium 156, fetch(path, {method: "POST", body: new Uint8Array(...)}).
    lines = HEAD.split(b"\r\n")
    assert [line.split(b":")[0].decode() for line in lines[1:]] == [
        "Host",
        "Connection",
        "Content-Length",
        "sec-ch-ua-platform",
        "User-Agent",
        "sec-ch-ua",
        "sec-ch-ua-mobile",
        "Accept",
        "Origin",
        "Sec-Fetch-Site",
        "Sec-Fetch-Mode",
        "Sec-Fetch-Dest",
        "Referer",
        "Accept-Encoding",
        "Accept-Language",
    ]
    assert lines[0] == f"POST {PATH} HTTP/1.1".encode()
    assert b"Origin: https://example.com" in lines and b"Referer: https://example.com/" in lines


@pytest.mark.parametrize("host", ["", "a b", "a\r\nX: y", "ü.example"])
def test_a_host_that_breaks_the_head(host):
    with pytest.raises(LocalProtocolError):
        http_request(PATH, host, b"")


# -- replies --------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.binary(min_size=16, max_size=200), st.binary(max_size=50), st.booleans(), st.data())
def test_replies_however_they_are_cut(rest, leftover, inside_tls, data):
    message = body(rest)
    stream = (http_response(message, DATE) if inside_tls else message) + leftover
    reader = (HttpReply if inside_tls else BareReply)(open_header)
    places = data.draw(st.lists(st.integers(0, len(stream)), max_size=12))
    verdict, after = feed(reader, cut(stream, places))
    assert isinstance(verdict, MessageTwo)
    assert fields(verdict, after) == (E, seal(len(rest)), rest, Cipher.AESGCM, leftover)


RESPONSE = http_response(body(bytes(16)), DATE)


@pytest.mark.parametrize(
    ("stream", "status"),
    [
        (b"HTTP/1.1 404 Not Found\r\nServer: nginx\r\n\r\n", "404"),
        (b"HTTP/1.1 405 Not Allowed\r\n\r\n", "405"),
        (b"HTTP/1.0 301\r\n" + b"X: y\r\n" * 2000, "301"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n", "200"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "200"),
        (b"HTTP/1.1 200 OK\r\n\r\n", "200"),
        (RESPONSE.replace(b": 67", b": 70"), "200"),
        (RESPONSE.replace(b"HEADER", b"FORGED"), "200"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 2000, "200"),
    ],
)
def test_the_web_sites_answer_is_explained(stream, status):
    for chunks in ([stream], bytewise(stream)):
        with pytest.raises(HandshakeError, match=rf"web site answered \(HTTP {status}\).*clocks"):
            feed(HttpReply(open_header), chunks)


@pytest.mark.parametrize(
    "stream", [b"SSH-2.0-x\r\n", b"HTTP/2 200\r\n", b"\x15\x03", b"HTTP/1.1 " + b"x" * 80]
)
def test_what_is_no_http(stream):
    for chunks in ([stream], bytewise(stream)):
        with pytest.raises(RemoteProtocolError):
            feed(HttpReply(open_header), chunks)


def test_a_forged_bare_reply():
    with pytest.raises(HandshakeError):
        BareReply(open_header).receive(bytes(51))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.sampled_from([b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 "]))
def test_random_replies(data, start):
    for reader in (HttpReply(open_header), BareReply(open_header)):
        try:
            verdict = reader.receive(start + data)
        except (HandshakeError, RemoteProtocolError):
            continue
        assert isinstance(verdict, NeedMore)


def test_nginx_answer():
    head = RESPONSE.partition(b"\r\n\r\n")[0]
    assert [line.split(b":")[0] for line in head.split(b"\r\n")] == [
        b"HTTP/1.1 200 OK",
        b"Server",
        b"Date",
        b"Content-Type",
        b"Content-Length",
        b"Connection",
    ]
