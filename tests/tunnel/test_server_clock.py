"""A client whose clock is wrong finds it out where it can, and says what it can elsewhere."""

from __future__ import annotations

from email.utils import formatdate
from typing import Any

import attrs
import pytest
from support.keys import CLIENT_PUBLIC
from support.stack import Silence, Stack

from phantom.core.handshake import Mode
from phantom.errors import TimeoutExpired
from phantom.layer import switch_protocol
from phantom.tunnel.server_clock import WORTH_CORRECTING, ServerClock, WrongClockError

NOW = 1_767_225_600.0


class Site(Silence):
    """A decoy: answers whoever is no client with a page, dated by its own clock."""

    def __init__(self, stack: Stack, ahead: float) -> None:
        super().__init__()
        self._stack, self._ahead = stack, ahead

    def __call__(self, transport: Any, received: bytes) -> None:
        self.count += 1
        switch_protocol(transport, Silence())
        date = formatdate(self._stack.runtime.wall_time() + self._ahead, usegmt=True)
        head = f"HTTP/1.1 405 Not Allowed\r\nServer: nginx\r\nDate: {date}\r\n"
        transport.write(f"{head}Content-Length: 3\r\n\r\nno\n".encode())


def wrong(ahead: float, mode: Mode = Mode.TLS_HTTP1, site: float | None = None) -> Stack:
    """Return a tunnel whose server (and its site) is `ahead` of the client's clock."""
    stack = Stack(mode=mode)
    there = attrs.evolve(stack.runtime, wall_time=lambda: stack.runtime.wall_time() + ahead)
    stack.gate.runtime = there
    if mode is not Mode.BARE:
        stack.factory._stranger = Site(stack, ahead if site is None else site)
    stack.dialer.start()
    stack.run(2)
    return stack


@pytest.mark.parametrize("ahead", [125.0, -125.0, 7200.0, -7200.0, 3e8])
def test_inside_tls_the_same_attempt_is_corrected(ahead: float) -> None:
    stack = wrong(ahead)
    assert stack.dialer.mux is not None
    assert len(stack.pipes) == 2
    assert stack.client_meters.counts["link.failed"] == 0
    stack.pipes[-1].cut()
    stack.run(2)
    assert stack.dialer.mux is not None
    assert len(stack.pipes) == 3, "the next link knows at once"


def test_a_clock_that_is_set_meanwhile_is_noticed() -> None:
    stack = wrong(7200.0)
    stack.gate.runtime = stack.runtime
    stack.factory._stranger = Site(stack, 0.0)
    stack.pipes[-1].cut()
    stack.run(2)
    assert stack.dialer.mux is not None
    assert len(stack.pipes) == 4


def test_a_site_whose_clock_is_wrong_keeps_nobody_out_for_good() -> None:
    """The refusal had another reason; once that is gone the client's own time counts again."""
    stack = Stack(mode=Mode.TLS_HTTP1, allowed=frozenset())
    stack.factory._stranger = site = Site(stack, 7200.0)
    stack.dialer.start()
    stack.run_until(lambda: stack.dialer.last_failure is not None)
    assert site.count == 2, "once by its own clock, once by the site's"
    assert stack.dialer.last_failure is not None
    assert "web site answered" in stack.dialer.last_failure.getErrorMessage()
    stack.gate.allowed = frozenset({CLIENT_PUBLIC})
    stack.run_until(lambda: stack.dialer.mux is not None)


def test_a_right_clock_is_not_blamed() -> None:
    stack = Stack(mode=Mode.TLS_HTTP1, allowed=frozenset())
    stack.factory._stranger = site = Site(stack, WORTH_CORRECTING - 2)
    stack.dialer.start()
    stack.run_until(lambda: stack.dialer.last_failure is not None)
    assert site.count == 1
    assert stack.dialer.last_failure is not None
    assert not stack.dialer.last_failure.check(WrongClockError)


def test_on_bare_tcp_it_says_what_it_may_be() -> None:
    stack = wrong(125.0, Mode.BARE)
    stack.run(10)
    assert stack.dialer.mux is None
    failure = stack.dialer.last_failure
    assert failure is not None and failure.check(TimeoutExpired)
    for word in ("no answer", "key", "clocks", "blocks"):
        assert word in failure.getErrorMessage()


def test_the_arithmetic() -> None:
    clock = ServerClock()
    assert clock.time(NOW) == NOW
    assert clock.refused(NOW + WORTH_CORRECTING, NOW) is None
    error = clock.refused(NOW - 3600, NOW)
    assert error is not None and "3600 s ahead of" in str(error)
    assert clock.time(NOW + 5) == NOW - 3594, "a Date is cut to whole seconds"
    assert clock.refused(NOW - 3590, NOW + 5) is None, "it was not the clock after all"
    assert clock.time(NOW) == NOW
    error = clock.refused(NOW + 3600, NOW)
    assert error is not None and "3600 s behind" in str(error)
