"""Reads captures: pcap and pcapng files, and the TCP in their packets.

Everything is read as a censor's box would: whole packets that are no TCP over IP are passed
over, and so are malformed ones.  Formats: draft-ietf-opsawg-pcap, draft-ietf-opsawg-pcapng,
the tcpdump project's list of link types, RFC 791, RFC 8200 and RFC 9293.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import attrs

from phantom.audit.flows import Flow, Segment
from phantom.errors import RemoteProtocolError

#: A capture is read into memory; more than this is more than a detector needs.
MAX_CAPTURE = 1 << 30

#: Segments kept while an earlier one of the same stream is missing; more are let through as
#: they are, since the missing one is probably missing from the capture.
MAX_EARLY = 64

#: Flows kept; further connections of a capture are passed over.
MAX_FLOWS = 20_000

#: Classic magic numbers: byte order and seconds of a tick.
_CLASSIC = {
    b"\xd4\xc3\xb2\xa1": ("little", 1e-6),
    b"\xa1\xb2\xc3\xd4": ("big", 1e-6),
    b"\x4d\x3c\xb2\xa1": ("little", 1e-9),
    b"\xa1\xb2\x3c\x4d": ("big", 1e-9),
}

_SECTION = b"\x0a\x0d\x0d\x0a"
_INTERFACE = 1
_SIMPLE_PACKET = 3
_ENHANCED_PACKET = 6
_TIME_RESOLUTION = 9

ETHERNET = 1
#: Bytes before the IP header, for link types without anything worth reading there: BSD
#: loopback (0, 108), raw IP under its several numbers, Linux cooked 1 and 2.
_SKIPPED = {0: 4, 108: 4, 12: 0, 14: 0, 101: 0, 228: 0, 229: 0, 113: 16, 276: 20}
_VLAN = (b"\x81\x00", b"\x88\xa8")

_TCP = 6
_FIN, _SYN, _RST, _ACK = 1, 2, 4, 16


class Packet(NamedTuple):
    """A captured packet.

    Attributes:
        time: Seconds, mostly since the Unix epoch.
        link_type: What stands before the IP header.
        data: The packet, perhaps cut short by the capture.
    """

    time: float
    link_type: int
    data: bytes


def read_packets(capture: bytes) -> Iterator[Packet]:
    """Return the packets of a capture file; one that is cut off ends early.

    Raises:
        RemoteProtocolError: It is neither pcap nor pcapng.
    """
    if capture[:4] in _CLASSIC:
        return _read_classic(capture)
    if capture[:4] == _SECTION:
        return _read_next_generation(capture)
    raise RemoteProtocolError("neither a pcap nor a pcapng file")


def _read_classic(capture: bytes) -> Iterator[Packet]:
    order, tick = _CLASSIC[capture[:4]]

    def number(offset: int) -> int:
        return int.from_bytes(capture[offset : offset + 4], order)  # type: ignore[arg-type]

    link_type = number(20) & 0xFFFF  # the upper half says how long a checksum follows
    offset = 24
    while offset + 16 <= len(capture):
        size = number(offset + 8)
        time = number(offset) + number(offset + 4) * tick
        yield Packet(time, link_type, capture[offset + 16 : offset + 16 + size])
        offset += 16 + size


def _read_next_generation(capture: bytes) -> Iterator[Packet]:
    order = "little"
    interfaces: list[tuple[int, float]] = []
    offset = 0

    def number(at: int, size: int = 4) -> int:
        return int.from_bytes(capture[at : at + size], order)  # type: ignore[arg-type]

    while offset + 12 <= len(capture):
        if capture[offset : offset + 4] == _SECTION:
            order = "little" if capture[offset + 8 : offset + 10] == b"\x4d\x3c" else "big"
            interfaces = []
        kind, size = number(offset), number(offset + 4)
        if size < 12:
            return
        body, end = offset + 8, min(offset + size - 4, len(capture))
        if kind == _INTERFACE:
            interfaces.append((number(body, 2), _resolution(capture[body + 8 : end], order)))
        elif kind == _ENHANCED_PACKET and number(body) < len(interfaces):
            link_type, tick = interfaces[number(body)]
            time = (number(body + 4) << 32 | number(body + 8)) * tick
            data = capture[body + 20 : min(end, body + 20 + number(body + 12))]
            yield Packet(time, link_type, data)
        elif kind == _SIMPLE_PACKET and interfaces:
            data = capture[body + 4 : min(end, body + 4 + number(body))]
            yield Packet(0.0, interfaces[0][0], data)
        offset += size


def _resolution(options: bytes, order: str) -> float:
    """Return the seconds of a tick, from an interface's options."""
    offset = 0
    while offset + 4 <= len(options):
        code = int.from_bytes(options[offset : offset + 2], order)  # type: ignore[arg-type]
        size = int.from_bytes(options[offset + 2 : offset + 4], order)  # type: ignore[arg-type]
        if code == _TIME_RESOLUTION and size >= 1 and offset + 4 < len(options):
            value = options[offset + 4]
            return float(2.0 ** -(value & 0x7F) if value & 0x80 else 10.0**-value)
        if code == 0:
            break
        offset += 4 + (size + 3) // 4 * 4
    return 1e-6


@attrs.define(slots=True)
class _Direction:
    expected: int | None = None
    early: list[tuple[int, bytes]] = attrs.field(factory=list)


