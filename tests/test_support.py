"""The stand-ins behave as the real things do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.pipes import Pipe, byte_by_byte, drawn_split, join, run, seeded_split
from support.runtime import FakeTime, ScriptedResolver, fake_runtime
from support.transports import ByteTransport
from twisted.internet.defer import CancelledError
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint, connectProtocol
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock, deferLater
from zope.interface import implementer


class Recorder(Protocol):
    """Writes down what it is told; neighbouring pieces of data are one event."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def connectionMade(self) -> None:
        self.events.append("made")

    def dataReceived(self, data: bytes) -> None:
        if self.events[-1].startswith("data "):
            self.events[-1] += data.decode()
        else:
            self.events.append(f"data {data.decode()}")

    def connectionLost(self, reason: Any = None) -> None:
        self.events.append(f"lost {reason.type.__name__}")


@implementer(IHalfCloseableProtocol)
class HalfCloser(Recorder):
    def readConnectionLost(self) -> None:
        self.events.append("read lost")

    def writeConnectionLost(self) -> None:
        self.events.append("write lost")


Step = Callable[[Any, Any], None]

#: What is done with the two protocols of a connection, step by step.
SCENARIOS: dict[str, tuple[type[Recorder], list[Step]]] = {
    "close": (
        Recorder,
        [lambda a, b: (a.transport.write(b"hi"), a.transport.loseConnection())],
    ),
    "both close": (
        Recorder,
        [lambda a, b: (a.transport.loseConnection(), b.transport.loseConnection())],
    ),
    "abort": (Recorder, [lambda a, b: a.transport.abortConnection()]),
    "half-close nobody knows of": (
        Recorder,
        [lambda a, b: (a.transport.write(b"hi"), a.transport.loseWriteConnection())],
    ),
    "half-close": (
        HalfCloser,
        [
            lambda a, b: (a.transport.write(b"question"), a.transport.loseWriteConnection()),
            lambda a, b: (a.transport.write(b"too late"), b.transport.write(b"answer")),
            lambda a, b: b.transport.loseConnection(),
            lambda a, b: a.transport.loseConnection(),
        ],
    ),
    "half-closed on both sides": (
        HalfCloser,
        [
            lambda a, b: a.transport.loseWriteConnection(),
            lambda a, b: b.transport.loseWriteConnection(),
            lambda a, b: None,
            lambda a, b: (a.transport.loseConnection(), b.transport.loseConnection()),
        ],
    ),
    "abort while half-closed": (
        HalfCloser,
        [
            lambda a, b: a.transport.loseWriteConnection(),
            lambda a, b: b.transport.abortConnection(),
        ],
    ),
    "paused reading": (
        Recorder,
        [
            lambda a, b: b.transport.pauseProducing(),
            lambda a, b: a.transport.write(b"wait"),
            lambda a, b: b.transport.write(b"go"),
            lambda a, b: b.transport.resumeProducing(),
            lambda a, b: a.transport.loseConnection(),
        ],
    ),
}

named = pytest.mark.parametrize("name", list(SCENARIOS))


def on_pipe(name: str) -> list[tuple[list[str], list[str]]]:
    make, steps = SCENARIOS[name]
    clock, left, right = Clock(), make(), make()
    join(clock, left, right, delay=0.01)
    seen = []
    for step in steps:
        step(left, right)
        run(clock, 1)
        seen.append((left.events[:], right.events[:]))
    return seen


@named
async def test_pipes_close_as_tcp_does(reactor: Any, name: str) -> None:
    make, steps = SCENARIOS[name]
    left, right = make(), make()
    serving = Factory.forProtocol(lambda: right)
    port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(serving)
    there = TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port)
    await connectProtocol(there, left)
    while not right.events:
        await deferLater(reactor, 0.005)
    seen = []
    for step in steps:
        step(left, right)
        await deferLater(reactor, 0.03)
        seen.append((left.events[:], right.events[:]))
    for end in (left, right):
        if not end.events[-1].startswith("lost"):
            end.transport.abortConnection()
    await port.stopListening()
    assert on_pipe(name) == seen


def test_pipes_take_their_time() -> None:
    clock, left, right = Clock(), Recorder(), Recorder()
    join(clock, left, right, delay=0.5)
    left.transport.write(b"hi")
    run(clock, 0.4)
    assert right.events == ["made"]
    run(clock, 0.2)
    assert right.events == ["made", "data hi"]


class Source:
    """A push producer of a fixed number of bytes."""

    def __init__(self, transport: Any, total: int) -> None:
        self.transport, self.left, self.paused, self.stopped = transport, total, False, False
        self.pauses = 0

    def go(self) -> None:
        while self.left and not self.paused and not self.stopped:
            size = min(self.left, 1000)
            self.left -= size
            self.transport.write(b"x" * size)
        if not self.left:
            self.transport.unregisterProducer()

    def pauseProducing(self) -> None:
        self.paused = True
        self.pauses += 1

    def resumeProducing(self) -> None:
        self.paused = False
        self.go()

    def stopProducing(self) -> None:
        self.stopped = True


