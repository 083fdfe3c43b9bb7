"""Sessions against peers that resume in bad faith, and links that lie about being up."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from support.rogue import ID, Rogue, rogue
from support.tunnel import Joined
from twisted.python.failure import Failure

from phantom.core.detached import DetachedLimits
from phantom.core.wire import Attach, AttachStatus, FrameType, pack_frame
from phantom.errors import SessionError
from phantom.tunnel.closing import STREAM_DRAIN_TIMEOUT
from phantom.tunnel.frame import FrameProtocol
from phantom.tunnel.session_links import PROPOSAL_TIMEOUT

HUGE = 2**64 - 1


@pytest.mark.parametrize(
    ("next_sequence", "received"), [(HUGE, 0), (0, HUGE), (2, 0), (0, 1000), (HUGE, HUGE)]
)
def test_impossible_numbers_do_not_keep_a_session_for_ever(
    next_sequence: int, received: int
) -> None:
    joined = Joined()
    joined.run()
    session = joined.server_session
    joined.pipe.cut()
    joined.run()
    liar = rogue(joined, Attach(ID, 2, 0, 0, next_sequence, received))
    joined.run()
    assert liar.lost and not session.ended
    joined.run(301)
    assert session.ended and not len(joined.registry)
    joined.run(60)
    assert not joined.clock.calls


@pytest.mark.parametrize("epoch", [0, 1])
def test_an_attach_that_is_repeated_does_nothing(epoch: int) -> None:
    joined = Joined()
    stream, _ = joined.open()
    joined.run()
    session, link = joined.server_session, joined.server_link
    again = rogue(joined, Attach(ID, epoch, 0, 0, 0, 0))
    assert again.answer.status == AttachStatus.SESSION_LOST
    assert session.link is link and not session.ended
    stream.write(b"goes on")
    joined.run()
    assert joined.server_protocols[1].data == b"goes on"


def test_a_session_that_has_ended_does_not_begin_again() -> None:
    """The client may not know that the server had it: its frames would count twice."""
    joined = Joined()
    joined.open()
    joined.run()
    joined.server_session.end(Failure(SessionError("for some reason")))
    joined.run()
    again = rogue(joined, Attach(ID, 9, 0, 0, 0, 0))
    assert again.answer.status == AttachStatus.SESSION_LOST
    assert not len(joined.registry)


def test_links_that_were_superseded_do_not_pile_up() -> None:
    joined = Joined()
    joined.run()
    rogues = [rogue(joined, Attach(ID, 2 + i, 0, 0, 0, 0)) for i in range(50)]
    joined.run(0.1)
    assert sum(not r.lost for r in rogues) <= 2


def test_a_link_that_is_let_go_of_ends_even_if_the_peer_never_reads() -> None:
    joined = Joined(capacity=2000)
    stream, _ = joined.open()
    joined.run()
    joined.server_protocols[1].transport.write(bytes(200_000))
    joined.client_end.transport.pauseProducing()
    joined.run(0.1)
    link = joined.server_link
    joined.server_session.end(Failure(SessionError("over")))
    joined.run(30)
    assert not link.connected
    del stream


def test_a_link_whose_server_never_answers_is_given_up() -> None:
    """Nothing that comes by the link before counts meanwhile, so this is a stall."""
    joined = Joined(keepalive=20)
    joined.run()
    made: list[FrameProtocol] = []
    joined._link(made.append)
    joined.server_link.receiver._settle()
    joined.server_link.receiver = Rogue()  # answers pings, and nothing else
    joined.session.resume(made[0], joined.resumed.append)
    joined.run(PROPOSAL_TIMEOUT + 0.1)
    assert joined.detached and not made[0].connected
    joined.relink()
    joined.run()
    joined.open()
    joined.run()
    assert joined.outcomes


@pytest.mark.parametrize(
    "change",
    [
        {"session_id": b"X" * 16},
        {"epoch": 7},
        {"next_sequence": HUGE},
        {"received": HUGE},
        {"received": 0},
        {"status": 200},
        {"status": AttachStatus.LIMIT},
    ],
)
def test_a_hostile_servers_answer_ends_the_session_and_nothing_else(change: dict[str, Any]) -> None:
    joined = Joined()
    stream, protocol = joined.open()
    stream.write(b"something")
    joined.run()
    made: list[FrameProtocol] = []
    joined._link(made.append)
    server = joined.server_link.receiver = Rogue()
    joined.session.resume(made[0], joined.resumed.append)
    joined.run()
    good = attrs.evolve(
        server.answer,
        received=server.answer.next_sequence,
        next_sequence=server.answer.received,
    )
    answer = attrs.evolve(good, **change)
    joined.server_link.send_record(pack_frame(FrameType.ATTACH, 0, answer.encode()))
    joined.run()
    assert joined.session.ended and len(joined.ended) == 1
    assert protocol.lost is not None and not made[0].connected
    joined.run(400)
    assert not joined.clock.calls


def test_a_reluctant_reader_is_not_a_missing_link() -> None:
    joined = Joined()
    stream, _ = joined.open()
    joined.run()
    server = joined.server_protocols[1]
    server.transport.pauseProducing()
    stream.write(bytes(2 * 1024 * 1024))
    stream.loseConnection()
    joined.run(1)
    assert stream.waiting
    joined.pipe.cut()
    joined.run(3 * STREAM_DRAIN_TIMEOUT)
    server.transport.resumeProducing()
    joined.relink()
    joined.run(5)
    assert len(server.data) == 2 * 1024 * 1024 and server.clean


def test_a_link_that_comes_back_late_gives_the_reader_its_time() -> None:
    joined = Joined()
    stream, _ = joined.open()
    joined.run()
    server = joined.server_protocols[1]
    server.transport.pauseProducing()
    stream.write(bytes(2 * 1024 * 1024))
    stream.loseConnection()
    joined.run(STREAM_DRAIN_TIMEOUT + 5)
    joined.pipe.cut()
    joined.run(STREAM_DRAIN_TIMEOUT - 8)
    joined.relink()
    joined.run(STREAM_DRAIN_TIMEOUT)
    assert stream.waiting
    server.transport.resumeProducing()
    joined.run(5)
    assert len(server.data) == 2 * 1024 * 1024 and server.clean


def test_what_comes_in_while_a_session_waits_is_bounded_too() -> None:
    joined = Joined()
    joined.registry._detached_limits = DetachedLimits(memory_per_client=100_000)
    joined.open()
    joined.run()
    server = joined.server_protocols[1]
    joined.pipe.cut()
    joined.run()
    assert len(joined.registry) == 1
    server.transport.write(bytes(300_000))
    joined.run(15)
    assert not len(joined.registry) and server.lost is not None


def test_a_client_that_opens_sessions_and_leaves_them_has_as_many_as_links() -> None:
    joined = Joined(max_links=2)
    joined.run()
    for i in range(20):
        link = rogue(joined, Attach(bytes([i]) * 16, 1, 0, 0, 0, 0))
        assert link.answer.status == AttachStatus.OK or i == 0
        link.link.abort()
        joined.run(0.1)
        assert len(joined.registry) <= 2
    assert len(joined.registry._detached) <= 2


def test_revoking_a_client_ends_its_session_without_a_link_at_once() -> None:
    joined = Joined()
    joined.open()
    joined.run()
    joined.pipe.cut()
    joined.run()
    joined.registry.revoke(lambda key: False)
    assert not len(joined.registry) and joined.server_protocols[1].lost is not None
