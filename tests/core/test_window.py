"""Credit arithmetic."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine

from phantom.core.window import (
    BASE_CREDIT,
    DEFAULT_WINDOW,
    FIRST_WINDOW,
    MOST_STEP,
    CreditPool,
    ReceiveWindow,
    add_credit,
)
from phantom.core.wire import MAX_CREDIT
from phantom.errors import RemoteProtocolError

MIB = 1024 * 1024


def test_the_only_stream_grows_to_its_limit() -> None:
    window = ReceiveWindow(CreditPool(64 * MIB, 1024), 4 * MIB)
    assert window.grant() == FIRST_WINDOW
    for _ in range(100):
        size = window.outstanding
        if not size:
            break
        window.received(size)
        window.taken(size)
        window.grant()
    assert window.target == window.outstanding == 4 * MIB


def test_a_grant_waits_for_half_a_window() -> None:
    window = ReceiveWindow(CreditPool(64 * MIB, 1024), FIRST_WINDOW)
    window.grant()
    window.received(FIRST_WINDOW // 2 - 1)
    window.taken(FIRST_WINDOW // 2 - 1)
    assert window.grant() == 0
    window.received(1)
    window.taken(1)
    assert window.grant() == FIRST_WINDOW // 2


def grow(window: ReceiveWindow, rate: float, round_trip: float | None, seconds: float) -> None:
    """Run a path of `rate` bytes a second; the sender always has enough."""
    now = 0.0
    while now < seconds:
        window.grant()
        size = min(window.outstanding, 64 * 1024)
        if not size:
            return
        now += size / rate
        window.received(size)
        if window.taken(size):
            window.measure(now, round_trip)


def test_a_window_beyond_the_default_follows_the_bandwidth_delay_product() -> None:
    for rate, round_trip, least, most in (
        (200e6 / 8, 0.05, DEFAULT_WINDOW, 2 * DEFAULT_WINDOW),
        (400e6 / 8, 0.1, 16 * MIB, 32 * MIB),
        (1e9 / 8, 0.2, 64 * MIB, 64 * MIB),
        (1e9 / 8, 0.0005, DEFAULT_WINDOW, DEFAULT_WINDOW),
        (1e9 / 8, None, DEFAULT_WINDOW, DEFAULT_WINDOW),
    ):
        window = ReceiveWindow(CreditPool(512 * MIB, 1024), 64 * MIB)
        grow(window, rate, round_trip, 20.0)
        assert least <= window.target <= most, (rate, round_trip, window.target)
        if round_trip and rate * round_trip > MIB:
            assert window.target >= min(64 * MIB, 2 * rate * round_trip)


def test_a_pause_does_not_count_as_a_slow_path_for_ever() -> None:
    window = ReceiveWindow(CreditPool(512 * MIB, 1024), 64 * MIB)
    grow(window, 50e6, 0.1, 5.0)
    assert window.target > DEFAULT_WINDOW
    before = window.target
    window.measure(1000.0, 0.1)
    assert window.target == before


def test_a_large_window_is_announced_in_small_steps() -> None:
    window = ReceiveWindow(CreditPool(64 * MIB, 1024), 4 * MIB)
    grow(window, 50e6, None, 2.0)
    while not window.grant():
        window.received(1024)
        window.taken(1024)
    assert window.outstanding == window.target == 4 * MIB
    window.received(MOST_STEP - 1)
    window.taken(MOST_STEP - 1)
    assert window.grant() == 0
    window.received(1)
    window.taken(1)
    assert window.grant() == MOST_STEP


def test_nothing_is_granted_for_what_was_not_taken() -> None:
    window = ReceiveWindow(CreditPool(64 * MIB, 1024), FIRST_WINDOW)
    window.grant()
    window.received(FIRST_WINDOW)
    assert window.grant() == 0


def test_an_overrun_is_refused() -> None:
    window = ReceiveWindow(CreditPool(64 * MIB, 1024), FIRST_WINDOW)
    granted = window.grant()
    with pytest.raises(RemoteProtocolError):
        window.received(granted + 1)


def test_a_crowd_gets_less_but_never_nothing() -> None:
    pool = CreditPool(20 * MIB, 1024)
    windows = [ReceiveWindow(pool, 4 * MIB) for _ in range(1024)]
    grants = []
    for _ in windows:
        window = ReceiveWindow(pool, 4 * MIB)
        grants.append(window.grant())
    assert grants[0] > grants[-1] >= BASE_CREDIT
    assert sum(grants) <= 20 * MIB


def test_grants_are_no_smaller_when_there_is_no_memory_to_spare() -> None:
    window = ReceiveWindow(CreditPool(BASE_CREDIT, 1), 4 * MIB)
    assert window.grant() == BASE_CREDIT
    grants = 0
    for _ in range(1000):
        window.received(100)
        window.taken(100)
        grants += bool(window.grant())
    assert grants == 100_000 // (BASE_CREDIT // 2)


def test_stalled_readers_leave_room_for_others() -> None:
    """Thirty streams grow as far as they can, and stall; the next still gets a fair window."""
    pool = CreditPool(64 * MIB, 1024)

    def grow() -> ReceiveWindow:
        window = ReceiveWindow(pool, 4 * MIB)
        window.grant()
        for _ in range(40):
            size = window.outstanding
            window.received(size)
            window.taken(size)
            window.grant()
        return window

    grown = [grow().outstanding for _ in range(30)]
    assert grown[0] == 4 * MIB and grown[15] > MIB // 2
    assert grow().outstanding > 100 * 1024


def test_too_little_memory_for_the_streams_is_refused() -> None:
    with pytest.raises(ValueError, match="session_memory"):
        CreditPool(16 * MIB - 1, 1024)


@given(st.integers(0, MAX_CREDIT), st.integers(1, MAX_CREDIT))
def test_credit_never_exceeds_its_maximum(credit: int, grant: int) -> None:
    if credit + grant > MAX_CREDIT:
        with pytest.raises(RemoteProtocolError):
            add_credit(credit, grant)
    else:
        assert add_credit(credit, grant) == credit + grant


class Crowd(RuleBasedStateMachine):
    """Streams that come, receive, take and go share one pool."""

    MEMORY, STREAMS = 2 * MIB, 16

    def __init__(self) -> None:
        super().__init__()
        self.pool = CreditPool(self.MEMORY, self.STREAMS)
        self.start = self.pool.free
        self.windows: list[ReceiveWindow] = []

    @precondition(lambda self: len(self.windows) < self.STREAMS)
    @rule()
    def open(self) -> None:
        self.windows.append(ReceiveWindow(self.pool, MIB))
        assert self.windows[-1].grant() >= BASE_CREDIT

    @precondition(lambda self: self.windows)
    @rule(i=st.integers(0, 99), part=st.floats(0, 1))
    def receive(self, i: int, part: float) -> None:
        window = self.windows[i % len(self.windows)]
        window.received(int(window.outstanding * part))

    @precondition(lambda self: self.windows)
    @rule(i=st.integers(0, 99), part=st.floats(0, 1))
    def take(self, i: int, part: float) -> None:
        window = self.windows[i % len(self.windows)]
        window.taken(int(window.buffered * part))
        window.grant()

    @precondition(lambda self: self.windows)
    @rule(i=st.integers(0, 99))
    def close(self, i: int) -> None:
        self.windows.pop(i % len(self.windows)).close()
        if not self.windows:
            assert self.pool.free == self.start

    @invariant()
    def within_memory(self) -> None:
        assert sum(w.outstanding + w.buffered for w in self.windows) <= self.MEMORY
        assert self.pool.free >= 0


def test_the_sum_of_all_promises_stays_within_memory() -> None:
    run_machine(Crowd)
