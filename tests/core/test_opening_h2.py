"""Openings over HTTP/2: Chromium's bytes, any chunking, and where a stranger is known."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phantom.core import hpack
from phantom.core.handshake import Cipher
from phantom.core.opening import MessageOne, MessageTwo, NeedMore, Stranger
from phantom.core.opening_h2 import (
    CHROMIUM_PREFACE,
    PREFACE,
    SETTINGS_ACK,
    H2Opening,
    H2Reply,
    ServerTalk,
    frame,
    h2_acknowledgement,
    h2_request,
    h2_response,
)
from phantom.errors import HandshakeError, LocalProtocolError, RemoteProtocolError

PATH = "/upload/0123456789abcdefABCDEF"
DATE = "Sun, 22 Nov 2026 22:00:00 GMT"
E = bytes(range(0x80, 0xA0))

#: What Chromium 156 sent on a new connection for ``fetch("/abcdEFGH0123", {method: "POST",
#: body: new Uint8Array(4000)})`` on https://server.test:8444: the first two TLS records.
CAPTURED = (
    "505249202a20485454502f322e300d0a0d0a534d0d0a0d0a000018040000000000000100010000000200000000"
    "00040060000000060004000000000408000000000000ef0001",
    "00016101240000000180000000db83418c416cee5b1749509b8f34d35f87048a6071924c1871630044cf5c8368"
    "0007408d4148b1275ad1ad5d034ca7b29f07224c696e7578227aced07f66a281b0dae053fafc087ed4ce6aadf2"
    "a7979c89c6bfb521aeba0bc8b1e632586d975765c53facd8f7e8cff4a506ea5531149d4ffda97a7b0f49580b6e"
    "2e05c0b814dc394761986d975765cf40874148b1275ad1ffa2fe749d37215aed83aa4fe7efbc1fcbdfcfd29fcd"
    "e9ec3d26b69fe7efbc1fc85b73f9408b4148b1275ad1ad49e33505023f3053032a2f2a40853d8698d57f929d29"
    "ad17186105b3b96c5d25426e3cd34d7f408a4148b4a549275906497f8840e92ac7b0d31aaf408a4148b4a54927"
    "5a93c85f8321ec47408a4148b4a549275a42a13f842d35a7d773929d29ad17186105b3b96c5d25426e3cd34d31"
    "50929bd9abfa5242cb40d25fa523b3e94f684c9f518b2d4b70ddf45abefb4005df4086aec31ec327d785b600fd"
    "286f",
)

#: What nginx 1.22 says unprompted (its own TLS listener, or one in the clear).
NGINX_GREETING = bytes.fromhex(
    "000012040000000000000300000080000400010000000500ffffff0000040800000000007fff0000"
)

#: What it then said to the request above, passed on to an application whose answer had 400
#: bytes: before the answer, and the answer's head without ``server`` and ``date``.
NGINX_BETWEEN = bytes.fromhex("0000000401000000000000040800000000017ffeffff")
NGINX_HEAD_START, NGINX_HEAD_END = (
    bytes.fromhex("2088"),
    bytes.fromhex("5f901d75d0620d263d4c1c892a56426c28e95c03343030"),
)


def seal(length: int, cipher: Cipher = Cipher.AESGCM) -> bytes:
    """A header that `open_header` below takes for authentic."""
    return b"HEADER" + bytes((length >> 8, length & 255, cipher)) + bytes(10)


def open_header(e: bytes, sealed: bytes) -> tuple[int, Cipher]:
    if not sealed.startswith(b"HEADER") or sealed[8] not in (1, 2):
        raise HandshakeError("forged")
    return int.from_bytes(sealed[6:8], "big"), Cipher(sealed[8])


def body(rest: bytes) -> bytes:
    return E + seal(len(rest)) + rest


def request(rest: bytes = bytes(100), host: str = "server.test", path: str = PATH) -> bytes:
    return b"".join(h2_request(path, host, body(rest)))


def path_end(data: bytes) -> int:
    path = hpack.encode_field(":path", PATH)
    return data.index(path) + len(path)


def opening() -> H2Opening:
    return H2Opening(PATH, open_header)


def feed(reader: Any, chunks: Iterable[bytes]) -> Any:
    verdict: Any = NeedMore()
    for chunk in chunks:
        verdict = reader.receive(chunk)
        if not isinstance(verdict, NeedMore):
            break
    return verdict


def bytewise(data: bytes) -> list[bytes]:
    return [data[i : i + 1] for i in range(len(data))]


def cut(data: bytes, places: list[int]) -> list[bytes]:
    places = sorted(places)
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


# -- as others send it ------------------------------------------------------------------------


def test_the_first_records_are_chromiums() -> None:
    pieces = h2_request("/abcdEFGH0123", "server.test:8444", b"\x07" * 4000)
    assert [piece.hex() for piece in pieces[:2]] == list(CAPTURED)
    assert pieces[2] == bytes.fromhex("000fa0000100000001") + b"\x07" * 4000


def test_the_answer_is_nginxs() -> None:
    assert h2_acknowledgement(False) == NGINX_BETWEEN
    assert h2_acknowledgement(True) == NGINX_BETWEEN[9:]
    answer = h2_response(bytes(400), DATE)
    length = int.from_bytes(answer[:3], "big")
    head = answer[9 : 9 + length]
    assert answer[3:9] == bytes.fromhex("010400000001")
    assert head.startswith(NGINX_HEAD_START) and head.endswith(NGINX_HEAD_END)
    assert answer[9 + length :] == bytes.fromhex("000190000100000001") + bytes(400)


# -- the server's reader ----------------------------------------------------------------------


@settings(deadline=None)
@given(
    st.binary(min_size=64, max_size=6000),
    st.binary(max_size=50),
    st.lists(st.integers(0, 7000), max_size=12),
    st.sampled_from(["a", "example.com", "127.0.0.1:8443", "xn--bcher-kva.example:65535"]),
)
def test_openings_however_they_are_cut(
    rest: bytes, leftover: bytes, places: list[int], host: str
) -> None:
    whole = request(rest, host) + leftover
    reader = opening()
    early = b""
    verdict: Any = None
    chunks = cut(whole, [min(place, len(whole)) for place in places])
    while chunks:
        verdict = reader.receive(chunks.pop(0))
        if not isinstance(verdict, NeedMore):
            break
        early += reader.early()
    assert isinstance(verdict, MessageOne)
    assert (verdict.e, verdict.rest) == (E, rest)
    assert verdict.leftover + b"".join(chunks) == leftover
    # The path was not shown to a web server, and nothing is lost.
    assert len(early) < path_end(whole)
    assert early + reader.received + b"".join(chunks) == whole


def test_a_web_server_sees_at_once_what_it_would_answer() -> None:
    reader = opening()
    shown = b""
    for index, byte in enumerate(bytewise(request())):
        assert isinstance(reader.receive(byte), NeedMore | MessageOne)
        shown += reader.early()
        assert len(shown) == min(index + 1, path_end(request()) - 1)


@pytest.mark.parametrize("index", range(160))  # beyond the path
def test_any_other_byte_is_held_no_longer_than_it_can_be_ours(index: int) -> None:
    """Up to the path's end a wrong byte makes a stranger, and all bytes are still there."""
    data = bytearray(request())
    data[index] ^= 0x01
    reader = opening()
    early = b""
    verdict: Any = NeedMore()
    given_bytes = 0
    for byte in bytewise(bytes(data)):
        verdict = reader.receive(byte)
        given_bytes += 1
        if not isinstance(verdict, NeedMore):
            break
        early += reader.early()
    assert early + reader.received == bytes(data[:given_bytes])
    if index < len(PREFACE):
        assert isinstance(verdict, Stranger) and given_bytes == index + 1
    start = request().index(b"\x83\x41") + 2
    scheme = request().index(hpack.encode_field(":scheme", "https"), start)
    end = path_end(request())
    if len(CHROMIUM_PREFACE) + 3 <= index < start or scheme <= index < end:
        assert isinstance(verdict, Stranger) and given_bytes <= end


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        PREFACE + frame(1, 0x25, 1, bytes(40)),  # a GET
        PREFACE + frame(6, 0, 0, bytes(8)),  # PING
        PREFACE + frame(4, 0, 1, b""),  # SETTINGS on a stream
        PREFACE + frame(4, 0, 0, bytes(600)),
        PREFACE + frame(4, 0, 0, b"") * 40,
        PREFACE + b"\xff" * 9,
        CHROMIUM_PREFACE + frame(1, 0x24, 3, bytes(40)),
        CHROMIUM_PREFACE + frame(1, 0x24, 1, b""),
        CHROMIUM_PREFACE + frame(1, 0x24, 1, bytes.fromhex("80000000db83")),
        CHROMIUM_PREFACE + frame(1, 0x24, 1, bytes(5000)),
        CHROMIUM_PREFACE + bytes.fromhex("00016101240000000180000000db8341036120620000"),  # "a b"
        request(path="/upload/another"),
        b"".join(h2_request(PATH, "a", b"")[:2]) + frame(0, 0, 1, bytes(300)),  # no end
        b"".join(h2_request(PATH, "a", b"")[:2]) + frame(0, 1, 1, bytes(300)),  # no message
        b"".join(h2_request(PATH, "a", b"")[:2]) + frame(0, 1, 1, bytes(30)),
        b"".join(h2_request(PATH, "a", b"")[:2]) + frame(3, 0, 1, bytes(4)),
    ],
)
def test_strangers(data: bytes) -> None:
    reader = opening()
    assert isinstance(feed(reader, [data]), Stranger)
    assert reader.early() + reader.received == data or reader.received == data