class _Known(NamedTuple):
    flow: Flow
    client: bytes
    directions: tuple[_Direction, _Direction]


class Assembler:
    """Puts packets together into flows.

    Retransmitted bytes are dropped, and segments that overtook one another put in order.

    Args:
        port: The server's; other connections are passed over.  Without it the server is who
            answers a SYN, or else who has the lower port.

    Attributes:
        flows: In the order of their first packets.
    """

    def __init__(self, port: int | None = None) -> None:
        self._port = port
        self._known: dict[tuple[bytes, bytes], _Known] = {}
        self.flows: list[Flow] = []

    def add(self, packet: Packet) -> None:
        """Take one packet; anything that is no TCP over IP is ignored."""
        found = _tcp(packet)
        if found is None:
            return
        source, destination, segment = found
        source_port, destination_port = segment[:2], segment[2:4]
        ports = [int.from_bytes(port, "big") for port in (source_port, destination_port)]
        if self._port is not None and self._port not in ports:
            return
        sender, receiver = source + source_port, destination + destination_port
        flags = segment[13]
        known = self._find(sender, receiver, flags, ports)
        if known is None:
            return
        self._take(known, sender == known.client, flags, segment, packet.time)

    def _find(self, sender: bytes, receiver: bytes, flags: int, ports: list[int]) -> _Known | None:
        key = (min(sender, receiver), max(sender, receiver))
        known = self._known.get(key)
        opening = flags & (_SYN | _ACK) == _SYN
        if known is not None and not (opening and known.flow.segments):
            return known
        if len(self.flows) >= MAX_FLOWS:
            return known
        if opening:
            up = True
        elif flags & _SYN:
            up = False
        elif self._port is not None:
            up = ports[1] == self._port
        else:
            up = ports[0] >= ports[1]
        client, server = (sender, receiver) if up else (receiver, sender)
        flow = Flow(client=client.hex(), server=server.hex())
        known = self._known[key] = _Known(flow, client, (_Direction(), _Direction()))
        self.flows.append(flow)
        return known

    def _take(self, known: _Known, up: bool, flags: int, segment: bytes, time: float) -> None:
        flow = known.flow
        direction = known.directions[up]
        sequence = int.from_bytes(segment[4:8], "big")
        if flow.began is None:
            flow.began = time
        if flags & _SYN:
            direction.expected = (sequence + 1) & 0xFFFFFFFF
            if flags & _ACK and flow.round_trip is None:
                flow.round_trip = time - flow.began
            return
        if flags & (_FIN | _RST):
            flow.ended = time
        payload = segment[(segment[12] >> 4) * 4 :]
        if not payload:
            return
        if direction.expected is None:
            direction.expected = sequence
        direction.early.append((sequence, payload))
        self._deliver(flow, direction, up, time)
        if len(direction.early) > MAX_EARLY:
            direction.expected = direction.early[0][0]
            self._deliver(flow, direction, up, time)

    def _deliver(self, flow: Flow, direction: _Direction, up: bool, time: float) -> None:
        """Move what continues the stream into the flow."""
        waiting = direction.early
        progress = True
        while progress:
            progress = False
            for position, (sequence, payload) in enumerate(waiting):
                assert direction.expected is not None
                old = (direction.expected - sequence) & 0xFFFFFFFF
                if old >= 1 << 31:
                    continue  # still ahead
                del waiting[position]
                if old < len(payload):
                    flow.segments.append(Segment(time, up, payload[old:]))
                    direction.expected = (sequence + len(payload)) & 0xFFFFFFFF
                progress = True
                break


def _tcp(packet: Packet) -> tuple[bytes, bytes, bytes] | None:
    """Return source, destination and the TCP segment of a packet, None without any."""
    data = packet.data
    if packet.link_type == ETHERNET:
        offset = 14
        while data[offset - 2 : offset] in _VLAN:
            offset += 4
    elif packet.link_type in _SKIPPED:
        offset = _SKIPPED[packet.link_type]
    else:
        return None
    if len(data) < offset + 20:
        return None
    version = data[offset] >> 4
    if version == 4:
        head = (data[offset] & 15) * 4
        total = int.from_bytes(data[offset + 2 : offset + 4], "big")
        fragment = int.from_bytes(data[offset + 6 : offset + 8], "big") & 0x3FFF
        # A total of 0 stands for more than 65535 bytes, as segmentation offload leaves it.
        segment = data[offset + head : offset + total if total else None]
        if data[offset + 9] != _TCP or fragment:
            return None
        source, destination = data[offset + 12 : offset + 16], data[offset + 16 : offset + 20]
    elif version == 6 and len(data) >= offset + 40:
        total = int.from_bytes(data[offset + 4 : offset + 6], "big")
        segment = data[offset + 40 : offset + 40 + total if total else None]
        if data[offset + 6] != _TCP:
            return None
        source, destination = data[offset + 8 : offset + 24], data[offset + 24 : offset + 40]
    else:
        return None
    return (source, destination, segment) if len(segment) >= 20 else None


def read_capture(capture: bytes, port: int | None = None) -> list[Flow]:
    """Return the TCP connections in a capture file.

    Args:
        capture: The file's content.
        port: The server's; all connections without it.

    Raises:
        RemoteProtocolError: It is neither pcap nor pcapng.
    """
    assembler = Assembler(port)
    for packet in read_packets(capture):
        assembler.add(packet)
    return assembler.flows
