"""An authenticated peer that breaks the rules is held to them."""

from __future__ import annotations

import pytest
from support.tunnel import CLIENT_KEY, SOMEWHERE, Joined, LengthPrefixed
from twisted.internet.testing import StringTransport

from phantom.core.shaping import Scheme
from phantom.core.wire import (
    MAX_PING,
    Attach,
    AttachStatus,
    FrameType,
    GoawayReason,
    encode_ack,
    encode_goaway,
    encode_open,
    encode_open_reply,
    encode_window_update,
    pack_frame,
)
from phantom.errors import Outcome, RemoteProtocolError
from phantom.tunnel.frame import FrameProtocol
from phantom.tunnel.frame_receiver import DeadEnd
from phantom.tunnel.handover import Junction
from phantom.tunnel.liveness import PING_BURST
from phantom.tunnel.mux import (
    ANNOUNCEMENT_BURST,
    CONTROL_BURST,
    MAX_GOAWAYS,
    STRAY_BURST,
    MuxLimits,
)

OPEN = encode_open(SOMEWHERE, 16384)


def opened(stream_id: int) -> bytes:
    return pack_frame(FrameType.STREAM_OPEN, stream_id, OPEN)


RULES = {
    "overrun before the reply": [opened(1), pack_frame(FrameType.DATA, 1, bytes(16_385))],
    "id used twice": [opened(1), pack_frame(FrameType.RESET, 1, b"\x0b"), opened(1)],
    "id below the highest": [opened(5), opened(3)],
    "wrong parity": [opened(2)],
    "data on a stream never opened": [pack_frame(FrameType.DATA, 1, b"x")],
    "data on our own id never opened": [pack_frame(FrameType.DATA, 2, b"x")],
    "empty data": [opened(1), pack_frame(FrameType.DATA, 1)],
    "data after a half-close": [
        opened(1),
        pack_frame(FrameType.HALF_CLOSE, 1),
        pack_frame(FrameType.DATA, 1, b"x"),
    ],
    "two half-closes": [opened(1), *[pack_frame(FrameType.HALF_CLOSE, 1)] * 2],
    "a reply to its own open": [
        opened(1),
        pack_frame(FrameType.OPEN_REPLY, 1, encode_open_reply(Outcome.CONNECTED, 16384)),
    ],
    "a closing frame with a payload": [opened(1), pack_frame(FrameType.HALF_CLOSE, 1, b"x")],
    "a grant of nothing": [opened(1), pack_frame(FrameType.WINDOW_UPDATE, 1, bytes(4))],
    "grants beyond the maximum": [
        opened(1),
        *[pack_frame(FrameType.WINDOW_UPDATE, 1, encode_window_update(2**31 - 1))] * 2,
    ],
    "an acknowledgement of the unsent": [pack_frame(FrameType.ACK, 0, encode_ack(1))],
    "a second ATTACH": [pack_frame(FrameType.ATTACH, 0, bytes(38))],
    "an unknown type": [pack_frame(0x20, 1, b"x")],
    "a reserved type": [pack_frame(FrameType.DATAGRAM, 1, b"x")],
    "a truncated frame": [b"\x00\x00\x00\x01\xff\xff"],
    "a destination that is none": [pack_frame(FrameType.STREAM_OPEN, 1, b"\0\0\0\0\x01\0\x50..")],
    "an oversized ping": [pack_frame(FrameType.PING, 0, bytes(MAX_PING + 1))],
    "GOAWAY without end": [
        pack_frame(FrameType.GOAWAY, 0, encode_goaway(GoawayReason.SHUTDOWN, 0))
        for _ in range(MAX_GOAWAYS + 1)
    ],
}


class Rogue(DeadEnd):
    """Takes the client's link over; does not mind what it is answered."""

    def __init__(self, joined: Joined) -> None:
        self.lost = False
        self.link = joined.client_link
        self.link.receiver = self

    def link_lost(self, link: object, reason: object) -> None:
        self.lost = True


def test_what_breaks_no_rule_is_borne() -> None:
    joined = Joined()
    rogue = Rogue(joined)
    joined.inject(
        opened(1),
        pack_frame(FrameType.DATA, 1, b"x"),
        pack_frame(FrameType.WINDOW_UPDATE, 1, encode_window_update(1)),
        pack_frame(FrameType.HALF_CLOSE, 1),
        pack_frame(0x50, 7, b"sequenced and unknown"),
        pack_frame(0x90, 7, b"unsequenced and unknown"),
        opened(7),
        pack_frame(FrameType.RESET, 7, b"\x0b"),
        pack_frame(FrameType.DATA, 7, b"late"),
        pack_frame(FrameType.PADDING, 0, bytes(500)),
    )
    assert len(joined.registry) == 1 and not rogue.lost


@pytest.mark.parametrize("rule", RULES)
def test_breaking_a_rule_ends_the_session(rule: str) -> None:
    joined = Joined(accept=rule != "overrun before the reply")
    rogue = Rogue(joined)
    for frame in RULES[rule]:
        joined.client_link.send_record(frame)
    joined.run()
    assert len(joined.registry) == 0, rule
    assert rogue.lost, "the other side is told by the closed link"


