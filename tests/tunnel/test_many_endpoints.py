"""One server, several endpoints: raced, chosen by what worked, left when blocked, learned."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.stack import Stack, at
from support.tunnel import SOMEWHERE, Recorder
from twisted.internet.defer import Deferred

from phantom.core.endpoint_choice import STAGGER
from phantom.core.endpoint_list import EndpointList, ServerEndpoint
from phantom.core.wire import FrameType
from phantom.crypto.identity import public_of, sign
from phantom.errors import ConfigurationError
from phantom.tunnel.attempt import Race
from phantom.tunnel.endpoint_memory import MemoryFile

IDENTITY = bytes(range(1, 33))
PUBLIC = public_of(IDENTITY)


def signed(*endpoints: ServerEndpoint, version: int = 1) -> bytes:
    return sign(EndpointList(version=version, issued=0, endpoints=endpoints), IDENTITY)


def linked(stack: Stack) -> bool:
    return stack.dialer.mux is not None


def link(stack: Stack) -> None:
    stack.dialer.start()
    stack.run_until(lambda: linked(stack))


def open_stream(stack: Stack) -> Recorder:
    """Open a stream to the echoing destination and send the first bytes through it."""
    protocol = Recorder()
    made = stack.outbound.connect(SOMEWHERE, protocol)
    stack.run_until(lambda: made.called, 20)
    protocol.transport.write(b"one ")
    stack.run_until(lambda: protocol.data == b"one ", 5)
    return protocol


def block(stack: Stack, *names: str, how: str = "silent") -> None:
    """From now on nothing gets through to endpoints of these names, old links included."""
    for name in names:
        stack.scripts[name] = how
        for pipe in stack.pipes_to.get(name, []):
            pipe.cut()


# -- racing ---------------------------------------------------------------------------------


def test_the_first_that_works_wins_and_the_others_are_not_bothered() -> None:
    stack = Stack(endpoints=[at("a"), at("b")])
    link(stack)
    stack.run(5)
    assert stack.dialled == ["a"]


def test_a_refusal_starts_the_next_at_once() -> None:
    stack = Stack(endpoints=[at("a"), at("b"), at("c")])
    stack.scripts = {"a": "refuse", "b": "refuse"}
    stack.dialer.start()
    stack.run(0.1)
    assert linked(stack) and stack.dialled == ["a", "b", "c"]


@pytest.mark.parametrize("script", ["silent", "mute"])
def test_silence_starts_the_next_after_the_stagger(script: str) -> None:
    stack = Stack(endpoints=[at("a"), at("b")])
    stack.scripts = {"a": script}
    stack.dialer.start()
    stack.run(STAGGER[0] - 0.1)
    assert stack.dialled == ["a"]
    stack.run(STAGGER[1] - STAGGER[0] + 0.2)
    assert linked(stack) and stack.dialled == ["a", "b"]
    for pipe in stack.pipes_to.get("a", []):
        pipe.unstall()
    stack.run(60)
    assert len(stack.registry) == 1, "the loser is given up"
    assert stack.client_meters.counts["link.up"] == 1
    assert "link.failed" not in stack.client_meters.counts


def test_next_time_what_worked_goes_first() -> None:
    stack = Stack(endpoints=[at("a"), at("b")])
    stack.scripts = {"a": "silent"}
    link(stack)
    stack.run(40)
    stack.dialled.clear()
    stack.pipes_to["b"][0].cut()
    stack.run_until(lambda: linked(stack) and stack.dialled, 5)
    assert stack.dialled == ["b"]


def test_on_another_network_it_is_open_again() -> None:
    stack = Stack(endpoints=[at("a"), at("b")])
    stack.scripts = {"a": "refuse"}
    link(stack)
    stack.run(40)
    stack.scripts.clear()
    stack.dialled.clear()
    stack.time.local_address = "203.0.113.9"
    stack.pipes_to["b"][0].cut()
    stack.run_until(lambda: bool(stack.dialled), 5)
    assert stack.dialled[0] == "b", "it worked somewhere, which is more than is known of a"


def test_when_none_works_each_is_tried_and_the_failure_is_told() -> None:
    stack = Stack(endpoints=[at("a"), at("b")])
    stack.scripts = {"a": "silent", "b": "refuse"}
    stack.dialer.start()
    stack.run(30)
    assert not linked(stack) and {"a", "b"} <= set(stack.dialled)
    assert stack.dialer.last_failure is not None
    stack.scripts = {}
    stack.run_until(lambda: linked(stack), 60)


def test_no_more_than_a_few_attempts_at_a_time() -> None:
    stack = Stack(endpoints=[at(f"e{i}") for i in range(10)])
    stack.scripts = dict.fromkeys((f"e{i}" for i in range(10)), "silent")
    stack.dialer.start()
    stack.run(9.5)
    assert len(stack.dialled) == Race.AT_ONCE
    stack.run(30)
    assert len(set(stack.dialled)) == 10


def test_stopping_in_the_middle_of_a_race() -> None:
    stack = Stack(endpoints=[at("a"), at("b"), at("c")])
    stack.scripts = {"a": "silent", "b": "mute"}
    stack.dialer.start()
    stack.run(STAGGER[1] + 0.1)
    assert stack.dialled == ["a", "b"]
    done = stack.dialer.stop()
    assert done.called
    stack.run(100)
    assert not stack.registry and "c" not in stack.dialled


def test_an_endpoint_that_cannot_even_be_set_up_is_a_failure_like_any() -> None:
    stack = Stack(endpoints=[at("a"), at("b")])
    connect = stack.dialer._connect

    def broken(endpoint: ServerEndpoint):
        if endpoint.host == "a":
            raise ConfigurationError("no such profile")
        return connect(endpoint)

    stack.dialer._connect = broken
    link(stack)
    assert stack.dialled == ["b"]


def test_what_failed_again_and_again_makes_way_for_what_has_not() -> None:
    stack = Stack(endpoints=[at("a")], identity=PUBLIC)
    stack.scripts = {"a": "refuse"}
    stack.dialer.start()
    stack.run(30)
    assert len(stack.dialled) > 3
    stack.known.learn(signed(at("a"), at("b")))
    stack.dialled.clear()
    stack.run_until(lambda: linked(stack), 60)
    assert stack.dialled == ["b"]


# -- moving a live session ------------------------------------------------------------------


@pytest.mark.parametrize("how", ["refuse", "silent", "mute"])
def test_a_session_goes_on_at_another_endpoint_of_its_host(how: str) -> None:
    stack = Stack(endpoints=[at("a"), at("b")])
    link(stack)
    stack.run(60)
    protocol = open_stream(stack)
    block(stack, "a", how=how)
    protocol.transport.write(b"two")
    stack.run_until(lambda: protocol.data == b"one two", 3)
    assert protocol.lost is None and stack.dialled[-1] == "b"
    assert len(stack.registry) == 1
    assert stack.client_meters.counts["session.resumed"] == 1


def test_an_endpoint_where_links_die_young_is_left() -> None:
    stack = Stack(endpoints=[at("a"), at("b")])
    link(stack)
    protocol = open_stream(stack)
    for _ in range(3):
        assert stack.dialled[-1] == "a"
        stack.pipes_to["a"][-1].cut()
        stack.run(3)
    assert stack.dialled[-1] == "b"
    protocol.transport.write(b"two")
    stack.run_until(lambda: protocol.data == b"one two", 5)


def two_hosts() -> tuple[Stack, ServerEndpoint]:
    stack = Stack(endpoints=[at("a")], identity=PUBLIC)
    other = at("far", stack.add_host(9).public)
    stack.known.learn(signed(at("a"), other))
    return stack, other


def test_another_host_gets_a_fresh_session_and_the_old_streams_are_reset() -> None:
    stack, _ = two_hosts()
    link(stack)
    stack.run(60)
    protocol = open_stream(stack)
    cut_at = stack.clock.seconds()
    block(stack, "a")
    stack.run_until(lambda: protocol.lost is not None, 30)
    # Not before the patience is at an end, and not only when the silent attempt is given up.
    assert 7.5 < stack.clock.seconds() - cut_at < 9
    assert "another host" in protocol.lost.getErrorMessage()
    stack.run(1)
    assert linked(stack) and open_stream(stack).data == b"one "
    assert stack.client_meters.counts["session.moved"] == 1


def test_its_own_host_is_waited_for_while_streams_are_open() -> None:
    stack, _ = two_hosts()
    link(stack)
    stack.run(60)
    protocol = open_stream(stack)
    block(stack, "a", how="refuse")
    stack.run(6)
    stack.scripts.clear()
    protocol.transport.write(b"two")
    stack.run_until(lambda: protocol.data == b"one two", 30)
    assert "far" not in stack.dialled


def test_without_open_streams_another_host_takes_over_at_once() -> None:
    stack, _ = two_hosts()
    link(stack)
    stack.run(60)
    block(stack, "a", how="refuse")
    stack.run(1)
    assert linked(stack) and stack.dialled[-1] == "far"


# -- learning -------------------------------------------------------------------------------


def test_the_list_is_pushed_and_remembered_across_a_restart(tmp_path: Path) -> None:
    stack = Stack(endpoints=[at("a")], identity=PUBLIC, file=MemoryFile(tmp_path, "x"))
    stack.registry.announce(signed(at("new"), at("newer")))
    link(stack)
    stack.run(1)
    assert [e.host for e in stack.known.candidates] == ["new", "newer", "a"]
    stopped = stack.dialer.stop()
    stack.run(10)
    assert stopped.called
    stack.scripts["a"] = "refuse"
    stack.dialled.clear()
    stack.start_client()
    stack.dialer.start()
    stack.run(1)
    assert linked(stack) and set(stack.dialled) <= {"a", "new"}


def test_a_list_that_changes_is_pushed_to_live_sessions() -> None:
    stack = Stack(endpoints=[at("a")], identity=PUBLIC)
    stack.registry.announce(signed(at("a"), version=1))
    link(stack)
    stack.run(1)
    stack.registry.announce(signed(at("a"), at("b"), version=2))
    stack.run(1)
    assert [e.host for e in stack.known.candidates] == ["a", "b"]
    assert stack.client_meters.counts["endpoints.learned"] == 2


def test_a_client_without_the_identity_takes_no_notice() -> None:
    stack = Stack(endpoints=[at("a")])
    stack.registry.announce(signed(at("b")))
    link(stack)
    assert open_stream(stack).data == b"one "
    assert [e.host for e in stack.known.candidates] == ["a"]


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        b"x" * 100,
        sign(EndpointList(version=9, issued=0, endpoints=(at("evil"),)), bytes(32)),
        signed(at("old"), version=4),
        signed(at("other"), version=5),
    ],
)
def test_forgery_and_rollback_change_nothing_and_end_nothing(blob: bytes) -> None:
    stack = Stack(endpoints=[at("a")], identity=PUBLIC)
    stack.registry.announce(signed(at("a"), at("b"), version=5))
    link(stack)
    stack.run(1)
    for session, _mux in stack.registry._sessions.values():
        session.send(FrameType.ENDPOINTS, 0, blob)
    assert open_stream(stack).data == b"one "
    assert [e.host for e in stack.known.candidates] == ["a", "b"]
    assert stack.client_meters.counts["endpoints.refused"] == 1


def test_a_server_that_has_moved_is_followed_and_open_streams_end_where_they_are() -> None:
    stack = Stack(endpoints=[at("a")], identity=PUBLIC)
    host = stack.add_host(9)
    link(stack)
    protocol = open_stream(stack)
    stack.registry.announce(signed(at("far", host.public)))
    stack.run(2)
    assert stack.dialled[-1] == "far" and len(host.registry) == 1
    assert protocol.lost is None
    protocol.transport.write(b"two")
    stack.run(1)
    assert protocol.data == b"one two", "the old link carries it on"
    assert open_stream(stack).data == b"one "
    assert host.registry.streams == 1
    protocol.transport.loseConnection()
    stack.run(5)
    assert len(stack.registry) == 0, "drained"


def test_a_new_place_that_cannot_be_reached_costs_nothing() -> None:
    stack = Stack(endpoints=[at("a")], identity=PUBLIC)
    host = stack.add_host(9)
    link(stack)
    stack.scripts["far"] = "refuse"
    stack.registry.announce(signed(at("far", host.public)))
    stack.run(5)
    assert linked(stack) and open_stream(stack).data == b"one "


def test_a_renewed_link_stays_with_its_host() -> None:
    stack, _ = two_hosts()
    link(stack)
    protocol = open_stream(stack)
    stack.scripts["a"] = "refuse"
    stack.dialer._renewal.now()
    stack.run(30)
    assert linked(stack) and "far" not in stack.dialled
    protocol.transport.write(b"two")
    stack.run(1)
    assert protocol.data == b"one two"


def test_requests_that_wait_are_served_by_the_other_host() -> None:
    stack, _ = two_hosts()
    link(stack)
    stack.run(60)
    open_stream(stack)
    block(stack, "a")
    stack.run(0.1)
    waiting: Deferred[object] = stack.outbound.connect(SOMEWHERE, Recorder())
    waiting.addErrback(lambda failure: pytest.fail(str(failure)))
    stack.run_until(lambda: waiting.called, 15)
