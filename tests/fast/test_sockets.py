"""Quick connections over real sockets, driven event by event on a reactor of their own."""

from __future__ import annotations

import errno
import socket
import struct
from typing import Any

import pytest
from support.quick import CHANCE, Buffers, Into, Producer, Wire
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from twisted.internet.protocol import ServerFactory
from twisted.internet.tcp import Client, Port, Server

from phantom.fast.sockets import (
    COPIED_REST,
    QuickClient,
    QuickServer,
    quicken,
)

# -- sending ---------------------------------------------------------------------------------


def test_what_the_kernel_takes_leaves_at_once(wire: Wire) -> None:
    memory = bytearray(b"at once")
    assert wire.quick.send_buffer(memoryview(memory)) is True
    memory[:] = b"changed"
    assert wire.peer.recv(100) == b"at once"
    assert not wire.reactor.getWriters()


def test_what_waits_keeps_its_order_among_all_ways_of_writing(wire: Wire) -> None:
    given = wire.fill()
    pieces = [CHANCE.randbytes(70_000) for _ in range(6)]
    memory = bytearray(pieces[1])
    wire.quick.write(pieces[0])
    assert wire.quick.send_buffer(memoryview(memory)), "behind others it is copied"
    memory[:] = bytes(len(memory))
    wire.quick.send_now(pieces[2])
    wire.quick.send_pieces([memoryview(pieces[3]), memoryview(pieces[4])])
    wire.quick.writeSequence([pieces[5]])
    expected = given + b"".join(pieces)
    assert wire.read(len(expected)) == expected
    wire.until(lambda: not wire.reactor.getWriters())


def test_a_lent_buffer_is_kept_until_it_is_sent(wire: Wire) -> None:
    memory = CHANCE.randbytes(2_000_000)
    assert wire.quick.send_buffer(memoryview(memory)) is False
    assert wire.read(len(memory)) == memory
    assert wire.quick.dataBuffer == b"", "and not longer"


def test_a_small_rest_does_not_keep_a_large_buffer(wire: Wire) -> None:
    """Each link that stalls would have one."""
    wire.fill()
    wire.quick.dataBuffer = b""  # the kernel is full and nothing waits
    memory = bytearray(CHANCE.randbytes(400_000))
    content = bytes(memory[:COPIED_REST])
    assert wire.quick.send_buffer(memoryview(memory)[:COPIED_REST]) is True
    memory[:] = bytes(len(memory))
    rest = wire.quick.dataBuffer  # the kernel may have moved on a little
    assert rest and content.endswith(rest)
    assert isinstance(wire.quick.dataBuffer, bytes)


def test_what_is_sent_now_may_be_overwritten_at_once(wire: Wire) -> None:
    content = CHANCE.randbytes(1_000_000)
    memory = bytearray(content)
    wire.quick.send_now(memoryview(memory))
    memory[:] = bytes(len(memory))
    assert wire.read(len(content)) == content


@pytest.mark.parametrize("sizes", [[1, 0, 5], [300_000] * 5, [10] * 5000, [1] * 40_000])
def test_pieces_arrive_in_order(wire: Wire, sizes: list[int]) -> None:
    """Also more of them than one system call takes (IOV_MAX, 1024 on Linux)."""
    content = CHANCE.randbytes(sum(sizes))
    memory = bytearray(content)
    pieces, start = [], 0
    for size in sizes:
        pieces.append(memoryview(memory)[start : start + size])
        start += size
    calls = 0
    stock = wire.quick.send_buffer

    def counted(data: Any) -> bool:
        nonlocal calls
        calls += 1
        return stock(data)

    wire.quick.send_buffer = counted  # type: ignore[method-assign]
    wire.quick.send_pieces(pieces)
    memory[:] = bytes(len(memory))
    assert wire.read(len(content)) == content
    assert calls < 50, "tiny frames cost no system call each"


def test_the_producer_is_paused_as_soon_as_something_waits(wire: Wire) -> None:
    producer = Producer()
    wire.quick.registerProducer(producer, True)
    given = wire.fill()
    assert producer.told == ["pause"]
    assert wire.read(len(given)) == given
    wire.until(lambda: not producer.paused)
    assert producer.told == ["pause", "resume"]
    wire.turn(3)
    assert not wire.reactor.getWriters()


