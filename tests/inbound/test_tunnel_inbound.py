"""Visitors that are not known: bounded in number, and no help in locking others out."""

from __future__ import annotations

from support.pipes import join
from support.stack import Silence, Stack
from support.tunnel import Recorder

from phantom.core.admission import Admission


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
