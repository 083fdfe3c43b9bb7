"""Visitors who are strangers, or may be: when they are handed over, and with which bytes."""

from __future__ import annotations

from typing import Any

import pytest
from support.keys import CLIENT, SERVER_PUBLIC, keypair
from support.noise import MODES, Abyss, Pair, Upper
from support.pipes import Split, byte_by_byte, join, run, seeded_split, whole
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from phantom.core.handshake import Cipher, Mode
from phantom.core.opening_h2 import CHROMIUM_PREFACE, SETTINGS_ACK, frame
from phantom.crypto.header import seal_header, secret_path
from phantom.errors import TimeoutExpired
from phantom.tunnel.initiator import InitiatorSettings, NoiseInitiator

#: What a web server says first over HTTP/2.
GREETING = frame(4, 0, 0, bytes(6)) + frame(8, 0, 0, b"\0\0\0\1")


@pytest.mark.parametrize("greeting", [b"", GREETING, GREETING * 2, GREETING + SETTINGS_ACK])
@pytest.mark.parametrize("split", [whole, byte_by_byte, seeded_split(3)])
def test_what_a_web_server_says_first_goes_before_a_link(greeting: bytes, split: Split) -> None:
    """The client acknowledges each of its SETTINGS, and the server takes that out again."""
    pair = Pair(Mode.TLS_H2, split=split, web_server=greeting)
    pair.client_upper.transport.write(b"up")
    pair.server_upper.transport.write(b"down")
    run(pair.clock, 1)
    assert (pair.server_upper.records, pair.client_upper.records) == ([b"up"], [b"down"])
    [web_server] = pair.expected
    assert web_server.released == 1 and not pair.stranger.received
    assert web_server.seen[: len(CHROMIUM_PREFACE)] in (b"", CHROMIUM_PREFACE)


@pytest.mark.parametrize("mode", [Mode.TLS_HTTP1, Mode.TLS_H2])
def test_a_web_server_may_lose_its_patience_first(mode: Mode) -> None:
    pair = Pair(mode, allowed=set(), web_server=b"")
    assert len(pair.stranger.received) == 1
    transport = StringTransport()
    transport.alpn = "h2" if mode is Mode.TLS_H2 else None  # type: ignore[attr-defined]
    visitor = pair.responder(mode)
    visitor.makeConnection(transport)
    visitor.dataReceived(b"P")
    pair.expected[-1].stranger()
    assert pair.expected[-1].released == 1 and pair.stranger.received[-1] == b"P"
    pair.clock.advance(60)
    visitor.connectionLost(Failure(ConnectionDone()))
    assert pair.expected[-1].released == 1


def test_a_visitor_who_leaves_is_no_longer_expected() -> None:
    pair = Pair(Mode.TLS_HTTP1, web_server=b"")
    visitor = pair.responder(Mode.TLS_HTTP1)
    visitor.makeConnection(StringTransport())
    visitor.connectionLost(Failure(ConnectionDone()))
    assert pair.expected[-1].released == 1
    pair.clock.advance(60)
    assert pair.expected[-1].released == 1 and not pair.stranger.received


def test_something_else_than_the_acknowledgement_ends_a_link() -> None:
    pair = Pair(Mode.TLS_H2, web_server=GREETING)
    flight: list[bytes] = []
    client = NoiseInitiator(
        pair.runtime,
        Upper(),
        InitiatorSettings(
            private_key=CLIENT,
            server_key=SERVER_PUBLIC,
            cipher=Cipher.AESGCM,
            mode=Mode.TLS_H2,
            host="example.com",
        ),
        pair.leaver,
        pair.failures.append,
    )
    sent = StringTransport()
    sent.alpn = "h2"  # type: ignore[attr-defined]
    client.makeConnection(sent)
    flight.append(sent.value())
    client.cancel()
    transport = StringTransport()
    transport.alpn = "h2"  # type: ignore[attr-defined]
    server = pair.responder(Mode.TLS_H2)
    server.makeConnection(transport)
    server.dataReceived(flight[0])
    said = transport.value()
    assert said.startswith(GREETING + SETTINGS_ACK) and not pair.drain.received
    server.dataReceived(SETTINGS_ACK[:-1] + b"\1")
    assert pair.drain.received == [b""] and transport.value() == said
    assert not server.established and not pair.stranger.received


@MODES
def test_an_unknown_key_meets_the_stranger_policy_with_every_byte(mode: Mode) -> None:
    pair = Pair(mode, allowed=set())
    assert not pair.server.established
    assert pair.server_upper.transport is None
    assert pair.stranger.everything  # the whole first flight
    assert pair.pipe.carried[1] == 0, "the server must send nothing of its own"
    assert pair.undecided == pair.decided == [pair.server]
    # The client learns it by time only, and then leaves late.
    run(pair.clock, 10)
    assert pair.failures[0].check(TimeoutExpired)
    assert pair.leaver.transport is not None


@MODES
def test_a_client_with_the_wrong_server_key_is_a_stranger(mode: Mode) -> None:
    pair = Pair(mode, server_key=keypair(9)[1])
    run(pair.clock, 11)
    assert not pair.gate.asked
    assert pair.stranger.everything
    assert pair.pipe.carried[1] == 0


def probe(mode: Mode, data: bytes, seconds: float = 1.0) -> tuple[Pair, Any]:
    """Send raw bytes to a responder as a visitor would."""
    pair = Pair(mode)
    pair.stranger = Abyss()
    visitor = Upper()
    responder = pair.responder(mode)
    pipe = join(pair.clock, visitor, responder)
    visitor.transport.write(data)
    run(pair.clock, seconds)
    return pair, pipe


@pytest.mark.parametrize("data", [b"\x80" * 60, b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01" * 40])
def test_garbage_on_bare_tcp_gets_silence(data: bytes) -> None:
    pair, pipe = probe(Mode.BARE, data, seconds=20)
    assert pipe.carried[1] == 0
    assert pair.stranger.everything == data


def test_a_silent_visitor_becomes_a_stranger_in_time() -> None:
    pair, _ = probe(Mode.BARE, b"\x81", seconds=9.9)
    assert not pair.stranger.received
    run(pair.clock, 1)
    assert pair.stranger.everything == b"\x81"


def test_inside_tls_a_visit_is_handed_over_at_the_first_byte_that_differs() -> None:
    path = secret_path(SERVER_PUBLIC)
    pair, _ = probe(Mode.TLS_HTTP1, f"POST {path[:5]}".encode())
    assert not pair.stranger.received
    pair, _ = probe(Mode.TLS_HTTP1, b"GET")
    assert pair.stranger.everything == b"GET"


@MODES
def test_a_half_close_before_the_handshake_reaches_the_decoy(mode: Mode) -> None:
    pair = Pair(mode)
    pair.stranger = Abyss()
    visitor = Upper()
    responder = pair.responder(mode)
    join(pair.clock, visitor, responder)
    visitor.transport.write(b"P")
    visitor.transport.unregisterProducer()
    visitor.transport.loseWriteConnection()
    run(pair.clock, 1)
    assert pair.stranger.everything == b"P"


def test_an_authentic_header_with_a_false_message_is_a_stranger() -> None:
    # Whoever knows the public key can make the header; only a private key makes the rest.
    e = bytes([0x90]) + b"\x01" * 31
    header = seal_header(SERVER_PUBLIC, e, b"client", 200, Cipher.AESGCM)
    data = e + header + bytes(200)
    pair, pipe = probe(Mode.BARE, data)
    assert pair.stranger.everything == data
    assert pipe.carried[1] == 0
