"""Records that are sealed and opened by us: when that begins, and that nobody sees it."""

from __future__ import annotations

import gc
import os
import select
import shutil
import socket
import subprocess
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from OpenSSL import SSL

from phantom.carriers import tls_utls
from phantom.carriers.tls_openssl import OpenSSLClientEngines
from phantom.carriers.tls_quick import QuickEngine, _Count
from phantom.carriers.tls_secrets import KeyLog
from phantom.carriers.tls_server import server_engines
from phantom.crypto.tls13 import ALERT, HANDSHAKE, HEADER_SIZE
from phantom.errors import RemoteProtocolError
from tests.support.tls_engines import carry, replace_engines, shake_hands, taken, talk

needs_utls = pytest.mark.skipif(not tls_utls.AVAILABLE, reason="the package utls is not installed")

Make = Callable[..., tuple[QuickEngine, QuickEngine]]


@pytest.fixture(params=["openssl", "boringssl"])
def engines(certificate: Any, request: pytest.FixtureRequest) -> Any:
    """Makes server engines, by each implementation."""
    if request.param == "boringssl" and not tls_utls.AVAILABLE:
        pytest.skip("the package utls is not installed")
    return server_engines(request.param, certificate[0], certificate[1])


@pytest.fixture
def connect(client_engine: Callable[[], Any], engines: Any) -> Make:
    """Makes the two sides of a connection, replaced or not."""

    def make(replaced: bool = True) -> tuple[QuickEngine, QuickEngine]:
        ends = QuickEngine(client_engine()), QuickEngine(engines.engine())
        shake_hands(*ends)
        replace_engines(*ends, *(ends if replaced else ()))
        return ends

    return make


def sizes_of(flight: bytes) -> list[int]:
    """Return the size of each record."""
    sizes = []
    while flight:
        sizes.append(HEADER_SIZE + int.from_bytes(flight[3:HEADER_SIZE], "big"))
        assert flight[:3] == b"\x17\x03\x03"
        flight = flight[sizes[-1] :]
    return sizes


# -- when ----------------------------------------------------------------------------------


def test_who_is_not_trusted_is_the_engines(connect: Make) -> None:
    client, server = connect(False)
    for _ in range(3):
        talk(client, server)
    assert not client.replaced and not server.replaced
    assert server.secrets() is not None


def test_each_side_decides_for_itself(connect: Make) -> None:
    client, server = connect(False)
    server.trust_peer()
    talk(client, server)
    assert server.replaced and not client.replaced
    talk(client, server)


def test_the_engine_has_what_was_left_in_it_first(connect: Make) -> None:
    client, server = connect(False)
    words = [os.urandom(60_000) for _ in range(3)]
    for word in words[:2]:
        client.send(word)
    flight = client.outgoing()
    server.receive(flight[:100_000])
    found = bytes(server.plaintext(1))
    server.trust_peer()  # as whoever took that does
    server.receive(flight[100_000:])
    assert not server.replaced
    found += taken(server)
    client.send(words[2])
    carry(client, server)
    assert server.replaced
    assert found + taken(server) == b"".join(words)


def test_a_first_record_that_is_bad_is_the_engines(connect: Make) -> None:
    client, server = connect(False)
    server.trust_peer()
    client.send(b"x")
    flight = bytearray(client.outgoing())
    flight[-1] ^= 1
    server.receive(bytes(flight))
    with pytest.raises(RemoteProtocolError):
        server.plaintext(100)
    assert not server.replaced
    assert len(server.outgoing()) == 24  # its alert


def test_what_the_engine_has_not_sent_yet_goes_first(connect: Make) -> None:
    client, server = connect(False)
    server.trust_peer()
    engine = server._engine
    assert engine is not None
    engine.send(b"unsent")
    client.send(b"a word")
    carry(client, server)
    assert not server.replaced
    assert taken(server) == b"a word"
    carry(server, client)
    assert taken(client) == b"unsent"
    talk(client, server)
    assert server.replaced
    talk(client, server)


@pytest.mark.parametrize("data", [bytes(70_000), b"\x17\x03\x03\x00\x00" * 1000])
def test_what_is_no_tls_is_not_followed(data: bytes) -> None:
    count = _Count()
    count.follow(data)
    assert not count.between
    assert count.hidden == (data[0] == 23)


