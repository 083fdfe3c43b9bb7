"""The TLS engines by themselves: what goes in at one comes out at the other."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from phantom.carriers import tls_openssl, tls_utls
from phantom.carriers.tls_quick import QuickEngine
from phantom.carriers.tls_server import server_engines
from phantom.errors import RemoteProtocolError
from tests.support.tls_engines import LIMIT, carry, replace_engines, shake_hands, taken

#: From less than a record to more than what is drained at once.
SIZES = [1, 100, 16384, 70_000, 900_000]
Engines = tuple[Any, Any]


def damaged(engine: Any) -> bytes:
    """Return a record that nobody can decrypt."""
    engine.send(b"bad")
    record = bytearray(engine.outgoing())
    record[-1] ^= 1
    return bytes(record)


@pytest.fixture(params=["pyOpenSSL's binding", "pyOpenSSL's interface"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """How OpenSSL is called: what is quicker, and what works if that is not as expected."""
    if request.param == "pyOpenSSL's binding":
        assert tls_openssl._fast is not None
    else:
        monkeypatch.setattr(tls_openssl, "_fast", None)


@pytest.fixture(params=["openssl", "boringssl"])
def server_engine(certificate: Any, request: pytest.FixtureRequest) -> Any:
    """A server's engine, once by each implementation."""
    if request.param == "boringssl" and not tls_utls.AVAILABLE:
        pytest.skip("the package utls is not installed")
    return server_engines(request.param, certificate[0], certificate[1]).engine()


@pytest.fixture(params=["theirs", "the client's ours", "the server's ours", "ours"])
def ends(
    way: None,
    client_engine: Callable[[], Any],
    server_engine: Any,
    request: pytest.FixtureRequest,
) -> Engines:
    """A client's engine and a server's, with the handshake done, and whose records are whose."""
    client, server = client_engine(), server_engine
    sides: list[QuickEngine] = []
    if request.param in ("the client's ours", "ours"):
        client = QuickEngine(client)
        sides.append(client)
    if request.param in ("the server's ours", "ours"):
        server = QuickEngine(server)
        sides.append(server)
    shake_hands(client, server)
    replace_engines(client, server, *sides)
    return client, server


@pytest.mark.parametrize("size", SIZES)
def test_what_is_sent_arrives(ends: Engines, size: int) -> None:
    for source, sink in (ends, ends[::-1]):
        sent = os.urandom(size)
        source.send(memoryview(sent))
        carry(source, sink)
        assert source.outgoing() == b""
        assert taken(sink) == sent
        assert sink.outgoing() == b""


def test_what_may_be_kept_is_all_of_it(ends: Engines) -> None:
    client, server = ends
    sent = os.urandom(SIZES[-1])
    server.send(sent)
    kept = server.outgoing()
    server.send(bytes(100_000))  # whatever it was put into is used again
    assert server.outgoing_lent()
    client.receive(kept)
    assert taken(client) == sent


def test_what_is_lent_outlives_what_others_send(
    ends: Engines, client_engine: Callable[[], Any]
) -> None:
    client, server = ends
    sent = os.urandom(200_000)
    server.send(sent)
    lent = server.outgoing_lent()
    other = client_engine()
    other.start()
    assert other.outgoing()
    client.send(b"meanwhile")
    assert client.outgoing()
    client.receive(lent)
    assert taken(client) == sent


@pytest.mark.parametrize("taken_before", [0, 1, 200_000])
def test_what_is_received_may_change_when_its_loan_has_ended(
    ends: Engines, taken_before: int
) -> None:
    client, server = ends
    sent = os.urandom(SIZES[-1])
    server.send(sent)
    memory = bytearray(server.outgoing())
    server.send(b"and more")
    client.receive(memoryview(memory))
    found = bytes(client.plaintext(taken_before)) if taken_before else b""
    assert len(found) < len(sent)
    client.end_loan()
    memory[:] = bytes(len(memory))
    carry(server, client)
    assert found + taken(client) == sent + b"and more"


def test_what_is_received_while_a_loan_lasts_comes_behind_it(ends: Engines) -> None:
    client, server = ends
    sent = [os.urandom(size) for size in (300_000, 5, 300_000, 16_384)]
    lent = []
    for piece in sent:
        server.send(piece)
        lent.append(bytearray(server.outgoing()))
        client.receive(memoryview(lent[-1]))
    assert taken(client) == b"".join(sent)


def test_nothing_is_read_where_a_record_is_not_whole(ends: Engines) -> None:
    client, server = ends
    client.send(b"keystroke")
    record = bytes(client.outgoing())
    server.receive(record[:-1])
    assert server.plaintext(LIMIT) == b""
    server.receive(record[-1:])
    assert taken(server) == b"keystroke"
    assert not server.peer_closed


@pytest.mark.parametrize("way_up", [True, False])
def test_a_record_that_comes_in_pieces_and_is_bad_is_told_at_once(
    ends: Engines, way_up: bool
) -> None:
    source, sink = ends if way_up else ends[::-1]
    bad = damaged(source)
    sink.receive(bad[:3])
    sink.receive(bad[3:])
    with pytest.raises(RemoteProtocolError):
        sink.plaintext(LIMIT)


@pytest.mark.parametrize("way_up", [True, False])
def test_what_came_before_a_bad_record_comes_first(ends: Engines, way_up: bool) -> None:
    source, sink = ends if way_up else ends[::-1]
    source.send(b"good")
    good = bytes(source.outgoing())
    sink.receive(good + damaged(source))
    assert sink.plaintext(LIMIT) == b"good"
    with pytest.raises(RemoteProtocolError):
        sink.plaintext(LIMIT)


def test_a_close_is_seen_behind_what_came_before_it(ends: Engines) -> None:
    client, server = ends
    client.send(b"goodbye")
    client.close()
    carry(client, server)
    assert taken(server) == b"goodbye"
    assert server.peer_closed
