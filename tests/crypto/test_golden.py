"""Every byte of the wire against stored vectors (tests/vectors/golden.json)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from crypto import independent_kem
from crypto.hkdf import hkdf
from crypto.independent_ik import IndependentIK, elligator2, public_of

from phantom.core.handshake import Cipher, HandshakePayload, Mode
from phantom.core.opening import BareOpening, BareReply, HttpOpening, HttpReply
from phantom.crypto import header, kem
from phantom.crypto.elligator import Ephemeral
from phantom.crypto.noise_ik import Initiator, Responder, TransportKeys
from phantom.crypto.ratchet import first_step
from phantom.crypto.records import RecordOpener, RecordSealer

GOLDEN = json.loads((Path(__file__).parents[1] / "vectors/golden.json").read_text(encoding="ascii"))


class Vector:
    """A handshake of the file, its hexadecimal fields as bytes."""

    def __init__(self, fields):
        self.mode, self.cipher = Mode[fields["mode"]], Cipher[fields["cipher"]]
        self.path = fields["secret_path"]
        self.e1, self.e2 = (
            {name: bytes.fromhex(value) for name, value in fields[e].items()} for e in ("e1", "e2")
        )
        self.raw = fields

    def __getattr__(self, name):
        return bytes.fromhex(self.raw[name])

    def ephemeral(self, e):
        return Ephemeral(e["private"], e["wire"], e["point"], self.mode is Mode.BARE)


POST_QUANTUM = GOLDEN["post_quantum"]
HANDSHAKES = pytest.mark.parametrize(
    "v",
    [Vector(fields) for fields in GOLDEN["handshakes"]]
    + [Vector(case[link]) for case in POST_QUANTUM for link in ("exchange", "resumed")],
    ids=lambda v: f"{v.mode.name}-{v.cipher.name}",
)


@HANDSHAKES
def test_ephemerals(v):
    make = Ephemeral.elligator if v.mode is Mode.BARE else Ephemeral.plain
    for e in (v.e1, v.e2):
        made = make(lambda size, e=e: e["seed"][:size])
        assert (made.private, made.wire, made.point) == (e["private"], e["wire"], e["point"])


@HANDSHAKES
def test_handshakes(v):
    header_1 = header.seal_header(
        v.server_public, v.e1["wire"], b"client", len(v.message_1) - 32, v.cipher
    )
    assert header_1 == v.header_1
    prologue = header.prologue(v.mode, header_1)
    assert prologue == v.prologue
    client = Initiator(
        static_private=v.client_private,
        server_public=v.server_public,
        cipher=v.cipher,
        prologue=prologue,
        ephemeral=v.ephemeral(v.e1),
    )
    server = Responder(
        static_private=v.server_private,
        cipher=v.cipher,
        prologue=prologue,
        elligator=v.mode is Mode.BARE,
    )
    assert client.write_message_1(v.payload_1) == v.message_1
    assert server.read_message_1(v.message_1) == (v.client_public, v.payload_1)
    assert server.write_message_2(v.payload_2, v.ephemeral(v.e2)) == v.message_2
    assert client.read_message_2(v.message_2) == v.payload_2
    for keys in (client.keys, server.keys):
        assert keys.handshake_hash == v.handshake_hash
    assert (client.keys.send, client.keys.receive) == (v.client_send, v.client_receive)
    assert (server.keys.receive, server.keys.send) == (v.client_send, v.client_receive)


@HANDSHAKES
def test_handshakes_by_the_foreign_implementation(v):
    name = {
        Cipher.AESGCM: b"Noise_IK_25519_AESGCM_SHA256",
        Cipher.CHACHAPOLY: b"Noise_IK_25519_ChaChaPoly_SHA256",
    }[v.cipher]
    point = elligator2 if v.mode is Mode.BARE else bytes
    client = IndependentIK(
        name, v.prologue, v.client_private, v.e1["private"], v.server_public, v.e1["wire"], point
    )
    server = IndependentIK(
        name, v.prologue, v.server_private, v.e2["private"], None, v.e2["wire"], point
    )
    assert client.write_1(v.payload_1) == v.message_1
    assert server.read_1(v.message_1) == v.payload_1
    assert server.write_2(v.payload_2) == v.message_2
    assert client.read_2(v.message_2) == v.payload_2
    assert client.split() == (v.client_send, v.client_receive)
    assert server.h == v.handshake_hash


@HANDSHAKES
def test_openings(v):
    def open_one(e, sealed):
        return header.open_header(v.server_public, e, b"client", sealed)

    def open_two(e, sealed):
        return header.open_header(v.server_public, e, b"server", sealed)

    assert header.secret_path(v.server_public) == v.path
    bare = v.mode is Mode.BARE
    one = (BareOpening(open_one) if bare else HttpOpening(v.path, open_one)).receive(v.wire_1)
    two = (BareReply(open_two) if bare else HttpReply(open_two)).receive(v.wire_2)
    for message, noise, sealed in ((one, v.message_1, v.header_1), (two, v.message_2, v.header_2)):
        assert message.e + message.rest == noise
        assert message.sealed_header == sealed
        assert (message.cipher, message.leftover) == (v.cipher, b"")


@pytest.mark.parametrize("case", POST_QUANTUM)
def test_post_quantum_exchanges(case):
    """By the foreign implementation first, then ours on what it made."""
    seed, randomness = bytes.fromhex(case["seed"]), bytes.fromhex(case["randomness"])
    link = Vector(case["exchange"])
    public, private = independent_kem.key_pair(seed[:32], seed[32:])
    secret, ciphertext = independent_kem.encapsulate(public, randomness)
    assert secret.hex() == case["kem_secret"]
    assert independent_kem.decapsulate(private, ciphertext) == secret
    assert HandshakePayload.decode(link.payload_1).encapsulation_key == public
    assert HandshakePayload.decode(link.payload_2).kem_ciphertext == ciphertext
    pair = kem.KeyPair(lambda size: seed[:size])
    assert pair.public == public
    assert pair.decapsulate(ciphertext) == secret


@pytest.mark.parametrize("case", POST_QUANTUM)
def test_mixing_in_a_second_secret(case):
    for name, secret in (
        ("exchange", case["kem_secret"]),
        ("resumed", case["steps"][0]["secret"]),
    ):
        v, raw = Vector(case[name]), bytes.fromhex(secret)
        info = b"phantom 1 mix " + v.handshake_hash
        keys = TransportKeys(v.client_send, v.client_receive, v.handshake_hash, v.cipher)
        mixed = keys.mixed_with(raw)
        assert mixed.send == v.mixed_client_send == hkdf(raw, info, salt=v.client_send)
        assert mixed.receive == v.mixed_client_receive == hkdf(raw, info, salt=v.client_receive)


@pytest.mark.parametrize("case", POST_QUANTUM)
def test_what_an_exchange_leaves(case):
    link = Vector(case["exchange"])
    chain = hkdf(bytes.fromhex(case["kem_secret"]), b"phantom 1 ratchet", salt=link.handshake_hash)
    step = first_step(bytes.fromhex(case["kem_secret"]), link.handshake_hash)
    for expected in case["steps"]:
        out = hkdf(chain, b"phantom 1 ratchet step", length=80)
        chain, secret, name = out[:32], out[32:64], out[64:]
        assert (name.hex(), secret.hex()) == (expected["name"], expected["secret"])
        assert (step.name, step.secret) == (name, secret)
        step = step.next()
    resumed = Vector(case["resumed"])
    for payload in (resumed.payload_1, resumed.payload_2):
        assert HandshakePayload.decode(payload).known_secret.hex() == case["steps"][0]["name"]


@HANDSHAKES
def test_public_keys(v):
    assert public_of(v.client_private) == v.client_public
    assert public_of(v.server_private) == v.server_public


@pytest.mark.parametrize("vector", GOLDEN["payloads"])
def test_payloads(vector):
    fields = {
        name: bytes.fromhex(value) if isinstance(value, str) else value
        for name, value in vector["fields"].items()
    }
    wire = bytes.fromhex(vector["wire"])
    assert HandshakePayload(**fields).encode(padding=vector["padding"]) == wire
    assert HandshakePayload.decode(wire) == HandshakePayload(**fields)


@pytest.mark.parametrize("vector", GOLDEN["records"], ids=lambda v: v["cipher"])
def test_records(vector):
    key, cipher = bytes.fromhex(vector["key"]), Cipher[vector["cipher"]]
    kept = {int(number): bytes.fromhex(record) for number, record in vector["records"].items()}
    assert any(a // 65536 != b // 65536 for a in kept for b in kept)
    sealer, opener = RecordSealer(key, cipher), RecordOpener(key, cipher)
    for number in range(max(kept) + 1):
        plaintext = b"record %d" % number
        record = sealer.seal(plaintext)
        if number in kept:
            assert record == kept[number]
        assert opener.open_length(record[:18]) == len(record) - 18
        assert opener.open_body(record[18:]) == plaintext
