"""The handshake and the records as a Twisted layer, in memory."""

from __future__ import annotations

from typing import Any

import pytest
from support.keys import CLIENT, CLIENT_PUBLIC, SERVER, SERVER_PUBLIC, keypair
from support.pipes import PipeEnd, Split, byte_by_byte, join, run, seeded_split, whole
from support.runtime import fake_runtime
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from zope.interface import implementer

from phantom.core.handshake import Cipher, HandshakePayload, Mode, PostQuantum
from phantom.core.opening_h2 import CHROMIUM_PREFACE, SETTINGS_ACK, ServerTalk, frame
from phantom.crypto.header import seal_header, secret_path
from phantom.errors import HandshakeError, RemoteProtocolError, TimeoutExpired
from phantom.layer import switch_protocol
from phantom.tunnel import initiator, responder
from phantom.tunnel.initiator import InitiatorSettings, NoiseInitiator
from phantom.tunnel.post_quantum import ClientSecrets, ServerSecrets
from phantom.tunnel.responder import NoiseResponder

#: What a web server says first over HTTP/2.
GREETING = frame(4, 0, 0, bytes(6)) + frame(8, 0, 0, b"\0\0\0\1")


class Upper:
    """What sits on an established link."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.records: list[bytes] = []
        self.lost: list[Failure] = []

    def makeConnection(self, transport: Any) -> None:
        self.transport = transport
        transport.registerProducer(self, True)

    def pauseProducing(self) -> None:
        pass

    def resumeProducing(self) -> None:
        pass

    def stopProducing(self) -> None:
        pass

    def records_received(self, records: list[memoryview]) -> None:
        self.records += map(bytes, records)

    def dataReceived(self, data: bytes) -> None:
        self.records.append(data)

    def connectionLost(self, reason: Failure) -> None:
        self.lost.append(reason)


class Abyss:
    """A stranger policy that writes down whom it got, and what that one sends then."""

    def __init__(self) -> None:
        self.received: list[bytes] = []
        self.half_closed = False
        self.transport: Any = None

    def __call__(self, transport: Any, received: bytes) -> None:
        self.received.append(bytes(received))
        switch_protocol(transport, self)

    def makeConnection(self, transport: Any) -> None:
        self.transport = transport

    def dataReceived(self, data: bytes) -> None:
        self.received.append(data)

    def readConnectionLost(self) -> None:
        self.half_closed = True

    def connectionLost(self, reason: Failure) -> None:
        pass

    @property
    def everything(self) -> bytes:
        return b"".join(self.received)


class Gate:
    def __init__(self, allowed: set[bytes]) -> None:
        self.allowed = allowed
        self.asked: list[tuple[bytes, HandshakePayload, bytes]] = []

    def authorise(self, client_key: bytes, payload: HandshakePayload, e: bytes) -> bool:
        self.asked.append((client_key, payload, e))
        return client_key in self.allowed


class WebServer:
    """What is ready for a visitor over HTTP/2 who may be a stranger."""

    def __init__(self, pair: Any, transport: Any, stranger: Any, greeting: bytes) -> None:
        self.pair, self.transport, self.stranger = pair, transport, stranger
        self.talk = ServerTalk()
        self.seen = b""
        self.released = 0
        transport.write(self.talk.whole_frames(greeting))

    def pass_on(self, data: bytes) -> None:
        self.seen += data

    def take(self, received: bytes) -> None:
        self.released += 1
        self.pair.stranger(self.transport, self.seen + received)

    def release(self) -> ServerTalk:
        self.released += 1
        return self.talk


class Pair:
    def __init__(
        self,
        mode: Mode,
        *,
        cipher: Cipher = Cipher.AESGCM,
        prefix: bool = True,
        split: Split = whole,
        allowed: set[bytes] | None = None,
        server_key: bytes = SERVER_PUBLIC,
        seed: int = 5,
        client: PostQuantum = PostQuantum.AUTO,
        server: PostQuantum = PostQuantum.AUTO,
        secrets: ClientSecrets | None = None,
        server_secrets: ServerSecrets | None = None,
        web_server: bytes | None = None,
    ) -> None:
        self.expected: list[WebServer] = []
        self.web_server = web_server
        self.clock = Clock()
        self.post_quantum = server
        self.server_secrets = server_secrets or ServerSecrets()
        runtime = fake_runtime(self.clock, seed=seed)
        self.runtime = runtime
        self.client_upper, self.server_upper = Upper(), Upper()
        self.stranger, self.drain, self.leaver = Abyss(), Abyss(), Abyss()
        self.gate = Gate({CLIENT_PUBLIC} if allowed is None else allowed)
        self.failures: list[Failure] = []
        self.undecided: list[NoiseResponder] = []
        self.decided: list[NoiseResponder] = []
        self.client = NoiseInitiator(
            runtime,
            self.client_upper,
            InitiatorSettings(
                private_key=CLIENT,
                server_key=server_key,
                cipher=cipher,
                mode=mode,
                host="example.com",
                prefix=prefix,
                post_quantum=client,
                secrets=secrets,
            ),
            self.leaver,
            self.failures.append,
        )
        self.server = self.responder(mode)
        alpn = "h2" if mode is Mode.TLS_H2 else None
        self.pipe = join(self.clock, self.client, self.server, split=split, alpn=alpn)
        run(self.clock, 1)

    def arrived(self, visitor: NoiseResponder) -> None:
        self.undecided.append(visitor)

    def settled(self, visitor: NoiseResponder) -> None:
        self.decided.append(visitor)

    def expect(self, transport: Any, stranger: Any) -> WebServer:
        assert self.web_server is not None
        self.expected.append(WebServer(self, transport, stranger, self.web_server))
        return self.expected[-1]

    def responder(self, mode: Mode) -> NoiseResponder:
        return NoiseResponder(
            self.runtime,
            self.server_upper,
            private_key=SERVER,
            public_key=SERVER_PUBLIC,
            mode=mode,
            gatekeeper=self.gate,
            stranger=self.stranger,
            expect=None if self.web_server is None else self.expect,
            abandon=self.drain,
            timeout=10,
            visitors=self,
            instance=bytes(16),
            post_quantum=self.post_quantum,
            secrets=self.server_secrets,
        )


MODES = pytest.mark.parametrize("mode", list(Mode))


@MODES
@pytest.mark.parametrize("cipher", list(Cipher))
@pytest.mark.parametrize("split", [whole, byte_by_byte, seeded_split(3)])
def test_records_cross_an_established_link(mode: Mode, cipher: Cipher, split: Split) -> None:
    pair = Pair(mode, cipher=cipher, split=split)
    assert pair.server.peer_key == CLIENT_PUBLIC
    assert pair.client.peer_key == SERVER_PUBLIC
    pair.client_upper.transport.write(b"one")
    pair.client_upper.transport.write(b"two")
    pair.server_upper.transport.write(memoryview(b"x" * 65519))
    run(pair.clock, 1)
    assert pair.server_upper.records == [b"one", b"two"]
    assert pair.client_upper.records == [b"x" * 65519]
    assert pair.undecided == pair.decided == [pair.server]


@pytest.mark.parametrize("able", [True, False])
def test_a_record_in_pieces_leaves_apart_where_the_transport_can(
    able: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces: list[list[bytes]] = []
    if able:

        def send_apart(end: PipeEnd, given: list[bytes]) -> None:
            pieces.append(given)
            end.write(b"".join(given))

        monkeypatch.setattr(PipeEnd, "send_apart", send_apart, raising=False)
    pair = Pair(Mode.BARE)
    pair.client_upper.transport.write_apart(b"x" * 66, [20, 30])
    pair.client_upper.transport.write_apart(b"y", ())
    run(pair.clock, 1)
    assert pair.server_upper.records == [b"x" * 66, b"y"]
    assert [[len(piece) for piece in row] for row in pieces] == (
        [[20, 30, 50], [35]] if able else []
    )


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


def test_a_bare_link_without_a_prefix_is_understood() -> None:
    pair = Pair(Mode.BARE, prefix=False)
    assert pair.server.established


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


@MODES
def test_a_tampered_record_ends_the_link_in_silence(mode: Mode) -> None:
    pair = Pair(mode)
    sent_back = pair.pipe.carried[1]
    pair.client.transport.write(b"\x00" * 40)  # past the sealer: no valid record
    run(pair.clock, 1)
    assert pair.server_upper.lost and pair.server_upper.lost[0].check(RemoteProtocolError)
    assert pair.drain.transport is not None
    pair.client_upper.transport.write(b"more")
    run(pair.clock, 30)
    assert pair.server_upper.records == []
    assert pair.pipe.carried[1] == sent_back, "it reads on and answers nothing"
    assert len(pair.server_upper.lost) == 1


@MODES
def test_a_lost_connection_is_told_once(mode: Mode) -> None:
    pair = Pair(mode)
    pair.pipe.cut()
    run(pair.clock, 1)
    assert len(pair.client_upper.lost) == len(pair.server_upper.lost) == 1


@implementer(IHalfCloseableProtocol)
class HalfClosed:
    """A peer that has sent its last byte and reads on."""

    def __init__(self) -> None:
        self.ended = False

    def dataReceived(self, data: bytes) -> None:
        pass

    def readConnectionLost(self) -> None:
        self.ended = True

    def writeConnectionLost(self) -> None:
        pass

    def connectionLost(self, reason: Failure) -> None:
        self.ended = True


@MODES
def test_a_half_close_ends_a_link_that_is_congested(mode: Mode) -> None:
    pair = Pair(mode)
    pair.pipe.stall()
    for _ in range(4):
        pair.server_upper.transport.write(bytes(60_000))
    peer = pair.pipe.left.protocol = HalfClosed()
    pair.pipe.left.unregisterProducer()
    pair.pipe.left.loseWriteConnection()
    run(pair.clock, 1)
    pair.pipe.unstall()
    run(pair.clock, 60)
    assert len(pair.server_upper.lost) == 1
    assert peer.ended, "the server kept the socket for ever"


def test_a_closed_connection_during_the_handshake_is_told() -> None:
    pair = Pair(Mode.BARE, allowed=set())
    pair.pipe.cut()
    run(pair.clock, 1)
    assert pair.failures[0].check(HandshakeError)


def test_no_two_first_messages_have_one_length() -> None:
    lengths = set()
    for seed in range(20):
        clock = Clock()
        upper = Upper()
        client = NoiseInitiator(
            fake_runtime(clock, seed=seed),
            upper,
            InitiatorSettings(
                private_key=CLIENT, server_key=SERVER_PUBLIC, cipher=Cipher.AESGCM, mode=Mode.BARE
            ),
            Abyss(),
            lambda failure: None,
        )
        far = Upper()
        pipe = join(clock, client, far)
        run(clock, 1)
        lengths.add(pipe.carried[0])
    assert len(lengths) > 15


def test_the_first_burst_inside_tls_is_large() -> None:
    pair = Pair(Mode.TLS_HTTP1, allowed=set())
    assert 3400 <= len(pair.stranger.everything) <= 6000


@pytest.mark.parametrize(
    "answer", [b"\x15\x03\x03\x00\x02\x02\x32", b"HTTP/1.1 400 Bad Request\r\n"]
)
def test_a_bare_client_at_a_tls_server_is_told(answer: bytes) -> None:
    clock = Clock()
    failures: list[Failure] = []
    client = NoiseInitiator(
        fake_runtime(clock, seed=1),
        Upper(),
        InitiatorSettings(
            private_key=CLIENT, server_key=SERVER_PUBLIC, cipher=Cipher.AESGCM, mode=Mode.BARE
        ),
        Abyss(),
        failures.append,
    )
    server = Upper()
    join(clock, client, server)
    run(clock, 1)
    server.transport.write(answer + bytes(60))
    run(clock, 1)
    assert "set tls_sni" in failures[0].getErrorMessage()


class Tap(Upper):
    """Stands in for the other side, and keeps what it is sent."""

    def __init__(self) -> None:
        super().__init__()
        self.data = b""

    def dataReceived(self, data: bytes) -> None:
        self.data += data


def test_nothing_on_bare_tcp_is_the_same_twice() -> None:
    """Neither message has a fixed byte at any place, nor a fixed length."""
    ways: tuple[list[bytes], list[bytes]] = ([], [])
    for seed in range(40):
        pair = Pair(Mode.BARE, prefix=False, allowed=set(), seed=seed)
        message = pair.stranger.everything
        ways[0].append(message)
        tap = Tap()
        pair.gate.allowed = {CLIENT_PUBLIC}
        join(pair.clock, tap, pair.responder(Mode.BARE))
        tap.transport.write(message)
        run(pair.clock, 1)
        ways[1].append(tap.data)
    for sent in ways:
        assert len({len(message) for message in sent}) > 25
        for place in range(min(map(len, sent))):
            assert len({message[place] for message in sent}) > 20, place


@MODES
def test_without_any_padding_it_works_as_well(mode: Mode, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BARE_PADDING", "BARE_KEY_PADDING", "TLS_PAYLOAD"):
        monkeypatch.setattr(initiator, name, (0, 0))
    monkeypatch.setattr(responder, "REPLY_PADDING", (0, 0))
    pair = Pair(mode)
    assert pair.client.established and pair.server.established
