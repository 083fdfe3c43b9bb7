"""Calls at the end of the reactor's turn, on reactors of their own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from twisted.internet.abstract import FileDescriptor
from twisted.internet.base import ReactorBase
from twisted.internet.task import Clock

from phantom.fast.turns import Turns, find_turns, install_turns


def make(name: str) -> Any:
    if name == "select":
        from twisted.internet.selectreactor import SelectReactor

        return SelectReactor()
    if name == "poll":
        return pytest.importorskip("twisted.internet.pollreactor").PollReactor()
    return pytest.importorskip("twisted.internet.epollreactor").EPollReactor()


@pytest.fixture(params=["epoll", "poll", "select"])
def loop(request: pytest.FixtureRequest) -> Iterator[Any]:
    made = make(request.param)
    yield made
    for reader in list(made._internalReaders):
        made.removeReader(reader)
        reader.connectionLost(None)
    if hasattr(made, "_poller") and hasattr(made._poller, "close"):
        made._poller.close()


class Pipe(FileDescriptor):
    """Is readable as often as it was poked."""

    def __init__(self, loop: Any, on_read: Callable[[], object]) -> None:
        super().__init__(loop)
        self._ends = os.pipe()
        self._on_read = on_read
        self.startReading()

    def poke(self) -> None:
        os.write(self._ends[1], b"x")

    def fileno(self) -> int:
        return self._ends[0]

    def doRead(self) -> None:
        os.read(self._ends[0], 1)
        self._on_read()

    def close(self) -> None:
        self.stopReading()
        for end in self._ends:
            os.close(end)


def test_calls_come_in_order_behind_the_turns_events(loop: Any) -> None:
    turns = Turns(loop)
    heard: list[str] = []

    def first() -> None:
        heard.append("event")
        turns.at_end(lambda: heard.append("end 1"))
        turns.at_end(lambda: heard.append("end 2"))

    pipes = [Pipe(loop, first), Pipe(loop, lambda: heard.append("event"))]
    for pipe in pipes:
        pipe.poke()
    loop.iterate(0)
    assert heard == ["event", "event", "end 1", "end 2"]
    loop.iterate(0)
    assert len(heard) == 4, "each call is made once"
    for pipe in pipes:
        pipe.close()


def test_a_call_that_adds_calls_does_not_keep_events_waiting(loop: Any) -> None:
    turns = Turns(loop)
    heard: list[str] = []

    def again() -> None:
        heard.append("call")
        turns.at_end(again)

    turns.at_end(again)
    pipe = Pipe(loop, lambda: heard.append("event"))
    pipe.poke()
    for _ in range(3):
        # Were the calls that wait not known, each of these would take an hour.
        loop.doIteration(3600)
    assert heard == ["event", "call", "call", "call"]
    pipe.close()


def test_a_call_from_a_timer_is_made_in_the_same_turn(loop: Any) -> None:
    turns = Turns(loop)
    heard: list[str] = []
    loop.callLater(0, turns.at_end, lambda: heard.append("call"))
    loop.runUntilCurrent()
    loop.doIteration(3600)
    assert heard == ["call"]


def test_one_failure_is_not_everybodys(loop: Any, logged_failures: Any) -> None:
    turns = Turns(loop)
    heard: list[str] = []

    def fail() -> None:
        raise RuntimeError("one call's own trouble")

    for call in (lambda: heard.append("before"), fail, lambda: heard.append("behind")):
        turns.at_end(call)
    loop.iterate(0)
    assert heard == ["before", "behind"]
    assert len(logged_failures.flush(RuntimeError)) == 1


def test_what_an_event_closed_gets_no_event(loop: Any) -> None:
    Turns(loop)
    heard: list[int] = []
    pipes: list[Pipe] = []

    def close_the_other(mine: int) -> None:
        heard.append(mine)
        pipes[1 - mine].stopReading()

    pipes += [Pipe(loop, lambda mine=mine: close_the_other(mine)) for mine in (0, 1)]
    for pipe in pipes:
        pipe.poke()
    loop.iterate(0)
    assert len(heard) == 1
    for pipe in pipes:
        pipe.close()


def test_a_turn_without_limit_waits_for_an_event(loop: Any) -> None:
    turns = Turns(loop)
    heard: list[str] = []
    pipe = Pipe(loop, lambda: turns.at_end(lambda: heard.append("call")))
    loop.callFromThread(lambda: None)  # wakes the reactor, as an event of its own
    loop.doIteration(None)
    pipe.poke()
    loop.doIteration(None)
    assert heard == ["call"]
    pipe.close()


def test_a_reactor_gets_turns_once(loop: Any) -> None:
    assert find_turns(loop) is None
    install_turns(loop)
    turns = find_turns(loop)
    install_turns(loop)
    assert turns is not None and find_turns(loop) is turns


def test_reactors_without_turns_are_left_alone() -> None:
    class Other(ReactorBase):
        def installWaker(self) -> None:
            pass

        def mainLoop(self) -> None:
            """A loop of its own, as asyncio's is."""

    for reactor in (Clock(), Other()):
        install_turns(reactor)
        assert find_turns(reactor) is None
