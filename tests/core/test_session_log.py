"""What a session keeps, sends again, and lets go."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phantom.core.block_pool import POOLED_BLOCKS, BlockPool
from phantom.core.blocks import BLOCK_SIZE, MAX_RETAINED_BYTES, Block
from phantom.core.received import ReceiveLog
from phantom.core.session import MAX_RETAINED_FRAMES, SMALL_RECORD, SendLog
from phantom.core.wire import MAX_PAYLOAD, MAX_RECORD_PLAINTEXT, FrameType, parse_frames
from phantom.errors import LocalProtocolError, RemoteProtocolError


def drain(log: SendLog, limit: int = MAX_RECORD_PLAINTEXT) -> list[bytes]:
    records = []
    while (record := log.take(limit)) is not None:
        records.append(bytes(record))
    return records


def payloads(records: list[bytes]) -> list[bytes]:
    return [bytes(p) for record in records for _, _, p in parse_frames(memoryview(record))]


def test_small_frames_share_a_record() -> None:
    log = SendLog(BlockPool())
    for i in range(5):
        log.append(FrameType.DATA, 1, bytes([i]))
    records = drain(log)
    assert len(records) == 1
    assert payloads(records) == [bytes([i]) for i in range(5)]
    assert (log.sent, log.next_sequence, log.acknowledged) == (5, 5, 0)


def test_a_frame_too_long_for_a_record_is_our_bug() -> None:
    with pytest.raises(LocalProtocolError):
        SendLog(BlockPool()).append(FrameType.DATA, 1, bytes(MAX_PAYLOAD + 1))


def test_an_acknowledgement_gives_blocks_back() -> None:
    pool = BlockPool()
    log = SendLog(pool)
    for _ in range(40):
        log.append(FrameType.DATA, 1, bytes(MAX_PAYLOAD))
    drain(log)
    assert log.size == 40 * (MAX_PAYLOAD + 6)
    log.acknowledge(40)
    assert log.size == 0
    assert len(pool._spare) == 10  # four records a block, all of them free
    assert log._block is None, "an idle session holds no block"


def test_acknowledging_what_was_not_sent_is_refused() -> None:
    log = SendLog(BlockPool())
    log.append(FrameType.DATA, 1, b"x")
    with pytest.raises(RemoteProtocolError):
        log.acknowledge(1)
    drain(log)
    log.acknowledge(1)
    log.acknowledge(0)  # late and harmless
    with pytest.raises(RemoteProtocolError):
        log.acknowledge(2)


def test_room_ends_at_the_caps() -> None:
    log = SendLog(BlockPool())
    while log.has_room:
        log.append(FrameType.DATA, 1, bytes(MAX_PAYLOAD))
    assert MAX_RETAINED_BYTES <= log.size < MAX_RETAINED_BYTES + 2 * BLOCK_SIZE
    log = SendLog(BlockPool())
    for _ in range(MAX_RETAINED_FRAMES):
        log.append(FrameType.HALF_CLOSE, 1)
    assert not log.has_room and not log.overflowing


def test_resuming_with_nonsense_is_refused() -> None:
    log = SendLog(BlockPool())
    for _ in range(3):
        log.append(FrameType.DATA, 1, b"x")
    drain(log)
    log.acknowledge(2)
    with pytest.raises(RemoteProtocolError):
        log.rewind(1)
    with pytest.raises(RemoteProtocolError):
        log.rewind(4)


@given(st.data())
def test_cut_anywhere_everything_arrives_once_and_in_order(data: st.DataObject) -> None:
    """Send, lose the link, resume at any frame, with acknowledgements in between."""
    log = SendLog(BlockPool())
    receiver = ReceiveLog()
    sent = got = b""
    for _ in range(data.draw(st.integers(1, 5), label="links")):
        cursor = receiver.begin(receiver.received, log.acknowledged)
        for _ in range(data.draw(st.integers(0, 6), label="frames")):
            size = data.draw(st.sampled_from([1, 100, 30_000, 65_000]))
            payload = bytes([len(sent) % 256]) * size
            sent += payload
            log.append(FrameType.DATA, 1, payload)
        small = data.draw(st.booleans(), label="small records")
        records = drain(log, SMALL_RECORD if small else MAX_RECORD_PLAINTEXT)
        arriving = records[: data.draw(st.integers(0, len(records)), label="arriving")]
        for payload in payloads(arriving):
            if cursor.accept():
                got += payload
        if data.draw(st.booleans(), label="acknowledged"):
            log.acknowledge(receiver.received)
        assert sent.startswith(got)
        # The link dies; both say what they have; what is missing goes again.
        log.rewind(receiver.received)
    cursor = receiver.begin(receiver.received, log.acknowledged)
    for payload in payloads(drain(log)):
        if cursor.accept():
            got += payload
    assert got == sent
    log.acknowledge(receiver.received)
    assert log.size == 0


def test_what_goes_again_goes_in_small_frames() -> None:
    pool = BlockPool()
    log = SendLog(pool)
    for _ in range(8):
        log.append(FrameType.DATA, 1, bytes(MAX_PAYLOAD))
    log.take()
    log.take()
    log.acknowledge(1)
    assert log.rewind(1) == MAX_PAYLOAD + 6
    records = drain(log, SMALL_RECORD)
    assert max(len(record) for record in records) <= SMALL_RECORD
    assert sum(len(p) for p in payloads(records)) == 7 * MAX_PAYLOAD
    log.acknowledge(log.next_sequence)
    assert log.size == 0 and log._block is None
    assert all(block.live == 0 for block in pool._spare)


class CountingPool(BlockPool):
    """Counts the blocks it gave."""

    def __init__(self) -> None:
        super().__init__()
        self.given = 0

    def acquire(self) -> Block:
        self.given += 1
        return super().acquire()


@pytest.mark.parametrize("size", [4, 1000, MAX_PAYLOAD])
def test_a_peer_that_resumes_for_ever_has_a_byte_copied_once(size: int) -> None:
    pool = CountingPool()
    log = SendLog(pool)
    for _ in range(min(3000, MAX_RETAINED_BYTES // size)):
        log.append(FrameType.DATA, 1, bytes(size))
    drain(log)
    log.rewind(0)
    expected = payloads(drain(log, SMALL_RECORD))
    given = pool.given
    for _ in range(100 if size < MAX_PAYLOAD else 10):
        log.rewind(0)
        drain(log, SMALL_RECORD)
    assert pool.given == given
    log.rewind(0)
    assert payloads(drain(log)) == expected
    log.acknowledge(log.next_sequence)
    assert log.size == 0 and log._block is None
    assert len(pool._spare) == min(given, POOLED_BLOCKS)


@given(st.data())
def test_the_log_stays_whole_whatever_happens_to_it(data: st.DataObject) -> None:
    """Its runs follow one another, and each block knows how many of them it holds."""
    pool = CountingPool()
    log = SendLog(pool)
    for _ in range(data.draw(st.integers(1, 30))):
        match data.draw(st.sampled_from(["append", "take", "acknowledge", "rewind"])):
            case "append":
                kind = data.draw(st.sampled_from([FrameType.DATA, FrameType.WINDOW_UPDATE]))
                log.append(kind, 1, bytes(data.draw(st.sampled_from([1, 400, 4090, 4091, 60_000]))))
            case "take":
                log.take(data.draw(st.sampled_from([SMALL_RECORD, MAX_RECORD_PLAINTEXT])))
            case "acknowledge":
                log.acknowledge(data.draw(st.integers(log.acknowledged, log.sent)))
            case "rewind":
                log.rewind(data.draw(st.integers(log.acknowledged, log.sent)))
        runs = [*log._retained, *log._unsent, *([log._open] if log._open else [])]
        number = log.acknowledged
        live: Counter[Block] = Counter()
        for run in runs:
            assert run.first == number
            number += run.frames
            live[run.block] += 1
        assert number == log.next_sequence
        assert log.size == sum(run.end - run.start for run in runs)
        assert all(block.live == count for block, count in live.items())
    log.close()
    assert len(pool._spare) == len({id(block) for block in pool._spare})
    assert log._block is None and all(block.live == 0 for block in pool._spare)


def test_a_late_link_repeats_harmlessly_and_a_gap_is_refused() -> None:
    receiver = ReceiveLog()
    first = receiver.begin(0, 0)
    assert [first.accept() for _ in range(3)] == [True] * 3
    second = receiver.begin(1, 0)
    assert [second.accept() for _ in range(3)] == [False, False, True]
    assert first.accept() is False
    with pytest.raises(RemoteProtocolError):
        receiver.begin(3, 4)


def test_closing_gives_everything_back() -> None:
    pool = BlockPool()
    log = SendLog(pool)
    for _ in range(9):
        log.append(FrameType.DATA, 1, bytes(60_000))
    log.take()
    log.close()
    assert not log.has_unsent and log.take() is None
    assert len(pool._spare) == 3
