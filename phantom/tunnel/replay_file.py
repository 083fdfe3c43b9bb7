"""The replay filter's file: mapped by every worker, locked for each question.

``replay.bin`` in the state directory holds one `phantom.core.replay` table.  What makes it
trustworthy:

- **Workers.** Each maps the file shared and holds an exclusive lock while it asks, so a
  replay to a sibling worker is seen.  The lock is of the POSIX kind: it belongs to the
  process, so that the descriptor may be inherited, from a parent that could open a file which
  its workers may not.  The kernel frees the lock of a process that dies.
- **Restarts and kills.** What was written to the mapping outlives the process.
- **A crash of the machine** may lose the last half minute.  The table therefore names the
  boot in which it was written; in another one, and wherever boots cannot be told apart,
  only timestamps from after this process opened it are accepted, on top of what is there.
- **A damaged, truncated or deleted file** is noticed at the next question, made anew in
  place, and the same rule covers what was lost.  It is never shrunk: that would pull the
  mapping away under a sibling.
- **No file at all** (a full or read-only disk): a table in memory, the same rule, and a new
  attempt every minute.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import mmap
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from phantom.core.replay import (
    QUOTA,
    SALT_SIZE,
    ReplayFilter,
    ReplayVerdict,
    format_table,
    restart_table,
    table_epoch,
    table_size,
)
from phantom.telemetry import make_logger

log = make_logger()

#: The file's name within the state directory.
FILE_NAME = "replay.bin"
#: Seconds between attempts to open a file that could not be opened.
RETRY_INTERVAL = 60.0

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boot_epoch() -> bytes | None:
    """Return 16 bytes that name the running boot of this machine, None if it cannot be told."""
    try:
        text = _BOOT_ID.read_bytes()
    except OSError:
        return None
    return hashlib.blake2b(text.strip(), digest_size=SALT_SIZE).digest()


class ReplayFile:
    """A replay filter that outlives the process and is shared by workers.

    Args:
        state_dir: Where `FILE_NAME` is or will be; must exist.
        entropy: ``entropy(n)`` returns n random bytes.
        now: This host's clock, in seconds since the Unix epoch.
        epoch: Names the boot (`boot_epoch`); None when boots cannot be told apart.
        quota: Messages a client may have in the table.
        inherited: The descriptor of the file, opened by the parent process; becomes this
            object's.  Negative for none.
    """

    def __init__(
        self,
        state_dir: str | os.PathLike[str],
        entropy: Callable[[int], bytes],
        now: float,
        *,
        epoch: bytes | None = None,
        quota: int = QUOTA,
        inherited: int = -1,
    ) -> None:
        self._path = Path(state_dir) / FILE_NAME
        self._entropy = entropy
        self._epoch = epoch
        self._quota = quota
        self._descriptor = -1
        self._mapping: mmap.mmap | None = None
        self._filter: ReplayFilter
        self._retry_at = now
        # What memory took the place of a file for is not in the next file.
        self._in_memory = False
        self._inherited = inherited
        self._open(now)

    @property
    def descriptor(self) -> int:
        """The open file; negative when memory is in use."""
        return self._descriptor

    @property
    def persistent(self) -> bool:
        """Whether a file is in use, rather than memory."""
        return self._mapping is not None

    def check(
        self,
        client_public: bytes,
        ephemeral: bytes,
        timestamp: float,
        now: float,
        *,
        insert: bool = True,
    ) -> ReplayVerdict:
        """Judge a message and, if it is fresh, remember it (`ReplayFilter`), for all workers.

        Args:
            client_public: The client's static public key.
            ephemeral: The ephemeral key as it stood on the wire.
            timestamp: From the message, in seconds since the Unix epoch.
            now: This host's clock, likewise.
            insert: Whether the message is authenticated and authorised.
        """
        if self._mapping is None:
            if now >= self._retry_at:
                self._open(now)
        elif os.fstat(self._descriptor).st_nlink == 0:
            log.warn("the replay filter's file was removed; making it anew")
            self.close()
            self._open(now)
        if self._mapping is not None:
            try:
                with self._locked():
                    self._mend(self._mapping, now)
                    return self._filter.check(
                        client_public, ephemeral, timestamp, now, insert=insert
                    )
            except OSError as error:
                self._fall_back(error, now)
        return self._filter.check(client_public, ephemeral, timestamp, now, insert=insert)

    def close(self) -> None:
        """Let go of the file; closing twice is harmless."""
        mapping, self._mapping = self._mapping, None
        if mapping is not None:
            mapping.close()
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        fcntl.lockf(self._descriptor, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN)

    def _open(self, now: float) -> None:
        """Use the file, made anew if need be, or else a table in memory."""
        # No link is followed, lest somebody else's file be overwritten.
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            inherited, self._inherited = self._inherited, -1
            if inherited >= 0:
                self._descriptor = inherited
            else:
                self._descriptor = os.open(self._path, flags, 0o600)
            with self._locked():
                is_new = os.fstat(self._descriptor).st_size == 0
                _reserve(self._descriptor)
                mapping = mmap.mmap(self._descriptor, table_size())
                epoch = table_epoch(mapping)
                if epoch is None:
                    if not is_new:
                        log.warn("the replay filter's file was damaged; making it anew")
                    self._format(mapping, now)
                elif epoch != self._epoch or self._in_memory:
                    restart_table(mapping, self._epoch or self._entropy(SALT_SIZE), now)
        except (OSError, ValueError) as error:  # mmap refuses some files by ValueError
            self._fall_back(error, now)
        else:
            self._mapping = mapping
            self._filter = ReplayFilter(mapping, quota=self._quota)
            self._in_memory = False

    def _mend(self, mapping: mmap.mmap, now: float) -> None:
        """Make the mapping a sound table again if something outside broke it.

        Touching a page beyond the end of a truncated file would kill the process (SIGBUS).
        """
        truncated = os.fstat(self._descriptor).st_size < table_size()
        if truncated:
            _reserve(self._descriptor)
        if truncated or table_epoch(mapping) is None:
            log.warn("the replay filter's file was damaged; making it anew")
            self._format(mapping, now)

    def _format(self, table: mmap.mmap | bytearray, now: float) -> None:
        epoch = self._epoch or self._entropy(SALT_SIZE)
        format_table(table, self._entropy(SALT_SIZE), epoch, now)

    def _fall_back(self, error: OSError | ValueError, now: float) -> None:
        """Go on in memory, and try the file again in a while."""
        self.close()
        self._retry_at = now + RETRY_INTERVAL
        if self._in_memory:
            return
        self._in_memory = True
        number = error.errno if isinstance(error, OSError) else None
        log.warn(
            "no file for the replay filter ({reason}): each worker keeps its own in memory "
            "until the file can be opened",
            reason=errno.errorcode.get(number or 0, "unusable"),
        )
        table = bytearray(table_size())
        self._format(table, now)
        self._filter = ReplayFilter(table, quota=self._quota)


def _reserve(descriptor: int) -> None:
    """Make the file long enough, with its blocks allocated; never shorten it.

    Writing through a mapping to a hole on a full disk would kill the process (SIGBUS).

    Raises:
        OSError: There is no room, or it is no regular file.
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, table_size())
    elif os.fstat(descriptor).st_size < table_size():
        os.ftruncate(descriptor, table_size())