def test_overrunning_a_stalled_readers_window_ends_the_session() -> None:
    joined = Joined()
    Rogue(joined)
    joined.inject(opened(1))
    stream = joined.accepted[0][0]
    stream.pauseProducing()
    promised = stream.window.outstanding
    while promised >= 60_000:
        joined.inject(pack_frame(FrameType.DATA, 1, bytes(60_000)))
        promised -= 60_000
    assert len(joined.registry) == 1
    joined.inject(pack_frame(FrameType.DATA, 1, bytes(promised + 1)))
    assert len(joined.registry) == 0


def test_a_server_cannot_have_its_client_write_files_without_end() -> None:
    learned: list[bytes] = []
    joined = Joined()
    joined.mux._on_scheme = learned.append
    for version in range(1, 1000):
        payload = Scheme(version=version).encode()
        joined.server_session.send(FrameType.SCHEME, 0, payload)
        joined.run(0.0)
        if joined.ended:
            break
    assert len(learned) == ANNOUNCEMENT_BURST
    assert joined.ended and joined.ended[0].check(RemoteProtocolError)


def test_a_link_that_broke_a_rule_before_its_attach_begins_nothing() -> None:
    joined = Joined()
    attach = Attach(b"N" * 16, 1, 0, AttachStatus.OK, 0, 0)
    server = FrameProtocol(joined.runtime, joined.registry.receive(), 0)
    # As between worker processes, where each record is judged by itself.
    junction = Junction(joined.runtime, server, lambda key, session: None, lambda b, c: None)
    end = LengthPrefixed(junction, CLIENT_KEY)
    end.makeConnection(StringTransport())  # whose abort, like TCP's, is told later
    ack = pack_frame(FrameType.ACK, 0, encode_ack(0))
    for record in (ack, pack_frame(FrameType.ATTACH, 0, attach.encode())):
        end.dataReceived(len(record).to_bytes(4, "big") + record)
    joined.run()
    assert joined.meters.counts["session.begun"] == 1, "only the one that was there before"


def test_a_flood_of_pings_is_cut_off() -> None:
    joined = Joined()
    Rogue(joined)
    for _ in range(PING_BURST + 1):
        joined.client_link.send_record(pack_frame(FrameType.PING, 0, b"12345678"))
    joined.run()
    assert len(joined.registry) == 0


def test_pings_in_measure_are_answered() -> None:
    joined = Joined()
    for _ in range(PING_BURST):
        joined.inject(pack_frame(FrameType.PING, 0, b"12345678"))
    assert len(joined.registry) == 1


def flood(joined: Joined, frame: bytes, count: int) -> None:
    record = frame * (60_000 // len(frame))
    for _ in range(count * len(frame) // len(record) + 1):
        joined.client_link.send_record(record)
        joined.run(0.0)


def test_a_flood_of_window_updates_is_cut_off() -> None:
    joined = Joined()
    Rogue(joined)
    joined.inject(opened(1))
    flood(joined, pack_frame(FrameType.WINDOW_UPDATE, 1, encode_window_update(1)), CONTROL_BURST)
    assert len(joined.registry) == 0


def test_a_flood_of_opens_and_resets_is_cut_off_and_bounded_meanwhile() -> None:
    joined = Joined(accept=False)
    Rogue(joined)
    most = 0
    next_id = 1
    for _ in range(CONTROL_BURST // 2 // 1000 + 2):
        record = b""
        for _ in range(1000):
            record += opened(next_id) + pack_frame(FrameType.RESET, next_id, b"\x0b")
            next_id += 2
        joined.client_link.send_record(record)
        joined.run(0.0)
        joined.accepted.clear()
        if not len(joined.registry):
            break
        most = max(most, len(joined.server_mux.streams))
    assert len(joined.registry) == 0
    assert most <= joined.limits.max_streams


def test_a_flood_of_frames_on_closed_streams_is_cut_off() -> None:
    joined = Joined()
    Rogue(joined)
    joined.inject(opened(1), pack_frame(FrameType.RESET, 1, b"\x0b"))
    flood(joined, pack_frame(FrameType.DATA, 1, b"x"), STRAY_BURST)
    assert len(joined.registry) == 0


def test_late_frames_of_a_stream_we_reset_are_dropped() -> None:
    joined = Joined(delay=0.05)
    stream, _ = joined.open()
    joined.run()
    stream.write(b"x" * 200_000)
    joined.run(0.01)
    joined.server_protocols[1].transport.abortConnection()
    joined.run()
    assert len(joined.registry) == 1
    assert not joined.server_mux.streams and not joined.mux.streams


def test_a_crowd_of_opens_is_refused_beyond_the_limit() -> None:
    joined = Joined(server_limits=MuxLimits(max_streams=3), accept=False)
    Rogue(joined)
    joined.inject(*[opened(i) for i in range(1, 21, 2)])
    assert len(joined.server_mux.streams) == 3
    assert len(joined.accepted) == 3


def test_a_peer_that_never_acknowledges_is_dropped_in_time() -> None:
    joined = Joined()
    stream, _ = joined.open()
    joined.run()
    joined.server_session._acknowledger._send = lambda received: None
    stream.write(b"x")
    joined.run(61)
    assert joined.detached, "the link is given up"


def test_a_server_that_opens_streams_is_refused() -> None:
    joined = Joined()
    outcomes: list[Outcome] = []
    joined.server_mux._client = False
    joined.server_mux.open(SOMEWHERE, outcomes.append)
    joined.run()
    assert outcomes == [Outcome.FORBIDDEN]
