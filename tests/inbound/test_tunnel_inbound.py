"""Visitors that are not known: bounded in number, and no help in locking others out."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.keys import CLIENT, SERVER_PUBLIC
from support.pipes import join
from support.runtime import fake_runtime
from support.stack import Silence, Stack
from support.tunnel import Recorder

from phantom.core.admission import Admission
from phantom.core.handshake import Cipher, Mode
from phantom.tunnel.initiator import InitiatorSettings, NoiseInitiator
from phantom.tunnel.replay_file import ReplayFile


def visitors(stack: Stack, count: int) -> list[Recorder]:
    made = [Recorder() for _ in range(count)]
    for visitor in made:
        join(stack.clock, visitor, stack.factory.buildProtocol(None))
    stack.run(0.1)
    return made


def test_idle_visitors_make_room_for_a_real_client() -> None:
    stack = Stack()
    stack.factory._admission = Admission(8, 8)
    visitors(stack, 100)
    assert stack.strangers.count == 92, "the oldest are strangers at once"
    stack.dialer.start()
    stack.run()
    assert stack.dialer.mux is not None
    visitors(stack, 100)
    assert stack.dialer.mux is not None, "a known client holds no place"
    stack.run(11)
    assert stack.strangers.count == 200
    assert len(stack.factory._admission) == 0


def test_a_visitor_that_leaves_frees_its_place() -> None:
    stack = Stack()
    for visitor in visitors(stack, 5):
        visitor.transport.abortConnection()
    stack.run()
    assert len(stack.factory._admission) == 0
    assert stack.meters.counts["visitor.stranger"] == 5


def test_an_empty_list_admits_nobody() -> None:
    stack = Stack(allowed=frozenset())
    stack.dialer.start()
    stack.run(5)
    assert stack.dialer.mux is None and stack.strangers.count == 1


def test_a_removed_client_is_refused_and_ended() -> None:
    stack = Stack()
    stack.dialer.start()
    stack.run()
    stack.gate.allowed = frozenset()
    stack.registry.revoke(lambda key: key in stack.gate.allowed)
    stack.run(0.5)
    assert len(stack.registry) == 0 and stack.dialer.mux is None
    stack.run(60)
    assert len(stack.registry) == 0
    assert isinstance(stack.strangers, Silence) and stack.strangers.count


@pytest.fixture
def replays(tmp_path: Path) -> Iterator[ReplayFile]:
    """The replay filter of a server that has run for a while, in its real file."""
    stack = Stack()
    started = stack.runtime.wall_time() - 1000
    made = ReplayFile(tmp_path, os.urandom, started, epoch=b"boot" * 4)
    yield made
    made.close()


def first_message(stack: Stack, mode: Mode) -> bytes:
    """Return what a client with a known key sends first."""
    listener = Recorder()
    client = NoiseInitiator(
        fake_runtime(stack.clock, seed=9, time=stack.time),
        Recorder(),
        InitiatorSettings(
            private_key=CLIENT,
            server_key=SERVER_PUBLIC,
            cipher=Cipher.AESGCM,
            mode=mode,
            host="example.com",
        ),
        Silence(),
        lambda failure: None,
    )
    join(stack.clock, client, listener)
    stack.run(0.1)
    client.cancel()
    return listener.data


@pytest.mark.parametrize("mode", list(Mode))
def test_a_first_message_is_answered_once(mode: Mode, replays: ReplayFile) -> None:
    stack = Stack(mode=mode)
    stack.gate.replay = replays
    message = first_message(stack, mode)
    first, again, damaged = visitors(stack, 3)
    first.transport.write(message)
    stack.run(0.1)
    assert first.data and stack.strangers.count == 0
    again.transport.write(message)
    damaged.transport.write(message[:-1] + bytes([message[-1] ^ 1]))
    stack.run(0.1)
    assert not again.data and not damaged.data
    assert stack.strangers.count == 2
    assert stack.meters.counts["handshake.replay"] == 1
    assert len(stack.registry) == 0, "not even the first one has a session"
    stack.run(60)


@pytest.mark.parametrize("mode", list(Mode))
def test_whoever_is_not_on_the_list_is_not_answered(mode: Mode, replays: ReplayFile) -> None:
    stack = Stack(mode=mode, allowed=frozenset())
    stack.gate.replay = replays
    [visitor] = visitors(stack, 1)
    visitor.transport.write(first_message(stack, mode))
    stack.run(60)
    assert not visitor.data and stack.strangers.count == 1
    assert stack.meters.counts["handshake.unknown_key"] == 1