def test_a_resumed_producer_that_fills_again_is_paused_again(wire: Wire) -> None:
    producer = Producer()
    wire.quick.registerProducer(producer, True)
    content = CHANCE.randbytes(3_000_000)
    sent = 0

    def go_on() -> None:
        nonlocal sent
        while sent < len(content) and not producer.paused:
            wire.quick.send_now(content[sent : sent + 200_000])
            sent += 200_000

    producer.on_resume = go_on
    go_on()
    assert wire.read(len(content)) == content
    assert producer.told.count("pause") == producer.told.count("resume") > 3


def test_a_patient_one_asks_before_each_piece_whether_more_is_wanted(wire: Wire) -> None:
    """The kernel fills its last segment unasked, whatever is to wait there at most."""
    wire.quick.patient = True
    wire.quick.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    wire.quick.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 8192)
    wire.peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    producer = Producer()
    wire.quick.registerProducer(producer, True)
    content, sent = CHANCE.randbytes(200_000), 0

    def go_on() -> None:
        nonlocal sent
        while sent < len(content) and not producer.paused:
            wire.quick.send_now(content[sent : sent + 2000])
            sent += 2000

    producer.on_resume = go_on
    go_on()
    assert sent == 2000
    wire.turn(2000)
    # struct tcp_info (linux/tcp.h): tcpi_notsent_bytes
    info = wire.quick.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192)
    assert struct.unpack_from("=I", info, 144)[0] <= 8192 + 2000
    assert sent < len(content)
    assert wire.read(len(content)) == content
    wire.until(lambda: not producer.paused)
    wire.turn(3)
    assert not wire.reactor.getWriters()


@pytest.mark.parametrize("half", [True, False], ids=["half-close", "close"])
def test_a_patient_one_that_waits_can_be_closed(wire: Wire, half: bool) -> None:
    wire.quick.patient = True
    producer = Producer()
    wire.quick.registerProducer(producer, True)
    wire.quick.send_now(b"the last")
    assert producer.paused
    (wire.quick.loseWriteConnection if half else wire.quick.loseConnection)()
    assert wire.read(8) == b"the last"
    assert wire.read_end() == "end"
    wire.turn(3)
    assert not wire.reactor.getWriters()


def test_what_is_queued_leaves_before_a_close(wire: Wire) -> None:
    given = wire.fill()
    wire.quick.loseConnection()
    assert wire.read(len(given)) == given
    assert wire.read_end() == "end"
    assert wire.lost().check(ConnectionDone)


@pytest.mark.parametrize("half", [True, False], ids=["half-close", "close"])
def test_an_end_comes_after_what_a_paused_producer_left_behind(wire: Wire, half: bool) -> None:
    """As a relay does: unregister the source that has ended, then close."""
    producer = Producer()
    wire.quick.registerProducer(producer, True)
    given = wire.fill()
    assert producer.paused
    wire.quick.unregisterProducer()
    if half:
        wire.quick.loseWriteConnection()
    else:
        wire.quick.loseConnection()
    assert wire.read(len(given)) == given
    assert wire.read_end() == "end"
    assert producer.told == ["pause"], "it is not heard of again"
    if half:
        wire.peer.setblocking(True)
        wire.peer.sendall(b"the answer")
        wire.until(lambda: wire.protocol.data == b"the answer")
        assert wire.protocol.events == ["output closed"] and wire.protocol.lost is None
    else:
        assert wire.lost().check(ConnectionDone)


def test_a_second_producer_is_paused_like_the_first(wire: Wire) -> None:
    first, second = Producer(), Producer()
    wire.quick.registerProducer(first, True)
    given = wire.fill()
    wire.quick.unregisterProducer()
    assert wire.read(len(given)) == given
    wire.until(lambda: not wire.reactor.getWriters())
    wire.quick.registerProducer(second, True)
    wire.fill()
    assert second.paused


def test_a_half_close_waits_for_what_a_producer_still_adds(wire: Wire) -> None:
    producer = Producer()
    wire.quick.registerProducer(producer, True)
    given = wire.fill()
    producer.on_resume = lambda: wire.quick.send_now(b"the last")
    wire.quick.loseWriteConnection()
    assert wire.read(len(given) + 8) == given + b"the last"
    assert wire.read_end() == "end"


