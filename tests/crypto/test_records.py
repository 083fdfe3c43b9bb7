from __future__ import annotations

import os

import pytest
from crypto.hkdf import hkdf
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from hypothesis import given, settings
from hypothesis import strategies as st

from phantom.core.handshake import Cipher
from phantom.crypto.records import (
    LAST_NONCE,
    MAX_PLAINTEXT,
    REKEY_INTERVAL,
    SEALED_LENGTH_SIZE,
    RecordOpener,
    RecordReader,
    RecordSealer,
)
from phantom.errors import LocalProtocolError, RemoteProtocolError

KEY = bytes(range(32))
BOTH_CIPHERS = pytest.mark.parametrize("cipher", list(Cipher), ids=lambda c: c.name)


def pair(cipher=Cipher.AESGCM):
    return RecordSealer(KEY, cipher), RecordOpener(KEY, cipher)


def reader(cipher=Cipher.AESGCM):
    return RecordReader(RecordOpener(KEY, cipher))


def take(target, data):
    """Return the records in `data`; raise what ends the stream after them."""
    room = memoryview(bytearray(len(data) + MAX_PLAINTEXT))
    got = [bytes(record) for record in target.receive(data, room)]
    if target.failure is not None:
        raise target.failure
    return got


class Specified:
    """Records as the specification describes them, one step at a time."""

    def __init__(self, cipher):
        self.aead, self.order = (
            (AESGCM, "big") if cipher is Cipher.AESGCM else (ChaCha20Poly1305, "little")
        )
        self.keys = [hkdf(KEY, b"phantom 1 length"), hkdf(KEY, b"phantom 1 body")]

    def nonce(self, number):
        return bytes(4) + number.to_bytes(8, self.order)

    def rekey(self):
        last = self.nonce(2**64 - 1)
        self.keys = [self.aead(key).encrypt(last, bytes(32), b"")[:32] for key in self.keys]

    def record(self, number, plaintext):
        length, body = (self.aead(key) for key in self.keys)
        size = (len(plaintext) + 16).to_bytes(2, "big")
        nonce = self.nonce(number)
        return length.encrypt(nonce, size, None) + body.encrypt(nonce, plaintext, None)


@BOTH_CIPHERS
def test_the_layout_and_the_change_of_keys(cipher):
    sealer, opener = pair(cipher)
    specified = Specified(cipher)
    for number in range(2 * REKEY_INTERVAL + 2):
        if number and number % REKEY_INTERVAL == 0:
            specified.rekey()
        record = sealer.seal(b"x")
        if number % REKEY_INTERVAL in (0, 1, REKEY_INTERVAL - 1):
            assert record == specified.record(number, b"x")
        assert opener.open_length(record[:18]) == 17
        assert opener.open_body(record[18:]) == b"x"


@BOTH_CIPHERS
def test_seal_row_is_seal(cipher):
    one, two = RecordSealer(KEY, cipher), RecordSealer(KEY, cipher)
    buffer = memoryview(bytearray(5 * (MAX_PLAINTEXT + 34)))
    for sizes in ((1,), (2, 1000), (MAX_PLAINTEXT,), (MAX_PLAINTEXT, 1, 16384, MAX_PLAINTEXT)):
        plaintexts = [os.urandom(size) for size in sizes]
        written = two.seal_row([memoryview(plaintext) for plaintext in plaintexts], buffer)
        assert b"".join(map(one.seal, plaintexts)) == buffer[:written]
    with pytest.raises(LocalProtocolError):
        two.seal_row([b"xy"], memoryview(bytearray(35)))
    assert one.seal(b"next") == buffer[: two.seal_row([b"next"], buffer)]


@BOTH_CIPHERS
def test_rows_over_a_change_of_keys(cipher):
    sealer, other = RecordSealer(KEY, cipher), RecordSealer(KEY, cipher)
    opener = RecordOpener(KEY, cipher)
    for one in (sealer, other, opener):
        one._counter = REKEY_INTERVAL - 2
    plaintexts = [b"%d" % number for number in range(5)]
    buffer = memoryview(bytearray(1000))
    written = sealer.seal_row(plaintexts, buffer)
    assert buffer[:written] == b"".join(map(other.seal, plaintexts))
    records: list[memoryview] = []
    assert opener.open_row(buffer[:written], memoryview(bytearray(1000)), records) == (written, 0)
    assert records == plaintexts