@settings(deadline=None)
@given(st.binary(max_size=300), st.integers(0, 500))
def test_garbage_makes_strangers_and_nothing_else(garbage: bytes, place: int) -> None:
    data = request()[:place] + garbage
    assert isinstance(feed(opening(), bytewise(data)), Stranger | NeedMore | MessageOne)


# -- the client's reader ----------------------------------------------------------------------


def answer(rest: bytes = bytes(40)) -> bytes:
    return NGINX_GREETING + NGINX_BETWEEN + h2_response(body(rest), DATE)


@settings(deadline=None)
@given(
    st.binary(min_size=16, max_size=500),
    st.binary(max_size=50),
    st.lists(st.integers(0, 700), max_size=8),
    st.integers(0, 3),
)
def test_answers_however_they_are_cut(
    rest: bytes, leftover: bytes, places: list[int], greetings: int
) -> None:
    whole = NGINX_GREETING * greetings + NGINX_BETWEEN + h2_response(body(rest), DATE) + leftover
    reader = H2Reply(open_header)
    chunks = cut(whole, [min(place, len(whole)) for place in places])
    said = b""
    verdict: Any = NeedMore()
    while chunks and isinstance(verdict, NeedMore):
        verdict = reader.receive(chunks.pop(0))
        said += reader.outgoing()
    assert isinstance(verdict, MessageTwo) and verdict.rest == rest
    assert verdict.leftover + b"".join(chunks) == leftover
    assert said == SETTINGS_ACK * greetings


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (frame(1, 4, 1, b"\x20\x8d"), "HTTP 404"),
        (frame(1, 4, 1, b"\x20\x48\x03405"), "HTTP 405"),
        (frame(1, 4, 1, b""), "HTTP unknown"),
        (frame(1, 5, 1, b"\x88"), "HTTP 200"),
        (frame(1, 4, 1, b"\x88") + frame(0, 0, 1, bytes(99)), "HTTP 200"),
        (frame(1, 4, 1, b"\x88") + frame(0, 1, 1, bytes(99)), "HTTP 200"),
        (frame(1, 4, 1, b"\x88") + frame(0, 1, 1, bytes(9)), "HTTP 200"),
        (frame(7, 0, 0, bytes(8)), "GOAWAY"),
    ],
)
def test_the_web_site_answers(data: bytes, says: str) -> None:
    with pytest.raises(HandshakeError, match=says):
        feed(H2Reply(open_header), bytewise(NGINX_GREETING + data))


