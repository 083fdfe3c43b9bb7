"""Measuring in turn: one measurement on a machine at a time, and before other work on it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterable
from io import TextIOWrapper
from pathlib import Path
from types import FrameType

#: The lock of the machine; ``flock FILE COMMAND`` works against it.
LOCK = Path(os.environ.get("BENCH_LOCK") or Path(tempfile.gettempdir()) / "bench.lock")

#: Seconds one turn may last before the lock is given up for a moment.  The scenario that is
#: running ends first.
HOLD = float(os.environ.get("BENCH_HOLD", "60"))

#: Seconds without the lock between two turns: long enough for whoever waits to get it.
PAUSE = 0.5

_autogroup_nice = 0


class Turn:
    """The lock, kept from one scenario to the next until it was held for `HOLD` seconds."""

    def __init__(self) -> None:
        self._file: TextIOWrapper | None = None
        self._since = 0.0

    def take(self) -> None:
        """Hold the lock, waiting for it if somebody else does."""
        if self._file is not None and time.monotonic() - self._since > HOLD:
            self.drop()
            time.sleep(PAUSE)
        if self._file is None:
            self._file = LOCK.open("a")
            fcntl.flock(self._file, fcntl.LOCK_EX)
            self._since = time.monotonic()

    def drop(self) -> None:
        """Give the lock up; harmless without it."""
        if self._file is not None:
            self._file.close()
            self._file = None


def go_first(nice: int) -> None:
    """Go on in a child that has a session of its own and a priority before other work.

    With scheduler autogroups, priorities count only within a session: ours must have one,
    and the group's own priority must be set as well.  The parent only waits.
    """
    global _autogroup_nice
    child = os.fork()
    if child:

        def pass_on(_number: int, _frame: FrameType | None) -> None:
            os.kill(child, signal.SIGTERM)

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, pass_on)
        while True:
            with contextlib.suppress(InterruptedError):
                sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) & 255)
    os.setsid()
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, nice)
    _autogroup_nice = nice
    bring_along([os.getpid()])


def bring_along(pids: Iterable[int]) -> None:
    """Give processes that made sessions of their own our priority (sshd does, for each client)."""
    if not _autogroup_nice:
        return
    for pid in pids:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/autogroup", "r+") as file:
            if file.read().split()[-1] != str(_autogroup_nice):
                file.write(str(_autogroup_nice))
