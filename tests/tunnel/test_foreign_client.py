"""A client that shares no code with phantom, written from doc/spec/wire.md, is served.

Only primitives of `cryptography` and the independent Noise IK of tests/crypto are used on
its side: whatever both sides of the real code get wrong alike shows here.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import monocypher
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from support.keys import CLIENT, SERVER_PUBLIC
from support.pipes import join
from support.stack import Stack

from phantom.core.handshake import Mode
from phantom.crypto.header import secret_path


def load(name: str) -> Any:
    path = Path(__file__).parent.parent / "crypto" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"foreign_{name}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


noise, kdf, kem = load("independent_ik"), load("hkdf"), load("independent_kem")


def sealed(e: bytes, direction: bytes) -> ChaCha20Poly1305:
    return ChaCha20Poly1305(kdf.hkdf(SERVER_PUBLIC + e, b"phantom 1 header " + direction))


class ForeignClient:
    """Does the handshake by hand, then keeps the plaintext of the records it gets."""

    def __init__(
        self, cipher: int, bare: bool, now: float, extra: str = "", known: bytes = b""
    ) -> None:
        self.aead, self.order = ((AESGCM, "big"), (ChaCha20Poly1305, "little"))[cipher - 1]
        name = (b"Noise_IK_25519_AESGCM_SHA256", b"Noise_IK_25519_ChaChaPoly_SHA256")[cipher - 1]
        if bare:
            e_wire, e_private = monocypher.elligator_key_pair(bytes([7]) * 32)
        else:
            e_private = bytes([7]) * 32
            e_wire = noise.public_of(e_private)
        payload = b"\x01" + b"\x01\x00\x08" + int(now * 1000).to_bytes(8, "big")
        payload += b"\x00\x00\x40" + bytes(64)
        self.chain = b""
        self.extra, self.known = extra, known
        if extra == "exchange":
            public, self.kem_private = kem.key_pair(b"d" * 32, b"z" * 32)
            payload += b"\x04\x04\xa0" + public
        elif extra == "known":
            out = kdf.hkdf(known, b"phantom 1 ratchet step", length=80)
            self.chain, self.secret, self.name = out[:32], out[32:64], out[64:]
            payload += b"\x08\x00\x10" + self.name
        plain_header = (48 + len(payload) + 16).to_bytes(2, "big") + bytes([cipher])
        header = sealed(e_wire, b"client").encrypt(bytes(12), plain_header, None)
        prologue = b"phantom/1" + bytes([0 if bare else 1]) + header
        point = noise.elligator2 if bare else lambda wire: wire
        self.noise = noise.IndependentIK(
            name, prologue, CLIENT, e_private, rs=SERVER_PUBLIC, e_wire=e_wire, point=point
        )
        message = self.noise.write_1(payload)
        body = message[:32] + header + message[32:]
        self.bare = bare
        if bare:
            self.first = b"hello, I am printable\xff" + body
        else:
            self.first = (
                f"POST {secret_path(SERVER_PUBLIC)} HTTP/1.1\r\nHost: x\r\n"
                f"Content-Length: {len(body)}\r\n\r\n"
            ).encode() + body
        self.buffer = b""
        self.ready = False
        self.records: list[bytes] = []
        self.sent = self.got = 0

    def makeConnection(self, transport: Any) -> None:
        self.transport = transport
        transport.write(self.first)

    def dataReceived(self, data: bytes) -> None:
        self.buffer += data
        if not self.ready:
            self._handshake()
        while self.ready and len(self.buffer) >= 18:
            length_key, body_key = self.receive_keys
            nonce = bytes(4) + self.got.to_bytes(8, self.order)
            length = int.from_bytes(self.aead(length_key).decrypt(nonce, self.buffer[:18], None))
            if len(self.buffer) < 18 + length:
                return
            body = self.buffer[18 : 18 + length]
            self.records.append(self.aead(body_key).decrypt(nonce, body, None))
            self.buffer = self.buffer[18 + length :]
            self.got += 1

    def _handshake(self) -> None:
        start = 0
        if not self.bare:
            head, separator, _ = self.buffer.partition(b"\r\n\r\n")
            if not separator:
                return
            assert head.startswith(b"HTTP/1.1 200 OK\r\n")
            start = len(head) + 4
        e, header = self.buffer[start : start + 32], self.buffer[start + 32 : start + 51]
        if len(header) < 19:
            return
        length = int.from_bytes(sealed(e, b"server").decrypt(bytes(12), header, None)[:2])
        end = start + 51 + length
        if len(self.buffer) < end:
            return
        answer = self.noise.read_2(e + self.buffer[start + 51 : end])
        fields = self._fields(answer)
        self.buffer = self.buffer[end:]
        self.noise.initiator = True
        send, receive = self.noise.split()
        self.answered = [kind for kind in (5, 8) if kind in fields]
        if self.extra == "exchange":
            self.secret = kem.decapsulate(self.kem_private, fields[5])
            self.chain = kdf.hkdf(self.secret, b"phantom 1 ratchet", salt=self.noise.h)
        elif self.extra == "known" and self.answered:
            assert fields[8] == self.name
        if self.answered:
            info = b"phantom 1 mix " + self.noise.h
            send, receive = (kdf.hkdf(self.secret, info, salt=key) for key in (send, receive))
        labels = (b"phantom 1 length", b"phantom 1 body")
        self.send_keys = [kdf.hkdf(send, label) for label in labels]
        self.receive_keys = [kdf.hkdf(receive, label) for label in labels]
        self.ready = True

    @staticmethod
    def _fields(answer: bytes) -> dict[int, bytes]:
        assert answer[0] == 1
        fields, position = {}, 1
        while position < len(answer):
            size = int.from_bytes(answer[position + 1 : position + 3])
            fields[answer[position]] = answer[position + 3 : position + 3 + size]
            position += 3 + size
        return fields

    def send(self, plaintext: bytes) -> None:
        nonce = bytes(4) + self.sent.to_bytes(8, self.order)
        length = (len(plaintext) + 16).to_bytes(2, "big")
        self.transport.write(
            self.aead(self.send_keys[0]).encrypt(nonce, length, None)
            + self.aead(self.send_keys[1]).encrypt(nonce, plaintext, None)
        )
        self.sent += 1

    def connectionLost(self, reason: Any) -> None:
        pass


@pytest.mark.parametrize("extra", ["", "exchange"])
@pytest.mark.parametrize("bare", [True, False])
@pytest.mark.parametrize("cipher", [1, 2])
def test_a_foreign_client_fetches_something(cipher: int, bare: bool, extra: str) -> None:
    stack = Stack(mode=Mode.BARE if bare else Mode.TLS_HTTP1)
    client = ForeignClient(cipher, bare, stack.runtime.wall_time(), extra)
    fetch(stack, client)
    assert client.answered == ([5] if extra else [])


def test_a_foreign_client_comes_back_without_a_second_exchange() -> None:
    stack = Stack()
    now = stack.runtime.wall_time()
    chain = b""
    for number, extra in enumerate(["exchange", "known", "known", "known"]):
        client = ForeignClient(1, True, now, extra, chain)
        fetch(stack, client, number)
        assert client.answered == ([8] if extra == "known" else [5])
        chain = client.chain
    assert len(stack.factory._secrets) == 1


def test_a_secret_the_server_does_not_have_opens_no_link() -> None:
    stack = Stack()
    client = ForeignClient(1, True, stack.runtime.wall_time(), "known", b"?" * 32)
    join(stack.clock, client, stack.factory.buildProtocol(None))
    stack.run()
    assert client.ready and client.answered == []
    client.send(b"\x0d\0\0\0\0\x26" + bytes(range(16)) + b"\0\0\0\x01" + b"\0\0" + bytes(16))
    stack.run()
    assert client.records == [] and len(stack.registry) == 0
    assert stack.drain.count == 1


def fetch(stack: Stack, client: ForeignClient, number: int = 0) -> None:
    """Open a session, and in it a stream to an echo."""
    join(stack.clock, client, stack.factory.buildProtocol(None))
    stack.run()
    assert client.ready
    session = bytes([number, *range(15)])
    attach = b"\x0d\0\0\0\0\x26" + session + b"\0\0\0\x01" + b"\0\0" + bytes(16)
    opened = b"\x01\0\0\x01\0\x13" + b"\0\x01\0\0" + b"\x01" + b"\x00\x50" + b"good.example"
    client.send(attach)
    client.send(opened + b"\0\0\0\x01\0\x05hello" + b"\x09\0\0\x01\0\0")
    stack.run()
    frames = b"".join(client.records)
    assert frames.startswith(b"\x0d\0\0\0\0\x26" + session + b"\0\0\0\x01\0\0")
    assert b"\x08\0\0\x01\0\x05\0" in frames, "OPEN_REPLY: connected"
    assert b"\0\0\0\x01\0\x05hello" in frames, "the echo as DATA"
    assert b"\x0c\0\0\0\0\x08" in frames, "an ACK"
    assert b"\x02\0\0\x01\0\0" in frames, "STREAM_CLOSE: both directions have ended"
    assert stack.destinations.transports[-1].received == b"hello"
