"""The handshake and the records as a Twisted layer, in memory, and how a link ends."""

from __future__ import annotations

import pytest
from support.keys import CLIENT, CLIENT_PUBLIC, SERVER_PUBLIC
from support.noise import MODES, Abyss, Pair, Upper
from support.pipes import PipeEnd, Split, byte_by_byte, join, run, seeded_split, whole
from support.runtime import fake_runtime
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from phantom.core.handshake import Cipher, Mode
from phantom.core.session import BATCH_RECORDS
from phantom.crypto.records import SEALED_LENGTH_SIZE
from phantom.errors import HandshakeError, RemoteProtocolError
from phantom.fast.sockets import READ_SIZE
from phantom.tunnel.initiator import InitiatorSettings, NoiseInitiator
from phantom.tunnel.noise import FULL_SEALED


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


def test_a_bare_link_without_a_prefix_is_understood() -> None:
    pair = Pair(Mode.BARE, prefix=False)
    assert pair.server.established


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


def test_a_link_says_how_much_is_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a read ends with a record, and no record is copied."""
    monkeypatch.setattr(PipeEnd, "most_read", 0, raising=False)
    pair = Pair(Mode.BARE)
    client, transport = pair.client, pair.client.transport
    pair.server_upper.transport.write(b"x")
    run(pair.clock, 1)
    assert client.read_size == BATCH_RECORDS * FULL_SEALED <= READ_SIZE
    client.read_at_once(2)
    assert transport.most_read >= 2 * FULL_SEALED
    for piece, wanted in [(b"y" * 50, 2 * FULL_SEALED), (b"y" * 60_000, 2 * FULL_SEALED)]:
        pair.server_upper.transport.write(piece)
        run(pair.clock, 1)
        assert client.read_size == wanted
    client.dataReceived(b"\0" * 10)  # the beginning of a sealed length
    assert client.read_size == SEALED_LENGTH_SIZE - 10 + FULL_SEALED
