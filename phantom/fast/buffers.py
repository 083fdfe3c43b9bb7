"""Buffers that the whole process shares, because each is used for one call at a time."""

from __future__ import annotations

from phantom.fast.sockets import READ_SIZE

#: Bytes of a batch of records when it is sealed: eight full records (65,553 bytes each), and a
#: ninth, so that small ones beside them fit.
SEALED_SIZE = 9 * 65_553


class SharedBuffer:
    """Memory that is lent for a call, and sometimes kept by whom it was lent to.

    One for all links: it stays in the processor's cache, and an idle link holds none.

    Args:
        size: Its bytes.

    Attributes:
        view: The memory.
    """

    __slots__ = ("_size", "view")

    def __init__(self, size: int) -> None:
        self._size = size
        self.view = memoryview(bytearray(size))

    def renew(self) -> None:
        """Replace the memory, which somebody keeps; the old goes when they let go of it."""
        self.view = memoryview(bytearray(self._size))


#: Where links seal what they send.
sealed_buffer = SharedBuffer(SEALED_SIZE)

#: Bytes of the buffer that what was received is opened into: of one read, and of a record that
#: was begun before it.
OPENED_SIZE = READ_SIZE + 65_536

# Where links open what they receive.  There is one, unless what a record brings makes another
# link's bytes arrive at once: two ends in one process that share no socket.
_spare: list[memoryview] = []


def borrow_opened(size: int) -> memoryview:
    """Return a buffer for what is opened next; `return_opened` ends the loan.

    Args:
        size: Of what was received, in bytes.
    """
    if size > READ_SIZE:  # by a transport of somebody else's
        return memoryview(bytearray(size + OPENED_SIZE - READ_SIZE))
    return _spare.pop() if _spare else memoryview(bytearray(OPENED_SIZE))


def return_opened(buffer: memoryview) -> None:
    """Take the buffer back; nobody may refer to what is in it any more."""
    if len(buffer) == OPENED_SIZE and not _spare:
        _spare.append(buffer)