@pytest.mark.parametrize(
    "data", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\xff" * 9, frame(4, 0, 0, b"") * 1000]
)
def test_what_is_no_http2(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        feed(H2Reply(open_header), [data])


@settings(deadline=None)
@given(st.binary(max_size=300), st.integers(0, 200))
def test_garbage_from_a_server(garbage: bytes, place: int) -> None:
    try:
        feed(H2Reply(open_header), bytewise(answer()[:place] + garbage))
    except (HandshakeError, RemoteProtocolError):
        pass


def test_the_date_of_the_web_sites_answer() -> None:
    for status in (b"\x20\x8d", b"\x48\x03405"):
        block = status + hpack.encode_block([("server", "nginx/1.22.1"), ("date", DATE)])
        reader = H2Reply(open_header)
        with pytest.raises(HandshakeError):
            reader.receive(NGINX_GREETING + frame(1, 4, 1, block + b"\x5f\x01x"))
        assert reader.date == 1795384800
    assert H2Reply(open_header).date is None


@given(st.binary(max_size=60))
def test_no_block_is_too_strange_to_look_for_a_date(block: bytes) -> None:
    found = hpack.find_value(block, "date")
    assert found is None or isinstance(found, str)


# -- small parts ------------------------------------------------------------------------------


@given(st.text(st.sampled_from(sorted(set(hpack._CODES) - {"\0"})), max_size=100))
def test_strings_come_back(text: str) -> None:
    coded = hpack.encode_string(text)
    assert hpack.decode_string(coded[0], coded[1:]) == text
    assert len(coded) <= 1 + len(text)


def test_examples_of_the_rfc() -> None:
    """RFC 7541, appendix C.4.1, C.4.3 and C.6.1."""
    assert hpack.encode_string("www.example.com").hex() == "8cf1e3c2e5f23a6ba0ab90f4ff"
    assert hpack.encode_string("custom-key").hex() == "8825a849e95ba97d7f"
    assert hpack.encode_string("Mon, 21 Oct 2013 20:13:21 GMT").hex() == (
        "96d07abe941054d444a8200595040b8166e082a62d1bff"
    )


def test_a_string_that_does_not_fit() -> None:
    with pytest.raises(LocalProtocolError):
        hpack.encode_string("é")
    with pytest.raises(LocalProtocolError):
        h2_request(PATH, "a b", b"")
    with pytest.raises(RemoteProtocolError):
        hpack.decode_string(0x83, b"\xff\xff\xff")
    with pytest.raises(RemoteProtocolError):
        hpack.decode_string(0x01, b"\xff")


@given(st.lists(st.integers(0, 60), max_size=5))
def test_only_whole_frames_are_passed_on(places: list[int]) -> None:
    whole = NGINX_GREETING + SETTINGS_ACK
    talk = ServerTalk()
    passed = b"".join(
        talk.whole_frames(piece) for piece in cut(whole + b"\0\0\5", [min(p, 49) for p in places])
    )
    assert passed == whole and talk.rest() == b"\0\0\5"
    assert (talk.settings, talk.acknowledged) == (1, True)
    with pytest.raises(RemoteProtocolError):
        talk.whole_frames(b"\xff" * 5000)
