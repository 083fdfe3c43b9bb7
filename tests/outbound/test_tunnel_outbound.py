"""What an application is told about its destination, and when."""

from __future__ import annotations

from typing import Any

import pytest
from support.stack import Stack
from support.transports import ByteTransport
from support.tunnel import Recorder
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from phantom.address import Destination
from phantom.errors import Outcome, RelayError
from phantom.inbound.http import HttpProxyFactory
from phantom.inbound.socks5 import Socks5Factory

GOOD = Destination("good.example", 443)
BAD = Destination("bad.example", 443)
SLOW = Destination("slow.example", 443)


class Attempt:
    def __init__(self, stack: Stack, destination: Destination) -> None:
        self.protocol = Recorder()
        self.result: Any = None
        self.deferred: Deferred[Any] = stack.outbound.connect(destination, self.protocol)
        self.deferred.addBoth(self._take)

    def _take(self, result: Any) -> None:
        self.result = result

    @property
    def outcome(self) -> Outcome:
        if isinstance(self.result, Failure):
            assert self.result.check(RelayError), self.result
            outcome: Outcome = self.result.value.outcome
            return outcome
        assert self.result is self.protocol.transport
        return Outcome.CONNECTED


def up(**settings: Any) -> Stack:
    stack = Stack(**settings)
    stack.dialer.start()
    stack.run()
    return stack


def test_bytes_come_back() -> None:
    stack = up()
    attempt = Attempt(stack, GOOD)
    stack.run()
    assert attempt.outcome is Outcome.CONNECTED
    attempt.protocol.transport.write(b"hello")
    attempt.protocol.transport.loseWriteConnection()
    stack.run()
    assert attempt.protocol.data == b"hello"
    assert attempt.protocol.clean


def test_the_first_time_waits_for_the_truth_the_second_does_not() -> None:
    stack = up(delay=0.1)
    first = Attempt(stack, GOOD)
    stack.run(0.15)
    assert first.result is None
    stack.run(0.1)
    assert first.outcome is Outcome.CONNECTED
    second = Attempt(stack, GOOD)
    assert second.outcome is Outcome.CONNECTED
    second.protocol.transport.write(b"early")
    stack.run(0.5)
    assert second.protocol.data == b"early"


def test_another_port_is_another_destination() -> None:
    stack = up()
    Attempt(stack, GOOD)
    stack.run()
    assert Attempt(stack, Destination("good.example", 80)).result is None
    stack.run()


def test_a_failure_after_an_early_success_is_a_reset_and_is_remembered() -> None:
    stack = up()
    Attempt(stack, GOOD)
    stack.run()
    stack.destinations.outcomes["good.example"] = Outcome.REFUSED
    early = Attempt(stack, GOOD)
    assert early.outcome is Outcome.CONNECTED
    stack.run()
    assert early.protocol.lost is not None and not early.protocol.clean
    honest = Attempt(stack, GOOD)
    assert honest.result is None
    stack.run()
    assert honest.outcome is Outcome.REFUSED


def test_memory_fades_after_ten_minutes() -> None:
    stack = up()
    Attempt(stack, GOOD)
    stack.run(601)
    assert Attempt(stack, GOOD).result is None
    stack.run()


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome.REFUSED,
        Outcome.UNRESOLVED,
        Outcome.FORBIDDEN,
        Outcome.TIMED_OUT,
        Outcome.HOST_UNREACHABLE,
        Outcome.NETWORK_UNREACHABLE,
        Outcome.LIMIT,
    ],
)
def test_the_true_outcome_crosses_the_tunnel(outcome: Outcome) -> None:
    stack = up()
    stack.destinations.outcomes["bad.example"] = outcome
    attempt = Attempt(stack, BAD)
    stack.run()
    assert attempt.outcome is outcome
    assert attempt.protocol.transport is None


def test_never_is_never_and_always_is_always() -> None:
    stack = up(early_reply="never")
    Attempt(stack, GOOD)
    stack.run()
    assert Attempt(stack, GOOD).result is None
    stack.run()
    stack = up(early_reply="always")
    assert Attempt(stack, BAD).outcome is Outcome.CONNECTED
    stack.run()


def test_giving_up_reaches_the_servers_dial() -> None:
    stack = up()
    attempt = Attempt(stack, SLOW)
    stack.run()
    attempt.deferred.cancel()
    stack.run()
    assert attempt.outcome is Outcome.CANCELLED
    assert stack.destinations.cancelled == 1
    assert stack.dialer.mux is not None and not stack.dialer.mux.streams


def test_giving_up_while_waiting_for_the_link() -> None:
    stack = Stack()
    stack.refuse = True
    stack.dialer.start()
    attempt = Attempt(stack, GOOD)
    attempt.deferred.cancel()
    assert attempt.outcome is Outcome.CANCELLED
    stack.refuse = False
    stack.run(40)
    assert not stack.destinations.asked


def test_a_lost_session_gives_waiting_streams_the_true_reason() -> None:
    stack = up()
    attempt = Attempt(stack, SLOW)
    stack.run()
    stack.pipes[0].cut()
    stack.run()
    assert attempt.result is None, "it waits on, by another link"
    stack.restart_server()
    stack.run()
    assert attempt.outcome is Outcome.SESSION_LOST


def test_requests_before_the_link_are_served_when_it_comes() -> None:
    stack = Stack()
    stack.refuse = True
    stack.dialer.start()
    stack.run()
    attempts = [Attempt(stack, GOOD) for _ in range(5)]
    stack.refuse = False
    stack.run(5)
    assert [a.outcome for a in attempts] == [Outcome.CONNECTED] * 5


def socks(stack: Stack, host: str) -> ByteTransport:
    app = ByteTransport(
        Socks5Factory(stack.runtime, stack.outbound, None, greeting_timeout=10).buildProtocol(None)
    ).connect()
    app.deliver(b"\x05\x01\x00")
    assert app.take() == b"\x05\x00"
    app.deliver(b"\x05\x01\x00\x03" + bytes([len(host)]) + host.encode() + b"\x01\xbb")
    return app


def http(stack: Stack, host: str) -> ByteTransport:
    factory = HttpProxyFactory(stack.runtime, stack.outbound, None, greeting_timeout=10)
    app = ByteTransport(factory.buildProtocol(None)).connect()
    app.deliver(f"CONNECT {host}:443 HTTP/1.1\r\nHost: {host}:443\r\n\r\n".encode())
    return app


@pytest.mark.parametrize(("proxy", "success"), [(socks, b"\x05\x00\x00"), (http, b"HTTP/1.1 200 ")])
def test_an_application_hears_of_success_when_the_server_is_connected(
    proxy: Any, success: bytes
) -> None:
    stack = up(delay=0.1)
    good, slow, bad = (proxy(stack, f"{name}.example") for name in ("good", "slow", "bad"))
    stack.destinations.outcomes["bad.example"] = Outcome.REFUSED
    stack.run(0.05)
    assert not stack.destinations.asked
    assert good.take() == b"", "nobody has tried to connect yet"
    stack.run(5)
    assert good.take().startswith(success)
    assert slow.take() == b"", "the server still tries"
    answer = bad.take()
    assert answer and not answer.startswith(success)
    for app in (good, slow, bad):
        app.lose()
    stack.run(5)
    assert stack.destinations.cancelled == 1
