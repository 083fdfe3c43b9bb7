"""The pure SOCKS parser against the octets of its specifications."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from phantom.address import Destination
from phantom.core import socks5
from phantom.core.socks5 import Event, Reason, Rejected, Reply, Request, SocksServer

CREDENTIALS = {"ann": "secret", "bé": "pässword"}
HELLO = bytes.fromhex("05 01 00")
HELLO_PASSWORD = bytes.fromhex("05 02 00 02")
FAILED_5 = bytes.fromhex("05 01 00 01 00000000 0000")


def run(
    pieces: list[bytes], credentials: dict[str, str] | None = None
) -> tuple[list[Event], bytes]:
    """Feed `pieces` and return all events and what is left behind the request."""
    server = SocksServer(credentials)
    events: list[Event] = []
    trailing = b""
    for piece in pieces:
        server.receive_data(piece)
        while (event := server.next_event()) is not None:
            events.append(event)
        trailing += server.take_trailing_data()
    assert server.finished == bool(events and not isinstance(events[-1], Reply))
    return events, trailing


def last(data: bytes, credentials: dict[str, str] | None = None) -> Event:
    return run([data], credentials)[0][-1]


def password(user: bytes, secret: bytes) -> bytes:
    return b"\x01" + bytes([len(user)]) + user + bytes([len(secret)]) + secret


def request_5(tail: str | bytes, command: int = 1) -> bytes:
    rest = bytes.fromhex(tail) if isinstance(tail, str) else tail
    return bytes((5, command, 0)) + rest


def named_5(name: bytes, port: int = 443) -> bytes:
    return request_5(b"\x03" + bytes([len(name)]) + name + port.to_bytes(2, "big"))


def test_ipv4_without_authentication() -> None:
    events, trailing = run([HELLO + request_5("01 5db8d822 01bb")])
    assert events == [
        Reply(b"\x05\x00"),
        Request(5, Destination(IPv4Address("93.184.216.34"), 443)),
    ]
    assert trailing == b""


@pytest.mark.parametrize(
    ("request_", "destination"),
    [
        (request_5("01 5db8d822 0050"), Destination(IPv4Address("93.184.216.34"), 80)),
        (request_5("04" + "20010db8" + "00" * 11 + "01" + "ffff"),
         Destination(IPv6Address("2001:db8::1"), 65535)),
        (named_5(b"Example.COM.", 1), Destination("example.com", 1)),
        (named_5(b"10.1.2.3"), Destination(IPv4Address("10.1.2.3"), 443)),
        (named_5(b"::1"), Destination(IPv6Address("::1"), 443)),
        (named_5(b"[2001:db8::2]"), Destination(IPv6Address("2001:db8::2"), 443)),
        (named_5("bücher.example".encode()), Destination("xn--bcher-kva.example", 443)),
    ],
)  # fmt: skip
def test_addresses_and_names(request_: bytes, destination: Destination) -> None:
    assert last(HELLO + request_) == Request(5, destination)


@pytest.mark.parametrize(
    ("request_", "reason", "code"),
    [
        (request_5("01 5db8d822 0050", command=2), Reason.COMMAND, 7),
        (request_5("01 00000000 0000", command=3), Reason.COMMAND, 7),
        (request_5("03 01 61 0050", command=0), Reason.COMMAND, 7),
        (request_5("01 5db8d822 0000"), Reason.DESTINATION, 1),
        (request_5("02"), Reason.ADDRESS_TYPE, 8),
        (request_5("05 5db8d822 0050"), Reason.ADDRESS_TYPE, 8),
        (named_5(b""), Reason.DESTINATION, 1),
        (named_5(b"a b"), Reason.DESTINATION, 1),
        (named_5(b"a.example\n"), Reason.DESTINATION, 1),
        (named_5(b"a\0.example"), Reason.DESTINATION, 1),
        (named_5(b"\xff\xfe"), Reason.DESTINATION, 1),
        (named_5(b"127.1"), Reason.DESTINATION, 1),
        (named_5(b"0x7f000001"), Reason.DESTINATION, 1),
        (named_5(b"fe80::1%eth0"), Reason.DESTINATION, 1),
        (named_5(b"a" * 64), Reason.DESTINATION, 1),
        (named_5(b".".join([b"a" * 63] * 4)[:255]), Reason.DESTINATION, 1),
        (b"\x04\x01\x00\x01", Reason.MALFORMED, 1),
    ],
)
def test_refused_requests(request_: bytes, reason: Reason, code: int) -> None:
    reply = bytes((5, code)) + bytes.fromhex("00 01 00000000 0000")
    assert last(HELLO + request_) == Rejected(reason, reply)


@pytest.mark.parametrize("tail", ["01 5db8d822", "03 03 6161", "04" + "00" * 17, "", "03"])
def test_an_unfinished_request_is_waited_for(tail: str) -> None:
    assert run([HELLO + request_5(tail)])[0] == [Reply(b"\x05\x00")]


@pytest.mark.parametrize(
    ("greeting", "credentials"),
    [
        ("05 00", None),
        ("05 01 02", None),
        ("05 02 01 80", None),
        ("05 01 00", CREDENTIALS),
        ("05 02 00 01", CREDENTIALS),
        ("05 01 00", {}),
    ],
)
def test_no_acceptable_method(greeting: str, credentials: dict[str, str] | None) -> None:
    events, _ = run([bytes.fromhex(greeting)], credentials)
    assert events == [Rejected(Reason.NO_METHOD, b"\x05\xff")]


@pytest.mark.parametrize(
    ("user", "secret"), [(b"ann", b"secret"), ("bé".encode(), "pässword".encode())]
)
def test_right_password(user: bytes, secret: bytes) -> None:
    data = HELLO_PASSWORD + password(user, secret) + named_5(b"a.example")
    assert run([data], CREDENTIALS)[0] == [
        Reply(b"\x05\x02"),
        Reply(b"\x01\x00"),
        Request(5, Destination("a.example", 443)),
    ]


@pytest.mark.parametrize(
    ("user", "secret"),
    [
        (b"ann", b"Secret"),
        (b"ann", b""),
        (b"", b""),
        (b"ann", "pässword".encode()),
        (b"nobody", b"secret"),
        (b"ann\0", b"secret"),
        (b"\xff" * 255, b"\xff" * 255),
    ],
)
def test_wrong_password(user: bytes, secret: bytes) -> None:
    events, _ = run([HELLO_PASSWORD + password(user, secret) + named_5(b"a.example")], CREDENTIALS)
    assert events == [Reply(b"\x05\x02"), Rejected(Reason.WRONG_PASSWORD, b"\x01\x01")]


def test_no_user_at_all_admits_nobody() -> None:
    assert isinstance(last(HELLO_PASSWORD + password(b"", b""), {}), Rejected)


def test_password_message_of_another_version() -> None:
    assert last(HELLO_PASSWORD + b"\x05", CREDENTIALS) == Rejected(Reason.MALFORMED, b"\x01\x01")


def test_socks4() -> None:
    data = bytes.fromhex("04 01 0050 42660793") + b"Fred\0"
    assert last(data) == Request(4, Destination(IPv4Address("66.102.7.147"), 80))


def test_socks4a() -> None:
    data = bytes.fromhex("04 01 0050 000000ff") + b"\0example.com\0rest"
    assert run([data]) == ([Request(4, Destination("example.com", 80))], b"rest")


def test_address_zero_is_no_sign_of_4a() -> None:
    data = bytes.fromhex("04 01 0050 00000000") + b"\0"
    assert last(data) == Request(4, Destination(IPv4Address(0), 80))


@pytest.mark.parametrize(
    ("data", "credentials", "reason", "code"),
    [
        (bytes.fromhex("04 02 0050 42660793") + b"\0", None, Reason.COMMAND, 0x5B),
        (bytes.fromhex("04 01 0000 42660793") + b"\0", None, Reason.DESTINATION, 0x5B),
        (bytes.fromhex("04 01 0050 00000001") + b"\0\0", None, Reason.DESTINATION, 0x5B),
        (bytes.fromhex("04 01 0050 00000001") + b"\0a b\0", None, Reason.DESTINATION, 0x5B),
        (bytes.fromhex("04 01 0050 42660793") + b"u" * 256, None, Reason.MALFORMED, 0x5B),
        (bytes.fromhex("04 01 0050 00000001") + b"\0" + b"n" * 256, None, Reason.MALFORMED, 0x5B),
        (bytes.fromhex("04 01 0050 42660793") + b"ann\0", CREDENTIALS,
         Reason.NO_PASSWORD_IN_SOCKS4, 0x5D),
        (bytes.fromhex("04 01 0050 42660793") + b"\0", {}, Reason.NO_PASSWORD_IN_SOCKS4, 0x5D),
    ],
)  # fmt: skip
def test_refused_socks4(
    data: bytes, credentials: dict[str, str] | None, reason: Reason, code: int
) -> None:
    assert last(data, credentials) == Rejected(reason, bytes((0, code)) + bytes(6))


def test_longest_texts_of_socks4() -> None:
    name = b".".join([b"n" * 50] * 4)
    data = bytes.fromhex("04 01 0050 00000001") + b"u" * 255 + b"\0" + name + b"\0"
    assert last(data) == Request(4, Destination(name.decode(), 80))
    assert run([data[i : i + 1] for i in range(len(data))])[0] == [last(data)]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"GET / HTTP/1.1\r\n", Reason.HTTP),
        (b"CONNECT a.example:443 HTTP/1.1\r\n", Reason.HTTP),
        (b"PRI * HTTP/2.0\r\n", Reason.HTTP),
        (b"\x16\x03\x01\x02\x00\x01", Reason.TLS),
        (b"GETTING", Reason.NOT_SOCKS),
        (b"SSH-2.0-", Reason.NOT_SOCKS),
        (b"\x16\x05", Reason.NOT_SOCKS),
        (b"\x00", Reason.NOT_SOCKS),
        (b"\x06\x01\x00", Reason.NOT_SOCKS),
    ],
)
def test_what_is_not_socks_is_named_and_not_answered(data: bytes, reason: Reason) -> None:
    assert run([data])[0] == [Rejected(reason)]
    assert run([data[i : i + 1] for i in range(len(data))])[0] == [Rejected(reason)]


def test_reply_layouts() -> None:
    assert socks5.build_reply(5, 0) == bytes.fromhex("05 00 00 01 00000000 0000")
    assert socks5.build_reply(5, 5) == bytes.fromhex("05 05 00 01 00000000 0000")
    assert socks5.build_reply(4, 0) == bytes.fromhex("00 5a 0000 00000000")
    assert socks5.build_reply(4, 5) == bytes.fromhex("00 5b 0000 00000000")
    bound = (IPv4Address("192.0.2.1"), 1080)
    assert socks5.build_reply_5(0, bound) == bytes.fromhex("05 00 00 01 c0000201 0438")
    bound6 = (IPv6Address("2001:db8::1"), 1080)
    assert socks5.build_reply_5(0, bound6) == (
        bytes.fromhex("05 00 00 04 20010db8") + bytes(11) + bytes.fromhex("01 0438")
    )


DIALOGUES = [
    (HELLO + request_5("01 5db8d822 01bb"), None),
    (HELLO + named_5(b"a.example"), None),
    (HELLO + request_5("04" + "20010db8" + "00" * 11 + "01" + "ffff"), None),
    (HELLO + request_5("09"), None),
    (HELLO + request_5("03 01 61 0050", command=3), None),
    (HELLO_PASSWORD + password(b"ann", b"secret") + named_5(b"a.example"), CREDENTIALS),
    (HELLO_PASSWORD + password(b"ann", b"wrong") + named_5(b"a.example"), CREDENTIALS),
    (bytes.fromhex("04 01 0050 42660793") + b"Fred\0", None),
    (bytes.fromhex("04 01 0050 00000001") + b"Fred\0a.example\0", None),
    (bytes.fromhex("04 01 0050 00000001") + b"Fred\0" + b"n" * 300, None),
    (b"GET / HTTP/1.1\r\n\r\n", None),
]


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


@given(st.sampled_from(DIALOGUES), st.binary(max_size=40), st.lists(st.integers(0, 10_000)))
def test_every_chunking_gives_the_same(
    dialogue: tuple[bytes, dict[str, str] | None], behind: bytes, places: list[int]
) -> None:
    data, credentials = dialogue
    events, trailing = run([data + behind], credentials)
    assert isinstance(events[-1], Request | Rejected)
    if isinstance(events[-1], Request):
        assert trailing == behind
    assert run(cut(data + behind, places), credentials)[0] == events
    if isinstance(events[-1], Request):
        assert run(cut(data + behind, places), credentials)[1] == behind
    assert run([data[i : i + 1] for i in range(len(data))], credentials)[0] == events


@pytest.mark.parametrize(("data", "credentials"), DIALOGUES)
def test_nothing_but_the_whole_request_ends_the_parsing(
    data: bytes, credentials: dict[str, str] | None
) -> None:
    events = run([data], credentials)[0]
    if isinstance(events[-1], Request):
        for size in range(len(data)):
            assert not any(isinstance(e, Request) for e in run([data[:size]], credentials)[0])


@given(
    st.sampled_from([b"", HELLO, HELLO_PASSWORD, HELLO + b"\x05\x01\x00\x03", b"\x04\x01"]),
    st.binary(max_size=1500),
    st.lists(st.integers(0, 2000), max_size=8),
    st.sampled_from([None, CREDENTIALS]),
)
@example(HELLO + b"\x05\x01\x00\x03", b"\x05[%1:]\x00\x50", [], None)
@example(HELLO + b"\x05\x01\x00\x03", b"\x04\xef\xbc\x8e.\x00\x50", [], None)
def test_random_octets_raise_nothing_and_stay_bounded(
    head: bytes, tail: bytes, places: list[int], credentials: dict[str, str] | None
) -> None:
    server = SocksServer(credentials)
    events: list[Event] = []
    for piece in cut(head + tail, places):
        if server.finished:
            break
        server.receive_data(piece)
        while (event := server.next_event()) is not None:
            events.append(event)
        # The longest message is SOCKS4a with both texts at their limits.
        assert server.finished or len(server.buffered) <= 8 + 256 + 256
    assert not any(isinstance(event, Request | Rejected) for event in events[:-1])
    for event in events:
        if isinstance(event, Request):
            assert (
                not isinstance(event.destination.host, str) or event.destination.host.isprintable()
            )


@given(st.text(max_size=80))
def test_any_name_is_taken_or_refused(name: str) -> None:
    data = name.encode("utf-8", "surrogatepass")[:255]
    assert isinstance(last(HELLO + named_5(data)), Request | Rejected)
