"""A client that mostly listens: which acknowledgements are cut or padded, and what it says then."""

from __future__ import annotations

import pytest
from support.shaper import cut, data, type_until

from phantom.core.shaping import LEAST_PACKETS, SILENT_ACKS, WATCHED_PACKETS, Scheme
from phantom.core.wire import FrameType, pack_frame
from phantom.crypto.records import OVERHEAD


def test_what_is_only_acknowledged_ends_nothing() -> None:
    clock, link, shaper = cut(bare=True)
    for _ in range(2 * WATCHED_PACKETS):
        link.transport.received += 100
        shaper.send([pack_frame(FrameType.ACK, 0, bytes(8))])
        clock.advance(0.02)
    type_until(WATCHED_PACKETS - LEAST_PACKETS, link, shaper, clock)


@pytest.mark.parametrize("bare", [True, False])
def test_who_only_listens_acknowledges_in_whole_packets(bare: bool) -> None:
    clock, link, shaper = cut(bare=bare)
    acknowledgement = pack_frame(FrameType.ACK, 0, bytes(8))
    for _ in range(2):
        for number in range(3 * SILENT_ACKS):
            link.transport.packets.clear()
            link.transport.received += 5000
            shaper.send([acknowledgement])
            whole = number >= SILENT_ACKS
            assert (len(link.transport.packets) == 1) == whole, number
            clock.advance(0.02)
        assert link.transport.packets == [len(acknowledgement) + OVERHEAD], "nor padded"
        shaper.send([data(10)])  # which has what follows it cut again


@pytest.mark.parametrize("kind", [FrameType.STREAM_OPEN, FrameType.DATA])
def test_what_is_said_behind_a_window_update_is_said(kind: FrameType) -> None:
    """Frames of one turn share a record."""
    _, link, shaper = cut(bare=False)
    for _ in range(2 * SILENT_ACKS):
        link.transport.received += 5000
        shaper.send([pack_frame(FrameType.WINDOW_UPDATE, 1, bytes(4))])
    assert len(link.transport.records[-1]) == 10
    link.transport.packets.clear()
    shaper.send([pack_frame(FrameType.WINDOW_UPDATE, 1, bytes(4)) + pack_frame(kind, 3, bytes(60))])
    assert len(link.transport.packets) >= LEAST_PACKETS


def test_a_download_is_acknowledged_whole() -> None:
    clock, link, shaper = cut(bare=False)
    for _ in range(5000):
        link.transport.received += 256 * 1024
        shaper.send([pack_frame(FrameType.ACK, 0, bytes(8))])
        clock.advance(0.0005)
    assert len(link.transport.packets) < 1.6 * 5000
    bare = len(pack_frame(FrameType.ACK, 0, bytes(8))) + OVERHEAD
    assert link.transport.packets.count(bare) > 0.8 * 5000, "most are neither cut nor padded"
    shaper.stream_opened()
    shaper.send([data(600)])  # what somebody says meanwhile is
    assert len(link.transport.records[-1]) >= Scheme().low


def test_what_is_said_beside_a_download_is_padded() -> None:
    clock, link, shaper = cut(bare=False)
    while not shaper._pause:  # the pause in which all leaves whole
        link.transport.received += 10
        shaper.send([data(3000)])
    clock.advance(0.1)
    link.transport.received += 256 * 1024
    shaper.send([data(640)])
    assert len(link.transport.records[-1]) >= Scheme().low
    link.transport.received += 256 * 1024
    shaper.send([pack_frame(FrameType.ACK, 0, bytes(8))])
    assert len(link.transport.records[-1]) == 14
    clock.advance(3600)
    link.transport.received += 256 * 1024
    shaper.send([pack_frame(FrameType.ACK, 0, bytes(8))])
    assert len(link.transport.records[-1]) >= Scheme().tiny_low


def test_an_acknowledgement_on_a_page_is_padded() -> None:
    _, link, shaper = cut(bare=False)
    for _ in range(40):
        link.transport.received += 256 * 1024
        shaper.send([pack_frame(FrameType.ACK, 0, bytes(8))])
    assert len(link.transport.packets) >= 40 * LEAST_PACKETS
    assert sum(link.transport.packets) >= 40 * Scheme().tiny_low