def test_pipes_are_bounded() -> None:
    clock, left, right = Clock(), Recorder(), Recorder()
    pipe = join(clock, left, right, capacity=4096)
    right.transport.pauseProducing()
    source = Source(left.transport, 50_000)
    left.transport.registerProducer(source, True)
    source.go()
    run(clock, 10)
    assert source.paused
    assert 50_000 - source.left == 5000  # 4096 on the wire, the rest of one write behind it
    right.transport.resumeProducing()
    left.transport.loseConnection()
    run(clock, 10)
    assert pipe.carried == (50_000, 0)
    assert right.events == ["made", "data " + "x" * 50_000, "lost ConnectionDone"]


@given(st.binary(max_size=300), st.lists(st.integers(1, 50), max_size=30), st.integers(1, 100))
def test_pipes_keep_bytes_and_order(data: bytes, sizes: list[int], capacity: int) -> None:
    class Collector(Recorder):
        def dataReceived(self, data: bytes) -> None:
            received.append(data)

    received: list[bytes] = []
    clock, left = Clock(), Recorder()
    join(clock, left, Collector(), split=drawn_split(sizes), capacity=capacity)
    left.transport.write(data)
    run(clock)
    assert b"".join(received) == data


def test_pipes_split_as_told() -> None:
    for split, expected in ((byte_by_byte, 10), (seeded_split(1), 2)):
        clock, left, right = Clock(), Recorder(), Recorder()
        counted: list[int] = []
        join(clock, left, right, split=split)
        right.dataReceived = lambda data: counted.append(len(data))  # noqa: B023
        left.transport.write(b"0123456789")
        run(clock)
        assert sum(counted) == 10
        assert len(counted) >= expected


def both() -> tuple[Clock, Recorder, Recorder, Pipe]:
    clock, left, right = Clock(), Recorder(), Recorder()
    return clock, left, right, join(clock, left, right)


def test_pipes_stall_and_break() -> None:
    clock, left, right, pipe = both()
    pipe.stall()
    left.transport.write(b"held")
    run(clock, 100)
    assert right.events == ["made"]
    pipe.unstall()
    run(clock, 1)
    assert right.events == ["made", "data held"]
    pipe.cut()
    run(clock, 1)
    assert left.events[-1] == right.events[-1] == "lost ConnectionLost"


def test_a_loop_without_time_is_noticed() -> None:
    clock = Clock()

    def again() -> None:
        clock.callLater(0, again)

    again()
    with pytest.raises(AssertionError, match="still busy"):
        run(clock, 1, max_events=100)


def test_byte_transport_holds_back_what_is_not_read() -> None:
    protocol = HalfCloser()
    transport = ByteTransport(protocol).connect()
    transport.pauseProducing()
    transport.deliver(b"early")
    transport.end()
    assert protocol.events == ["made"]
    transport.resumeProducing()
    assert protocol.events == ["made", "data early", "read lost"]
    transport.write(b"answer")
    transport.loseWriteConnection()
    transport.write(b"too late")
    transport.flush()
    assert transport.take() == b"answer"
    assert protocol.events[-1] == "write lost"
    transport.loseConnection()
    assert protocol.events[-1] == "write lost"
    transport.flush()
    assert protocol.events[-1] == "lost ConnectionDone"


def test_byte_transport_pauses_its_producer() -> None:
    transport = ByteTransport(Recorder()).connect()
    source = Source(transport, 3000)
    transport.registerProducer(source, True)
    transport.congest()
    source.go()
    transport.loseConnection()
    transport.flush()
    assert source.left == 3000
    assert transport.connected
    assert source.paused


def test_byte_transport_end_closes_who_knows_no_half_close() -> None:
    protocol = Recorder()
    ByteTransport(protocol).connect().end()
    assert protocol.events == ["made", "lost ConnectionDone"]


def test_runtimes_repeat() -> None:
    first, second, other = fake_runtime(seed=1), fake_runtime(seed=1), fake_runtime(seed=2)
    assert first.entropy(32) == second.entropy(32) != other.entropy(32)


def test_time_stands_still_unless_told() -> None:
    clock = Clock()
    time = FakeTime(clock)
    runtime = fake_runtime(clock, time=time)
    wall = runtime.wall_time()
    clock.advance(5)
    time.sleep(60)
    assert (runtime.wall_time() - wall, runtime.monotonic(), runtime.boottime()) == (65, 5, 65)


async def test_scripted_names() -> None:
    resolve = ScriptedResolver({"a.test": ["192.0.2.1"], "b.test": TimeoutError()})
    assert [str(address) for address in await resolve("a.test")] == ["192.0.2.1"]
    with pytest.raises(TimeoutError):
        await resolve("b.test")
    with pytest.raises(OSError, match="not known"):
        await resolve("c.test")
    resolve.holding = True
    given_up, held = resolve("a.test"), resolve("a.test")
    given_up.cancel()
    with pytest.raises(CancelledError):
        await given_up
    assert resolve.held == ["a.test"]
    resolve.release()
    assert await held
    assert resolve.asked == ["a.test", "b.test", "c.test", "a.test", "a.test"]
