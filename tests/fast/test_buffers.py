"""Memory that is lent for a call."""

from __future__ import annotations

import gc
import subprocess
import sys

from phantom.core.session import BATCH, SMALL_RECORD
from phantom.crypto.records import MAX_PLAINTEXT, OVERHEAD
from phantom.fast.buffers import (
    OPENED_SIZE,
    SEALED_SIZE,
    SharedBuffer,
    borrow_opened,
    return_opened,
)
from phantom.fast.sockets import READ_SIZE


def test_a_nested_loan_gets_other_memory() -> None:
    outer = borrow_opened(100)
    inner = borrow_opened(100)
    outer[:5] = b"outer"
    inner[:5] = b"inner"
    assert bytes(outer[:5]) == b"outer"
    return_opened(inner)
    again = borrow_opened(100)
    again[:5] = b"again"
    assert bytes(outer[:5]) == b"outer"
    return_opened(again)
    return_opened(outer)


def test_one_buffer_is_kept_however_deep_the_loans_were() -> None:
    from phantom.fast import buffers

    loans = [borrow_opened(1) for _ in range(5)]
    for loan in loans:
        return_opened(loan)
    assert len(buffers._spare) == 1


def test_there_is_room_for_all_that_one_read_may_complete() -> None:
    for size in (1, READ_SIZE, READ_SIZE + 1, 3 * READ_SIZE):
        buffer = borrow_opened(size)
        assert len(buffer) >= size + MAX_PLAINTEXT
        return_opened(buffer)
    assert len(borrow_opened(1)) == OPENED_SIZE


def test_a_batch_fits_the_buffer_it_is_sealed_in() -> None:
    records = 4 + 1
    assert BATCH + records * (OVERHEAD + 6) <= SEALED_SIZE
    small = BATCH // SMALL_RECORD + 1
    assert BATCH + small * (OVERHEAD + 6) <= SEALED_SIZE, "of small records too"


def test_memory_that_somebody_keeps_is_replaced() -> None:
    buffer = SharedBuffer(10)
    kept = buffer.view
    kept[:] = b"0123456789"
    buffer.renew()
    buffer.view[:] = b"xxxxxxxxxx"
    assert bytes(kept) == b"0123456789"


def test_a_settled_process_works_and_collects_garbage() -> None:
    """In a process of its own: it is for good."""
    script = """
import gc, weakref
from phantom.fast.memory import GC_THRESHOLDS, settle
class Node: pass
settle(); settle()
assert gc.isenabled() and gc.get_threshold() == GC_THRESHOLDS
node = Node(); node.me = node; gone = weakref.ref(node)
del node
kept = [[] for _ in range(GC_THRESHOLDS[0] + 1)]
assert gone() is None
blocks = [bytearray(1 << 20) for _ in range(64)]
del blocks
print("settled")
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.stdout == "settled\n", done.stderr
    assert gc.isenabled()
