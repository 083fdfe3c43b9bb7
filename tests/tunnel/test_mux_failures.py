"""An exception in a program's own code hurts its stream, and no other."""

from __future__ import annotations

from typing import Any

import pytest
from support.tunnel import SOMEWHERE, Joined, Puller, Recorder
from twisted.python.failure import Failure

from phantom.core.stream import State
from phantom.errors import Outcome, SessionError


def explode(*_: Any) -> None:
    raise RuntimeError("bug")


def test_a_failing_acceptor_refuses_the_stream_only(logged_failures: Any) -> None:
    joined = Joined()
    _, protocol = joined.open()
    joined.run()
    joined.server_mux._acceptor = explode
    failing, _ = joined.open()
    joined.run()
    assert joined.outcomes[failing.stream_id] is Outcome.FAILED
    joined.server_protocols[1].transport.write(b"y")
    joined.run()
    assert protocol.data == b"y"
    assert len(logged_failures.flush(RuntimeError)) == 1


def test_an_exception_in_a_protocol_ends_its_stream_only(logged_failures: Any) -> None:
    joined = Joined()
    stream, protocol = joined.open()
    _other, other_protocol = joined.open()
    joined.run()
    protocol.on_data = explode
    joined.server_protocols[1].transport.write(b"x")
    joined.server_protocols[3].transport.write(b"y")
    joined.run()
    assert stream.state is State.CLOSED
    assert other_protocol.data == b"y"
    assert joined.ended == []
    assert len(logged_failures.flush(RuntimeError)) == 1


@pytest.mark.parametrize(
    "call", ["makeConnection", "readConnectionLost", "writeConnectionLost", "connectionLost"]
)
def test_whatever_call_fails_no_other_stream_is_hurt(call: str, logged_failures: Any) -> None:
    joined = Joined()
    protocol = Recorder()
    setattr(protocol, call, explode)

    def connected(_outcome: Outcome) -> None:
        stream.attach(protocol)
        if call == "writeConnectionLost":
            stream.loseWriteConnection()

    stream = joined.mux.open(SOMEWHERE, connected)
    _, other = joined.open()
    joined.run()
    server = joined.server_protocols[1].transport
    if call == "readConnectionLost":
        server.loseWriteConnection()
    elif call == "connectionLost":
        server.abortConnection()
    joined.run()
    joined.server_protocols[3].transport.write(b"y")
    joined.run()
    assert stream.state is State.CLOSED
    assert other.data == b"y"
    assert joined.ended == []
    assert len(logged_failures.flush(RuntimeError)) == 1


def test_a_protocol_that_fails_at_the_end_does_not_hide_it_from_others(
    logged_failures: Any,
) -> None:
    joined = Joined()
    _, first = joined.open()
    _, second = joined.open()
    joined.run()
    first.connectionLost = explode  # type: ignore[method-assign]
    joined.session.end(Failure(SessionError("gone")))
    joined.run()
    assert second.lost is not None
    assert joined.ended
    assert len(logged_failures.flush(RuntimeError)) == 1


def test_a_producer_that_fails_stops_nobody_else(logged_failures: Any) -> None:
    joined = Joined()
    stream, _ = joined.open()
    other, _ = joined.open()
    joined.run()
    puller = Puller(stream, [bytes(200_000)])
    stream.registerProducer(puller, False)
    puller.resumeProducing = explode  # type: ignore[method-assign]
    other.write(bytes(200_000))
    joined.run(5)
    assert stream.state is State.CLOSED
    assert len(joined.server_protocols[3].data) == 200_000
    assert len(logged_failures.flush(RuntimeError)) == 1
