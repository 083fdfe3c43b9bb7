"""The detectors of first packets, lengths and randomness: each passes the good, finds the bad."""

from __future__ import annotations

import os
import random

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from support import traffic

from phantom.audit.detectors import entropy, first_packet, lengths, uniformity
from phantom.audit.flows import Flow
from phantom.audit.verdict import Status
from phantom.crypto.elligator import Ephemeral

NOISE = bytes.fromhex(
    "dadd034913c52da75fd9f05dc76803917134808efed97ef8884f2151b712f60fed634f609f132033a15b77ed3cca"
)


@pytest.mark.parametrize(
    ("packet", "rule"),
    [
        (NOISE, None),
        (b"", "empty"),
        (bytes(100), "Ex1"),
        (b"\xff" * 100, "Ex1"),
        (b"\x0f" * 50 + b"\xe8" * 50, None),
        (b"A" * 5 + NOISE, None),
        (b"A" * 6 + NOISE, "Ex2"),
        (b"\xe8" + b"kK\xe8" * 30 + b"kk", "Ex3"),
        (b"\xe8" * 40 + b"K" * 20 + b"\xe8" * 40, None),
        (b"\xe8" * 40 + b"K" * 21 + b"\xe8" * 40, "Ex4"),
        (b"\x16\x03\x01" + NOISE, "Ex5 TLS"),
        (b"\x17\x03\x03" + NOISE, "Ex5 TLS"),
        (b"\x15\x03\x01" + NOISE, None),
        (b"\x16\x03\x04" + NOISE, None),
        (b"GET " + NOISE, "Ex5 HTTP"),
        (b"POST " + NOISE, "Ex5 HTTP"),
        (b"GETX" + NOISE, None),
    ],
)
def test_the_rules_on_first_packets(packet: bytes, rule: str | None) -> None:
    assert first_packet.exemption(packet) == rule


def many(make, count: int, seed: int = 1, **more) -> list[Flow]:
    chance = random.Random(seed)
    return [make(chance, **more) for _ in range(count)]


def test_random_first_packets_are_found_and_a_printable_prefix_exempts() -> None:
    bad = first_packet.detect(many(traffic.shadowsocks, 50))
    assert bad.status is Status.FAILED
    assert int(bad.measured.split()[0]) >= 48
    assert first_packet.detect(many(traffic.prefixed, 50)).status is Status.PASSED
    assert first_packet.detect([]).status is Status.SKIPPED


def test_a_first_packet_is_no_larger_than_a_path_carries() -> None:
    noise = random.Random(1).randbytes(1448)
    for packet, rule in ((noise, None), (noise + b"ag" * 1500, "Ex3")):
        assert first_packet.exemption(packet) == rule
        verdict = first_packet.detect([traffic.flow((True, packet))])
        assert verdict.status is Status.FAILED


def test_uniform_first_messages_are_found_and_text_is_not() -> None:
    assert entropy.detect(many(traffic.shadowsocks, 50)).status is Status.FAILED
    page = b"GET /index.html HTTP/1.1\r\nHost: a.example\r\nUser-Agent: " + b"Mozilla 5.0 " * 20
    verdict = entropy.detect([traffic.flow((True, page))] * 5)
    assert verdict.status is Status.PASSED
    key = b"\x16\x03\x01" + os.urandom(1400)
    assert entropy.detect([traffic.flow((True, key))]).status is Status.SKIPPED


def test_the_distribution_of_block_entropies_is_that_of_random_blocks() -> None:
    entropies, cumulative = entropy._uniform_blocks()
    assert cumulative[-1] == pytest.approx(1.0)
    # Eight different bytes: 256! / 248! / 256**8 of all blocks.
    assert entropies[-1] == 3.0
    assert cumulative[-1] - cumulative[-2] == pytest.approx(0.8948, abs=1e-3)
    chance = random.Random(4)
    passing = sum(entropy.looks_uniform(chance.randbytes(2048)) for _ in range(200))
    assert passing > 185


@pytest.mark.parametrize(("order", "head"), [("!H", 0), ("<H", 0), ("!I", 0), ("!H", 3), ("<I", 4)])
def test_a_length_in_the_clear_is_followed(order: str, head: int) -> None:
    flows = many(traffic.framed, 10, order=order, head=head, messages=16)
    verdict = lengths.detect(flows)
    assert verdict.status is Status.FAILED
    assert {detail.split(":")[0] for detail in verdict.details} == {"client", "server"}
    assert f"at {head}" in verdict.details[0]


def test_sealed_lengths_are_not_followed() -> None:
    for seed in range(5):
        flows = many(traffic.prefixed, 16, seed=seed, messages=20)
        assert lengths.detect(flows).status is Status.PASSED
    long = many(traffic.shadowsocks, 10, messages=600)
    assert lengths.detect(long).status is Status.PASSED


