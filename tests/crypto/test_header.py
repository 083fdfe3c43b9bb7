from __future__ import annotations

import os

import pytest
from crypto.hkdf import hkdf
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import given
from hypothesis import strategies as st

from phantom.core.handshake import Cipher, Mode
from phantom.crypto.header import open_header, prologue, seal_header, secret_path
from phantom.errors import HandshakeError, LocalProtocolError

SERVER, E = bytes(range(32)), bytes(range(100, 132))


@pytest.mark.parametrize(("direction", "least"), [(b"client", 64), (b"server", 16)])
def test_bounds(direction, least):
    for length in (least, 16384):
        sealed = seal_header(SERVER, E, direction, length, Cipher.CHACHAPOLY)
        assert len(sealed) == 19
        assert open_header(SERVER, E, direction, sealed) == (length, Cipher.CHACHAPOLY)
    for length in (least - 1, 16385, -1, 1 << 20):
        with pytest.raises(LocalProtocolError):
            seal_header(SERVER, E, direction, length, Cipher.AESGCM)


@pytest.mark.parametrize(
    ("direction", "content"),
    [
        (b"client", b"\x00\x3f\x01"),
        (b"client", b"\x40\x01\x01"),
        (b"client", b"\x00\x40\x00"),
        (b"client", b"\x00\x40\x03"),
        (b"server", b"\x00\x0f\x02"),
        (b"server", b"\x00\x10"),
        (b"server", b"\x00\x10\x01\x00"),
    ],
)
def test_authentic_nonsense_is_refused(direction, content):
    # Built from the specification alone, which also checks the construction.
    key = hkdf(SERVER + E, b"phantom 1 header " + direction)
    with pytest.raises(HandshakeError):
        open_header(SERVER, E, direction, ChaCha20Poly1305(key).encrypt(bytes(12), content, None))


def test_the_construction():
    key = hkdf(SERVER + E, b"phantom 1 header client")
    expected = ChaCha20Poly1305(key).encrypt(bytes(12), b"\x01\x02\x01", None)
    assert seal_header(SERVER, E, b"client", 0x102, Cipher.AESGCM) == expected


def test_everything_is_bound():
    sealed = seal_header(SERVER, E, b"client", 100, Cipher.AESGCM)
    for position in range(len(sealed)):
        bad = bytearray(sealed)
        bad[position] ^= 0x10
        with pytest.raises(HandshakeError):
            open_header(SERVER, E, b"client", bytes(bad))
    for server, e, direction in (
        (os.urandom(32), E, b"client"),
        (SERVER, E[:31] + bytes((E[31] ^ 0x80,)), b"client"),
        (SERVER, E, b"server"),
    ):
        with pytest.raises(HandshakeError):
            open_header(server, e, direction, sealed)


@given(st.binary(max_size=40))
def test_random_bytes(sealed):
    with pytest.raises(HandshakeError):
        open_header(SERVER, E, b"client", sealed)


def test_prologue():
    assert prologue(Mode.BARE, b"h" * 19) == b"phantom/1\x00" + b"h" * 19
    assert prologue(Mode.TLS_HTTP1, b"h" * 19) == b"phantom/1\x01" + b"h" * 19


def test_the_secret_path_is_an_ordinary_one_and_the_keys_own():
    paths = {secret_path(os.urandom(32)) for _ in range(100)}
    assert len({path.split("/")[2] for path in paths}) == 100
    assert len({path.split("/")[1] for path in paths}) > 3
    for path in paths:
        _, directory, name = path.split("/")
        assert directory.isalpha() and directory.islower()
        assert len(name) == 22 and name.replace("-", "").replace("_", "").isalnum()
    assert secret_path(SERVER) == secret_path(SERVER)
