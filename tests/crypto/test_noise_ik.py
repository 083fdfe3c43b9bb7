from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import ClassVar

import pytest
from crypto.independent_ik import IndependentIK, elligator2, public_of
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from hypothesis import given, settings
from hypothesis import strategies as st

from phantom.core.handshake import Cipher
from phantom.crypto import noise_ik
from phantom.crypto.elligator import Ephemeral, point_of
from phantom.crypto.noise_ik import Initiator, Responder
from phantom.errors import HandshakeError, LocalProtocolError

PUBLISHED = json.loads(
    (Path(__file__).parents[1] / "vectors/noise_ik_25519.json").read_text(encoding="ascii")
)["vectors"]
NAMES = {
    Cipher.AESGCM: b"Noise_IK_25519_AESGCM_SHA256",
    Cipher.CHACHAPOLY: b"Noise_IK_25519_ChaChaPoly_SHA256",
}
CIPHERS = {name.decode(): cipher for cipher, name in NAMES.items()}
BOTH_FORMS = pytest.mark.parametrize("hidden", [False, True], ids=["plain", "elligator"])
BOTH_CIPHERS = pytest.mark.parametrize("cipher", list(Cipher), ids=lambda c: c.name)

CLIENT, SERVER = bytes(range(1, 33)), bytes(range(65, 97))
CLIENT_PUBLIC, SERVER_PUBLIC = public_of(CLIENT), public_of(SERVER)
LOW_ORDER = (0).to_bytes(32, "little"), (1).to_bytes(32, "little")


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def make(hidden):
    return (Ephemeral.elligator if hidden else Ephemeral.plain)(os.urandom)


def given_ephemeral(private):
    return Ephemeral(private, public_of(private), public_of(private), False)


def initiator(hidden=False, cipher=Cipher.AESGCM, prologue=b"p", server=SERVER_PUBLIC):
    return Initiator(
        static_private=CLIENT,
        server_public=server,
        cipher=cipher,
        prologue=prologue,
        ephemeral=make(hidden),
    )


def responder(hidden=False, cipher=Cipher.AESGCM, prologue=b"p"):
    return Responder(static_private=SERVER, cipher=cipher, prologue=prologue, elligator=hidden)


class CountingExchange(noise_ik._Exchange):
    """Remembers all that were made, to see how much work a failure cost."""

    made: ClassVar[list[noise_ik._Exchange]] = []

    def __init__(self):
        super().__init__()
        self.made.append(self)


@pytest.fixture
def exchanges(monkeypatch):
    monkeypatch.setattr(noise_ik, "_Exchange", CountingExchange)
    CountingExchange.made = []
    return CountingExchange.made