def test_a_row_ends_where_a_record_is_cut():
    sealer, _ = pair()
    stream = b"".join(map(sealer.seal, (b"one", b"second", b"three")))
    for end in range(len(stream) + 1):
        _, opener = pair()
        records: list[memoryview] = []
        used, size = opener.open_row(memoryview(stream)[:end], memoryview(bytearray(200)), records)
        whole = [37, 77, 116]
        count = sum(end >= stop for stop in whole)
        assert records == [b"one", b"second", b"three"][:count]
        start = [0, *whole][count]
        # The length of the next is known as soon as it is there, and never opened again.
        assert (used, size) == (
            (start + 18, [19, 22, 21][count]) if end >= start + 18 else (start, 0)
        )


@pytest.mark.parametrize("size", [0, MAX_PLAINTEXT + 1])
def test_plaintext_bounds(size):
    sealer, _ = pair()
    with pytest.raises(LocalProtocolError):
        sealer.seal(bytes(size))
    with pytest.raises(LocalProtocolError):
        sealer.seal_row([bytes(size)], memoryview(bytearray(1 << 17)))
    assert sealer.seal(b"x") == pair()[0].seal(b"x")  # no nonce was used up


def test_the_longest_record():
    record = pair()[0].seal(bytes(MAX_PLAINTEXT))
    assert len(record) == 18 + 65535
    assert take(reader(), record) == [bytes(MAX_PLAINTEXT)]


@BOTH_CIPHERS
def test_every_byte_counts(cipher):
    record = pair(cipher)[0].seal(b"some frames")
    for position in range(len(record)):
        bad = bytearray(record)
        bad[position] ^= 0x40
        with pytest.raises(RemoteProtocolError):
            take(reader(cipher), bytes(bad))


def test_order_and_direction_count():
    sealer, _ = pair()
    first, second = sealer.seal(b"first"), sealer.seal(b"second")
    for stream in (second, first + first, first[:18] + second[18:]):
        with pytest.raises(RemoteProtocolError):
            take(reader(), stream)


def test_a_failure_uses_up_no_nonce():
    sealer, opener = pair()
    record = sealer.seal(b"hello")
    for _ in range(2):
        with pytest.raises(RemoteProtocolError):
            opener.open_length(bytes(18))
        with pytest.raises(RemoteProtocolError):
            opener.open_length(b"short")
        assert opener.open_length(record[:18]) == 21
        with pytest.raises(RemoteProtocolError):
            opener.open_body(record[18:-1])
    assert opener.open_body(memoryview(record)[18:]) == b"hello"


def test_an_authentic_length_too_small_is_refused():
    length = AESGCM(hkdf(KEY, b"phantom 1 length")).encrypt(bytes(12), b"\x00\x10", None)
    with pytest.raises(RemoteProtocolError):
        take(reader(), length)


def test_the_last_nonce_is_never_used():
    sealer, opener = pair()
    for side in (sealer, opener):
        side._counter, side._rekey_at = LAST_NONCE - 1, LAST_NONCE  # nobody can count that far
    record = sealer.seal(b"x")
    opener.open_length(record[:18])
    opener.open_body(record[18:])
    with pytest.raises(LocalProtocolError):
        sealer.seal(b"x")
    with pytest.raises(LocalProtocolError):
        opener.open_length(record[:18])


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_every_chunking(data):
    sizes = data.draw(st.lists(st.integers(1, 400), min_size=1, max_size=12))
    sealer, _ = pair(Cipher.CHACHAPOLY)
    plaintexts = [os.urandom(size) for size in sizes]
    stream = b"".join(map(sealer.seal, plaintexts))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=30)))
    target, got = reader(Cipher.CHACHAPOLY), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        got += take(target, stream[start:end])
    assert got == plaintexts


def test_byte_by_byte():
    sealer, _ = pair()
    stream = sealer.seal(b"one") + sealer.seal(b"two")
    target = reader()
    got = [(i, p) for i in range(len(stream)) for p in take(target, stream[i : i + 1])]
    assert got == [(36, b"one"), (73, b"two")]


@pytest.mark.parametrize("chunk", [1, 7, 18, 19, 64, 1000])
def test_what_came_before_a_bad_record_arrives_however_the_stream_is_cut(chunk):
    sealer, _ = pair()
    stream = sealer.seal(b"one") + sealer.seal(b"two") + bytes(40)
    target, got = reader(), []
    for start in range(0, len(stream), chunk):
        room = memoryview(bytearray(chunk + MAX_PLAINTEXT))
        got += map(bytes, target.receive(stream[start : start + chunk], room))
    assert isinstance(target.failure, RemoteProtocolError)
    assert got == [b"one", b"two"]
    # The rest is discarded in silence, and nothing piles up.
    assert target.receive(sealer.seal(b"three"), room) == []
    assert not target._partial


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_raise_only_the_remote_error(data):
    target = reader()
    if len(data) < SEALED_LENGTH_SIZE:
        assert take(target, data) == []
    else:
        with pytest.raises(RemoteProtocolError):
            take(target, data)
