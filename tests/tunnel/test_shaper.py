"""Padding and delays on a link: what leaves, in which order, and what the peer makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from support.pipes import join
from support.stack import Stack
from support.tunnel import (
    CLIENT_KEY,
    SERVER_KEY,
    SOMEWHERE,
    Joined,
    LengthPrefixed,
    Recorder,
    fake_runtime,
)
from twisted.internet.task import Clock

from phantom.core.shaping import (
    CUT_BURST,
    CUT_PAUSE,
    DELAYS,
    LEAST_PACKETS,
    OPENING_PACKETS,
    PACED,
    PACKET,
    SILENT_ACKS,
    WATCHED_PACKETS,
    Padding,
    Scheme,
    Timing,
)
from phantom.core.wire import FrameType, pack_frame, parse_frames
from phantom.crypto.records import OVERHEAD
from phantom.errors import RemoteProtocolError
from phantom.tunnel.frame import DeadEnd, FrameProtocol
from phantom.tunnel.scheme_memory import SchemeMemory
from phantom.tunnel.session_sending import PACE
from phantom.tunnel.shaper import Shaper, Shaping


class Wire:
    """A record transport that notes what it is given.

    Attributes:
        records: Plaintexts.
        packets: Bytes of what left by itself, of whole records and of their pieces.
    """

    def __init__(self) -> None:
        self.records: list[bytes] = []
        self.packets: list[int] = []
        self.received = 0
        self.total = 0  # of what went past, or was forgotten

    @property
    def sent(self) -> int:
        return self.total + sum(self.packets)

    def write(self, record: bytes | memoryview) -> None:
        self.records.append(bytes(record))
        self.packets.append(len(record) + OVERHEAD)

    def write_apart(self, record: bytes | memoryview, sizes: Sequence[int]) -> None:
        self.records.append(bytes(record))
        self.packets += [*sizes, len(record) + OVERHEAD - sum(sizes)]

    def write_records(self, records: list[memoryview]) -> None:
        self.records += map(bytes, records)
        self.packets.append(sum(len(record) + OVERHEAD for record in records))


class Link:
    record_limit = 65519
    congested = False
    records = 0
    separates = False

    def __init__(self) -> None:
        self.transport = Wire()


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


def data(size: int, fill: bytes = b"x") -> bytes:
    return pack_frame(FrameType.DATA, 1, fill * size)


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


# -- in pieces -------------------------------------------------------------------------------


def cut(*, bare: bool) -> tuple[Clock, Link, Shaper]:
    clock = Clock()
    link = Link()
    shaping = Shaping(padding=Padding.DEFAULT, timing=Timing.OFF, client=True, bare=bare)
    shaper = shaping.shaper(fake_runtime(clock, seed=6))
    shaper.link = link
    return clock, link, shaper


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


def type_until(packets: int, link: Link, shaper: Shaper, clock: Clock) -> None:
    """Say little things, each answered, until so many packets have left; all are to be cut."""
    sent = link.transport.packets
    sent.clear()
    while len(sent) < packets:
        before = len(sent)
        link.transport.received += 98
        shaper.send([data(64)])
        assert len(sent) >= before + LEAST_PACKETS
        clock.advance(0.05)
    sent.clear()


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


def test_only_clients_cut() -> None:
    for bare in (True, False):
        shaping = Shaping(padding=Padding.DEFAULT, timing=Timing.OFF, client=False, bare=bare)
        shaper = shaping.shaper(fake_runtime(Clock()))
        shaper.link = Link()
        shaper.send([data(600)])
        assert len(shaper.link.transport.packets) == 1


def test_what_is_said_on_bare_tcp_leaves_little_by_little() -> None:
    """The kernel joins what is written beyond the congestion window to large packets."""
    shaping = Shaping(padding=Padding.DEFAULT, timing=Timing.OFF, client=True, bare=True)
    stack = Stack(shaping=shaping)
    stack.dialer.start()
    stack.run()
    protocol = Recorder()
    stack.outbound.connect(SOMEWHERE, protocol)
    stack.run()
    size = 40_000
    protocol.transport.write(bytes(size))
    arrived = [stack.pipes[-1].carried[0]]
    for _ in range(200):
        stack.run(PACE / 4)
        arrived.append(stack.pipes[-1].carried[0])
    steps = [after - before for before, after in pairwise(arrived)]
    assert max(steps) <= PACED + Scheme().high
    assert sorted(steps)[-3] <= PACED + OVERHEAD
    assert len(stack.destinations.transports[0].received) == size

    protocol.transport.write(bytes(2 * CUT_BURST))
    stack.run(0.3)
    assert len(stack.destinations.transports[0].received) > size + CUT_BURST, "not for ever"
    protocol.transport.write(bytes(PACED * 3))
    assert stack.dialer.stop()
    stack.run(2)
    assert not stack.clock.getDelayedCalls() or stack.dialer.mux is None


def test_who_is_answered_does_not_wait() -> None:
    shaping = Shaping(padding=Padding.DEFAULT, timing=Timing.OFF, client=True, bare=True)
    stack = Stack(shaping=shaping, delay=PACE / 20)
    stack.dialer.start()
    stack.run()
    protocol = Recorder()
    stack.outbound.connect(SOMEWHERE, protocol)
    stack.run()
    waited = []
    for count in range(1, 50):
        began = stack.clock.seconds()
        protocol.transport.write(b"x")
        while len(protocol.data) < count:
            stack.run(PACE / 20)
        waited.append(stack.clock.seconds() - began)
    assert max(waited) < PACE / 2


@pytest.mark.parametrize("separates", [True, False])
def test_packets_that_the_kernel_keeps_apart_need_not_wait(separates: bool) -> None:
    shaping = Shaping(padding=Padding.DEFAULT, timing=Timing.OFF, client=True, bare=True)
    shaper = shaping.shaper(fake_runtime(Clock(), seed=5))
    shaper.link = link = Link()
    link.separates = separates
    shaper.send([data(40)])
    assert not shaper.crowded
    shaper.send([data(40)])
    assert shaper.crowded != separates
    link.transport.received += 1
    shaper.send([data(40)])
    assert not shaper.crowded, "somebody has answered"


# -- what a server pushes ---------------------------------------------------------------------


def test_a_pushed_scheme_is_used_from_the_next_link_on_and_after_a_start(tmp_path: Path) -> None:
    memory = SchemeMemory(tmp_path / "state", "a" * 32)
    assert memory.scheme() == Scheme()
    assert not (tmp_path / "state").exists(), "nothing to write, nothing written"
    pushed = Scheme(version=2, low=3500, high=3500)
    memory.learn(pushed.encode())
    assert memory.scheme() == pushed
    assert memory.path.stat().st_mode & 0o777 == 0o600
    assert SchemeMemory(tmp_path / "state", "a" * 32).scheme() == pushed
    assert SchemeMemory(tmp_path / "state", "b" * 32).scheme() == Scheme()


def test_an_older_scheme_changes_nothing(tmp_path: Path) -> None:
    memory = SchemeMemory(tmp_path, "a" * 32)
    memory.learn(Scheme(version=5, share=1).encode())
    memory.learn(Scheme(version=5, share=2).encode())
    memory.learn(Scheme(version=4, share=3).encode())
    assert memory.scheme().share == 1


def test_a_damaged_file_and_a_wrong_push_are_of_no_consequence(tmp_path: Path) -> None:
    memory = SchemeMemory(tmp_path, "a" * 32)
    memory.path.write_bytes(b"\xff not hex")
    assert memory.scheme() == Scheme()
    with pytest.raises(RemoteProtocolError):
        memory.learn(Scheme(version=9, share=1000).encode())
    assert memory.scheme() == Scheme()


def test_a_folder_that_cannot_be_written_costs_only_the_memory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    memory = SchemeMemory(tmp_path / "file" / "state", "a" * 32)
    memory.learn(Scheme(version=1, share=1).encode())
    assert memory.scheme().share == 1
