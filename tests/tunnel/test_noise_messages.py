"""What the handshake's messages look like from outside: no length and no byte stays the same."""

from __future__ import annotations

import pytest
from support.keys import CLIENT, CLIENT_PUBLIC, SERVER_PUBLIC
from support.noise import MODES, Abyss, Pair, Upper
from support.pipes import join, run
from support.runtime import fake_runtime
from twisted.internet.task import Clock

from phantom.core.handshake import Cipher, Mode
from phantom.tunnel import initiator, responder
from phantom.tunnel.initiator import InitiatorSettings, NoiseInitiator


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