def test_a_half_close_from_a_producer_that_is_resumed_leaves_the_input_open(wire: Wire) -> None:
    """The last of a download and its end come when a slow reader has made room."""
    producer = Producer()
    wire.quick.registerProducer(producer, True)
    given = wire.fill()

    def end() -> None:
        wire.quick.send_now(b"the last")
        wire.quick.unregisterProducer()
        wire.quick.loseWriteConnection()

    producer.on_resume = end
    assert wire.read(len(given) + 8) == given + b"the last"
    assert wire.read_end() == "end"
    wire.turn(3)
    assert wire.protocol.lost is None and wire.protocol.events == ["output closed"]
    assert not wire.reactor.getWriters()
    wire.peer.setblocking(True)
    wire.peer.sendall(b"the upload")
    wire.until(lambda: wire.protocol.data == b"the upload")


def test_an_abort_from_a_producer_that_is_resumed_is_no_clean_end(wire: Wire) -> None:
    producer = Producer()
    wire.quick.registerProducer(producer, True)
    given = wire.fill()
    producer.on_resume = wire.quick.abortConnection
    wire.quick.loseConnection()
    assert wire.read(len(given)) == given
    assert wire.lost().check(ConnectionAborted)
    assert wire.read_end() == "reset"


def test_nothing_is_sent_behind_the_end(wire: Wire) -> None:
    wire.quick.loseWriteConnection()
    wire.until(lambda: wire.protocol.events)
    assert wire.quick.send_buffer(b"too late") is True
    wire.quick.send_pieces([memoryview(b"too"), memoryview(b"late")])
    assert wire.read_end() == "end"
    wire.quick.loseConnection()
    wire.lost()
    assert wire.quick.send_buffer(b"too late") is True
    wire.quick.send_pieces([memoryview(b"too"), memoryview(b"late")])
    wire.quick.send_now(b"too late")


class Short:
    """A socket to which the system says for once that it has no memory."""

    def __init__(self, inner: socket.socket) -> None:
        self.inner = inner
        self.left = 2

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def send(self, data: Any) -> int:
        if self.left:
            self.left -= 1
            raise OSError(errno.ENOBUFS, "no memory")
        return self.inner.send(data)


def test_a_system_short_of_memory_is_asked_again(wire: Wire) -> None:
    producer = Producer()
    wire.quick.registerProducer(producer, True)
    wire.quick.socket = Short(wire.socket)  # type: ignore[assignment]
    wire.quick.send_now(b"patience")
    assert wire.read(8) == b"patience"
    wire.turn(3)
    assert wire.protocol.lost is None


# -- receiving -------------------------------------------------------------------------------


def test_a_protocol_with_buffers_is_lent_one(wire: Wire) -> None:
    taker = wire.serve(Buffers())
    content = CHANCE.randbytes(5000)
    wire.peer.sendall(content)
    wire.until(lambda: len(taker.data) == 5000)
    assert taker.data == content
    assert max(map(len, taker.views)) == 1000
    assert bytes(taker.views[0]) != content[:1000], "each read uses the same memory"


def test_a_protocol_without_buffers_gets_bytes(wire: Wire) -> None:
    wire.peer.sendall(b"plain")
    wire.until(lambda: wire.protocol.data)
    assert wire.protocol.data == b"plain"


def test_a_reader_comes_before_the_protocol(wire: Wire) -> None:
    reader = wire.quick.reader = Into(10, 20, 1000)
    content = CHANCE.randbytes(2000)
    wire.peer.sendall(content)
    wire.until(lambda: len(b"".join(reader.got)) == 2000)
    assert b"".join(reader.got) == content
    wire.quick.reader = None
    wire.peer.sendall(b"theirs again")
    wire.until(lambda: wire.protocol.data == b"theirs again")


@pytest.mark.parametrize("how", ["reader", "buffers", "bytes"])
def test_an_end_of_input_is_one(wire: Wire, how: str) -> None:
    if how == "buffers":
        wire.serve(Buffers())
    elif how == "reader":
        wire.quick.reader = Into(100)
    wire.peer.sendall(b"x")
    wire.peer.shutdown(socket.SHUT_WR)
    wire.until(lambda: wire.protocol.events)
    assert wire.protocol.events == ["end of input"] and wire.protocol.lost is None
    wire.quick.send_now(b"still open")
    assert wire.peer.recv(100) == b"still open"


@pytest.mark.parametrize("how", ["reader", "buffers", "bytes"])
def test_a_reset_is_one(wire: Wire, how: str) -> None:
    if how == "buffers":
        wire.serve(Buffers())
    elif how == "reader":
        wire.quick.reader = Into(100)
    wire.reset()
    assert wire.lost().check(ConnectionLost)
    assert not wire.protocol.events


