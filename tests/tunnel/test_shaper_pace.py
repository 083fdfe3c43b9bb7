"""How fast small packets follow one another on bare TCP."""

from __future__ import annotations

from itertools import pairwise

import pytest
from support.runtime import fake_runtime
from support.shaper import Link, data
from support.stack import Stack
from support.tunnel import SOMEWHERE, Recorder
from twisted.internet.task import Clock

from phantom.core.shaping import CUT_BURST, PACED, Padding, Scheme, Timing
from phantom.crypto.records import OVERHEAD
from phantom.tunnel.session_sending import PACE
from phantom.tunnel.shaper import Shaping


def test_what_is_said_on_bare_tcp_leaves_little_by_little() -> None:
    """The kernel joins what is written beyond the congestion window to large packets."""
    shaping = Shaping(padding=Padding.DEFAULT, timing=Timing.OFF, client=True, bare=True)
    stack = Stack(shaping=shaping)
    stack.dialer.start()
    stack.run()
    protocol = Recorder()
    stack.outbound.connect(SOMEWHERE, protocol)
    stack.run()
    size = 40_000
    protocol.transport.write(bytes(size))
    arrived = [stack.pipes[-1].carried[0]]
    for _ in range(200):
        stack.run(PACE / 4)
        arrived.append(stack.pipes[-1].carried[0])
    steps = [after - before for before, after in pairwise(arrived)]
    assert max(steps) <= PACED + Scheme().high
    assert sorted(steps)[-3] <= PACED + OVERHEAD
    assert len(stack.destinations.transports[0].received) == size

    protocol.transport.write(bytes(2 * CUT_BURST))
    stack.run(0.3)
    assert len(stack.destinations.transports[0].received) > size + CUT_BURST, "not for ever"
    protocol.transport.write(bytes(PACED * 3))
    assert stack.dialer.stop()
    stack.run(2)
    assert not stack.clock.getDelayedCalls() or stack.dialer.mux is None


def test_who_is_answered_does_not_wait() -> None:
    shaping = Shaping(padding=Padding.DEFAULT, timing=Timing.OFF, client=True, bare=True)
    stack = Stack(shaping=shaping, delay=PACE / 20)
    stack.dialer.start()
    stack.run()
    protocol = Recorder()
    stack.outbound.connect(SOMEWHERE, protocol)
    stack.run()
    waited = []
    for count in range(1, 50):
        began = stack.clock.seconds()
        protocol.transport.write(b"x")
        while len(protocol.data) < count:
            stack.run(PACE / 20)
        waited.append(stack.clock.seconds() - began)
    # Before the first left an acknowledgement, which nothing answered.
    assert max(waited[2:]) < PACE / 2


@pytest.mark.parametrize("separates", [True, False])
def test_packets_that_the_kernel_keeps_apart_need_not_wait(separates: bool) -> None:
    shaping = Shaping(padding=Padding.DEFAULT, timing=Timing.OFF, client=True, bare=True)
    shaper = shaping.shaper(fake_runtime(Clock(), seed=5))
    shaper.link = link = Link()
    link.separates = separates
    shaper.send([data(40)])
    assert not shaper.crowded
    shaper.send([data(40)])
    assert shaper.crowded != separates
    link.transport.received += 1
    shaper.send([data(40)])
    assert not shaper.crowded, "somebody has answered"
