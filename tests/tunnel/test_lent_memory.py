"""What is handed up is lent: streams that gather views of the records in hand.

`LengthPrefixed` overwrites every record when the call that brought it is over, so a view
that outlives its call shows as a wrong byte.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from support.tunnel import Joined, Recorder

from phantom.core.wire import FrameType, encode_window_update
from phantom.tunnel.stream import Stream


class Pieces(Recorder):
    """Takes pieces, as a relay does, and keeps the views to see what becomes of them."""

    accepts_views = True

    def __init__(self, on_pieces: Callable[[Pieces], None] | None = None) -> None:
        super().__init__()
        self.calls: list[int] = []
        self.lent: list[memoryview] = []
        self.on_pieces = on_pieces

    def dataReceived(self, data: Any) -> None:
        self.take([memoryview(data)])

    def pieces_received(self, pieces: list[memoryview]) -> None:
        self.take(pieces)

    def take(self, pieces: list[memoryview]) -> None:
        assert self.lost is None and not self.read_ended
        self.calls.append(len(pieces))
        self.lent += pieces
        self.data += b"".join(pieces)
        if self.on_pieces is not None:
            self.on_pieces(self)


class Pair:
    """Two streams of one session; what the client says on them comes in one record."""

    def __init__(self, first: Recorder, second: Recorder) -> None:
        self.joined = Joined(accept=False)
        self.clients = [self.joined.open(), self.joined.open()]
        self.joined.run(0.1)
        self.first, self.second = (stream for stream, _ in self.joined.accepted)
        self.first.accept(first)
        self.second.accept(second)
        self.joined.run(0.1)

    def say(self, *frames: tuple[Stream, FrameType, bytes]) -> None:
        for stream, kind, payload in frames:
            self.joined.session.send(kind, stream.stream_id, payload)
        self.joined.run(1)


DATA = FrameType.DATA


def test_pieces_of_one_read_come_in_one_call() -> None:
    first = Pieces()
    pair = Pair(first, Pieces())
    pair.say(*((pair.first, DATA, bytes([65 + i])) for i in range(5)))
    assert first.data == b"ABCDE" and first.calls == [5]
    assert all(bytes(view) == b"\xff" for view in first.lent), "views are lent, not given"


@pytest.mark.parametrize(
    "kind, payload",
    [(FrameType.WINDOW_UPDATE, encode_window_update(1)), (FrameType.HALF_CLOSE, b"")],
)
def test_what_came_before_a_control_frame_is_delivered_before_it(
    kind: FrameType, payload: bytes
) -> None:
    first = Pieces()
    pair = Pair(first, Pieces())
    frames = [(pair.first, DATA, b"A"), (pair.first, DATA, b"B"), (pair.first, kind, payload)]
    if kind is FrameType.WINDOW_UPDATE:
        frames.append((pair.first, DATA, b"C"))
    pair.say(*frames)
    assert first.data == (b"ABC" if kind is FrameType.WINDOW_UPDATE else b"AB")
    assert first.calls[0] == 2
    assert first.read_ended == (kind is FrameType.HALF_CLOSE)


def test_a_reset_behind_data_does_not_undo_the_delivery() -> None:
    first = Pieces()
    pair = Pair(first, Pieces())
    pair.say((pair.first, DATA, b"A"), (pair.first, FrameType.RESET, b"\x00"))
    assert first.data == b"A" and first.lost is not None and not first.clean


def test_paused_by_another_stream_in_the_middle_of_a_batch() -> None:
    """As a program may that uses several streams; what was gathered comes before the rest."""
    first, second = Pieces(), Recorder()
    pair = Pair(first, second)
    second.on_data = lambda data: pair.first.pauseProducing()
    pair.say((pair.first, DATA, b"A"), (pair.second, DATA, b"x"), (pair.first, DATA, b"B"))
    assert first.data == b""
    pair.first.resumeProducing()
    assert first.data == b"AB"


def test_paused_and_resumed_by_another_stream_in_the_middle_of_a_batch() -> None:
    first, second = Pieces(), Recorder()
    pair = Pair(first, second)

    def toggle(data: bytes) -> None:
        pair.first.pauseProducing() if data == b"x" else pair.first.resumeProducing()

    second.on_data = toggle
    pair.say(
        (pair.first, DATA, b"A"),
        (pair.second, DATA, b"x"),
        (pair.first, DATA, b"B"),
        (pair.second, DATA, b"y"),
        (pair.first, DATA, b"C"),
    )
    assert first.data == b"ABC"


@pytest.mark.parametrize("more", [b"", b"B"])
def test_a_protocol_that_takes_no_pieces_follows_in_the_middle_of_a_batch(more: bytes) -> None:
    first, second, later = Pieces(), Recorder(), Recorder()
    pair = Pair(first, second)

    def switch(_data: bytes) -> None:
        later.makeConnection(pair.first)
        pair.first.protocol = later

    second.on_data = switch
    frames = [(pair.first, DATA, b"A"), (pair.second, DATA, b"x")]
    if more:
        frames.append((pair.first, DATA, more))
    pair.say(*frames)
    assert first.data == b"" and later.data == b"A" + more


def test_a_protocol_that_takes_pieces_follows_in_the_middle_of_a_batch() -> None:
    first, later = Recorder(), Pieces()
    pair = Pair(first, Recorder())

    def switch(_data: bytes) -> None:
        later.makeConnection(pair.first)
        pair.first.protocol = later

    first.on_data = switch
    pair.say(*((pair.first, DATA, bytes([65 + i])) for i in range(4)))
    assert first.data == b"A" and later.data == b"BCD" and later.calls == [3]


@pytest.mark.parametrize("how", ["abort", "close", "raise", "end session", "cut", "pause"])
def test_whatever_a_protocol_does_inside_the_call(how: str, logged_failures: Any) -> None:
    def act(protocol: Pieces) -> None:
        match how:
            case "abort":
                pair.first.abortConnection()
            case "close":
                pair.first.loseConnection()
            case "raise":
                raise RuntimeError("a mistake of an embedding program")
            case "end session":
                pair.joined.server_mux.close()
            case "cut":
                pair.joined.server_link.fail("cut")
            case "pause":
                pair.first.pauseProducing()

    first, second = Pieces(act), Pieces()
    pair = Pair(first, second)
    free = pair.joined.server_mux._pool.free
    mux = pair.joined.server_mux
    pair.say(
        (pair.first, DATA, b"A"),
        (pair.first, FrameType.WINDOW_UPDATE, encode_window_update(1)),
        (pair.second, DATA, b"x"),
        (pair.first, DATA, b"B"),
        (pair.first, DATA, b"C"),
    )
    assert first.data.startswith(b"A") and b"ABC".startswith(first.data)
    if how in ("abort", "close", "raise"):
        assert first.data == b"A" and second.data == b"x"
        assert first.lost is not None or how == "close"
    elif how == "pause":
        assert first.data == b"A" and second.data == b"x"
        first.on_pieces = None
        pair.first.resumeProducing()
        assert first.data == b"ABC"
    elif how == "end session":
        assert first.lost is not None and second.lost is not None
    else:
        pair.joined.relink()
        pair.joined.run(5)
        first.on_pieces = None
        assert first.data == b"ABC" and second.data == b"x"
    assert not mux._gathering
    assert mux._pool.free >= free - 2 * 65_536
    if how == "raise":
        assert len(logged_failures.flush(RuntimeError)) == 1


def test_an_exception_leaves_no_view_behind(logged_failures: Any) -> None:
    def fail(_protocol: Pieces) -> None:
        raise RuntimeError("a mistake of an embedding program")

    first = Pieces(fail)
    pair = Pair(first, Pieces())
    pair.say((pair.first, DATA, b"A"), (pair.first, DATA, b"B"))
    assert first.lost is not None and not pair.first.gathered
    logged_failures.flush(RuntimeError)