def test_a_length_that_tells_the_packets_size_is_found_where_the_stream_cannot_be_followed() -> (
    None
):
    chance = random.Random(2)

    def packet() -> bytes:
        size = chance.randint(60, 1200)
        return (size - 37).to_bytes(2, "big") + chance.randbytes(size - 2)

    flows = [
        traffic.flow(*((not i % 2, packet()) for i in range(12)), (True, b"\xff" * 40))
        for _ in range(10)
    ]
    verdict = lengths.detect(flows)
    assert verdict.status is Status.FAILED
    assert "plus 37" in "".join(verdict.details)


def test_too_little_is_not_judged() -> None:
    assert lengths.detect(many(traffic.framed, 3)).status is Status.SKIPPED
    assert lengths.detect_first(many(traffic.shadowsocks, 3)).status is Status.SKIPPED
    assert uniformity.detect(many(traffic.shadowsocks, 50)).status is Status.SKIPPED


def test_a_constant_first_length_is_found() -> None:
    fixed = [traffic.flow((True, os.urandom(311))) for _ in range(30)]
    assert lengths.detect_first(fixed).status is Status.FAILED
    halves = [
        traffic.flow((True, os.urandom(100 + i)), (True, os.urandom(211 - i))) for i in range(30)
    ]
    assert lengths.detect_first(halves).status is Status.FAILED
    varied = many(traffic.prefixed, 60)
    assert lengths.detect_first(varied).status is Status.PASSED


def test_three_large_client_packets_with_answers_between_are_found() -> None:
    big, small = bytes([200]) * 500, bytes([200]) * 300
    answered = traffic.flow((True, big), (False, small), (True, big), (False, small), (True, big))
    assert lengths.detect_packets([answered]).status is Status.FAILED
    for harmless in (
        traffic.flow((True, small), (False, small), (True, small), (False, big), (True, small)),
        traffic.flow((True, big), (False, small), (True, big), (False, big)),
    ):
        assert lengths.detect_packets([harmless]).status is Status.PASSED


def first_messages(make, count: int = 300) -> list[Flow]:
    return [traffic.flow((True, make())) for _ in range(count)]


def hidden_key() -> bytes:
    """Return a representative as the project makes them, dirty points included."""
    return Ephemeral.elligator(os.urandom).wire


def raw_key() -> bytes:
    return X25519PrivateKey.generate().public_key().public_bytes_raw()


def clean_key() -> bytes:
    """Return the representative of a point of the prime-order subgroup, as early obfs4 did."""
    monocypher = pytest.importorskip("monocypher")
    while True:
        try:
            hidden: bytes = monocypher.elligator_rev(raw_key(), os.urandom(1)[0])
        except ValueError:
            continue
        return hidden


def text() -> bytes:
    return bytes(random.randint(0x21, 0x7E) for _ in range(random.randint(6, 32))) + b"\xc3"


def low_byte() -> bytes:
    return bytes([random.randint(0, 127)])


def one_of_four() -> bytes:
    """Return a byte whose bits are each as often 0 as 1."""
    return bytes([random.choice(b"\x0f\xf0\x1e\xe1")])


@pytest.mark.parametrize("prefix", [bytes, text])
def test_random_and_elligator_handshakes_are_clean(prefix) -> None:
    for make in (lambda: os.urandom(32), hidden_key):
        flows = first_messages(lambda make=make: prefix() + make() + os.urandom(60))
        verdict = uniformity.detect(flows)
        assert verdict.status is Status.PASSED, verdict


@pytest.mark.parametrize(
    ("make", "finding"),
    [
        (lambda: text() + raw_key() + os.urandom(40), "always a point"),
        (lambda: os.urandom(8) + raw_key() + os.urandom(40), "bytes 8 to 39 are always a point"),
        (lambda: text() + clean_key() + os.urandom(40), "one class of points"),
        (lambda: bytes([1, 2, 3, 4]) + os.urandom(80), "same 4 bytes"),
        (lambda: os.urandom(9) + low_byte() + os.urandom(60), "bit 7 of byte 9"),
        (lambda: os.urandom(20) + one_of_four() + os.urandom(60), "byte 20"),
    ],
)
def test_handshakes_that_are_not_random_are_found(make, finding: str) -> None:
    verdict = uniformity.detect(first_messages(make, 200))
    assert verdict.status is Status.FAILED
    assert finding in " ".join(verdict.details)


def test_the_ladder_is_x25519() -> None:
    # RFC 7748, section 5.2: the first test vector, its scalar already clamped.
    scalar = bytearray.fromhex("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4")
    scalar[0] &= 248
    scalar[31] = scalar[31] & 127 | 64
    point = bytes.fromhex("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c")
    found = uniformity.multiply(
        int.from_bytes(scalar, "little"), int.from_bytes(point, "little") & (2**255 - 1)
    )
    expected = "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552"
    assert found.to_bytes(32, "little").hex() == expected
