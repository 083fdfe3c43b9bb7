"""Bulk data over real sockets: nothing is lost, doubled, cut short unnoticed, or stuck."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.bulk import Bulk, Program, spoil_lent_buffers

from phantom.fast.turns import find_turns, install_turns
from phantom.tunnel.mux import MuxLimits
from phantom.tunnel.stream import Stream


@pytest.fixture(params=["epoll and turns", "epoll", "select"])
def private(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A reactor that only the test turns."""
    if request.param != "select":
        reactor: Any = pytest.importorskip("twisted.internet.epollreactor").EPollReactor()
    else:
        from twisted.internet.selectreactor import SelectReactor

        reactor = SelectReactor()
    if "turns" in request.param:
        install_turns(reactor)
        assert find_turns(reactor) is not None
    yield reactor
    for reader in list(reactor._internalReaders):
        reactor.removeReader(reader)
        reader.connectionLost(None)
    if request.param != "select":
        reactor._poller.close()


def pairs(bulk: Bulk) -> list[tuple[Program, Program]]:
    """Return each program with its destination, where that is connected."""
    found = []
    for program in bulk.programs:
        destination = bulk.destinations.get(program.says // 2)
        if destination is not None:
            found.append((program, destination))
    return found


def check_ends(program: Program, other: Program) -> None:
    """An end that looks clean is one, and everything came before it."""
    assert program.received <= other.sent
    if program.read_end == "end":
        assert other.finished, "a break looks like an end"
        assert program.received == other.sent, "cut short, and it looks complete"


def settle(bulk: Bulk, turns: int = 3000) -> None:
    """Let everybody read and end what they say; all connections must come to their end."""
    for program in (*bulk.programs, *bulk.destinations.values()):
        program.reading = True
    idle = 0
    for turn in range(turns):
        if bulk.session.link is None and not turn % 20:
            bulk.relink()
        if turn >= 200:
            for program in (*bulk.programs, *bulk.destinations.values()):
                program.finish()
        moved = sum(p.listen(1 << 20) for p in (*bulk.programs, *bulk.destinations.values()))
        idle = 0 if moved else idle + 1
        # A socket whose peer had no room is tried again after 0.2 s and more.
        bulk.turn(0.001 if moved else 0.02, wait=0.005 if idle > 200 else 0)
        if turn > 200 and all(p.over for p in (*bulk.programs, *bulk.destinations.values())):
            return
    stuck = [
        (p.says, p.sent, p.received, p.read_end, p.finished)
        for p in (*bulk.programs, *bulk.destinations.values())
        if not p.over
    ]
    raise AssertionError(f"stuck: {stuck}")


def fuzz(bulk: Bulk, seed: int, steps: int = 250) -> None:
    chance = random.Random(seed)
    rough = chance.random() < 0.7
    for _ in range(steps):
        everybody = [*bulk.programs, *bulk.destinations.values()]
        match chance.choices(
            [
                "open",
                "say",
                "listen",
                "deaf",
                "hear",
                "finish",
                "reset",
                "cut",
                "relink",
                "stall",
                "unstall",
            ],
            [4, 40, 30, 3, 4, 1, 0.5, 1 if rough else 0, 2 if rough else 0, 2, 4],
        )[0]:
            case "open" if len(bulk.programs) < 12:
                bulk.connection()
            case "say" if everybody:
                chance.choice(everybody).say(chance.choice([1, 100, 5000, 70_000, 400_000]))
            case "listen" if everybody:
                chance.choice(everybody).listen(chance.choice([1, 1000, 100_000, 1_000_000]))
            case "deaf" if everybody:
                chance.choice(everybody).reading = False
            case "hear" if everybody:
                chance.choice(everybody).reading = True
            case "finish" if everybody:
                chance.choice(everybody).finish()
            case "reset" if everybody:
                chance.choice(everybody).reset()
            case "cut":
                bulk.cut(chance.randint(0, 1))
            case "relink":
                bulk.relink()
            case "stall":
                bulk.stall(True)
            case "unstall":
                bulk.stall(False)
        for _ in range(chance.choice([0, 1, 1, 2, 5])):
            bulk.turn(chance.choice([0.0, 0.001, 0.03]))
        assert not bulk.ended, bulk.ended
        for program, destination in pairs(bulk):
            check_ends(program, destination)
            check_ends(destination, program)
    bulk.stall(False)
    settle(bulk)
    for program, destination in pairs(bulk):
        check_ends(program, destination)
        check_ends(destination, program)
        if not (program.broken or destination.broken):
            assert not program.failed and not destination.failed
            assert program.read_end == destination.read_end == "end"
            assert program.received == destination.sent
            assert destination.received == program.sent
    for session in (bulk.session, bulk.server_session):
        until = 200
        while not session.idle and until:
            bulk.turn(0.05, wait=0.01)
            until -= 1
        assert session.idle and session._log.size == 0 and session._log._block is None
    for mux in (bulk.mux, bulk.server_mux):
        assert not mux.streams and not mux.undelivered and not mux.lanes.main._scheduler.waiting


SMALL = MuxLimits(max_streams=16, session_memory=1024 * 1024, window=256 * 1024)


@pytest.mark.parametrize("seed", range(12))
def test_whatever_happens_to_bulk(private: Any, monkeypatch: Any, seed: int) -> None:
    spoil_lent_buffers(monkeypatch)
    buffer = (8192, 32_768, 1 << 20)[seed % 3]
    bulk = Bulk(private, limits=SMALL if seed % 2 else None, buffer=buffer)
    try:
        fuzz(bulk, seed)
    finally:
        bulk.close()


# -- a source that waits is read on ------------------------------------------------------------


@pytest.fixture
def upload(private: Any, request: pytest.FixtureRequest) -> Iterator[tuple[Bulk, Program, Stream]]:
    """A program that is to send much, and nothing sent yet; the parameter is a buffer's size."""
    bulk = Bulk(private, buffer=getattr(request, "param", 1 << 20))
    program, number = bulk.connection()
    for _ in range(20):
        bulk.turn()
    try:
        yield bulk, program, bulk.mux.streams[number]
    finally:
        bulk.close()


def until(bulk: Bulk, condition: Callable[[], object]) -> None:
    for _ in range(3000):
        if condition():
            return
        bulk.turn(0.001, wait=0.001)
    raise AssertionError("it never happened")


def finish(bulk: Bulk, program: Program) -> None:
    """Let the destination read everything and compare."""
    destination = bulk.destinations[program.says // 2]

    def done() -> bool:
        destination.listen(1 << 20)
        return destination.received == program.sent

    until(bulk, done)
    settle(bulk)
    assert destination.read_end == "end" and destination.received == program.sent


def test_after_a_log_that_was_full(upload: tuple[Bulk, Program, Stream]) -> None:
    """Everything was sent and nothing waits but the socket: only an ACK can wake it."""
    bulk, program, stream = upload
    bulk.links[-1][1].pauseProducing()  # the server reads nothing, and the kernel has room
    program.say(400_000)
    until(bulk, lambda: not bulk.session._log.has_room)
    until(bulk, lambda: stream._parked)
    link = bulk.session.link
    assert link is not None and not link.congested and not bulk.session._log.has_unsent
    bulk.links[-1][1].resumeProducing()
    finish(bulk, program)


@pytest.mark.parametrize("upload", [16_384], indirect=True)
def test_after_credit_came_to_a_congested_link(upload: tuple[Bulk, Program, Stream]) -> None:
    bulk, program, stream = upload
    destination = bulk.destinations[stream.stream_id]

    def no_credit() -> bool:
        program.say(50_000)
        return not stream.credit and stream._parked

    until(bulk, no_credit)  # the destination reads nothing
    link = bulk.session.link
    assert link is not None
    link.pauseProducing()  # as the transport does that is full
    for _ in range(50):
        destination.listen(1 << 20)
        bulk.turn()
    assert stream.credit > 0 and stream._parked
    link.resumeProducing()
    finish(bulk, program)


@pytest.mark.parametrize("side", [0, 1])
def test_after_a_session_without_a_link(upload: tuple[Bulk, Program, Stream], side: int) -> None:
    bulk, program, stream = upload
    bulk.cut(side)
    until(bulk, lambda: bulk.session.link is None)
    program.say(400_000)
    until(bulk, lambda: stream._parked)
    bulk.turn(10)
    assert stream._parked and not stream.sent
    bulk.relink()
    finish(bulk, program)


def test_after_an_end_that_came_while_it_waited(upload: tuple[Bulk, Program, Stream]) -> None:
    """What lies in the socket of a program that is gone is sent, and then its end."""
    bulk, program, stream = upload
    bulk.cut(0)
    until(bulk, lambda: bulk.session.link is None)
    program.say(150_000)
    program.finish()
    until(bulk, lambda: stream._parked)
    bulk.relink()
    destination = bulk.destinations[stream.stream_id]

    def ended() -> bool:
        destination.listen(1 << 20)
        return bool(destination.read_end)

    until(bulk, ended)
    assert destination.read_end == "end" and destination.received == program.sent


def test_after_a_break_that_came_while_it_waited(upload: tuple[Bulk, Program, Stream]) -> None:
    bulk, program, stream = upload
    bulk.cut(0)
    until(bulk, lambda: bulk.session.link is None)
    program.say(150_000)
    until(bulk, lambda: stream._parked)
    program.reset()
    bulk.turn(1)
    bulk.relink()
    destination = bulk.destinations[stream.stream_id]

    def ended() -> bool:
        destination.listen(1 << 20)
        return bool(destination.read_end)

    until(bulk, ended)
    assert destination.read_end == "reset"
