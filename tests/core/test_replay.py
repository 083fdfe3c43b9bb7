from __future__ import annotations

import os
import random
import struct

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from phantom.core.replay import (
    KEEP,
    WINDOW,
    ReplayFilter,
    ReplayVerdict,
    format_table,
    restart_table,
    table_epoch,
    table_size,
)

FRESH, REPLAY = ReplayVerdict.FRESH, ReplayVerdict.REPLAY
STALE, FULL = ReplayVerdict.STALE, ReplayVerdict.FULL

NOW = 1_700_000_000.0
ALICE, BOB = b"A" * 32, b"B" * 32
SALT, EPOCH = b"salt" * 4, b"boot" * 4
SMALL = {"entry_buckets": 4, "client_buckets": 2}


def table(since=0.0, **geometry):
    geometry = geometry or SMALL
    buffer = bytearray(table_size(**geometry))
    format_table(buffer, SALT, EPOCH, since, **geometry)
    return buffer


def key(number):
    return number.to_bytes(32, "big")


def test_once_only():
    replay = ReplayFilter(table())
    assert replay.check(ALICE, key(1), NOW, NOW) is FRESH
    assert replay.check(ALICE, key(1), NOW, NOW) is REPLAY
    assert replay.check(ALICE, key(1), NOW, NOW + WINDOW) is REPLAY
    assert replay.check(ALICE, key(2), NOW, NOW) is FRESH
    assert replay.check(BOB, key(1), NOW, NOW) is FRESH


@pytest.mark.parametrize(
    ("offset", "verdict"),
    [(0, FRESH), (120, FRESH), (-120, FRESH), (120.001, STALE), (-120.001, STALE), (1e12, STALE)],
)
def test_the_window(offset, verdict):
    assert ReplayFilter(table()).check(ALICE, key(1), NOW + offset, NOW) is verdict


def test_a_message_stays_known_as_long_as_its_timestamp_is_good():
    # The latest possible timestamp: acceptable from now until 240 seconds later.
    replay = ReplayFilter(table())
    stamp = NOW + WINDOW
    assert replay.check(ALICE, key(0), stamp, NOW) is FRESH
    number, now = 1, NOW
    while now <= NOW + KEEP:
        assert replay.check(ALICE, key(0), stamp, now) is REPLAY
        # Others come and take every place that is free.
        for _ in range(8):
            replay.check(BOB, key(number), now, now)
            number += 1
        now += 10
    assert replay.check(ALICE, key(0), stamp, NOW + KEEP + 0.1) is STALE


def test_what_came_before_the_table_is_refused():
    replay = ReplayFilter(table(since=NOW))
    assert replay.check(ALICE, key(1), NOW - 0.001, NOW) is STALE
    assert replay.check(ALICE, key(1), NOW, NOW) is FRESH


def test_a_restarted_table_keeps_its_entries_but_is_not_relied_on():
    buffer = table()
    replay = ReplayFilter(buffer)
    replay.check(ALICE, key(1), NOW + 60, NOW)
    restart_table(buffer, b"other boot......", NOW + 30)
    assert table_epoch(buffer, **SMALL) == b"other boot......"
    assert replay.check(ALICE, key(2), NOW + 20, NOW + 40) is STALE
    assert replay.check(ALICE, key(1), NOW + 60, NOW + 40) is REPLAY
    assert replay.check(ALICE, key(2), NOW + 40, NOW + 40) is FRESH


def test_a_client_at_its_quota_is_refused_and_nobody_else():
    replay = ReplayFilter(table(), quota=5)
    for number in range(5):
        assert replay.check(ALICE, key(number), NOW, NOW) is FRESH
    assert replay.check(ALICE, key(9), NOW, NOW) is FULL
    assert replay.check(ALICE, key(9), NOW, NOW) is FULL  # not remembered
    assert replay.check(ALICE, key(0), NOW, NOW) is REPLAY  # nothing was evicted
    assert replay.check(BOB, key(9), NOW, NOW) is FRESH


def test_the_quota_comes_back():
    replay = ReplayFilter(table(), quota=5)
    for number in range(5):
        assert replay.check(ALICE, key(number), NOW, NOW) is FRESH
    assert replay.check(ALICE, key(9), NOW + KEEP, NOW + KEEP) is FULL
    later = NOW + KEEP + 61
    for number in range(10, 15):
        assert replay.check(ALICE, key(number), later, later) is FRESH
    assert replay.check(ALICE, key(15), later, later) is FULL


def test_the_quota_holds_over_any_window():
    replay = ReplayFilter(table(entry_buckets=64, client_buckets=2), quota=20)
    rng, accepted, now = random.Random(1), [], NOW
    for number in range(1500):
        now += rng.expovariate(1 / 3)
        if replay.check(ALICE, key(number), now, now) is FRESH:
            accepted.append(now)
        assert sum(1 for when in accepted if when > now - KEEP) <= 20
    # And it is no stricter than five whole minutes make it.
    assert len(accepted) > 20 * (now - NOW) / 300 * 0.9


