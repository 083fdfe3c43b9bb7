"""Paths on which links die young: nothing is added to what they carry, and little is at stake."""

from __future__ import annotations

import os
from typing import Any

import attrs
import pytest
from support.pipes import join, run
from support.runtime import fake_runtime
from support.stack import CLIENT, SERVER_PUBLIC, Silence, Stack
from support.tunnel import SOMEWHERE, Recorder
from twisted.internet.task import Clock

from phantom.core.freezes import ENOUGH, SUSPECT, YOUNG
from phantom.core.freshness import FRESH_BYTES, LEAN_FLIGHT
from phantom.core.handshake import Cipher, Mode
from phantom.core.shaping import Padding, Timing
from phantom.crypto.ratchet import first_step
from phantom.tunnel.initiator import InitiatorSettings, NoiseInitiator
from phantom.tunnel.post_quantum import ClientSecrets
from phantom.tunnel.renewal import EXCUSED
from phantom.tunnel.shaper import Shaping


class Far(Recorder):
    """What the first message is sent to."""

    packets = 0

    def dataReceived(self, data: bytes) -> None:
        self.packets += 1
        super().dataReceived(data)


def first_message(mode: Mode, *, lean: bool) -> Far:
    clock = Clock()
    secrets = ClientSecrets()
    secrets.learned(SERVER_PUBLIC, first_step(os.urandom(32), bytes(32)), 0.0)
    far = Far()
    settings = InitiatorSettings(
        private_key=CLIENT,
        server_key=SERVER_PUBLIC,
        cipher=Cipher.AESGCM,
        mode=mode,
        host="example.com",
        secrets=secrets,
        lean=lean,
    )
    client = NoiseInitiator(
        attrs.evolve(fake_runtime(clock), entropy=os.urandom),
        Recorder(),
        settings,
        Silence(),
        lambda failure: None,
    )
    join(clock, client, far)
    run(clock, 0.1)
    return far


@pytest.mark.parametrize("mode", [Mode.BARE, Mode.TLS_HTTP1])
def test_a_lean_first_message_is_short_and_its_length_varies(mode: Mode) -> None:
    lean = [first_message(mode, lean=True) for _ in range(30)]
    usual = [first_message(mode, lean=False) for _ in range(30)]
    assert max(len(far.data) for far in lean) < min(900, max(len(far.data) for far in usual))
    assert len({len(far.data) for far in lean}) > 10
    if mode is Mode.BARE:
        assert {far.packets for far in lean} == {1}
        assert min(far.packets for far in usual) >= 4


def up(**more: Any) -> tuple[Stack, Recorder]:
    """Return a client with a link and an open stream; its links are padded as by default."""
    shaping = Shaping(padding=Padding.DEFAULT, timing=Timing.OFF, client=True, bare=True)
    stack = Stack(shaping=shaping, **more)
    stack.dialer.start()
    stack.run()
    protocol = Recorder()
    stack.outbound.connect(SOMEWHERE, protocol)
    stack.run()
    return stack, protocol


def lean(stack: Stack) -> bool:
    """Whether both ends of the link know that it is."""
    session = stack.dialer._session
    assert session is not None and session.link is not None
    theirs = next(iter(stack.registry._sessions.values()))[0].link
    assert theirs is not None and theirs.lean == session.link.lean
    return session.link.lean


def cut(stack: Stack, times: int = 1, *, after: float = 1.0) -> None:
    for _ in range(times):
        stack.run(after)
        stack.pipes[-1].cut()
        stack.run(1)


def test_links_that_are_reset_young_are_followed_by_lean_ones() -> None:
    stack, protocol = up()
    cut(stack, ENOUGH - 1)
    assert not lean(stack), "a reset happens"
    cut(stack)
    assert lean(stack)
    stack.run(1)
    before = sum(stack.pipes[-1].carried)
    protocol.transport.write(b"x" * 10)
    stack.run(1)
    assert sum(stack.pipes[-1].carried) - before < 300, "an echo, and acknowledgements"


def test_links_that_freeze_are_followed_by_lean_ones() -> None:
    stack, protocol = up()
    for _ in range(ENOUGH):
        protocol.transport.write(b"x")
        stack.run(0.005)
        stack.pipes[-1].stall()
        stack.run(15)
    assert lean(stack)


def test_an_upload_whose_links_fall_silent_says_nothing() -> None:
    stack, protocol = up()
    destination = stack.destinations.transports[0]
    destination.write = lambda data: None  # type: ignore[method-assign]
    for _ in range(ENOUGH + 1):
        protocol.transport.write(bytes(SUSPECT + 4096))
        stack.run(1)
        stack.pipes[-1].stall()
        stack.run(15)
    assert not lean(stack)
    assert len(stack.pipes) == ENOUGH + 2, "each was lost, and none replaced in time"


def test_where_much_came_by_the_other_link_one_that_falls_silent_says_nothing() -> None:
    """Of two lanes the one for keystrokes carries little, and an outage ends both."""
    stack, _ = up()
    renewal = stack.dialer._renewal
    for _ in range(ENOUGH + 1):
        renewal.lost(Lost(SUSPECT), reset_young=False)
        renewal.lost(Lost(5000), reset_young=False)
        stack.run(EXCUSED + 1)
    assert not renewal.lean
    for _ in range(ENOUGH):
        renewal.lost(Lost(5000), reset_young=False)
    assert renewal.lean


@attrs.frozen
class Lost:
    """A link that has fallen silent."""

    received: int
    sent: int = 0
    records: int = 20
    fell_silent: bool = True


def test_links_that_are_reset_when_old_or_idle_say_nothing() -> None:
    stack, protocol = up()
    cut(stack, ENOUGH + 1, after=YOUNG + 1)
    assert not lean(stack)
    protocol.transport.abortConnection()
    stack.run(1)
    cut(stack, ENOUGH + 1)
    assert not lean(stack)


def test_what_was_learned_belongs_to_a_network() -> None:
    stack, _ = up()
    cut(stack, ENOUGH)
    assert lean(stack)
    home = stack.time.local_address
    stack.time.local_address = "203.0.113.9"
    stack.run(10)
    cut(stack)
    assert not lean(stack)
    stack.time.local_address = home
    stack.run(10)
    cut(stack)
    assert lean(stack)


def test_little_is_in_flight_on_a_lean_link() -> None:
    """A reset takes along what was not read yet: it has to go again."""
    stack, protocol = up(delay=0.05)
    cut(stack, ENOUGH)
    session = stack.dialer._session
    assert lean(stack) and session is not None
    protocol.transport.write(bytes(300_000))
    most = {False: 0, True: 0}
    for _ in range(2000):
        stack.run(0.005)
        received = len(stack.destinations.transports[0].received)
        alive = received > FRESH_BYTES - 2 * LEAN_FLIGHT  # headers count, too
        most[alive] = max(most[alive], session._log.in_flight)
        if received == 300_000:
            break
    assert 0 < most[False] <= LEAN_FLIGHT + 4096
    assert most[True] > 4 * LEAN_FLIGHT, "a link that has carried more than others did is trusted"
    stack.run(5)
    assert session.idle, "and all of it arrives"


@pytest.mark.parametrize("size", [1_000, LEAN_FLIGHT, 20_000, 65_536, 300_000])
def test_what_waits_on_a_lean_link_goes_on(size: int) -> None:
    stack, protocol = up()
    cut(stack, ENOUGH)
    assert lean(stack)
    for _ in range(3):
        protocol.transport.write(bytes(size))
        stack.run(5)
    assert len(protocol.data) == 3 * size