@given(
    sizes=st.lists(st.integers(1, 300), max_size=10),
    cuts=st.lists(st.integers(1, 400), min_size=1, max_size=10),
)
def test_records_are_followed_however_they_are_cut(sizes: list[int], cuts: list[int]) -> None:
    kinds = [22 + number % 2 for number in range(len(sizes))]
    stream = b"".join(
        bytes((kind, 3, 3)) + size.to_bytes(2, "big") + bytes(size)
        for kind, size in zip(kinds, sizes, strict=True)
    )
    count = _Count()
    position, turn = 0, 0
    while position < len(stream):
        piece = stream[position : position + cuts[turn % len(cuts)]]
        count.follow(piece)
        position, turn = position + len(piece), turn + 1
        ends = [sum(sizes[:number]) + 5 * number for number in range(len(sizes) + 1)]
        assert count.between == (position in ends)
    assert count.hidden == kinds.count(23)
    if sizes:
        assert _Count().follow(stream) == len(stream) - sizes[-1] - 5


def test_keys_that_are_not_told_leave_it_to_the_engine(
    connect: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(KeyLog, "add", lambda self, lines: None)
    client, server = connect(False)
    for side in (client, server):
        side.trust_peer()
    for _ in range(3):
        talk(client, server)
    assert not client.replaced and not server.replaced


@pytest.mark.parametrize("wrong", ["other secrets", "the other direction's"])
def test_keys_that_do_not_fit_leave_it_to_the_engine(
    connect: Make, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    add = KeyLog.add

    def swapped(self: KeyLog, lines: bytes) -> None:
        add(self, lines)
        known = self._secrets
        for label in known:
            known[label] = os.urandom(len(known[label]))

    def reversed_(self: KeyLog, lines: bytes) -> None:
        lines = lines.replace(b"CLIENT_T", b"?").replace(b"SERVER_T", b"CLIENT_T")
        add(self, lines.replace(b"?", b"SERVER_T"))

    monkeypatch.setattr(KeyLog, "add", swapped if wrong == "other secrets" else reversed_)
    client, server = connect(False)
    for _ in range(20):
        for side in (client, server):
            side.trust_peer()
        talk(client, server)
    assert not client.replaced and not server.replaced


def test_tls_1_2_stays_the_engines(certificate: Any) -> None:
    clients = OpenSSLClientEngines("server.test", ("http/1.1",))
    clients._context.set_max_proto_version(SSL.TLS1_2_VERSION)
    ends = (
        QuickEngine(clients.engine()),
        QuickEngine(server_engines("openssl", *certificate[:2]).engine()),
    )
    shake_hands(*ends)
    for _ in range(3):
        for side in ends:
            side.trust_peer()
        talk(*ends)
    assert not ends[0].replaced and not ends[1].replaced


def test_a_certificate_that_was_read_again_changes_nothing(connect: Make, engines: Any) -> None:
    engines.reload()
    connect()


def test_engines_go_when_they_are_replaced(certificate: Any, openssl_engine: Any) -> None:
    engine = server_engines("openssl", *certificate[:2]).engine()
    connection = weakref.ref(engine._connection)  # type: ignore[attr-defined]
    ends = QuickEngine(openssl_engine()), QuickEngine(engine)
    shake_hands(*ends)
    del engine
    gc.disable()
    try:
        replace_engines(*ends, ends[1])
        assert connection() is None
    finally:
        gc.enable()
    assert ends[1].alpn == ends[0].alpn
    assert ends[1].peer_chain() == [] and ends[1].secrets() is None


# -- what is seen --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "size", [1, 100, 2047, 16_383, 16_384, 16_385, 65_553, 524_424, 589_977, 589_978, 2_000_000]
)
def test_records_are_as_long_as_the_engines(connect: Make, size: int) -> None:
    found = []
    for replaced in (True, False):
        found.append([])
        for side in connect(replaced):
            side.send(bytes(size))
            found[-1].append(sizes_of(side.outgoing()))
            side.close()
            found[-1].append(sizes_of(side.outgoing()))
    assert found[0] == found[1]


def _flip(where: int) -> Callable[[bytes], bytes]:
    def damage(record: bytes) -> bytes:
        changed = bytearray(record)
        changed[where] ^= 1
        return bytes(changed)

    return damage


TAMPERING: dict[str, Callable[[bytes], bytes]] = {
    "type": _flip(0),
    "version's first byte": _flip(1),
    "version's second byte": _flip(2),
    "longer": lambda record: record[:3] + b"\x40\x00" + record[5:] + bytes(20_000),
    "too long": lambda record: record[:3] + b"\x41\x01" + record[5:] + bytes(20_000),
    "far too long": lambda record: record[:3] + b"\xff\xff" + record[5:] + bytes(70_000),
    "shorter": _flip(4),
    "a byte": lambda record: record[:3] + b"\x00\x01" + record[5:],
    "sixteen bytes": lambda record: record[:3] + b"\x00\x10" + record[5:],
    "seventeen bytes": lambda record: record[:3] + b"\x00\x11" + record[5:],
    "nothing": lambda record: record[:3] + b"\x00\x00" + record[5:],
    "body": _flip(HEADER_SIZE),
    "tag": _flip(-1),
    "an alert in clear": lambda record: b"\x15\x03\x03\x00\x02\x02\x28" + record,
    "a close in clear": lambda record: b"\x15\x03\x03\x00\x02\x01\x00" + record,
    "change_cipher_spec": lambda record: b"\x14\x03\x03\x00\x01\x01" + record,
    "a hello": lambda record: b"\x16\x03\x03\x00\x04\x01\x00\x00\x00" + record,
    "an old alert": lambda record: b"\x15\x03\x01\x00\x02\x02\x28" + record,
    "HTTP": lambda record: b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n" + record,
    "zeros": lambda record: bytes(100) + record,
    "twice": lambda record: record + record,
    "cut in two": lambda record: (
        record[:3] + b"\x00\x20" + record[5:37] + record[:3]
        + (len(record) - 37).to_bytes(2, "big") + record[37:]
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", TAMPERING)
@pytest.mark.parametrize("server", [True, False])
@pytest.mark.parametrize("at_once", [True, False])
def test_tampering_is_answered_as_by_the_engine(
    connect: Make, kind: str, server: bool, at_once: bool
) -> None:
    answers = []
    for replaced in (True, False):
        source, sink = connect(replaced)[:: 1 if server else -1]
        source.send(b"a word that is changed on its way")
        data = TAMPERING[kind](source.outgoing())
        pieces = [data] if at_once else [bytes((byte,)) for byte in data]
        answers.append(_answers(sink, pieces))
    assert answers[0] == answers[1]


def _answers(sink: QuickEngine, pieces: list[bytes]) -> list[Any]:
    """Return what comes out, and after how many pieces."""
    seen: list[Any] = []
    for number, piece in enumerate(pieces):
        try:
            sink.receive(piece)
            seen.append(taken(sink))
            if not seen[-1]:
                seen.pop()
        except RemoteProtocolError:
            seen.append(("ends", number, sizes_of(sink.outgoing())))
            return seen
        if sink.peer_closed:
            seen.append(("closed", number))
    return seen


# -- what comes besides data ---------------------------------------------------------------


def control(side: QuickEngine, kind: int, content: bytes) -> bytes:
    """Return a record of some kind, as `side` would send it."""
    return side._sealer.seal(kind, content)


@pytest.mark.parametrize("requested", [False, True])
def test_keys_are_updated(connect: Make, requested: bool) -> None:
    client, server = connect()
    for source, sink in ((client, server), (server, client)):
        for _ in range(3):
            sink.receive(control(source, HANDSHAKE, b"\x18\x00\x00\x01" + bytes((requested,))))
            source._sealer.update()
            assert taken(sink) == b""
            carry(sink, source)
            assert taken(source) == b""
            assert source.outgoing() == b""
            talk(client, server)


def test_tickets_are_taken_in_any_pieces(connect: Make) -> None:
    client, server = connect()
    ticket = b"\x04\x00\x01\x00" + bytes(256)
    stream = 3 * ticket
    for start in range(0, len(stream), 100):
        client.receive(control(server, HANDSHAKE, stream[start : start + 100]))
        assert taken(client) == b""
    talk(client, server)
    assert client.outgoing() == b""


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        (HANDSHAKE, b""),
        (HANDSHAKE, b"\x01\x00\x00\x00"),  # a hello
        (HANDSHAKE, b"\x04\xff\xff\xff"),  # a ticket that is too long
        (HANDSHAKE, b"\x18\x00\x00\x01\x02"),  # an update of another kind
        (HANDSHAKE, b"\x18\x00\x00\x00"),
        (HANDSHAKE, b"\x18\x00\x00\x01\x00\x04"),  # something behind it
        (ALERT, b""),
        (ALERT, b"\x01"),
        (ALERT, b"\x01\x00\x00"),
        (20, b"\x01"),
        (99, b"x"),
    ],
)
def test_what_has_no_place_ends_it(connect: Make, kind: int, content: bytes) -> None:
    client, server = connect()
    client.send(b"before")
    server.receive(client.outgoing() + control(client, kind, content))
    assert server.plaintext(1000) == b"before"
    assert server.outgoing() == b""
    for _ in range(2):
        with pytest.raises(RemoteProtocolError):
            server.plaintext(1000)
    assert sizes_of(server.outgoing()) == [24]
    server.close()
    assert server.outgoing() == b""


def test_alerts(connect: Make) -> None:
    client, server = connect()
    server.receive(control(client, ALERT, b"\x01\x5a"))  # user_canceled
    talk(client, server)
    server.receive(control(client, ALERT, b"\x02\x28"))  # handshake_failure
    with pytest.raises(RemoteProtocolError):
        server.plaintext(1000)
    assert server.outgoing() == b""


def test_nothing_comes_behind_a_close(connect: Make) -> None:
    client, server = connect()
    client.send(b"last")
    client.close()
    flight = client.outgoing()
    server.receive(flight + b"anything")
    assert taken(server) == b"last"
    assert server.peer_closed
    server.receive(b"more")
    assert taken(server) == b""
    server.send(b"and we may go on")
    carry(server, client)
    assert taken(client) == b"and we may go on"


@pytest.mark.parametrize("content", [b"\x18\x00\x00\x01\x00", b"\x04\x00\x00\x01\x00", b"\x04"])
def test_a_flood_of_what_is_no_data_ends_it(connect: Make, content: bytes) -> None:
    client, server = connect()
    before = 0
    while before < 100:
        server.receive(control(client, HANDSHAKE, content))
        if content[0] == 24:
            client._sealer.update()
        try:
            assert taken(server) == b""
        except RemoteProtocolError:
            break
        before += 1
    # Four of the last are the header of a ticket that is too long.
    assert before == (3 if content == b"\x04" else 32)


def test_updates_among_data_are_no_flood(connect: Make) -> None:
    client, server = connect()
    for _ in range(100):
        server.receive(control(client, HANDSHAKE, b"\x18\x00\x00\x01\x00"))
        client._sealer.update()
        talk(client, server)


def test_what_waits_keeps_its_order(connect: Make) -> None:
    client, server = connect()
    words = [os.urandom(size) for size in (50_000, 10, 70_000, 600_000, 3)]
    for word in words:
        client.send(word)
    client.close()
    memory = bytearray(client.outgoing())
    for start in range(0, len(memory), 99_999):
        server.receive(memoryview(memory)[start : start + 99_999])
        server.end_loan()  # the upper side has paused
    memory[:] = bytes(len(memory))
    assert taken(server) == b"".join(words)
    assert server.peer_closed


# -- with a stranger's TLS ------------------------------------------------------------------


@pytest.fixture
def openssl_server(certificate: Any) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """OpenSSL's own server, which updates its keys when it is told to."""
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("the program openssl is not installed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [program, "s_server", "-accept", f"127.0.0.1:{port}", "-tls1_3"]
    process = subprocess.Popen(
        [*command, "-cert", certificate[0], "-key", certificate[1]],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    yield port, process
    process.kill()
    process.communicate()


def test_openssls_updates_of_keys(
    openssl_server: tuple[int, subprocess.Popen[bytes]], client_engine: Callable[[], Any]
) -> None:
    port, process = openssl_server
    assert process.stdin is not None and process.stdout is not None
    deadline = time.monotonic() + 10
    while True:
        try:
            connection = socket.create_connection(("127.0.0.1", port), 5)
            break
        except ConnectionRefusedError:
            assert time.monotonic() < deadline, "openssl s_server never listened"
            time.sleep(0.02)
    client = QuickEngine(client_engine())
    found = bytearray()

    def say(command: bytes) -> None:
        process.stdin.write(command + b"\n")
        process.stdin.flush()

    def wait_until(happened: Callable[[], bool]) -> None:
        while not happened():
            client.receive(connection.recv(65536))
            if client.handshake_done:
                found.extend(taken(client))
            if answer := client.outgoing():
                connection.sendall(answer)

    with connection:
        client.start()
        connection.sendall(client.outgoing())
        wait_until(lambda: client.handshake_done)
        client.send(b"a word\n")
        client.trust_peer()
        connection.sendall(client.outgoing())
        say(b"a word")
        wait_until(lambda: client.replaced and b"a word" in found)
        for command in (b"k", b"K", b"K", b"k"):  # with a capital, ours are to be updated as well
            key = client._opener._secret
            say(command)
            wait_until(lambda key=key: client._opener._secret != key)
            # It waits for data once it has begun to read, so it hears some before it says more.
            client.send(b"under our keys")
            connection.sendall(client.outgoing())
            printed = b""
            while b"under our keys" not in printed:
                assert select.select([process.stdout], [], [], 10)[0], "openssl s_server is silent"
                piece = os.read(process.stdout.fileno(), 65536)
                assert piece, "openssl s_server has ended"
                printed += piece
            found.clear()
            say(b"under its keys")
            wait_until(lambda: b"under its keys" in found)
