"""A link's signs of life, its beginning and its end."""

from __future__ import annotations

import pytest
from support.pipes import join
from support.tunnel import CLIENT_KEY, SERVER_KEY, Joined, LengthPrefixed

from phantom.core.block_pool import BlockPool
from phantom.core.wire import Attach, AttachStatus, FrameType, GoawayReason, pack_frame
from phantom.errors import Outcome, RelayError
from phantom.tunnel.acknowledge import STALL_TIMEOUT
from phantom.tunnel.frame import FrameProtocol
from phantom.tunnel.frame_receiver import DeadEnd
from phantom.tunnel.mux import MultiplexerProtocol
from phantom.tunnel.registry import SILENT
from phantom.tunnel.session import Session


def test_an_idle_link_stays_up_by_pings_of_varying_size_and_time() -> None:
    joined = Joined(keepalive=20)
    sizes: list[int] = []
    write = joined.client_end.transport.write
    joined.client_end.transport.write = lambda data: (sizes.append(len(data)), write(data))
    joined.run(600)
    assert len(joined.registry) == 1 and not joined.ended
    assert len(set(sizes)) > 10
    assert joined.client_link.round_trip is not None or joined.server_link.round_trip is not None


def test_a_silent_link_is_dead_after_two_misses() -> None:
    joined = Joined(keepalive=20)
    joined.run(30)
    joined.pipe.stall()
    joined.run(20)
    assert not joined.ended
    joined.run(100)
    assert joined.detached
    assert joined.server_session.link is None, "the server notices by itself"


def test_a_probe_finds_a_dead_link_quickly() -> None:
    joined = Joined(keepalive=20)
    joined.client_link.probe()
    joined.run(5)
    assert not joined.ended
    joined.pipe.stall()
    joined.client_link.probe()
    joined.run(4)
    assert joined.detached


def test_data_is_a_sign_of_life() -> None:
    joined = Joined(keepalive=20)
    joined.open()
    joined.run()
    for _ in range(30):
        joined.server_protocols[1].transport.write(b"x")
        joined.run(1)
    assert joined.client_link.round_trip is None, "nobody needed to ask"


def extra_link(joined: Joined, attach: Attach, key: bytes = CLIENT_KEY) -> list[int]:
    """Open another link to the registry and return the statuses it is answered with."""
    statuses: list[int] = []

    class Starter(DeadEnd):
        def link_made(self, link: FrameProtocol) -> None:
            link.send_record(pack_frame(FrameType.ATTACH, 0, attach.encode()))

        def frame_received(self, link: object, kind: int, sid: int, payload: memoryview) -> None:
            statuses.append(Attach.decode(payload).status)

    client = FrameProtocol(joined.runtime, Starter(), 0)
    server = FrameProtocol(joined.runtime, joined.registry.receive(), 0)
    join(joined.clock, LengthPrefixed(client, SERVER_KEY), LengthPrefixed(server, key))
    joined.run()
    return statuses


def fresh(session_id: bytes, epoch: int = 1) -> Attach:
    return Attach(session_id, epoch=epoch, lane=0, status=0, next_sequence=0, received=0)


def test_a_session_that_is_not_known_is_lost() -> None:
    joined = Joined()
    unknown = Attach(b"u" * 16, epoch=3, lane=0, status=0, next_sequence=5, received=9)
    assert extra_link(joined, unknown) == [AttachStatus.SESSION_LOST]
    assert len(joined.registry) == 1


def test_a_stolen_session_id_is_worth_nothing() -> None:
    joined = Joined()
    stolen = fresh(joined.session.session_id, epoch=2)
    assert extra_link(joined, stolen, key=b"T" * 32) == [AttachStatus.SESSION_LOST]
    assert joined.server_session.link is joined.server_link


def test_a_repeated_attach_does_nothing() -> None:
    joined = Joined()
    repeated = fresh(joined.session.session_id)
    assert extra_link(joined, repeated) == [AttachStatus.SESSION_LOST]
    assert not joined.ended


