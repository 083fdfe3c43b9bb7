"""Pieces that leave as segments of their own, over real sockets."""

from __future__ import annotations

import socket
import struct

import pytest
from support.quick import CHANCE, Producer, Wire

from phantom.fast.tcp_info import read_state

linux = pytest.mark.skipif(not hasattr(socket, "TCP_CORK"), reason="Linux only")


def segments(wire: Wire) -> int:
    """Return how many segments with data the connection has sent."""
    state = read_state(wire.socket)
    assert state is not None
    return state.segments_sent


@linux
@pytest.mark.parametrize("apart", [True, False])
def test_what_waits_in_the_kernel_stays_apart(wire: Wire, apart: bool) -> None:
    """A paced connection holds back what is beyond its pace, as one beyond its window does."""
    pace = getattr(socket, "SO_MAX_PACING_RATE", 47)
    wire.socket.setsockopt(socket.SOL_SOCKET, pace, struct.pack("=I", 200_000))
    wire.quick.setTcpNoDelay(True)
    pieces = [CHANCE.randbytes(300) for _ in range(40)]
    before = segments(wire)
    if apart:
        wire.quick.send_apart(pieces)
    else:
        for piece in pieces:
            wire.quick.send_now(piece)
    assert wire.read(12_000) == b"".join(pieces)
    sent = segments(wire) - before
    assert sent >= 40 if apart else sent < 30


def test_pieces_that_must_wait_keep_their_order(wire: Wire) -> None:
    producer = Producer()
    wire.quick.registerProducer(producer, True)
    given = wire.fill()
    pieces = [CHANCE.randbytes(300) for _ in range(5)]
    wire.quick.send_apart(pieces)
    assert producer.paused
    expected = given + b"".join(pieces)
    assert wire.read(len(expected)) == expected


@linux
def test_what_the_kernel_has_no_room_for_leaves_small(wire: Wire) -> None:
    """Each piece takes as much room there as a large one."""
    producer = Producer()
    wire.quick.registerProducer(producer, True)
    pieces = [CHANCE.randbytes(size) for size in (300, 250, 400, 350) * 25]
    before = segments(wire)
    wire.quick.send_apart(pieces)
    assert producer.paused and wire.quick.dataBuffer
    assert wire.read(32_500) == b"".join(pieces)
    assert segments(wire) - before >= 32_500 / 400
    wire.until(lambda: not producer.paused)
    wire.quick.send_now(bytes(30_000))
    assert wire.read(30_000) == bytes(30_000)
    assert segments(wire) - before < 100 + 30


@linux
@pytest.mark.parametrize("behind", ["apart", "whole", "bulk"])
def test_what_comes_behind_a_rest_does_not_join_it(wire: Wire, behind: str) -> None:
    """An acknowledgement asks nobody whether something waits."""
    producer = Producer()
    wire.quick.registerProducer(producer, True)
    pieces = [CHANCE.randbytes(380) for _ in range(100)]
    before = segments(wire)
    wire.quick.send_apart(pieces)
    assert wire.quick.dataBuffer
    more = CHANCE.randbytes(30_000 if behind == "bulk" else 48)
    if behind == "apart":
        wire.quick.send_apart([more[:20], more[20:]])
    else:
        assert wire.quick.send_buffer(memoryview(bytearray(more))), "it is copied"
    expected = b"".join(pieces) + more
    assert wire.read(len(expected)) == expected
    if behind != "bulk":  # with that Twisted joins all of it, in its order
        assert segments(wire) - before >= 100
    wire.until(lambda: not wire.reactor.getWriters())


def test_nothing_is_nothing(wire: Wire) -> None:
    wire.quick.patient = True
    producer = Producer()
    wire.quick.registerProducer(producer, True)
    wire.quick.send_apart([])
    assert not producer.told


def test_a_patient_one_is_paused_behind_the_last_piece(wire: Wire) -> None:
    wire.quick.patient = True
    producer = Producer()
    wire.quick.registerProducer(producer, True)
    wire.quick.send_apart([b"one", b"two"])
    assert producer.told == ["pause"]
    assert wire.read(6) == b"onetwo"
    wire.until(lambda: producer.told[-1] == "resume")


def test_nothing_is_sent_apart_behind_the_end(wire: Wire) -> None:
    wire.quick.loseWriteConnection()
    wire.until(lambda: wire.protocol.events)
    wire.quick.send_apart([b"too", b"late"])
    assert wire.read_end() == "end"
