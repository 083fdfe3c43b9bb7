"""Records that come together: data in a row is handed up at once, and everything in order."""

from __future__ import annotations

from typing import Any

import pytest
from support.compiled import replaces
from support.tunnel import Joined
from twisted.python.failure import Failure

from phantom.core.wire import FrameType, pack_frame
from phantom.errors import SessionError
from phantom.tunnel.frame_receiver import DeadEnd


class Listener(DeadEnd):
    """Notes what it is told, and may end the link."""

    def __init__(self, end_at: bytes = b"") -> None:
        self.heard: list[Any] = []
        self.failed: list[str] = []
        self._end_at = end_at

    def data_received(self, link: Any, frames: list[tuple[int, memoryview]]) -> None:
        self.heard.append([(stream, bytes(payload)) for stream, payload in frames])
        if any(payload == self._end_at for _, payload in frames):
            link.fail("enough")

    def frame_received(self, link: Any, kind: int, stream_id: int, payload: memoryview) -> None:
        self.heard.append((kind, stream_id, bytes(payload)))

    def protocol_failed(self, link: Any, error: Exception) -> None:
        self.failed.append(str(error))
        super().protocol_failed(link, error)  # type: ignore[arg-type]

    def records_done(self, link: Any) -> None:
        self.heard.append("done")


def data(stream_id: int, payload: bytes) -> bytes:
    return pack_frame(FrameType.DATA, stream_id, payload)


RECORDS = [
    data(1, b"a"),
    data(3, b"b"),
    data(1, b"c"),
    pack_frame(FrameType.HALF_CLOSE, 1) + data(3, b"d"),
    pack_frame(FrameType.PADDING, 0, bytes(5)),
    data(3, b"e"),
]


def heard_of(records: list[bytes], listener: Listener) -> Listener:
    link = Joined().client_link
    link.receiver = listener
    link.records_received([memoryview(record) for record in records])
    return listener


def test_data_in_a_row_is_handed_up_at_once_and_in_order() -> None:
    assert heard_of(RECORDS, Listener()).heard == [
        [(1, b"a"), (3, b"b"), (1, b"c")],
        (FrameType.HALF_CLOSE, 1, b""),
        (FrameType.DATA, 3, b"d"),
        [(3, b"e")],
        "done",
    ]


def test_nothing_follows_the_end_of_the_link() -> None:
    listener = heard_of(RECORDS, Listener(end_at=b"b"))
    assert listener.heard == [[(1, b"a"), (3, b"b"), (1, b"c")], "done"]


def test_what_came_before_a_broken_record_counts() -> None:
    broken = data(1, b"cut short")[:-1]
    listener = heard_of([data(1, b"a"), broken, data(1, b"b")], Listener())
    assert listener.heard[0] == [(1, b"a")]
    assert listener.failed == ["a frame is cut short"]
    assert [(1, b"b")] not in listener.heard


def test_a_row_that_ends_the_session_leaves_the_rest() -> None:
    joined = Joined()
    _, protocol = joined.open()
    joined.run()
    taken: list[bytes] = []

    def take(payload: bytes) -> None:
        taken.append(bytes(payload))
        joined.session.end(Failure(SessionError("enough")))

    protocol.dataReceived = take  # type: ignore[method-assign]
    joined.client_link.records_received([memoryview(data(1, b"one")), memoryview(data(1, b"two"))])
    assert taken == [b"one"]
    assert joined.ended


@replaces
def test_a_row_is_never_cut_by_a_mistake_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it is numbered before it is delivered: what was left would never come again."""
    joined = Joined()
    joined.open()
    joined.run()

    def mistake(frames: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(joined.mux, "data_received", mistake)
    with pytest.raises(ZeroDivisionError):
        joined.client_link.records_received([memoryview(data(1, b"one"))])
    assert joined.ended