def test_a_refused_attach_leaves_the_present_link_alone() -> None:
    joined = Joined()
    joined.open()
    joined.run()
    false = Attach(b"I" * 16, 2, 0, 0, next_sequence=0, received=1 << 60)
    frames = FrameProtocol(joined.runtime, DeadEnd(), 0)
    pending = FrameProtocol(joined.runtime, joined.registry.receive(), 0)
    join(joined.clock, LengthPrefixed(frames, SERVER_KEY), LengthPrefixed(pending, CLIENT_KEY))
    frames.send_record(pack_frame(FrameType.ATTACH, 0, false.encode()))
    joined.run()
    assert not frames.connected
    joined.mux.streams[1].write(b"still here")
    joined.run()
    assert joined.server_protocols[1].data == b"still here"


@pytest.mark.parametrize(("lane", "status"), [(1, 0), (0, 1)])
def test_an_attach_for_a_lane_there_is_not_is_refused(lane: int, status: int) -> None:
    joined = Joined()
    frames = FrameProtocol(joined.runtime, DeadEnd(), 0)
    pending = FrameProtocol(joined.runtime, joined.registry.receive(), 0)
    join(joined.clock, LengthPrefixed(frames, SERVER_KEY), LengthPrefixed(pending, CLIENT_KEY))
    frames.send_record(
        pack_frame(FrameType.ATTACH, 0, Attach(b"J" * 16, 1, lane, status, 0, 0).encode())
    )
    joined.run()
    assert not frames.connected and len(joined.registry) == 1


def test_a_client_may_hold_only_so_many_links() -> None:
    joined = Joined(max_links=2)
    assert extra_link(joined, fresh(b"a" * 16)) == [AttachStatus.OK]
    assert extra_link(joined, fresh(b"b" * 16)) == [AttachStatus.LIMIT]
    assert extra_link(joined, fresh(b"c" * 16), key=b"D" * 32) == [AttachStatus.OK]
    # A link that has long been silent gives way.
    joined.run(SILENT + 1)
    assert extra_link(joined, fresh(b"d" * 16)) == [AttachStatus.OK]


def test_a_refused_session_ends_with_the_reason() -> None:
    joined = Joined(max_links=1)
    ended: list[str] = []
    mux = MultiplexerProtocol(joined.runtime, joined.limits, client=True)
    session = Session(
        joined.runtime,
        b"z" * 16,
        mux,
        BlockPool(),
        on_detached=lambda s, reason: None,
        on_end=lambda s, reason: ended.append(reason.getErrorMessage()),
    )

    class Starter(DeadEnd):
        def link_made(self, link: FrameProtocol) -> None:
            session.begin(link)

    client = FrameProtocol(joined.runtime, Starter(), 0)
    server = FrameProtocol(joined.runtime, joined.registry.receive(), 0)
    join(joined.clock, LengthPrefixed(client, SERVER_KEY), LengthPrefixed(server, CLIENT_KEY))
    joined.run()
    assert ended == ["the server takes no more sessions of this client"]


@pytest.mark.parametrize("frame", [pack_frame(FrameType.PONG, 0, b"x"), b""])
def test_a_link_that_never_attaches_is_dropped(frame: bytes) -> None:
    joined = Joined()
    lost: list[object] = []

    class Idle(DeadEnd):
        def link_made(self, link: FrameProtocol) -> None:
            if frame:
                link.send_record(frame)

        def link_lost(self, link: object, reason: object) -> None:
            lost.append(reason)

    client = FrameProtocol(joined.runtime, Idle(), 0)
    server = FrameProtocol(joined.runtime, joined.registry.receive(), 0)
    join(joined.clock, LengthPrefixed(client, SERVER_KEY), LengthPrefixed(server, CLIENT_KEY))
    joined.run(9)
    assert not lost
    joined.run(2)
    assert lost


def test_a_link_that_begins_with_something_else_is_dropped() -> None:
    joined = Joined()
    lost: list[object] = []

    class Rude(DeadEnd):
        def link_made(self, link: FrameProtocol) -> None:
            link.send_record(pack_frame(FrameType.GOAWAY, 0, bytes(5)))

        def link_lost(self, link: object, reason: object) -> None:
            lost.append(reason)

    client = FrameProtocol(joined.runtime, Rude(), 0)
    server = FrameProtocol(joined.runtime, joined.registry.receive(), 0)
    join(joined.clock, LengthPrefixed(client, SERVER_KEY), LengthPrefixed(server, CLIENT_KEY))
    joined.run()
    assert lost


