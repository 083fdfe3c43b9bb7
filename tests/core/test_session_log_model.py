"""The session's log against a simple model: a list of frames, and three numbers."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine

from phantom.core.block_pool import BlockPool
from phantom.core.blocks import BLOCK_SIZE, MAX_RETAINED_BYTES, Block
from phantom.core.session import (
    BATCH,
    BATCH_RECORDS,
    FULL_PAYLOAD,
    FULL_RECORD,
    HALF_BATCH,
    LEAST_REST,
    SMALL_PAYLOAD,
    SMALL_RECORD,
    SendLog,
)
from phantom.core.wire import HEADER_SIZE, MAX_PAYLOAD, FrameType, parse_frames

LIMITS = st.sampled_from([1, 7, SMALL_RECORD // 2, SMALL_RECORD, 30_000, FULL_RECORD])
SIZES = st.sampled_from([1, 2, 100, 4090, 4091, 20_000, 65_000, FULL_PAYLOAD, BATCH])


class WatchedPool(BlockPool):
    """Knows who holds which block, and spoils what comes back."""

    def __init__(self) -> None:
        super().__init__()
        self.lent: list[Block] = []

    def acquire(self) -> Block:
        block = super().acquire()
        assert block.live == 0 and block.cursor == 0
        assert all(other is not block for other in self.lent), "lent twice"
        self.lent.append(block)
        return block

    def release(self, block: Block) -> None:
        assert block.live == 0
        assert any(other is block for other in self.lent), "released twice"
        self.lent = [other for other in self.lent if other is not block]
        block.view[:] = b"\xee" * BLOCK_SIZE  # whoever still reads it reads nonsense
        super().release(block)


def fill(room: list[memoryview], content: bytes) -> None:
    """Put `content` into `room` as a scattered read does."""
    start = 0
    for piece in room:
        part = content[start : start + len(piece)]
        piece[: len(part)] = part
        start += len(part)
    assert start == len(content)


class Logs(RuleBasedStateMachine):
    """Whatever is done to the log, it holds the frames of the list, each once and in order."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = WatchedPool()
        self.log = SendLog(self.pool)
        # Frames not acknowledged, in order: (kind, stream id, payload).
        self.frames: list[tuple[int, int, bytes]] = []
        self.first = 0
        self.sent = 0
        self.counter = 0

    def content(self, size: int) -> bytes:
        self.counter += 1
        return (self.counter.to_bytes(4, "big") * (size // 4 + 1))[:size]

    # -- what may happen ------------------------------------------------------------------

    @rule(
        size=st.sampled_from([0, 1, 4, 4090, 4091, 65_000, MAX_PAYLOAD]),
        data=st.booleans(),
        pieces=st.integers(1, 3),
    )
    def append(self, size: int, data: bool, pieces: int) -> None:
        kind = FrameType.DATA if data else FrameType.WINDOW_UPDATE
        payload = self.content(size if data else min(size, 4))
        step = max(1, -(-len(payload) // pieces))
        parts = [payload[i : i + step] for i in range(0, len(payload), step)]
        self.log.append_parts(kind, 3, parts, len(payload))
        self.frames.append((kind, 3, payload))

    @rule(limit=SIZES, share=st.sampled_from([0, 1, 3, 50, 99, 100]))
    def read(self, limit: int, share: int) -> None:
        room = self.log.reserve(limit)
        offered = sum(map(len, room))
        assert room and 1 <= offered <= limit
        assert all(1 <= len(piece) <= self.log.frame_limit for piece in room)
        assert offered == limit or offered >= min(limit, LEAST_REST - HEADER_SIZE * len(room))
        content = self.content(max(bool(share), offered * share // 100))
        fill(room, content)
        self.log.commit(5, room, len(content))
        start = 0
        for piece in room:
            part = content[start : start + len(piece)]
            if part:
                self.frames.append((FrameType.DATA, 5, part))
            start += len(part)

    @rule(limit=LIMITS, batch=st.booleans(), count=st.integers(1, 4))
    def take(self, limit: int, batch: bool, count: int) -> None:
        records: list[memoryview] = []
        if batch:
            records = self.log.take_batch(limit)
        else:
            for _ in range(count):
                record = self.log.take(limit)
                if record is None:
                    break
                records.append(record)
        before = self.sent
        for record in records:
            frames = list(parse_frames(record))
            assert len(record) <= limit or len(frames) == 1
            assert len(record) <= MAX_PAYLOAD + HEADER_SIZE
            for kind, stream_id, payload in frames:
                assert (kind, stream_id, bytes(payload)) == self.frames[self.sent]
                self.sent += 1
        assert (self.sent == before) == (before == len(self.frames))

    @rule(share=st.integers(0, 100))
    def acknowledge(self, share: int) -> None:
        count = self.sent * share // 100
        self.log.acknowledge(self.first + count)
        self.forget(count)

    def forget(self, count: int) -> None:
        del self.frames[:count]
        self.first += count
        self.sent -= count

    @rule(share=st.integers(0, 100))
    def rewind(self, share: int) -> None:
        count = self.sent * share // 100
        self.forget(count)
        again = sum(HEADER_SIZE + len(payload) for _, _, payload in self.frames[: self.sent])
        assert self.log.rewind(self.first) == again
        # Runs with long frames are cut anew, others stay: what they carry is the same.
        cut = self.cut_as_the_log_did()
        assert self.joined(cut) == self.joined(self.frames)
        self.frames, self.sent = cut, 0

    def cut_as_the_log_did(self) -> list[tuple[int, int, bytes]]:
        log = self.log
        runs = [*log._retained, *log._unsent, *([log._open] if log._open else [])]
        frames = []
        for run in runs:
            view = run.block.view[run.start : run.end]
            frames += [(kind, number, bytes(data)) for kind, number, data in parse_frames(view)]
        return frames

    @staticmethod
    def joined(frames: list[tuple[int, int, bytes]]) -> list[tuple[int, int, bytes]]:
        """Return the frames with neighbouring data of one stream joined."""
        joined: list[tuple[int, int, bytes]] = []
        for kind, number, payload in frames:
            if kind == FrameType.DATA and joined and joined[-1][:2] == (kind, number):
                joined[-1] = (kind, number, joined[-1][2] + payload)
            else:
                joined.append((kind, number, payload))
        return joined

    @rule(fresh=st.booleans())
    def limits_change(self, fresh: bool) -> None:
        self.log.frame_limit = SMALL_PAYLOAD if fresh else FULL_PAYLOAD
        self.log.batch = SMALL_RECORD if fresh else BATCH

    @rule()
    def close(self) -> None:
        self.log.close()
        assert not self.pool.lent, "blocks leak"
        self.log = SendLog(self.pool)
        self.frames, self.first, self.sent = [], 0, 0

    # -- what always holds ----------------------------------------------------------------

    @invariant()
    def the_counts_are_exact(self) -> None:
        sizes = [HEADER_SIZE + len(payload) for _, _, payload in self.frames]
        assert self.log.size == sum(sizes)
        assert self.log.unsent == sum(sizes[self.sent :])
        assert self.log.acknowledged == self.first
        assert self.log.sent == self.first + self.sent
        assert self.log.next_sequence == self.first + len(self.frames)
        assert self.log.has_unsent == (self.sent < len(self.frames))
        blocks = len(self.pool.lent) * BLOCK_SIZE
        assert self.log.memory <= blocks and bool(self.log.memory) == bool(blocks)

    @invariant()
    def blocks_are_lent_while_something_is_in_them(self) -> None:
        log = self.log
        runs = [*log._retained, *log._unsent, *([log._open] if log._open else [])]
        used = {id(run.block) for run in runs}
        assert used == {id(block) for block in self.pool.lent}, "a block leaks, or was let go of"
        for block in self.pool.lent:
            inside = sorted((r.start, r.end) for r in runs if r.block is block)
            assert block.live == len(inside)
            assert all(a[1] <= b[0] for a, b in pairwise(inside))
            assert inside[-1][1] <= block.cursor <= BLOCK_SIZE

    def teardown(self) -> None:
        while (record := self.log.take()) is not None:
            for kind, stream_id, payload in parse_frames(record):
                assert (kind, stream_id, bytes(payload)) == self.frames[self.sent]
                self.sent += 1
        assert self.sent == len(self.frames)
        self.log.acknowledge(self.log.next_sequence)
        assert not self.pool.lent and self.log.size == self.log.unsent == 0


def test_the_log_agrees_with_a_list() -> None:
    run_machine(Logs, settings=settings(max_examples=200, stateful_step_count=40, deadline=None))


@pytest.mark.parametrize("limit", [1, 4096, FULL_PAYLOAD, BATCH // 2, BATCH, 10 * BATCH])
@pytest.mark.parametrize("before", [0, 1, 60_000, 131_000, 200_000, 262_000])
def test_there_is_always_room(limit: int, before: int) -> None:
    """An empty list would read as the end of the input."""
    log = SendLog(BlockPool())
    while before > 0:
        log.append(FrameType.DATA, 1, bytes(min(before, 60_000)))
        before -= 60_000
    room = log.reserve(limit)
    assert room and min(map(len, room)) >= 1 and sum(map(len, room)) <= limit


@pytest.mark.parametrize("batch", [HALF_BATCH, BATCH])
def test_a_batch_from_a_fresh_block_is_of_full_records(batch: int) -> None:
    log = SendLog(BlockPool())
    log.batch = batch
    for _ in range(5):
        room = log.reserve(batch)
        assert len(room) == batch // FULL_PAYLOAD
        log.commit(1, room, sum(map(len, room)))
        assert [len(record) for record in log.take_batch()] == [FULL_RECORD] * len(room)


@pytest.mark.parametrize("began", [1, 60_000, 131_000, 200_000, 262_000])
def test_a_batch_is_cut_into_few_records_more_than_it_fills(began: int) -> None:
    log = SendLog(BlockPool())
    room = log.reserve(BATCH)
    log.commit(1, room, began)
    while log.take() is not None:
        pass
    room = log.reserve(BATCH)
    assert BATCH - LEAST_REST < sum(map(len, room)) <= BATCH
    assert len(room) <= BATCH_RECORDS + 2


@pytest.mark.parametrize("brought", [0, 1, FULL_PAYLOAD, HALF_BATCH, HALF_BATCH + 1])
def test_blocks_that_a_read_does_not_reach_go_back(brought: int) -> None:
    pool = WatchedPool()
    log = SendLog(pool)
    log.commit(1, log.reserve(3 * BATCH), brought)
    assert len(pool.lent) == -(-brought // HALF_BATCH)


def test_reading_nothing_costs_nothing() -> None:
    pool = WatchedPool()
    log = SendLog(pool)
    for limit in (1, BATCH):
        room = log.reserve(limit)
        log.commit(1, room, 0)
    assert not pool.lent and log.size == log.unsent == log.next_sequence == 0


def waste(reads: Any) -> float:
    """Return the memory of blocks for each byte kept, with the log full of such reads."""
    pool = WatchedPool()
    log = SendLog(pool)
    while log.has_room:
        limit, size = next(reads)
        room = log.reserve(limit)
        log.commit(1, room, min(size, sum(map(len, room))))
        log.take_batch()
    return (len(pool.lent) - 1) * BLOCK_SIZE / log.size


@pytest.mark.parametrize("size", [1000, 40_000, 65_443, 65_444, 131_000, 131_300, 140_000, BATCH])
def test_blocks_are_well_used_whatever_a_source_brings(size: int) -> None:
    """A batch wants half a block of room, and leaves less than half of one behind."""

    def reads() -> Any:
        while True:
            yield BATCH, size

    assert waste(reads()) <= 2.02


def test_the_worst_mix_of_reads_wastes_less_than_half() -> None:
    """Just over half a block at once, then a large offer of which one byte is used."""

    def reads() -> Any:
        while True:
            yield BATCH, BLOCK_SIZE - LEAST_REST - HEADER_SIZE
            yield BATCH, 1

    assert waste(reads()) <= 2.02
    assert MAX_RETAINED_BYTES == 16 * 1024 * 1024, "so that is 32 MiB a session, at the worst"
