"""Bulk moves to a second link where packets are lost, and nothing is lost by that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.pipes import Pipe
from support.stack import Stack
from support.tunnel import SOMEWHERE, Recorder
from twisted.internet.error import ConnectionLost

from phantom.address import Destination
from phantom.core.freezes import ENOUGH
from phantom.core.shaping import Padding, Timing
from phantom.core.wire import GoawayReason
from phantom.tunnel.attempt import LEAVE_AFTER
from phantom.tunnel.bulk_link import LOOK, PATIENCE, STILL
from phantom.tunnel.lane import BulkLane
from phantom.tunnel.session import Session
from phantom.tunnel.shaper import Shaping

MIB = 1024 * 1024
SOMEWHERE_ELSE = Destination("bulk.example", 443)


def numbered(size: int) -> bytes:
    return b"".join(i.to_bytes(4, "big") for i in range(size // 4))


class Typist(Recorder):
    """Sends a keystroke when the last one has come back, but not more than ten a second."""

    def __init__(self, stack: Stack) -> None:
        super().__init__()
        self.stack = stack
        self.typed = 0
        self.answered = 0
        self.on_data = self.echoed
        self.stopped = False

    def makeConnection(self, transport: Any) -> None:
        super().makeConnection(transport)
        self.type()

    def echoed(self, data: bytes) -> None:
        self.answered += len(data)
        self.stack.clock.callLater(0.1, self.type)

    def type(self) -> None:
        if not self.stopped and self.lost is None:
            self.typed += 1
            self.transport.write(b"k")


class Busy:
    """A tunnel on a road that loses packets, a typist upon it, and one who moves much."""

    def __init__(self, *, round_trip: float = 0.1, lossy: bool = True, **kwargs: Any) -> None:
        self.stack = Stack(delay=0.02, **kwargs)
        self.stack.round_trip, self.stack.lossy = round_trip, lossy
        self.stack.dialer.start()
        self.stack.run()
        self.typist = Typist(self.stack)
        self.bulk = Recorder()
        self.stack.outbound.connect(SOMEWHERE, self.typist)
        self.stack.outbound.connect(SOMEWHERE_ELSE, self.bulk)
        self.stack.run(0.2)
        #: What the server is connected to on behalf of each.
        self.echo, self.source = self.stack.destinations.transports

    def download(self, size: int) -> bytes:
        """Have the destination send, and not echo."""
        data = numbered(size)
        self.source.write = lambda received: None  # type: ignore[method-assign]
        for start in range(0, size, 64 * 1024):
            self.source.protocol.dataReceived(data[start : start + 64 * 1024])
        return data

    def upload(self, size: int) -> bytes:
        data = numbered(size)
        received = self.source
        received.write = lambda data: setattr(  # type: ignore[method-assign]
            received, "received", received.received + bytes(data)
        )
        self.bulk.transport.write(data)
        return data

    @property
    def server_lane(self) -> BulkLane | None:
        return next(iter(self.stack.registry._sessions.values()))[1].lanes.bulk

    @property
    def client_lane(self) -> BulkLane | None:
        mux = self.stack.dialer._mux
        return None if mux is None else mux.lanes.bulk

    @property
    def moved(self) -> bool:
        lane = self.server_lane
        return lane is not None and lane.expects

    def session(self) -> Session:
        session = self.stack.dialer._session
        assert session is not None
        return session


def test_a_download_moves_to_a_second_link() -> None:
    busy = Busy()
    data = busy.download(16 * MIB)
    busy.stack.run_until(lambda: busy.moved, 5)
    before = busy.stack.pipes[0].carried[1]
    carried = busy.stack.pipes[1].carried[1]
    busy.stack.run_until(lambda: len(busy.bulk.data) == len(data), 30)
    assert busy.bulk.data == data
    assert len(busy.stack.pipes) == 2 and len(busy.stack.registry) == 1
    # Nearly all of the rest came by the second link.
    rest = busy.stack.pipes[1].carried[1] - carried
    assert rest > 10 * MIB and busy.stack.pipes[0].carried[1] - before < MIB
    assert busy.typist.answered > 20 and busy.typist.lost is None


SHAPED = [
    None,
    *(
        Shaping(padding=Padding.DEFAULT, timing=timing, client=True, bare=True)
        for timing in (Timing.OFF, Timing.DEFAULT, Timing.AGGRESSIVE)
    ),
]


@pytest.mark.parametrize("shaping", SHAPED[1:], ids=["padded", "delayed", "delayed more"])
def test_a_download_moves_where_what_is_said_is_shaped(shaping: Shaping) -> None:
    busy = Busy(shaping=shaping)
    data = busy.download(16 * MIB)
    busy.stack.run_until(lambda: busy.moved, 5)
    busy.stack.run_until(lambda: len(busy.bulk.data) == len(data), 30)
    assert busy.bulk.data == data
    assert len(busy.stack.pipes) == 2
    assert busy.typist.answered > 20 and busy.typist.lost is None


def test_an_upload_moves_as_well() -> None:
    busy = Busy()
    data = busy.upload(16 * MIB)
    busy.stack.run_until(lambda: busy.moved, 5)
    busy.stack.run_until(lambda: len(busy.source.received) == len(data), 30)
    assert busy.source.received == data
    assert busy.stack.pipes[1].carried[0] > 10 * MIB


def test_the_end_of_a_stream_comes_after_what_it_said() -> None:
    busy = Busy()
    data = busy.download(8 * MIB)
    busy.stack.run_until(lambda: busy.moved, 5)
    busy.source.protocol.readConnectionLost()
    busy.stack.run_until(lambda: bool(busy.bulk.read_ended), 30)
    assert busy.bulk.data == data
    busy.bulk.transport.loseConnection()
    busy.stack.run()
    assert busy.bulk.clean


@pytest.mark.parametrize(
    "settings",
    [{"lossy": False}, {"round_trip": 0.002}, {"lanes": False}],
    ids=["a clean road", "a short road", "told not to"],
)
def test_there_is_one_link_otherwise(settings: dict[str, Any]) -> None:
    busy = Busy(**settings)
    data = busy.download(16 * MIB)
    busy.stack.run_until(lambda: len(busy.bulk.data) == len(data), 30)
    assert busy.bulk.data == data and len(busy.stack.pipes) == 1


def test_there_is_one_link_where_nobody_types() -> None:
    busy = Busy()
    busy.typist.stopped = True
    busy.stack.run(5)
    data = busy.download(16 * MIB)
    busy.stack.run_until(lambda: len(busy.bulk.data) == len(data), 30)
    assert len(busy.stack.pipes) == 1


def test_there_is_one_link_where_links_die_young() -> None:
    busy = Busy()
    busy.stack.dialer._renewal._freezes._count = ENOUGH
    data = busy.download(16 * MIB)
    busy.stack.run_until(lambda: len(busy.bulk.data) == len(data), 60)
    assert len(busy.stack.pipes) == 1


HURTS = ("cut", "cut", "renewed", "lost by the client", "lost by the server", "stands still")


SILENT_AT_LAST = [
    (0.475, 0, "lost by the server"),
    (0.0, 0, "cut"),
    (1.359, 0, "cut"),
    (1.104, 1, "lost by the server"),
]


@settings(max_examples=25, deadline=None)
@example(cuts=SILENT_AT_LAST, down=True, shaping=None)
@given(
    cuts=st.lists(
        st.tuples(st.floats(0.0, 1.5), st.integers(0, 1), st.sampled_from(HURTS)),
        min_size=1,
        max_size=6,
    ),
    down=st.booleans(),
    shaping=st.sampled_from(SHAPED),
)
def test_whatever_is_cut_everything_arrives_once(
    cuts: list[tuple[float, int, str]], down: bool, shaping: Shaping | None
) -> None:
    busy = Busy(shaping=shaping)
    data = busy.download(8 * MIB) if down else busy.upload(8 * MIB)
    for moment, which, how in cuts:
        busy.stack.run(moment)
        live = [pipe for pipe in busy.stack.pipes if pipe.left.connected][-2:]
        if live:
            hurt(busy, live[which % len(live)], how)

    def received() -> bytes:
        return busy.bulk.data if down else busy.source.received

    busy.stack.run_until(lambda: len(received()) >= len(data), 120)
    assert received() == data
    assert busy.typist.lost is None
    # Of a link that only the server has lost, and that carries words alone, the client learns when
    # it has been asked in vain.
    answered = busy.typist.answered
    busy.stack.run_until(lambda: busy.typist.answered > answered, 30)
    assert len(busy.stack.registry) == 1


def hurt(busy: Busy, pipe: Pipe, how: str) -> None:
    if how == "cut":
        pipe.cut()
    elif how == "renewed":
        busy.stack.dialer._renewal.now()
    else:
        pipe.stall()
    if how == "lost by the client":
        pipe.left.lose(ConnectionLost())
    elif how == "lost by the server":
        pipe.right.lose(ConnectionLost())
    elif how == "stands still":
        busy.stack.clock.callLater(2, pipe.unstall)


def test_it_is_closed_when_nothing_needs_it_and_made_again_when_something_does() -> None:
    busy = Busy()
    busy.download(4 * MIB)
    busy.stack.run_until(lambda: busy.moved, 5)
    busy.source.protocol.readConnectionLost()
    busy.stack.run_until(lambda: bool(busy.bulk.read_ended), 30)
    busy.bulk.transport.loseConnection()
    busy.stack.run((STILL + 2) * LOOK)
    assert busy.stack.pipes[0].left.connected and not busy.stack.pipes[1].left.connected
    assert len(busy.stack.pipes) == 2 and busy.typist.lost is None
    # The next one: the same lane goes on, by another link.
    again = Recorder()
    busy.stack.outbound.connect(SOMEWHERE_ELSE, again)
    busy.stack.run(0.2)
    busy.source = busy.stack.destinations.transports[-1]
    data = busy.download(16 * MIB)
    busy.stack.run_until(lambda: len(again.data) == len(data), 30)
    assert again.data == data
    assert len(busy.stack.pipes) == 3 and busy.stack.pipes[2].carried[1] > 8 * MIB


def test_a_server_that_takes_no_second_link_keeps_the_first() -> None:
    busy = Busy()
    busy.stack.registry._max_links = 1
    data = busy.download(16 * MIB)
    busy.stack.run_until(lambda: len(busy.bulk.data) == len(data), 30)
    busy.stack.run(PATIENCE)
    assert busy.bulk.data == data and busy.typist.lost is None
    assert len(busy.stack.pipes) == 2
    assert busy.stack.meters.counts["session.refused.limit"] == 1
    # It may have room later.
    busy.stack.registry._max_links = 2
    more = busy.download(16 * MIB)
    busy.stack.run_until(lambda: len(busy.bulk.data) == len(data) + len(more), 30)
    assert busy.stack.pipes[2].carried[1] > 8 * MIB


def test_a_network_that_allows_one_connection_is_not_stormed() -> None:
    busy = Busy()
    busy.stack.refuse = True
    data = busy.download(24 * MIB)
    busy.stack.run_until(lambda: len(busy.bulk.data) == len(data), 60)
    assert len(busy.stack.attempts) == 2


def test_without_a_second_link_for_too_long_what_used_it_ends() -> None:
    busy = Busy()
    busy.download(32 * MIB)
    busy.stack.run_until(lambda: busy.moved, 5)
    busy.stack.run(1)
    busy.stack.refuse = True
    busy.stack.pipes[1].cut()
    busy.stack.run(290)
    assert busy.bulk.lost is None
    busy.stack.run(30)
    assert busy.bulk.lost is not None and not busy.bulk.clean
    assert busy.source.aborted
    assert busy.typist.lost is None and len(busy.stack.registry) == 1
    answered = busy.typist.answered
    busy.stack.run(5)
    assert busy.typist.answered > answered
    assert busy.server_lane is not None and busy.server_lane.session is None


def test_both_links_end_with_the_client() -> None:
    busy = Busy()
    data = busy.download(2 * MIB)
    busy.stack.run_until(lambda: busy.moved, 5)
    stopped = busy.stack.dialer.stop()
    busy.stack.run(5)
    assert stopped.called and not len(busy.stack.registry)
    assert not any(pipe.left.connected for pipe in busy.stack.pipes)
    assert data.startswith(busy.bulk.data)
    assert not busy.stack.clock.getDelayedCalls()


def test_a_client_that_stops_waits_for_what_is_on_its_way_by_the_second_link() -> None:
    busy = Busy()
    data = busy.upload(8 * MIB)
    busy.stack.run_until(lambda: busy.moved, 5)
    busy.stack.run_until(lambda: len(busy.source.received) > 7 * MIB, 5)
    assert len(busy.source.received) < len(data)
    busy.bulk.transport.loseConnection()
    busy.typist.stopped = True
    busy.typist.transport.loseConnection()
    busy.stack.dialer.stop()
    busy.stack.run(5)
    assert busy.source.received == data


def test_a_restarted_server_ends_both_lanes() -> None:
    busy = Busy()
    busy.download(8 * MIB)
    busy.stack.run_until(lambda: busy.moved, 5)
    busy.stack.restart_server()
    busy.stack.run(LEAVE_AFTER[1] + 10)
    assert busy.bulk.lost is not None and busy.typist.lost is not None
    assert len(busy.stack.registry) == 1
    assert sum(pipe.left.connected for pipe in busy.stack.pipes) == 1


def second_download(busy: Busy) -> bytes:
    """Have a second download begin on the lane, whose link has been idle, and not come through."""
    busy.download(4 * MIB)
    busy.stack.run_until(lambda: busy.moved, 5)
    busy.source.protocol.readConnectionLost()
    busy.stack.run_until(lambda: bool(busy.bulk.read_ended), 30)
    busy.bulk.transport.loseConnection()
    busy.stack.run(8)  # no wish is recent
    busy.bulk = Recorder()
    busy.stack.outbound.connect(SOMEWHERE_ELSE, busy.bulk)
    busy.stack.run(0.2)
    busy.source = busy.stack.destinations.transports[-1]
    return busy.download(24 * MIB)


def sent_by_the_lane(busy: Busy) -> int:
    lane = busy.server_lane
    return 0 if lane is None or lane.session is None else lane.session._log.sent


def step_until(busy: Busy, condition: Callable[[], bool]) -> None:
    """As `Stack.run_until`, to the millisecond."""
    end = busy.stack.clock.seconds() + 20
    while not condition():
        assert busy.stack.clock.seconds() < end, "it never happened"
        busy.stack.run(0.001)


def arrives(busy: Busy, data: bytes, seconds: float = 60) -> None:
    busy.stack.run_until(lambda: len(busy.bulk.data) >= len(data), seconds)
    assert busy.bulk.data == data and busy.typist.lost is None


def test_the_link_is_lost_before_anything_has_come_by_it() -> None:
    """The client does not know that the server has something in it."""
    busy = Busy()
    data = busy.download(16 * MIB)
    step_until(busy, lambda: sent_by_the_lane(busy) > 0)
    busy.stack.pipes[1].cut()
    arrives(busy, data)


def test_the_server_loses_the_link_first() -> None:
    """Its wish comes while the client still takes the link for alive."""
    busy = Busy()
    data = second_download(busy)
    sent = sent_by_the_lane(busy)
    step_until(busy, lambda: sent_by_the_lane(busy) > sent)
    pipe = busy.stack.pipes[1]
    pipe.stall()
    pipe.right.lose(ConnectionLost())
    arrives(busy, data)


def test_a_second_link_on_which_nothing_comes_back_takes_nothing_from_the_first() -> None:
    busy = Busy()
    data = busy.download(24 * MIB)
    step_until(busy, lambda: busy.server_lane is not None and busy.server_lane.open)
    busy.stack.pipes[1].stall()
    arrives(busy, data)
    busy.stack.run(400)
    assert busy.bulk.lost is None and len(busy.stack.registry) == 1
    assert len(busy.stack.pipes) < 5


@pytest.mark.parametrize("why", ["draining", "lean"])
def test_a_lane_that_is_there_is_looked_after_where_none_would_be_made(why: str) -> None:
    busy = Busy()
    data = second_download(busy)
    if why == "draining":
        busy.stack.dialer._retire(GoawayReason.IDS_EXHAUSTED, 3600)
        busy.stack.dialer._dial()
    else:
        busy.stack.dialer._renewal._freezes._count = ENOUGH
    sent = sent_by_the_lane(busy)
    lane = busy.server_lane
    step_until(busy, lambda: lane is not None and sent_by_the_lane(busy) > sent)
    busy.stack.pipes[1].cut()
    arrives(busy, data)


def test_a_client_that_stops_leaves_nothing_behind() -> None:
    busy = Busy()
    busy.download(32 * MIB)
    busy.stack.run_until(lambda: busy.moved, 5)
    busy.stack.run(0.6)
    stopped = busy.stack.dialer.stop()
    busy.stack.run(10)
    assert stopped.called and not len(busy.stack.registry) and not busy.stack.registry._detached


def test_after_an_outage_bulk_is_back_with_everything_else() -> None:
    busy = Busy()
    busy.download(24 * MIB)
    busy.stack.run_until(lambda: busy.moved, 5)
    busy.stack.run(0.6)
    busy.stack.refuse = True
    for pipe in busy.stack.pipes:
        pipe.cut()
    busy.stack.run(60)
    busy.stack.refuse = False
    busy.stack.run_until(lambda: busy.session().link is not None, 60)
    lane = busy.client_lane
    busy.stack.run_until(
        lambda: lane is not None and lane.session is not None and lane.session.link is not None, 1
    )


def test_a_stream_that_is_idle_keeps_no_second_link() -> None:
    busy = Busy()
    data = busy.download(4 * MIB)
    arrives(busy, data)
    busy.stack.run((STILL + 2) * LOOK)
    assert not busy.stack.pipes[1].left.connected
    # It goes on by the first link, and as bulk by a second one again.
    more = busy.download(16 * MIB)
    busy.stack.run_until(lambda: len(busy.bulk.data) == len(data) + len(more), 30)
    assert busy.bulk.data == data + more and busy.stack.pipes[2].carried[1] > 8 * MIB


def test_the_second_link_is_replaced_when_it_is_old() -> None:
    busy = Busy(link_max_age=15.0)
    data = busy.download(8 * MIB)
    busy.stack.run_until(lambda: busy.moved, 5)
    for _ in range(60):
        busy.stack.run(1)
        busy.source.protocol.dataReceived(b"more")
        data += b"more"
    arrives(busy, data)
    # Each of both was replaced, twice at least.
    assert len(busy.stack.pipes) >= 6
    # One that was replaced just now is read on for a moment.
    busy.stack.run_until(lambda: sum(pipe.left.connected for pipe in busy.stack.pipes) == 2, 5)
    assert "session.ended" not in busy.stack.meters.counts
