"""Write golden.json anew: ``python tests/vectors/regenerate.py``.

Only for a deliberate change of the wire, which is a new protocol version.  The tests read
their inputs from the file too, so nothing here runs with them.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

sys.path.insert(0, str(Path(__file__).parents[1]))
from crypto import independent_kem

from phantom.core.handshake import Cipher, HandshakePayload, Mode
from phantom.core.opening import bare_first_flight, http_request, http_response, random_prefix
from phantom.crypto import header, kdf, ratchet
from phantom.crypto.elligator import Ephemeral
from phantom.crypto.noise_ik import Initiator, Responder
from phantom.crypto.records import RecordSealer

#: Which records of a direction are kept: the first, and those around two changes of keys.
RECORDS = (0, 1, 65_535, 65_536, 65_537, 131_072)
DATE = "Sun, 06 Nov 1994 08:49:37 GMT"


def entropy(label: str) -> Callable[[int], bytes]:
    counter = itertools.count()

    def draw(size: int) -> bytes:
        out = b""
        while len(out) < size:
            out += hashlib.sha256(f"{label} {next(counter)}".encode()).digest()
        return out[:size]

    return draw


def ephemeral(label: str, mode: Mode) -> tuple[Ephemeral, dict[str, str]]:
    make = Ephemeral.elligator if mode is Mode.BARE else Ephemeral.plain
    made = make(entropy(label))
    return made, {
        "seed": entropy(label)(32).hex(),
        "private": made.private.hex(),
        "wire": made.wire.hex(),
        "point": made.point.hex(),
    }


def handshake(
    mode: Mode, cipher: Cipher, one: dict[str, Any], two: dict[str, Any]
) -> dict[str, Any]:
    draw = entropy(f"{mode.name} {cipher.name}")
    client_private, server_private = draw(32), draw(32)
    server = X25519PrivateKey.from_private_bytes(server_private).public_key().public_bytes_raw()
    e1, e1_entry = ephemeral(f"e1 {mode.name} {cipher.name}", mode)
    e2, e2_entry = ephemeral(f"e2 {mode.name} {cipher.name}", mode)
    payload_1 = HandshakePayload(timestamp=1_700_000_000_123, **one).encode(padding=40)
    payload_2 = HandshakePayload(timestamp=1_700_000_000_456, **two).encode(padding=16)

    header_1 = header.seal_header(server, e1.wire, b"client", 64 + len(payload_1), cipher)
    prologue = header.prologue(mode, header_1)
    initiator = Initiator(
        static_private=client_private,
        server_public=server,
        cipher=cipher,
        prologue=prologue,
        ephemeral=e1,
    )
    responder = Responder(
        static_private=server_private,
        cipher=cipher,
        prologue=prologue,
        elligator=mode is Mode.BARE,
    )
    message_1 = initiator.write_message_1(payload_1)
    client, _ = responder.read_message_1(message_1)
    header_2 = header.seal_header(server, e2.wire, b"server", 16 + len(payload_2), cipher)
    message_2 = responder.write_message_2(payload_2, e2)
    initiator.read_message_2(message_2)
    body_1 = message_1[:32] + header_1 + message_1[32:]
    body_2 = message_2[:32] + header_2 + message_2[32:]
    if mode is Mode.BARE:
        prefix = random_prefix(draw)
        wire_1 = bare_first_flight(prefix, message_1[:32], header_1, message_1[32:])
        wire_2 = body_2
    else:
        wire_1 = http_request(header.secret_path(server), "example.com", body_1)
        wire_2 = http_response(body_2, DATE)
    keys = initiator.keys
    binary = {
        "client_private": client_private,
        "client_public": client,
        "server_private": server_private,
        "server_public": server,
        "payload_1": payload_1,
        "payload_2": payload_2,
        "header_1": header_1,
        "header_2": header_2,
        "prologue": prologue,
        "message_1": message_1,
        "message_2": message_2,
        "wire_1": wire_1,
        "wire_2": wire_2,
        "client_send": keys.send,
        "client_receive": keys.receive,
        "handshake_hash": keys.handshake_hash,
    }
    return {
        "mode": mode.name,
        "cipher": cipher.name,
        "secret_path": header.secret_path(server),
        "e1": e1_entry,
        "e2": e2_entry,
        **{name: value.hex() for name, value in binary.items()},
    }


def post_quantum(mode: Mode, cipher: Cipher) -> dict[str, Any]:
    """Return two links: one with an ML-KEM exchange, then one with what that one left."""
    draw = entropy(f"kem {mode.name} {cipher.name}")
    seed, randomness = draw(64), draw(32)
    key, _ = independent_kem.key_pair(seed[:32], seed[32:])
    secret, ciphertext = independent_kem.encapsulate(key, randomness)
    first = handshake(mode, cipher, {"encapsulation_key": key}, {"kem_ciphertext": ciphertext})
    handshake_hash = bytes.fromhex(first["handshake_hash"])
    step = ratchet.first_step(secret, handshake_hash)
    name = {"known_secret": step.name}
    second = handshake(mode, cipher, name, name)

    def mixed(link: dict[str, Any], extra: bytes) -> dict[str, str]:
        return {
            f"mixed_{way}": kdf.mix(
                bytes.fromhex(link[way]), extra, bytes.fromhex(link["handshake_hash"])
            ).hex()
            for way in ("client_send", "client_receive")
        }

    return {
        "seed": seed.hex(),
        "randomness": randomness.hex(),
        "kem_secret": secret.hex(),
        "exchange": {**first, **mixed(first, secret)},
        "steps": [
            {"name": s.name.hex(), "secret": s.secret.hex()}
            for s in (step, step.next(), step.next().next())
        ],
        "resumed": {**second, **mixed(second, step.secret)},
    }


def records(cipher: Cipher) -> dict[str, Any]:
    key = entropy(f"records {cipher.name}")(32)
    sealer = RecordSealer(key, cipher)
    kept = {}
    for number in range(RECORDS[-1] + 1):
        record = sealer.seal(b"record %d" % number)
        if number in RECORDS:
            kept[str(number)] = record.hex()
    return {"cipher": cipher.name, "key": key.hex(), "records": kept}


def payloads() -> list[dict[str, Any]]:
    draw = entropy("payloads")
    cases: list[tuple[dict[str, Any], int]] = [
        ({}, 0),
        ({"timestamp": 1_700_000_000_123}, 0),
        ({"timestamp": 0, "features": 0x80000001}, 5),
        ({"timestamp": (1 << 64) - 1, "token": draw(32)}, 1),
        ({"timestamp": 1, "encapsulation_key": draw(1184)}, 0),
        ({"timestamp": 1, "kem_ciphertext": draw(1088)}, 0),
        ({"timestamp": 1, "known_secret": draw(16), "instance": draw(16)}, 2),
    ]
    return [
        {
            "fields": {k: v.hex() if isinstance(v, bytes) else v for k, v in fields.items()},
            "padding": padding,
            "wire": HandshakePayload(**fields).encode(padding=padding).hex(),
        }
        for fields, padding in cases
    ]


def main() -> None:
    golden = {
        "payloads": payloads(),
        "handshakes": [
            handshake(mode, cipher, {}, {"features": 1}) for mode in Mode for cipher in Cipher
        ],
        "post_quantum": [
            post_quantum(Mode.BARE, Cipher.AESGCM),
            post_quantum(Mode.TLS_HTTP1, Cipher.CHACHAPOLY),
        ],
        "records": [records(cipher) for cipher in Cipher],
    }
    path = Path(__file__).with_name("golden.json")
    path.write_text(json.dumps(golden, indent=1) + "\n", encoding="ascii")


if __name__ == "__main__":
    main()
