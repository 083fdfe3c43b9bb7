"""Captures: every file format, link type and disorder gives the same connections."""

from __future__ import annotations

import os
import random
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from support import traffic

from phantom.app.cli.main import main
from phantom.audit import report
from phantom.audit.pcap import Assembler, Packet, read_capture
from phantom.audit.relay import RecordingRelay
from phantom.audit.sniffer import Sniffer
from phantom.errors import RemoteProtocolError

CLIENT, SERVER = ("10.0.0.1", 40000), ("10.0.0.2", 8443)
FIN, SYN, ACK = 1, 2, 16


def ip_packet(up: bool, sequence: int, flags: int, data: bytes = b"", version: int = 4) -> bytes:
    (source, sport), (destination, dport) = (CLIENT, SERVER) if up else (SERVER, CLIENT)
    segment = struct.pack(
        "!HHIIBBHHH", sport, dport, sequence & 0xFFFFFFFF, 0, 5 << 4, flags, 9, 0, 0
    )
    segment += data
    if version == 6:
        addresses = b"".join(bytes(12) + socket.inet_aton(ip) for ip in (source, destination))
        return b"\x60\0\0\0" + struct.pack("!HBB", len(segment), 6, 64) + addresses + segment
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(segment), 1, 0, 64, 6, 0)
    return head + socket.inet_aton(source) + socket.inet_aton(destination) + segment


TALK = [(True, b"hello"), (False, b"world" * 300), (True, b"bye"), (False, b"!")]


def packets(version: int = 4) -> list[bytes]:
    """A connection whose numbers wrap: handshake, talk, one segment sent twice, close."""
    numbers = {True: 0xFFFFFFFE, False: 7}
    made = [
        ip_packet(True, numbers[True], SYN, version=version),
        ip_packet(False, numbers[False], SYN | ACK, version=version),
    ]
    numbers = {up: number + 1 for up, number in numbers.items()}
    for up, data in TALK:
        made += [ip_packet(up, numbers[up], ACK, data, version)] * 2
        numbers[up] += len(data)
    return [*made, ip_packet(True, numbers[True], FIN | ACK, version=version)]


def talked(flows: list) -> list[tuple[bool, bytes]]:
    [flow] = [flow for flow in flows if flow.segments]
    return [(segment.up, segment.data) for segment in flow.segments]


def classic(frames: list[bytes], link: int = 101, order: str = "<", nano: bool = False) -> bytes:
    magic = 0xA1B23C4D if nano else 0xA1B2C3D4
    out = struct.pack(f"{order}IHHiIII", magic, 2, 4, 0, 0, 65535, link)
    for place, frame in enumerate(frames):
        out += struct.pack(f"{order}IIII", 1000 + place, 500, len(frame), len(frame)) + frame
    return out


def block(order: str, kind: int, body: bytes) -> bytes:
    body += bytes(-len(body) % 4)
    size = struct.pack(f"{order}I", len(body) + 12)
    return struct.pack(f"{order}I", kind) + size + body + size


def next_generation(frames: list[bytes], link: int = 101, order: str = "<") -> bytes:
    out = block(order, 0x0A0D0D0A, struct.pack(f"{order}IHHq", 0x1A2B3C4D, 1, 0, -1))
    options = struct.pack(f"{order}HHB3xHH", 9, 1, 9, 0, 0)
    out += block(order, 1, struct.pack(f"{order}HHI", link, 0, 0) + options)
    out += block(order, 5, bytes(12))  # statistics: passed over
    for place, frame in enumerate(frames):
        time = (1000 + place) * 10**9
        head = struct.pack(
            f"{order}IIIII", 0, time >> 32, time & 0xFFFFFFFF, len(frame), len(frame)
        )
        out += block(order, 6, head + frame)
    return out


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("write", [classic, next_generation])
@pytest.mark.parametrize(
    ("link", "head"),
    [
        (101, b""),
        (228, b""),
        (0, b"\x02\0\0\0"),
        (108, b"\0\0\0\x02"),
        (1, bytes(12) + b"\x08\0"),
        (1, bytes(12) + b"\x81\0\0\x05\x08\0"),
        (113, bytes(14) + b"\x08\0"),
        (276, b"\x08\0" + bytes(18)),
    ],
)
def test_every_format_and_link_type(
    write: Callable[..., bytes], order: str, link: int, head: bytes
) -> None:
    capture = write([head + packet for packet in packets()], link, order)
    flows = read_capture(capture)
    assert talked(flows) == TALK
    [flow] = flows
    assert flow.round_trip == pytest.approx(1.0)
    assert flow.end - flow.start == pytest.approx(10.0)


def test_ipv6_and_nanoseconds() -> None:
    assert talked(read_capture(classic(packets(6), nano=True))) == TALK


@given(st.permutations(range(2, 10)))
def test_segments_that_overtake_one_another_are_put_in_order(order: list[int]) -> None:
    made = packets()
    flows = read_capture(classic([*made[:2], *(made[place] for place in order)]))
    for up in (True, False):
        expected = b"".join(data for side, data in TALK if side == up)
        assert flows[0].stream(up) == expected


def test_a_missing_segment_does_not_stop_the_rest() -> None:
    frames = packets()[:2]
    frames += [ip_packet(False, 8 + 100 * place, ACK, bytes([place]) * 100) for place in range(99)]
    del frames[5]
    [flow] = read_capture(classic(frames))
    assert len(flow.stream(False)) == 9800