@pytest.mark.parametrize("vector", PUBLISHED, ids=lambda v: f"{v['origin']}-{v['protocol_name']}")
def test_published_vectors(vector):
    def field(name):
        return bytes.fromhex(vector[name])

    cipher = CIPHERS[vector["protocol_name"]]
    client = Initiator(
        static_private=field("init_static"),
        server_public=field("init_remote_static"),
        cipher=cipher,
        prologue=field("init_prologue"),
        ephemeral=given_ephemeral(field("init_ephemeral")),
    )
    server = Responder(
        static_private=field("resp_static"),
        cipher=cipher,
        prologue=field("resp_prologue"),
        elligator=False,
    )
    messages = [
        (bytes.fromhex(m["payload"]), bytes.fromhex(m["ciphertext"])) for m in vector["messages"]
    ]
    (payload_1, message_1), (payload_2, message_2), *transport = messages
    assert client.write_message_1(payload_1) == message_1
    assert server.read_message_1(message_1) == (public_of(field("init_static")), payload_1)
    ephemeral = given_ephemeral(field("resp_ephemeral"))
    assert server.write_message_2(payload_2, ephemeral) == message_2
    assert client.read_message_2(message_2) == payload_2
    assert server.keys.send == client.keys.receive
    assert server.keys.receive == client.keys.send
    if "handshake_hash" in vector:
        assert client.keys.handshake_hash == server.keys.handshake_hash == field("handshake_hash")
    # The rest of the vector shows that the split keys are the right ones, the right way round.
    aead, order = (AESGCM, "big") if cipher is Cipher.AESGCM else (ChaCha20Poly1305, "little")
    for number, (payload, ciphertext) in enumerate(transport):
        key = (client.keys.send, server.keys.send)[number % 2]
        nonce = bytes(4) + (number // 2).to_bytes(8, order)
        assert aead(key).encrypt(nonce, payload, b"") == ciphertext


@BOTH_CIPHERS
@BOTH_FORMS
@pytest.mark.parametrize("adapter_is_client", [True, False])
def test_a_foreign_implementation_agrees(cipher, hidden, adapter_is_client):
    point = elligator2 if hidden else bytes
    own = make(hidden)
    foreign_e = make(hidden)
    arguments = {"e": foreign_e.private, "e_wire": foreign_e.wire, "point": point}
    if adapter_is_client:
        client = Initiator(
            static_private=CLIENT,
            server_public=SERVER_PUBLIC,
            cipher=cipher,
            prologue=b"both",
            ephemeral=own,
        )
        server = IndependentIK(NAMES[cipher], b"both", SERVER, **arguments)
        assert server.read_1(client.write_message_1(b"one")) == b"one"
        assert server.rs == CLIENT_PUBLIC
        assert client.read_message_2(server.write_2(b"two")) == b"two"
        keys, foreign = client.keys, server
    else:
        client_ = IndependentIK(NAMES[cipher], b"both", CLIENT, rs=SERVER_PUBLIC, **arguments)
        adapter = responder(hidden, cipher, b"both")
        assert adapter.read_message_1(client_.write_1(b"one")) == (CLIENT_PUBLIC, b"one")
        assert client_.read_2(adapter.write_message_2(b"two", own)) == b"two"
        keys, foreign = adapter.keys, client_
    assert (keys.receive, keys.send) == foreign.split()
    assert keys.handshake_hash == foreign.h
    assert keys.cipher is cipher


@BOTH_FORMS
def test_every_byte_of_message_1_counts(hidden):
    message = initiator(hidden).write_message_1(b"payload")
    for position in range(len(message)):
        for bit in (0x01, 0x80):
            bad = bytearray(message)
            bad[position] ^= bit
            with pytest.raises(HandshakeError):
                responder(hidden).read_message_1(bytes(bad))
    assert responder(hidden).read_message_1(message) == (CLIENT_PUBLIC, b"payload")


@BOTH_FORMS
def test_every_byte_of_message_2_counts(hidden):
    ephemeral = make(hidden)

    def client():
        return Initiator(
            static_private=CLIENT,
            server_public=SERVER_PUBLIC,
            cipher=Cipher.CHACHAPOLY,
            prologue=b"",
            ephemeral=ephemeral,
        )

    first = client()
    server = responder(hidden, Cipher.CHACHAPOLY, b"")
    server.read_message_1(first.write_message_1(b""))
    message = server.write_message_2(b"payload", make(hidden))
    for position in range(len(message)):
        for bit in (0x01, 0x80):
            bad = bytearray(message)
            bad[position] ^= bit
            again = client()
            again.write_message_1(b"")
            with pytest.raises(HandshakeError):
                again.read_message_2(bytes(bad))
            with pytest.raises(LocalProtocolError):
                _ = again.keys
    assert first.read_message_2(message) == b"payload"


@BOTH_FORMS
def test_the_ignored_bits_of_e_change_the_transcript(hidden):
    # X25519 ignores bit 255, Elligator2 also bit 254: the same point, another message.
    message = initiator(hidden).write_message_1(b"")
    for bit in (0x80, 0x40, 0xC0) if hidden else (0x80,):
        flipped = message[:31] + bytes((message[31] ^ bit,)) + message[32:]
        if hidden:
            assert point_of(flipped[:32]) == point_of(message[:32])
        with pytest.raises(HandshakeError):
            responder(hidden).read_message_1(flipped)


def test_prologue_cipher_and_form_are_bound():
    message = initiator(prologue=b"one").write_message_1(b"")
    for other in (
        responder(prologue=b"two"),
        responder(cipher=Cipher.CHACHAPOLY, prologue=b"one"),
        responder(hidden=True, prologue=b"one"),
    ):
        with pytest.raises(HandshakeError):
            other.read_message_1(message)


@pytest.mark.parametrize("point", LOW_ORDER)
def test_low_order_points_are_refused(point):
    with pytest.raises(HandshakeError):
        initiator(server=point).write_message_1(b"")
    with pytest.raises(HandshakeError):
        responder().read_message_1(point + bytes(64))
    client = initiator()
    client.write_message_1(b"")
    with pytest.raises(HandshakeError):
        client.read_message_2(point + bytes(16))


def test_a_client_whose_static_key_is_of_low_order_is_refused(exchanges):
    # Such a client exists: it can seal its s, since es needs no key of its own.
    forger = IndependentIK(NAMES[Cipher.AESGCM], b"p", CLIENT, b"\x07" * 32, rs=SERVER_PUBLIC)
    forger.mix_hash(forger.e_wire)
    forger.mix_key(forger.e, forger.rs)
    message = forger.e_wire + forger.encrypt(LOW_ORDER[1]) + bytes(16)
    server = responder()
    with pytest.raises(HandshakeError):
        server.read_message_1(message)
    assert exchanges[-1].count == 2


@BOTH_FORMS
@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda m: b"", id="empty"),
        pytest.param(lambda m: m[:31], id="half an e"),
        pytest.param(lambda m: m[:32], id="e only"),
        pytest.param(lambda m: bytes(32) + m[32:], id="e of low order"),
        pytest.param(lambda m: m[:40] + b"\xff" + m[41:] + b"", id="s"),
        pytest.param(lambda m: m[:-1] + bytes((m[-1] ^ 1,)), id="payload"),
        pytest.param(lambda m: m[:-1], id="cut short"),
        pytest.param(lambda m: m + b"x", id="too long"),
    ],
)
def test_every_failure_costs_two_exchanges(hidden, spoil, exchanges):
    message = spoil(initiator(hidden).write_message_1(b"hello"))
    server = responder(hidden)
    with pytest.raises(HandshakeError):
        server.read_message_1(message)
    assert exchanges[-1].count == 2