def test_a_reset_found_by_somebody_elses_read_stays_a_reset(wire: Wire) -> None:
    """The kernel tells of it once; the next read finds a clean end."""
    wire.quick.stopReading()
    wire.peer.sendall(b"half a page")
    wire.reset()
    room = [memoryview(bytearray(100))]
    assert wire.quick.read_into(room) in (0, 11)
    wire.quick.read_into(room)
    assert wire.quick.read_into(room) == 0
    assert wire.quick.read_end is CONNECTION_LOST
    wire.quick.resumeProducing()
    assert wire.lost().check(ConnectionLost)
    assert not wire.protocol.events


@pytest.mark.parametrize("reading", [True, False])
@pytest.mark.parametrize("pieces", [1, 3])
@pytest.mark.parametrize("how", ["reader", "bytes"])
def test_a_reset_found_by_a_write_stays_a_reset(
    wire: Wire, how: str, pieces: int, reading: bool
) -> None:
    """Or a download would look complete because something was uploaded at its end."""
    if how == "reader":
        wire.quick.reader = Into(100)
    if not reading:
        wire.quick.stopReading()
    wire.reset()
    wire.quick.send_pieces([memoryview(b"an upload")] * pieces)
    assert wire.lost().check(ConnectionLost)
    assert not wire.protocol.events


@pytest.mark.parametrize("found", [True, False])
def test_an_event_without_input_is_no_clean_end_after_a_reset(wire: Wire, found: bool) -> None:
    """The reactor believes so when reading was resumed after it had asked for events."""
    wire.quick.stopReading()
    wire.reset()
    if found:
        wire.quick.send_now(b"an upload")
    wire.quick.resumeProducing()
    wire.reactor._disconnectSelectable(wire.quick, CONNECTION_DONE, True)
    assert wire.protocol.lost is not None and wire.protocol.lost.check(ConnectionLost)
    assert not wire.protocol.events


def test_an_event_without_input_does_not_drop_what_is_there(wire: Wire) -> None:
    wire.peer.sendall(b"the rest")
    wire.reactor._disconnectSelectable(wire.quick, CONNECTION_DONE, True)
    wire.until(lambda: wire.protocol.data == b"the rest")
    assert not wire.protocol.events
    wire.reactor._disconnectSelectable(wire.quick, CONNECTION_DONE, True)
    assert not wire.protocol.events, "nor is there an end because nothing is there"
    wire.peer.shutdown(socket.SHUT_WR)
    wire.reactor._disconnectSelectable(wire.quick, CONNECTION_DONE, True)
    assert wire.protocol.events == ["end of input"]


def test_the_end_is_told_again_to_who_asks_again(wire: Wire) -> None:
    wire.quick.stopReading()
    wire.peer.sendall(b"last")
    wire.peer.shutdown(socket.SHUT_WR)
    room = [memoryview(bytearray(100))]
    wire.until(lambda: wire.quick.read_into(room) == 4 or wire.quick.read_end is None)
    assert wire.quick.read_end is None
    wire.until(lambda: wire.quick.read_into(room) == 0 and wire.quick.read_end)
    wire.quick.resumeProducing()
    wire.until(lambda: wire.protocol.events)
    wire.turn(3)
    assert wire.protocol.events == ["end of input"]
    assert wire.protocol.lost is None
    assert wire.quick not in wire.reactor.getReaders()


def test_nothing_there_is_no_end(wire: Wire) -> None:
    assert wire.quick.read_into([memoryview(bytearray(10))]) == 0
    assert wire.quick.read_end is None


# -- which transports ------------------------------------------------------------------------


def test_only_twisteds_own_are_made_quick(wire: Wire) -> None:
    class Special(Server):
        """Somebody's own, with plans of its own for its methods."""

    assert isinstance(wire.quick, QuickServer)
    assert quicken(wire.quick) is wire.quick
    assert quicken(object()) is None
    assert quicken(Special.__new__(Special)) is None
    client = Client.__new__(Client)
    client.TLS = False
    client.socket = wire.socket
    assert isinstance(quicken(client), QuickClient)
    secret = Server.__new__(Server)
    secret.TLS = True
    assert quicken(secret) is None and type(secret) is Server
    assert quicken(Port(0, ServerFactory())) is None
