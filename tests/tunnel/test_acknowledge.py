"""What is said against a bulk transfer: acknowledgements and window updates."""

from __future__ import annotations

from typing import Any

import pytest
from support.lossy import LossyGauge
from support.tunnel import Joined, LengthPrefixed, Recorder

from phantom.core.wire import FrameType, encode_window_update, parse_frames
from phantom.tunnel.acknowledge import ACK_DELAY, ACK_PATIENCE, LITTLE
from phantom.tunnel.stream import Stream

MIB = 1 << 20


def said_by(joined: Joined, monkeypatch: pytest.MonkeyPatch, end: LengthPrefixed) -> list[set[int]]:
    """Return, as they come, the kinds of frames in each record that one end is given to send."""
    said: list[set[int]] = []
    write = end.write

    def note(record: Any) -> None:
        said.append({kind for kind, _, _ in parse_frames(memoryview(record))})
        write(record)

    monkeypatch.setattr(end, "write", note)
    return said


def watched(
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[Joined, Stream, Recorder, list[set[int]]]:
    """Return a quiet session with a stream, its protocol, and what its client says from now on."""
    joined = Joined(delay=0.0002, capacity=1 << 30)
    stream, protocol = joined.open()
    joined.run(1)
    return joined, stream, protocol, said_by(joined, monkeypatch, joined.client_end)


def test_an_acknowledgement_leaves_with_what_is_about_to(monkeypatch: pytest.MonkeyPatch) -> None:
    joined, stream, _protocol, said = watched(monkeypatch)
    update = encode_window_update(1)
    joined.session.send(FrameType.WINDOW_UPDATE, stream.stream_id, update)
    joined.session._acknowledger.acknowledge()
    assert not said, "they wait for the end of the turn"
    joined.run(0.1)
    assert said[0] == {FrameType.WINDOW_UPDATE, FrameType.ACK}


def test_it_goes_before_what_has_yet_to_be_put_together(monkeypatch: pytest.MonkeyPatch) -> None:
    joined, stream, _protocol, said = watched(monkeypatch)
    stream.write(b"x" * 3000)
    joined.session._acknowledger.acknowledge()
    joined.run(0.1)
    assert said[:2] == [{FrameType.ACK}, {FrameType.DATA}]
    assert joined.server_protocols[1].data == b"x" * 3000


def test_it_goes_before_bulk_that_leaves_with_the_update(monkeypatch: pytest.MonkeyPatch) -> None:
    joined = Joined(capacity=1 << 26)
    stream, _protocol = joined.open()
    joined.run()
    stream.write(b"x" * 200_000)  # makes the link trusted
    joined.run()
    said = said_by(joined, monkeypatch, joined.client_end)
    stream.credit = 1 << 30
    stream.write(b"x" * 1_000_000)
    joined.session.send(FrameType.WINDOW_UPDATE, stream.stream_id, encode_window_update(1))
    joined.session._acknowledger.acknowledge()
    joined.run(0.001)
    first = next(place for place, kinds in enumerate(said) if FrameType.ACK in kinds)
    assert first <= 1, said


def test_it_does_not_wait_for_a_link_that_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    joined, stream, _protocol, said = watched(monkeypatch)
    joined.session.link.congested = True
    joined.session.send(FrameType.WINDOW_UPDATE, stream.stream_id, encode_window_update(1))
    joined.session._acknowledger.acknowledge()
    joined.run(0.1)
    assert said == [{FrameType.ACK}]


def test_one_waits_for_nothing_that_is_not_about_to_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    joined, _stream, protocol, said = watched(monkeypatch)
    joined.server_protocols[1].transport.write(b"few")
    joined.run(0.4)
    assert protocol.data == b"few"
    assert said == [{FrameType.ACK}]


def test_what_was_to_be_acknowledged_by_a_lost_link_is_by_the_next() -> None:
    joined = Joined(delay=0.0002, capacity=1 << 30)
    _stream, protocol = joined.open()
    joined.run(0.1)
    joined.server_protocols[1].transport.write(b"x" * MIB)
    joined.run(0.0003)
    joined.relink()
    joined.run(1)
    assert joined.session._ack is None
    assert len(protocol.data) == MIB
    session = joined.server_mux.session
    assert session is not None
    assert session.acknowledged == session.next_sequence


def test_little_is_acknowledged_with_what_leaves_next(monkeypatch: pytest.MonkeyPatch) -> None:
    joined, stream, protocol, said = watched(monkeypatch)
    for _ in range(5):
        joined.server_protocols[1].transport.write(b"few")
        joined.run(0.05)
        stream.write(b"as few")
        joined.run(0.001)
    assert protocol.data == b"few" * 5
    assert said == [{FrameType.DATA, FrameType.ACK}] * 5
    assert joined.server_session.idle


def test_it_goes_alone_when_nothing_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    joined, _stream, _protocol, said = watched(monkeypatch)
    joined.server_protocols[1].transport.write(b"few")
    joined.run(ACK_DELAY + ACK_PATIENCE[0] - 0.01)
    assert not said
    joined.run(ACK_PATIENCE[1] - ACK_PATIENCE[0] + 0.02)
    assert said == [{FrameType.ACK}]
    joined.run(1)
    assert len(said) == 1


def test_it_follows_what_may_have_been_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind a packet that is under way another one has the peer's TCP tell of its loss."""
    joined = Joined(delay=0.0002, capacity=1 << 30)
    joined.open()
    joined.run(1)
    gauge = LossyGauge(0.1)
    joined.session.link._gauge = gauge
    monkeypatch.setattr(gauge, "segments_under_way", lambda: 1)
    said = said_by(joined, monkeypatch, joined.client_end)
    joined.server_protocols[1].transport.write(b"few")
    joined.run(ACK_DELAY + 0.005)
    assert said == [{FrameType.ACK}]


def test_more_than_little_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    joined, _stream, _protocol, said = watched(monkeypatch)
    joined.server_protocols[1].transport.write(b"x" * LITTLE)
    joined.run(0.03)
    assert said == [{FrameType.ACK}]
    joined.server_protocols[1].transport.write(b"few")
    joined.run(0.05)
    assert len(said) == 1
    joined.server_protocols[1].transport.write(b"x" * LITTLE)
    joined.run(0.001)
    assert said[1:] == [{FrameType.ACK}], "little has become more"


def test_it_does_not_join_what_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    joined, stream, _protocol, said = watched(monkeypatch)
    joined.server_protocols[1].transport.write(b"few")
    joined.run(0.05)
    stream.write(b"x" * 1020)
    joined.run(0.01)
    assert said == [{FrameType.DATA}]
    joined.run(0.3)
    assert said[1:] == [{FrameType.ACK}]


def test_where_links_die_young_it_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    joined, _stream, _protocol, said = watched(monkeypatch)
    joined.session.link.transport.lean = True
    joined.session._trust_anew()
    joined.server_protocols[1].transport.write(b"few")
    joined.run(0.03)
    assert said == [{FrameType.ACK}]


@pytest.mark.parametrize("lean", [False, True])
def test_a_new_link_does_not_wait_for_what_was_to_go_by_the_last(lean: bool) -> None:
    joined = Joined(delay=0.0002, capacity=1 << 30)
    _stream, protocol = joined.open()
    joined.run(1)
    joined.server_protocols[1].transport.write(b"few")
    joined.run(0.03)
    assert joined.session._acknowledger.ripe
    joined.relink()
    joined.run(0.002)
    if lean:
        joined.session._acknowledger.little = 0
    # More than a fresh link may have under way, or, if it is lean, little.
    joined.server_protocols[1].transport.write(b"x" * (100 if lean else 200_000))
    joined.run(0.05)
    assert joined.server_session.idle
    assert len(protocol.data) == 3 + (100 if lean else 200_000)
