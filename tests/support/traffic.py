"""Traffic as good and as bad tunnels make it, without any tunnel."""

from __future__ import annotations

import random
import struct

from phantom.audit.flows import Flow, Segment


def flow(*parts: tuple[bool, bytes], began: float = 0.0, gap: float = 0.01) -> Flow:
    """Return a connection of these messages; True stands for the client's."""
    segments = [
        Segment(began + gap * place, up, data) for place, (up, data) in enumerate(parts) if data
    ]
    return Flow(client=f"c{began}", server="s", segments=segments, began=began)


def shadowsocks(chance: random.Random, messages: int = 12) -> Flow:
    """Random bytes from the first one on, as a fully encrypted protocol sends them."""
    parts = [(not i % 2, chance.randbytes(chance.randint(200, 1400))) for i in range(messages)]
    return flow(*parts)


def prefixed(chance: random.Random, messages: int = 12) -> Flow:
    """The same behind a short printable beginning."""
    made = shadowsocks(chance, messages)
    text = bytes(chance.randint(0x21, 0x7E) for _ in range(chance.randint(6, 32)))
    first = made.segments[0]
    made.segments[0] = first._replace(data=text + b"\x9c" + first.data)
    return made


def framed(chance: random.Random, messages: int = 12, order: str = "!H", head: int = 0) -> Flow:
    """Each message behind its length in the clear, and `head` bytes before that."""
    parts = []
    for place in range(messages):
        body = chance.randbytes(chance.randint(40, 1300))
        parts.append((not place % 2, chance.randbytes(head) + struct.pack(order, len(body)) + body))
    return flow(*parts)


def beacons(
    chance: random.Random, *, jitter: float, sizes: tuple[int, int], count: int = 20
) -> Flow:
    """An idle connection with a ping, and its answer, every 20 seconds or so."""
    time, segments = 0.0, []
    for _ in range(count):
        time += 20 * chance.uniform(1 - jitter, 1 + jitter)
        for up, delay in ((True, 0.0), (False, 0.05)):
            data = chance.randbytes(chance.randint(*sizes))
            segments.append(Segment(time + delay, up, data))
    return Flow(client="c", server="s", segments=segments, began=0.0)


def client_hello(chance: random.Random, facts: dict, *, shuffle: bool = True) -> bytes:
    """Build a ClientHello, in a record, that has the facts of the reference."""

    def words(names: list[str]) -> bytes:
        values = [0x1A1A if name == "GREASE" else int(name, 16) for name in names]
        return b"".join(value.to_bytes(2, "big") for value in values)

    def vector(size: int, body: bytes) -> bytes:
        return len(body).to_bytes(size, "big") + body

    def strings(names: list[str]) -> bytes:
        return b"".join(vector(1, name.encode()) for name in names)

    name = b"site.example"
    shares = b"".join(
        words([group]) + vector(2, chance.randbytes(size)) for group, size in facts["key_shares"]
    )
    anchors = sorted({chance.randbytes(4).hex() for _ in range(facts["trust_anchors"])})
    contents = {
        0x0000: vector(2, b"\0" + vector(2, name)),
        0x0005: b"\x01\0\0\0\0",
        0x000A: vector(2, words(facts["groups"])),
        0x000B: vector(1, b"\0"),
        0x000D: vector(2, words(facts["signatures"])),
        0x0010: vector(2, strings(facts["alpn"])),
        0x001B: vector(1, words([f"{value:04x}" for value in facts["certificate_compression"]])),
        0x002B: vector(1, words(facts["versions"])),
        0x002D: vector(1, bytes(facts["psk_modes"])),
        0x0033: vector(2, shares),
        0x44CD: vector(2, strings(["h2"])),
        0xCA34: vector(2, strings(anchors)),
        0xFE0D: bytes.fromhex(facts["ech_outer"] or "") + chance.randbytes(200),
        0xFF01: b"\0",
    }
    kinds = [int(kind, 16) for kind in facts["extensions"] if kind != "GREASE"]
    if shuffle:
        chance.shuffle(kinds)
    body = b"".join(words([f"{kind:04x}"]) + vector(2, contents.get(kind, b"")) for kind in kinds)
    body = b"\x1a\x1a\0\0" + body + b"\x2a\x2a\0\x01\0"
    hello = facts["version"].to_bytes(2, "big") + chance.randbytes(32)
    hello += vector(1, chance.randbytes(facts["session_id"])) + vector(2, words(facts["ciphers"]))
    hello += b"\x01\0" + vector(2, body)
    message = b"\x01" + vector(3, hello)
    return b"\x16" + facts["record_version"].to_bytes(2, "big") + vector(2, message)


def record(kind: int, body: bytes) -> bytes:
    """Return a TLS record."""
    return bytes([kind, 3, 3]) + len(body).to_bytes(2, "big") + body


def inside_tls(hello: bytes, parts: list[tuple[bool, int]]) -> Flow:
    """A TLS 1.3 connection that carries messages of these sizes after its handshake."""
    server = record(22, bytes(118)) + record(20, b"\x01") + record(23, bytes(2500))
    finished = record(20, b"\x01") + record(23, bytes(53))
    messages = [(True, hello), (False, server), (True, finished)]
    messages += [(up, record(23, bytes(size - 5))) for up, size in parts]
    return flow(*messages)
