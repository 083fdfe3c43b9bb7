"""Spare blocks for the logs of sessions."""

from __future__ import annotations

from phantom.core.blocks import BLOCK_SIZE, MAX_RETAINED_BYTES, Block

#: Blocks a pool keeps for reuse: the cap of one busy session; more is trimmed after peaks.
POOLED_BLOCKS = MAX_RETAINED_BYTES // BLOCK_SIZE


class BlockPool:
    """Spare blocks, last in first out so that the one used next is still in the cache.

    One pool serves all sessions of a process: an idle session holds no block.
    """

    __slots__ = ("_spare",)

    def __init__(self) -> None:
        self._spare: list[Block] = []

    def acquire(self) -> Block:
        """Return an empty block."""
        return self._spare.pop() if self._spare else Block()

    def release(self, block: Block) -> None:
        """Take back a block that nothing refers to any more."""
        if len(self._spare) < POOLED_BLOCKS:
            block.cursor = 0
            self._spare.append(block)