@BOTH_FORMS
def test_success_costs_two_exchanges_a_message(hidden, exchanges):
    client, server = initiator(hidden), responder(hidden)
    server.read_message_1(client.write_message_1(b""))
    assert [e.count for e in exchanges] == [2, 2]
    client.read_message_2(server.write_message_2(b"", make(hidden)))
    assert [e.count for e in exchanges] == [4, 4]


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300), st.booleans(), st.sampled_from(list(Cipher)))
def test_random_bytes_raise_only_handshake_errors(data, hidden, cipher):
    with pytest.raises(HandshakeError):
        responder(hidden, cipher).read_message_1(data)
    client = initiator(hidden, cipher)
    client.write_message_1(b"")
    with pytest.raises(HandshakeError):
        client.read_message_2(data)


def test_out_of_turn():
    client, server = initiator(), responder()
    with pytest.raises(LocalProtocolError):
        client.read_message_2(bytes(48))
    with pytest.raises(LocalProtocolError):
        server.write_message_2(b"", make(False))
    message = client.write_message_1(b"")
    with pytest.raises(LocalProtocolError):
        client.write_message_1(b"")
    with pytest.raises(HandshakeError):
        server.read_message_1(message[:-1])
    with pytest.raises(LocalProtocolError):  # a failed handshake is over
        server.read_message_1(message)


def test_the_wrong_form_of_ephemeral_is_our_own_error():
    server = responder(hidden=True)
    server.read_message_1(initiator(hidden=True).write_message_1(b""))
    with pytest.raises(LocalProtocolError):
        server.write_message_2(b"", make(False))


def test_a_payload_too_long():
    with pytest.raises(LocalProtocolError):
        initiator().write_message_1(bytes(16384 - 64 + 1))
    assert len(initiator().write_message_1(bytes(16384 - 64))) == 32 + 16384


def test_malformed_static_keys():
    with pytest.raises(HandshakeError):
        initiator(server=b"short")
    with pytest.raises(HandshakeError):
        Responder(static_private=b"short", cipher=Cipher.AESGCM, prologue=b"", elligator=False)


def test_nothing_secret_in_reprs():
    client, server = initiator(), responder()
    server.read_message_1(client.write_message_1(b""))
    client.read_message_2(server.write_message_2(b"", make(False)))
    text = repr(client.keys) + repr(make(True))
    assert text == "<TransportKeys AESGCM><Ephemeral elligator>"
    mixed = client.keys.mixed_with(b"kem")
    assert mixed.send == server.keys.mixed_with(b"kem").receive
    assert mixed.send not in (client.keys.send, client.keys.mixed_with(b"other").send)
