"""The bulk lane against peers in bad faith."""

from __future__ import annotations

import pytest
from support.rogue import ID, Rogue, rogue
from support.tunnel import SERVER_KEY, Joined
from twisted.python.failure import Failure

from phantom.core.wire import (
    Attach,
    AttachStatus,
    FrameType,
    GoawayReason,
    encode_goaway,
    encode_window_update,
    pack_frame,
)
from phantom.errors import SessionError
from phantom.tunnel.mux import ANNOUNCEMENT_BURST


def first(epoch: int = 1, session_id: bytes = ID) -> Attach:
    return Attach(session_id, epoch, 1, 0, 0, 0)


def begun(joined: Joined) -> Rogue:
    """Give the session a bulk lane."""
    lane = rogue(joined, first())
    assert lane.answer == Attach(ID, 1, 1, AttachStatus.OK, 0, 0)
    return lane


def say(joined: Joined, lane: Rogue, *frames: bytes) -> None:
    lane.link.send_record(b"".join(frames))
    joined.run()


def test_data_may_come_by_either_lane() -> None:
    joined = Joined()
    stream, _ = joined.open()
    joined.run()
    stream.write(b"by the main lane, ")
    joined.run()
    lane = begun(joined)
    say(joined, lane, pack_frame(FrameType.DATA, 1, b"by the other, "))
    stream.write(b"and by the first")
    joined.run()
    say(joined, lane, pack_frame(FrameType.HALF_CLOSE, 1))
    protocol = joined.server_protocols[1]
    assert protocol.data == b"by the main lane, by the other, and by the first"
    assert protocol.read_ended == 1 and len(joined.registry) == 1


STRANGE = {
    "STREAM_OPEN": pack_frame(FrameType.STREAM_OPEN, 3, b"\0\0\x40\0\x01\x01\xbb\x01a"),
    "OPEN_REPLY": pack_frame(FrameType.OPEN_REPLY, 1, bytes(5)),
    "RESET": pack_frame(FrameType.RESET, 1, b"\x01"),
    "GOAWAY": pack_frame(FrameType.GOAWAY, 0, encode_goaway(GoawayReason.SHUTDOWN, 0)),
    "ENDPOINTS": pack_frame(FrameType.ENDPOINTS),
    "SCHEME": pack_frame(FrameType.SCHEME),
    "LANE": pack_frame(FrameType.LANE),
    "an unknown type": pack_frame(0x20, 1),
    "a stream that never was": pack_frame(FrameType.DATA, 99, b"x"),
    "a second ATTACH": pack_frame(FrameType.ATTACH, 0, first(2).encode()),
    "what was not sent is acknowledged": pack_frame(FrameType.ACK, 0, (1).to_bytes(8, "big")),
}


@pytest.mark.parametrize("what", STRANGE)
def test_breaking_a_rule_on_the_bulk_lane_ends_the_session(what: str) -> None:
    joined = Joined()
    _, protocol = joined.open()
    joined.run()
    lane = begun(joined)
    say(joined, lane, STRANGE[what])
    assert lane.lost and not len(joined.registry)
    assert joined.server_protocols[1].lost is not None and not joined.server_protocols[1].clean
    joined.session.end(joined.detached[0])
    assert protocol.lost is not None
    joined.run(60)
    assert not joined.clock.calls


def test_what_may_be_skipped_is_skipped_there_too() -> None:
    joined = Joined()
    joined.open()
    joined.run()
    lane = begun(joined)
    grant = pack_frame(FrameType.WINDOW_UPDATE, 1, encode_window_update(1))
    say(joined, lane, pack_frame(0x50, 7, b"x"), pack_frame(0x90, 7, b"x"), grant)
    say(joined, lane, pack_frame(FrameType.DATA, 1, b"counted right"))
    assert joined.server_protocols[1].data == b"counted right"


@pytest.mark.parametrize("lane", [2, 255])
def test_there_are_two_lanes(lane: int) -> None:
    joined = Joined()
    joined.run()
    other = rogue(joined, Attach(ID, 1, lane, 0, 0, 0))
    assert other.lost and len(joined.registry) == 1


