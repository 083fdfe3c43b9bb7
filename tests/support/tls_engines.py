"""TLS engines joined in memory, with and without `QuickEngine`."""

from __future__ import annotations

from typing import Any

from phantom.carriers.tls_quick import QuickEngine

LIMIT = 262144


def carry(source: Any, sink: Any) -> None:
    """Give `sink` what `source` has to send."""
    data = bytes(source.outgoing_lent())
    if data:
        sink.receive(data)


def taken(engine: Any) -> bytes:
    """Return all that can be decrypted."""
    pieces: list[bytes] = []
    while data := engine.plaintext(LIMIT):
        assert len(data) <= LIMIT + 4 * 16384  # a piece more: see `TLSEngine.plaintext`
        pieces.append(bytes(data))
    return b"".join(pieces)


def shake_hands(client: Any, server: Any) -> None:
    """Do the handshake, session tickets included."""
    client.start()
    server.start()
    for _ in range(3):
        carry(client, server)
        carry(server, client)
    assert client.handshake_done and server.handshake_done
    assert taken(client) == b""


def talk(client: Any, server: Any) -> None:
    """Have each side say a word."""
    for source, sink in ((client, server), (server, client)):
        source.send(b"a word")
        carry(source, sink)
        assert taken(sink) == b"a word"


def replace_engines(client: Any, server: Any, *sides: QuickEngine) -> None:
    """Have those of the two that are in `sides` replace their engine."""
    talk(client, server)
    for side in sides:
        side.trust_peer()
    talk(client, server)
    for side in sides:
        assert side.replaced