def test_without_a_syn_the_port_tells_who_is_the_server() -> None:
    middle = packets()[2:]
    assert talked(read_capture(classic(middle), 8443)) == TALK
    assert talked(read_capture(classic(middle))) == TALK
    assert talked(read_capture(classic(middle), 40000)) == [(not up, data) for up, data in TALK]
    assert not read_capture(classic(middle), 1)


@given(st.binary(max_size=200), st.integers(0, 900), st.booleans())
def test_no_capture_raises_anything_else(noise: bytes, place: int, new: bool) -> None:
    capture = bytearray((next_generation if new else classic)(packets(), 1))
    capture[place : place + len(noise)] = noise
    try:
        read_capture(bytes(capture))
    except RemoteProtocolError:
        pass


@given(st.binary(max_size=120), st.sampled_from([0, 1, 12, 101, 113, 276, 999]))
def test_no_packet_raises_anything(data: bytes, link: int) -> None:
    Assembler().add(Packet(0.0, link, b"\x45\x00\x00\x28" + data))
    Assembler(9).add(Packet(0.0, link, data))


# -- captures of our own -----------------------------------------------------------------


@pytest.fixture
def echo() -> Iterator[int]:
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                while data := connection.recv(65536):
                    connection.sendall(data[::-1])

    threading.Thread(target=serve, daemon=True).start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def ask(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        for question in (b"first", b"second question"):
            connection.sendall(question)
            assert connection.recv(100) == question[::-1]


ASKED = [
    (True, b"first"),
    (False, b"tsrif"),
    (True, b"second question"),
    (False, b"noitseuq dnoces"),
]


def test_the_relay_records_what_it_passes_on(echo: int) -> None:
    relay = RecordingRelay(echo)
    try:
        ask(relay.port)
        assert talked(relay.take()) == ASKED
        assert not relay.take()
    finally:
        relay.stop()


def test_the_sniffer_sees_the_port_and_nothing_else(echo: int) -> None:
    try:
        sniffer = Sniffer(echo)
    except OSError as error:
        pytest.skip(f"packets cannot be captured: {error}")
    other = RecordingRelay(echo)
    try:
        ask(echo)
        flows = sniffer.take()
        assert talked(flows) == ASKED
        assert flows[0].round_trip is not None
        assert flows[0].ended is not None
        ask(other.port)
        assert len(sniffer.take()) == 1, "the relay's connection to the port, not the one to it"
    finally:
        sniffer.stop()
        other.stop()


# -- the command -------------------------------------------------------------------------


def write_talk(flows: list, path: Path) -> None:
    """Write flows as a capture, each from a port of its own."""
    frames = []
    for place, flow in enumerate(flows):
        numbers = {True: 1, False: 1}
        for segment in flow.segments:
            frame = bytearray(ip_packet(segment.up, numbers[segment.up], ACK, segment.data))
            at = 20 if segment.up else 22
            frame[at : at + 2] = (40000 + place).to_bytes(2, "big")
            frames.append(bytes(frame))
            numbers[segment.up] += len(segment.data)
    path.write_bytes(classic(frames))


def audit(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["audit", *arguments])


def test_a_capture_of_a_leaky_tunnel_fails(tmp_path: Path) -> None:
    chance = random.Random(8)
    write_talk([traffic.framed(chance) for _ in range(12)], tmp_path / "leaky.pcap")
    result = audit("--pcap", str(tmp_path / "leaky.pcap"), "--port", "8443")
    assert result.exit_code == 1
    assert "FAIL    first-packet" in result.stdout
    assert "FAIL    length-prefix" in result.stdout
    for name in report.DETECTORS:
        assert f" {name} " in result.stdout
    assert "found by: first-packet, entropy, length-prefix, client-packets" in result.stdout


def test_a_capture_without_findings_passes(tmp_path: Path) -> None:
    path = tmp_path / "quiet.pcap"
    write_talk([traffic.flow((True, b"GET / HTTP/1.1\r\n\r\n"), (False, b"x" * 900))], path)
    result = audit("--pcap", str(path), "--json")
    assert result.exit_code == 0
    assert '"status": "passed"' in result.stdout
    assert audit("--pcap", str(path), "--only", "first-packet").stdout.count("limit:") == 1


@pytest.mark.parametrize(
    ("arguments", "status", "complaint"),
    [
        (["--pcap", "none.pcap"], 1, "none.pcap: No such file"),
        (["--pcap", "noise.pcap"], 1, "noise.pcap: neither a pcap nor a pcapng file"),
        (["--port", "80"], 2, "--port goes with --pcap"),
        (["--server-config", "a.toml"], 2, "go together"),
        (["--only", "magic"], 2, "'magic' is none of first-packet"),
        (["--server-config", "a.toml", "--client-config", "b.toml"], 1, "a.toml"),
    ],
)
def test_mistakes_are_told_in_a_line(
    arguments: list[str], status: int, complaint: str, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    (tmp_path / "noise.pcap").write_bytes(os.urandom(100))
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.chdir(tmp_path)
        main(["audit", *arguments])
    assert ended.value.code == status
    error = capfd.readouterr().err
    assert complaint in error
    assert "Traceback" not in error