@pytest.mark.parametrize(
    "attach",
    [
        first(session_id=b"?" * 16),
        Attach(ID, 1, 1, 0, 1, 0),
        Attach(ID, 1, 1, 0, 0, 1),
    ],
    ids=["of no session", "sent before", "received before"],
)
def test_a_lane_that_never_began_is_refused(attach: Attach) -> None:
    joined = Joined()
    joined.run()
    other = rogue(joined, attach)
    assert other.answer.status == AttachStatus.SESSION_LOST and other.answer.lane == 1
    assert not joined.server_session.ended and len(joined.registry) == 1
    assert joined.server_mux.lanes.bulk is None


def test_a_lane_of_somebody_elses_session_is_refused() -> None:
    joined = Joined()
    joined.run()
    joined.server_session.peer_key = SERVER_KEY
    other = rogue(joined, first())
    assert other.answer.status == AttachStatus.SESSION_LOST
    assert joined.server_mux.lanes.bulk is None


def test_an_older_link_of_the_lane_is_refused() -> None:
    joined = Joined()
    joined.run()
    rogue(joined, first(7))
    for epoch in (1, 7):
        assert rogue(joined, first(epoch)).answer.status == AttachStatus.SESSION_LOST
    assert rogue(joined, first(8)).answer.status == AttachStatus.OK


def test_a_lane_that_has_ended_does_not_begin_again() -> None:
    joined = Joined()
    joined.run()
    begun(joined)
    bulk = joined.server_mux.lanes.bulk
    assert bulk is not None and bulk.session is not None
    bulk.session.end(Failure(SessionError("for some reason")))
    assert rogue(joined, first(9)).answer.status == AttachStatus.SESSION_LOST
    assert len(joined.registry) == 1


def test_lanes_count_towards_the_links_of_a_client_but_give_way_to_its_sessions() -> None:
    joined = Joined(max_links=2)
    joined.run()
    begun(joined)  # two links
    others = [rogue(joined, Attach(bytes((i,)) * 16, 1, 0, 0, 0, 0)) for i in range(2)]
    assert [other.answer.status for other in others] == [AttachStatus.OK, AttachStatus.LIMIT]
    more = rogue(joined, Attach(b"\0" * 16, 1, 1, 0, 0, 0))
    assert more.answer.status == AttachStatus.LIMIT
    assert len(joined.registry) == 2 and not joined.server_session.ended


def test_dialling_lanes_again_and_again_piles_nothing_up() -> None:
    joined = Joined()
    joined.run()
    rogues = [rogue(joined, first(1 + i)) for i in range(50)]
    joined.run(0.1)
    assert sum(not r.lost for r in rogues) <= 2
    assert len(joined.registry) == 1 and not joined.registry._detached


def test_a_server_may_not_wish_for_ever() -> None:
    joined = Joined()
    joined.run()
    for _ in range(ANNOUNCEMENT_BURST):
        joined.server_session.send(FrameType.LANE, 0)
    joined.run()
    assert not joined.ended
    for _ in range(ANNOUNCEMENT_BURST):
        joined.server_session.send(FrameType.LANE, 0)
    joined.run()
    assert joined.ended


def test_a_client_has_no_wishes() -> None:
    joined = Joined()
    joined.run()
    joined.inject(pack_frame(FrameType.LANE))
    assert not len(joined.registry)


def test_a_lane_without_a_link_is_given_up_in_the_end_if_something_waits_in_it() -> None:
    joined = Joined()
    _, protocol = joined.open()
    joined.run()
    lane = begun(joined)
    bulk = joined.server_mux.lanes.bulk
    assert bulk is not None
    bulk.use(joined.accepted[0][0])
    joined.server_protocols[1].transport.write(b"never acknowledged")
    joined.run(0.1)
    assert (FrameType.DATA, b"never acknowledged") in lane.heard
    lane.link.abort()
    joined.run(299)
    assert joined.server_protocols[1].lost is None
    joined.run(2)
    assert joined.server_protocols[1].lost is not None
    assert protocol.lost is not None and not protocol.clean
    assert len(joined.registry) == 1 and not joined.registry._detached


def test_a_lane_that_nothing_uses_may_wait() -> None:
    joined = Joined()
    joined.open()
    joined.run()
    lane = begun(joined)
    lane.link.abort()
    joined.run(1000)
    assert len(joined.registry) == 1 and not joined.registry._detached
    assert rogue(joined, first(2)).answer.status == AttachStatus.OK