def test_a_removed_client_is_gone_at_once() -> None:
    joined = Joined()
    joined.open()
    joined.run()
    joined.registry.revoke(lambda key: key != CLIENT_KEY)
    joined.run(1)
    assert len(joined.registry) == 0
    assert joined.goaways == [GoawayReason.REVOKED]


def test_shutting_down_waits_for_streams_and_takes_no_new_ones() -> None:
    joined = Joined()
    stream, protocol = joined.open()
    joined.run()
    done: list[None] = []
    joined.registry.shut_down(5).addCallback(done.append)
    joined.run()
    assert not done
    with pytest.raises(RelayError) as caught:
        joined.mux.open(stream.getPeer(), lambda outcome: None)  # type: ignore[arg-type]
    assert caught.value.outcome is Outcome.SESSION_LOST
    server = joined.server_protocols[1]
    server.transport.write(b"the rest")
    server.transport.loseConnection()
    joined.run()
    assert protocol.data == b"the rest" and protocol.clean
    assert done


def test_shutting_down_does_not_wait_for_ever() -> None:
    joined = Joined()
    joined.open()
    joined.run()
    done: list[None] = []
    joined.registry.shut_down(5).addCallback(done.append)
    joined.run(4)
    assert not done
    joined.run(2)
    assert done and joined.ended


def test_a_goaway_resets_streams_the_peer_has_not_seen() -> None:
    joined = Joined(delay=0.1)
    joined.run()
    joined.server_mux.goaway(GoawayReason.SHUTDOWN)
    _, protocol = joined.open(early=True)
    joined.run(5)
    assert protocol.lost is not None and not protocol.clean


def test_a_goaway_answers_whoever_still_waits_for_an_outcome() -> None:
    joined = Joined(delay=0.1)
    joined.run()
    joined.server_mux.goaway(GoawayReason.SHUTDOWN)
    stream, _ = joined.open()
    joined.run(5)
    assert joined.outcomes == {stream.stream_id: Outcome.SHUTTING_DOWN}


def test_a_session_ended_while_it_sends_leaves_no_timer() -> None:
    joined = Joined(capacity=10_000_000)
    stream, _ = joined.open()
    joined.run(STALL_TIMEOUT + 1)

    class Suicidal:
        """Ends the session when it is asked for more."""

        asked = 0

        def resumeProducing(self) -> None:
            self.asked += 1
            if self.asked == 1:
                stream.write(bytes(200_000))
            else:
                joined.mux.close()

        def stopProducing(self) -> None:
            pass

    stream.registerProducer(Suicidal(), False)
    joined.run()
    assert joined.ended
    assert not [c for c in joined.clock.getDelayedCalls() if "Session._" in repr(c.func)]


@pytest.mark.parametrize("upwards", [True, False])
@pytest.mark.parametrize("rate", [800, 1500, 2000])
def test_a_slow_link_that_moves_is_not_dead(rate: int, upwards: bool) -> None:
    # A whole record takes longer than several keepalives, and than an impatient stall timer.
    joined = Joined(capacity=rate // 2, delay=0.5, keepalive=20)
    stream, protocol = joined.open()
    joined.run(5)
    server = joined.server_protocols[1]
    (stream if upwards else server.transport).write(bytes(200_000))
    joined.run(1.5 * 200_000 / rate)
    assert not joined.ended
    assert len(server.data if upwards else protocol.data) == 200_000


def test_a_trickle_does_not_keep_a_dead_link() -> None:
    joined = Joined(keepalive=20)
    joined.run(1)
    joined.pipe.stall()
    joined.client_end.dataReceived(b"\x00\x00\xff\xff")
    for _ in range(300):
        joined.run(1)
        if joined.detached:
            break
        joined.client_end.dataReceived(b"x" * 20)
    assert joined.detached


def test_a_link_that_acknowledges_nothing_is_dead_although_it_is_heard() -> None:
    joined = Joined(keepalive=20)
    stream, _ = joined.open()
    joined.run(1)
    joined.server_session._acknowledger._send = lambda received: None
    stream.write(b"x")
    for _ in range(30):
        joined.run(STALL_TIMEOUT / 6)
        joined.server_link.send_record(pack_frame(FrameType.PADDING))
    assert joined.detached
