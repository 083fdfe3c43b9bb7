"""Small packets: which bursts of a client are cut into them, and from when on they leave whole."""

from __future__ import annotations

import pytest
from support.runtime import fake_runtime
from support.shaper import Link, cut, data, type_until
from twisted.internet.task import Clock

from phantom.core.shaping import (
    CUT_BURST,
    CUT_PAUSE,
    LEAST_PACKETS,
    OPENING_PACKETS,
    PACED,
    PACKET,
    WATCHED_PACKETS,
    Padding,
    Scheme,
    Timing,
)
from phantom.core.wire import FrameType, pack_frame
from phantom.crypto.records import OVERHEAD
from phantom.tunnel.shaper import Shaping


@pytest.mark.parametrize("bare", [True, False])
@pytest.mark.parametrize("size", [1, 100, 600, 1800, 3300])
@pytest.mark.parametrize("affordable", [True, False])
def test_no_burst_of_a_client_is_one_that_begins_a_handshake(
    bare: bool, size: int, affordable: bool
) -> None:
    """nDPI's rule: at most three packets, and fewer bytes than a filled one has."""
    for seed in range(20):
        clock = Clock()
        link = Link()
        scheme = Scheme() if affordable else Scheme(allowance=0, share=0)
        shaping = Shaping(
            padding=Padding.DEFAULT,
            timing=Timing.OFF,
            client=True,
            bare=bare,
            scheme=lambda scheme=scheme: scheme,
        )
        shaper = shaping.shaper(fake_runtime(clock, seed=seed))
        shaper.link = link
        for records in ([data(size)], [memoryview(data(50)), memoryview(data(size))]):
            link.transport.packets.clear()
            link.transport.received += 1
            shaper.send(records)
            packets = link.transport.packets
            assert min(packets) > 0
            assert len(packets) >= LEAST_PACKETS or sum(packets) >= scheme.low
            assert not bare or max(packets) <= PACKET


