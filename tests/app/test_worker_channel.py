"""What a worker tells its parent, also when the parent does not listen for a while."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from phantom.app.worker import MAX_UNSENT, Channel

Ends = tuple[Channel, socket.socket]


@pytest.fixture
def ends() -> Iterator[Ends]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        yield Channel(theirs), ours


def take(connection: socket.socket) -> bytes:
    try:
        return connection.recv(1 << 20)
    except BlockingIOError:
        return b""


def messages(raw: bytes) -> list[dict[str, Any]]:
    found = []
    while raw:
        end = 4 + int.from_bytes(raw[:4], "big")
        found.append(json.loads(raw[4:end]))
        raw = raw[end:]
    return found


def test_what_is_sent_arrives(ends: Ends) -> None:
    channel, parent = ends
    channel.send(alive=True)
    channel.send(level="info", text="a line")
    assert messages(take(parent)) == [{"alive": True}, {"level": "info", "text": "a line"}]


def test_a_parent_that_listens_again_is_told_again(ends: Ends) -> None:
    channel, parent = ends
    count = 60
    for _ in range(count):
        channel.send(level="info", text="x" * (MAX_UNSENT // 20))
    raw = b""
    for _ in range(20):  # it was stopped, say, and goes on
        raw += take(parent)
        channel.send(alive=True)
    told = messages(raw + take(parent))
    assert told[-1] == {"alive": True}
    entries = sum("text" in message for message in told)
    assert entries < count
    dropped = sum(message.get("dropped", 0) for message in told)
    assert entries + dropped >= count


def test_a_sign_of_life_is_said_however_much_there_is_to_log(ends: Ends) -> None:
    """A worker whose log overtakes the parent's writing lives, and must not be killed for it."""
    channel, parent = ends
    for _ in range(60):
        channel.send(level="info", text="x" * (MAX_UNSENT // 20))
    channel.send(alive=True)
    raw = b""
    while piece := take(parent):
        raw += piece
        channel._flush()
    told = messages(raw)
    assert "text" not in told[-1] and told[-1]["alive"] and told[-1]["dropped"]
