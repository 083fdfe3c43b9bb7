"""Padding and delays on a link: what leaves, in which order, and what the peer makes of it."""

from __future__ import annotations

import pytest
from support.pipes import join
from support.runtime import fake_runtime
from support.shaper import Link, data
from support.tunnel import CLIENT_KEY, SERVER_KEY, Joined, LengthPrefixed
from twisted.internet.task import Clock

from phantom.core.shaping import DELAYS, Padding, Scheme, Timing
from phantom.core.wire import FrameType, pack_frame, parse_frames
from phantom.tunnel.frame import FrameProtocol
from phantom.tunnel.frame_receiver import DeadEnd
from phantom.tunnel.shaper import Shaper, Shaping


def shaped(
    padding: Padding = Padding.NONE, timing: Timing = Timing.OFF
) -> tuple[Clock, Link, Shaper]:
    clock = Clock()
    link = Link()
    shaping = Shaping(padding=padding, timing=timing, client=True)
    shaper = shaping.shaper(fake_runtime(clock, seed=5))
    shaper.link = link
    return clock, link, shaper


def kinds(record: bytes) -> list[int]:
    return [kind for kind, _, _ in parse_frames(memoryview(record))]


def test_padding_is_a_frame_of_the_same_record() -> None:
    _, link, shaper = shaped(Padding.DEFAULT)
    shaper.send([data(600)])
    [record] = link.transport.records
    assert record.startswith(data(600)) and kinds(record) == [FrameType.DATA, FrameType.PADDING]
    assert Scheme().low <= len(record) <= Scheme().high


def test_only_the_last_of_several_records_is_padded() -> None:
    _, link, shaper = shaped(Padding.BLOCK)
    shaper.send([memoryview(data(100)), memoryview(data(100))])
    assert [len(record) % 256 for record in link.transport.records] == [106, 0]


def test_a_slow_link_is_not_filled_up() -> None:
    _, link, shaper = shaped(Padding.DEFAULT)
    link.record_limit = 1024
    shaper.send([data(600)])
    assert link.transport.records == [data(600)]


def test_bulk_goes_past() -> None:
    for padding in Padding:
        assert shaped(padding)[2].below <= 16 * 1024
    assert shaped(Padding.NONE)[2].below == 0


@pytest.mark.parametrize("timing", [Timing.DEFAULT, Timing.AGGRESSIVE])
def test_small_records_wait_and_leave_in_order(timing: Timing) -> None:
    clock, link, shaper = shaped(timing=timing)
    shaper.send([data(1, b"a")])
    shaper.send([data(1, b"b")])
    assert not link.transport.records
    assert shaper.below > 65519, "or what is large would overtake"
    clock.advance(DELAYS[timing].most)
    assert b"".join(link.transport.records) == data(1, b"a") + data(1, b"b")
    assert shaper.below == DELAYS[timing].below


def test_what_is_large_takes_what_waits_with_it() -> None:
    clock, link, shaper = shaped(timing=Timing.DEFAULT)
    shaper.send([data(1)])
    shaper.send([data(20_000)])
    assert link.transport.records == [data(1), data(20_000)]
    clock.advance(1)
    assert len(link.transport.records) == 2


def test_an_acknowledgement_overtakes_and_a_window_update_does_not() -> None:
    _, link, shaper = shaped(timing=Timing.DEFAULT)
    acknowledgement = pack_frame(FrameType.ACK, 0, bytes(8))
    update = pack_frame(FrameType.WINDOW_UPDATE, 1, b"\0\0\1\0")
    shaper.send([data(1)])
    shaper.send([acknowledgement])
    assert link.transport.records == [acknowledgement]
    shaper.send([update])
    assert link.transport.records == [acknowledgement, data(1), update]


def test_little_is_held() -> None:
    _, link, shaper = shaped(timing=Timing.AGGRESSIVE)
    for _ in range(12):
        shaper.send([data(1000)])
    assert link.transport.records


def test_an_idle_link_is_covered_until_it_ends() -> None:
    clock, link, shaper = shaped(timing=Timing.DEFAULT)
    clock.pump([1.0] * 20)
    assert not link.transport.records, "nothing before this side has said anything"
    shaper.send([data(1)])
    clock.pump([0.1] * 1200)
    cover = link.transport.records[1:]
    assert 10 < len(cover) < 60
    assert all(kinds(record) == [FrameType.PADDING] for record in cover)
    assert len({len(record) for record in cover}) > len(cover) // 2
    shaper.stop()
    assert not clock.getDelayedCalls()


def test_a_busy_or_full_link_is_not_covered() -> None:
    clock, link, shaper = shaped(timing=Timing.AGGRESSIVE)
    shaper.send([pack_frame(FrameType.ACK, 0, bytes(8))])
    link.congested = True
    clock.pump([0.1] * 100)
    link.congested = False
    for _ in range(100):
        link.records += 1
        clock.advance(0.1)
    assert len(link.transport.records) == 1


@pytest.mark.parametrize("padding", Padding)
@pytest.mark.parametrize("timing", Timing)
@pytest.mark.parametrize("naked", [False, True])
def test_a_session_does_not_notice(padding: Padding, timing: Timing, naked: bool) -> None:
    """Everything arrives whole and in order, and the end comes after it."""
    joined = Joined()
    shaping = [
        Shaping(padding=padding, timing=timing, client=side, bare=naked) for side in (True, False)
    ]

    class Starter(DeadEnd):
        def link_made(self, link: FrameProtocol) -> None:
            joined.session.resume(link, joined.resumed.append)

    up, down = (one.shaper(joined.runtime) for one in shaping)
    client = FrameProtocol(joined.runtime, Starter(), 0, up)
    server = FrameProtocol(joined.runtime, joined.registry.receive(), 0, down)
    join(joined.clock, LengthPrefixed(client, SERVER_KEY), LengthPrefixed(server, CLIENT_KEY))
    joined.run(1)
    stream, answered = joined.open()
    joined.run(1)
    said = b""
    for size in (1, 30, 700, 5000, 70_000, 3):
        said += bytes([size % 251]) * size
        stream.write(said[-size:])
        joined.run(0.01)
        joined.server_protocols[1].transport.write(said[-size:])
        joined.run(0.01)
    joined.run(1)
    stream.write(b"last")
    stream.loseConnection()
    joined.run(1)
    assert joined.server_protocols[1].data == said + b"last"
    assert joined.server_protocols[1].lost is not None
    assert answered.data == said
    assert joined.resumed, "it was this link that did it"


def test_what_is_held_leaves_before_the_link_does() -> None:
    joined = Joined()
    heard: list[int] = []

    class Listener(DeadEnd):
        def frame_received(self, link: object, kind: int, sid: int, payload: memoryview) -> None:
            heard.append(kind)

    shaper = Shaping(padding=Padding.NONE, timing=Timing.AGGRESSIVE, client=True).shaper(
        joined.runtime
    )
    client = FrameProtocol(joined.runtime, DeadEnd(), 0, shaper)
    server = FrameProtocol(joined.runtime, Listener(), 0)
    join(joined.clock, LengthPrefixed(client, SERVER_KEY), LengthPrefixed(server, CLIENT_KEY))
    client.send_record(data(5))
    client.lose()
    joined.run(0)
    assert heard == [FrameType.DATA]