def test_a_full_table_evicts_nobody():
    replay = ReplayFilter(table())
    verdicts = [replay.check(ALICE, key(n), NOW, NOW) for n in range(2000)]
    assert verdicts.count(FRESH) == 4 * 64 and verdicts.count(FULL) == 2000 - 4 * 64
    for number, verdict in enumerate(verdicts):
        if verdict is FRESH:
            assert replay.check(ALICE, key(number), NOW, NOW) is REPLAY
    later = NOW + KEEP + 1
    assert replay.check(ALICE, key(5000), later, later) is FRESH


def test_too_many_clients():
    replay = ReplayFilter(table(entry_buckets=64, client_buckets=2))
    verdicts = [replay.check(key(n), key(1), NOW, NOW) for n in range(300)]
    assert verdicts.count(FRESH) == 2 * 32 and set(verdicts) == {FRESH, FULL}
    later = NOW + 360
    assert replay.check(key(1000), key(1), later, later) is FRESH


def test_a_clock_set_back_forgets_nothing():
    replay = ReplayFilter(table())
    assert replay.check(ALICE, key(1), NOW, NOW) is FRESH
    earlier = NOW - 60
    for number in range(100, 2000):
        replay.check(BOB, key(number), earlier, earlier)
    assert replay.check(ALICE, key(1), NOW, earlier) is REPLAY
    assert replay.check(ALICE, key(1), NOW, NOW) is REPLAY


def test_a_clock_set_far_back_does_not_lock_a_client_out():
    replay = ReplayFilter(table(), quota=5)
    ahead = NOW + 7200
    for number in range(5):
        assert replay.check(ALICE, key(number), ahead, ahead) is FRESH
    assert replay.check(ALICE, key(9), NOW, NOW) is FRESH


def test_torn_slots_are_reused():
    buffer = table()
    buffer[96:] = os.urandom(len(buffer) - 96)
    # Expiries far ahead, as noise mostly is, count for nothing.
    for slot in range(4 * 64):
        struct.pack_into("<Q", buffer, 96 + slot * 32 + 24, 2**63 + slot)
    for slot in range(2 * 32):
        struct.pack_into("<I", buffer, 96 + 4 * 64 * 32 + slot * 32 + 16, 2**32 - 1)
    replay = ReplayFilter(buffer)
    for number in range(40):
        assert replay.check(ALICE, key(number), NOW, NOW) is FRESH


@pytest.mark.parametrize("position", range(0, 96, 5))
def test_a_damaged_header_is_noticed(position):
    buffer = table()
    assert table_epoch(buffer, **SMALL) == EPOCH
    buffer[position] ^= 1
    assert table_epoch(buffer, **SMALL) is None


def test_other_tables_are_not_ours():
    assert table_epoch(bytearray(10)) is None
    assert table_epoch(bytearray(table_size())) is None
    assert table_epoch(table(entry_buckets=8, client_buckets=1), **SMALL) is None


class Model(RuleBasedStateMachine):
    """The filter against a set that forgets nothing."""

    @initialize()
    def start(self):
        self.now = NOW
        self.replay = ReplayFilter(table(entry_buckets=16, client_buckets=1), quota=30)
        self.accepted = []

    @rule(seconds=st.floats(0, 200))
    def wait(self, seconds):
        self.now += seconds

    @rule(
        client=st.sampled_from([ALICE, BOB]),
        number=st.integers(0, 30),
        offset=st.floats(-150, 150),
    )
    def ask(self, client, number, offset):
        # A timestamp is part of the message, so the same message has the same one.
        stamp = self.now + offset
        self.judge(client, struct.pack(">Id", number, stamp).ljust(32, b"\0"), stamp)

    @precondition(lambda self: self.accepted)
    @rule(data=st.data(), flip=st.booleans())
    def ask_again(self, data, flip):
        client, e, stamp = data.draw(st.sampled_from(self.accepted))
        self.judge((ALICE if client == BOB else BOB) if flip else client, e, stamp)

    def judge(self, client, e, stamp):
        verdict = self.replay.check(client, e, stamp, self.now)
        if abs(stamp - self.now) > WINDOW:
            assert verdict is STALE
        elif (client, e, stamp) in self.accepted:
            assert verdict is REPLAY
        else:
            assert verdict in (FRESH, FULL)
        if verdict is FRESH:
            self.accepted.append((client, e, stamp))


def test_against_a_model():
    run_state_machine_as_test(
        Model, settings=settings(max_examples=60, stateful_step_count=40, deadline=None)
    )
