"""When a link is trusted with large records."""

from __future__ import annotations

from phantom.core.block_pool import BlockPool
from phantom.core.blocks import MAX_RETAINED_BYTES
from phantom.core.freshness import FRESH_BYTES, FRESH_TIME, Freshness
from phantom.core.session import FULL_PAYLOAD, FULL_RECORD, SMALL_PAYLOAD, SMALL_RECORD, SendLog
from phantom.core.wire import MAX_PAYLOAD, FrameType


def fill(fresh: Freshness, now: float, first: int = 0) -> int:
    """Send records until enough has gone; return the sequence behind them."""
    sequence = first
    for _ in range(FRESH_BYTES // SMALL_RECORD):
        sequence += 1
        fresh.sent(SMALL_RECORD, sequence, now)
    return sequence


def test_a_trickle_before_does_not_count_against_a_link() -> None:
    fresh = Freshness(0.0)
    fresh.sent(100, 1, 0.0)
    last = fill(fresh, 10 * FRESH_TIME, 1)
    fresh.acknowledged(last, 10 * FRESH_TIME + 0.5)
    assert fresh.trusted


def test_small_until_enough_was_acknowledged() -> None:
    fresh = Freshness(0.0)
    assert (fresh.record_limit, fresh.frame_limit) == (SMALL_RECORD, SMALL_PAYLOAD)
    last = fill(fresh, 0.0)
    fresh.acknowledged(last - 1, 0.1)
    assert not fresh.trusted
    fresh.acknowledged(last, 0.1)
    assert fresh.trusted
    assert (fresh.record_limit, fresh.frame_limit) == (FULL_RECORD, FULL_PAYLOAD)


def test_little_is_kept_until_then() -> None:
    """What is kept goes again first: a window update would wait behind it, link after link."""
    fresh = Freshness(0.0)
    log = SendLog(BlockPool())
    log.room = fresh.room
    while log.has_room:
        log.append(FrameType.DATA, 1, bytes(SMALL_PAYLOAD))
    assert FRESH_BYTES < log.size <= 4 * FRESH_BYTES
    fresh.acknowledged(fill(fresh, 0.0), 0.1)
    log.room = fresh.room
    while log.has_room:
        log.append(FrameType.DATA, 1, bytes(MAX_PAYLOAD))
    assert log.size >= MAX_RETAINED_BYTES


def test_a_slow_link_is_never_trusted_until_it_is_quick() -> None:
    fresh = Freshness(0.0)
    last = fill(fresh, 0.0)
    fresh.acknowledged(last, FRESH_TIME + 0.1)
    assert not fresh.trusted
    last = fill(fresh, 10.0, last)
    fresh.acknowledged(last, 10.5)
    assert fresh.trusted


def test_time_without_data_does_not_count() -> None:
    fresh = Freshness(0.0)
    last = fill(fresh, 100.0)
    fresh.acknowledged(last, 101.0)
    assert fresh.trusted