@pytest.mark.parametrize("upload", [False, True])
def test_a_ping_is_a_small_packet_of_its_own_on_bare_tcp(upload: bool) -> None:
    _, link, shaper = cut(bare=True)
    if upload:
        for _ in range(1 + CUT_BURST // 60_000):
            shaper.send([data(60_000)])  # the last of them leaves whole
        assert not shaper.apart
    sent = link.transport.packets
    sent.clear()
    ping = pack_frame(FrameType.PING, 0, bytes(100))
    shaper.send_aside(ping)
    assert (sent, link.transport.apart[-1:]) == ([len(ping) + OVERHEAD], [True])
    sent.clear()
    shaper.send_aside(pack_frame(FrameType.PADDING, 0, bytes(1000)))
    assert sum(sent) > 1000
    assert max(sent) <= PACKET


def test_a_ping_inside_tls_is_a_record_like_others() -> None:
    _, link, shaper = cut(bare=False)
    shaper.send_aside(pack_frame(FrameType.PING, 0, bytes(100)))
    assert link.transport.apart == [False]


def test_the_pieces_of_a_record_differ() -> None:
    _, link, shaper = cut(bare=False)
    for _ in range(20):
        link.transport.received += 1
        shaper.send([data(700)])
    assert len(set(link.transport.packets)) > 15


def test_a_large_upload_is_soon_not_cut_and_what_is_said_later_is() -> None:
    clock, link, shaper = cut(bare=True)
    while shaper.below > 4096:
        shaper.send([data(4000)])
    assert CUT_BURST - 4100 <= sum(link.transport.packets[:-1]) <= CUT_BURST
    clock.advance(5)
    link.transport.packets.clear()
    shaper.send([data(10)])
    assert len(link.transport.packets) >= LEAST_PACKETS
    shaper.send([data(4000)])
    assert max(link.transport.packets) <= PACKET
    assert shaper.below > 65519


@pytest.mark.parametrize("bare", [True, False])
def test_a_keystroke_leaves_whole_once_nobody_looks_any_more(bare: bool) -> None:
    clock, link, shaper = cut(bare=bare)
    type_until(WATCHED_PACKETS, link, shaper, clock)
    for size in (1, 64, 200):
        link.transport.received += 98
        if size < shaper.below:  # as the frame layer does
            shaper.send([data(size)])
        else:
            link.transport.write(data(size))
    assert len(link.transport.packets) == 3
    assert [len(record) for record in link.transport.records[-3:]] == [7, 70, 206], "no padding"
    if bare:
        shaper.send([data(1400)])
        assert max(link.transport.packets) <= PACKET
    else:
        assert not shaper.below


@pytest.mark.parametrize("bare", [True, False])
def test_a_stream_that_opens_has_the_next_bursts_cut_again(bare: bool) -> None:
    clock, link, shaper = cut(bare=bare)
    type_until(WATCHED_PACKETS, link, shaper, clock)
    for _ in range(3):
        shaper.stream_opened()
        assert shaper.below > Scheme().least
        type_until(OPENING_PACKETS, link, shaper, clock)
        link.transport.write(data(1))
        assert len(link.transport.packets) == 1
        assert shaper.below in (0, 65520)


@pytest.mark.parametrize("rate", [50_000, 5_000_000])
@pytest.mark.parametrize("watched", [True, False])
def test_an_upload_is_cut_at_its_beginning_only(rate: int, watched: bool) -> None:
    """A window of so many packets carries four times as much when they are whole."""
    clock, link, shaper = cut(bare=True)
    if not watched:
        type_until(WATCHED_PACKETS, link, shaper, clock)
        clock.advance(60)
    sent = apart = 0
    while sent < 60 * rate:
        record = data(PACED - 6 if shaper.apart else 60_000)
        if len(record) < shaper.below:
            before = len(link.transport.packets)
            shaper.send([record])
            if len(link.transport.packets) > before + 1:
                apart += len(record)
        else:
            link.transport.write(record)
        sent += len(record)
        clock.advance(len(record) / rate)
    assert 2 / 3 * CUT_BURST <= apart <= CUT_BURST
    clock.pump([0.5] * 20)
    assert shaper.apart, "after a rest"


def test_every_stream_of_a_page_has_its_bursts_cut() -> None:
    """Each of thirty that open at once may hold a handshake of two bursts."""
    for bare in (True, False):
        clock, link, shaper = cut(bare=bare)
        type_until(WATCHED_PACKETS, link, shaper, clock)
        for _ in range(30):
            shaper.stream_opened()
            shaper.send([pack_frame(FrameType.STREAM_OPEN, 1, bytes(40))])
        clock.advance(2)
        for size in (517, 80):
            for _ in range(30):
                link.transport.packets.clear()
                link.transport.received += 3000
                shaper.send([data(size)])
                assert len(link.transport.packets) >= LEAST_PACKETS
                clock.advance(0.05)


@pytest.mark.parametrize("bare", [True, False])
def test_pages_beside_chatter_are_cut_for_ever(bare: bool) -> None:
    """A little is said all the time, so no time is quiet; but each page opens streams."""
    clock, link, shaper = cut(bare=bare)
    for _ in range(40):
        for _ in range(10):
            shaper.stream_opened()
            for size in (60, 1800, 120, 900, 700):
                link.transport.packets.clear()
                link.transport.received += 3000
                shaper.send([data(size)])
                packets = link.transport.packets
                filled = not bare and sum(packets) >= Scheme().low
                assert len(packets) >= LEAST_PACKETS or filled
                clock.advance(0.02)
        for _ in range(7):
            link.transport.received += 100
            shaper.send([data(60)])
            clock.advance(0.8)


def test_a_pause_ends_by_itself() -> None:
    """Not only when something small leaves: what is said first after it may be long."""
    for watched in (True, False):
        clock, link, shaper = cut(bare=True)
        if not watched:
            type_until(WATCHED_PACKETS, link, shaper, clock)
        while shaper.apart:
            shaper.send([data(2000)])
        clock.advance(CUT_PAUSE[0] - 0.1)
        assert not shaper.apart and shaper.below <= Scheme().low
        clock.advance(CUT_PAUSE[1] - CUT_PAUSE[0] + 0.2)
        assert shaper.apart and shaper.below > 65519
        link.transport.packets.clear()
        shaper.send([data(10_000)])
        assert max(link.transport.packets) <= PACKET


def test_what_opens_early_ends_nothing_earlier() -> None:
    clock, link, shaper = cut(bare=True)
    shaper.stream_opened()
    type_until(WATCHED_PACKETS - LEAST_PACKETS, link, shaper, clock)


def test_only_clients_cut() -> None:
    for bare in (True, False):
        shaping = Shaping(padding=Padding.DEFAULT, timing=Timing.OFF, client=False, bare=bare)
        shaper = shaping.shaper(fake_runtime(Clock()))
        shaper.link = Link()
        shaper.send([data(600)])
        assert len(shaper.link.transport.packets) == 1
