"""What the operating system says that processes used: CPU time and memory.

CPU time is ``utime + stime`` of /proc/PID/stat with the times of reaped children, over all
threads (proc(5)); the kernel scales the two so that their sum is the scheduler's own run
time, in ticks of 10 ms.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, Self

TICK = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGESIZE")

#: Seconds between two looks at the memory of a group of processes.
SAMPLE = 0.5

#: Seconds a program has to end before it is killed.
GRACE = 2.0


class Entry(NamedTuple):
    """A process: its parent, its state, CPU seconds with reaped children, resident bytes."""

    parent: int
    state: str
    cpu: float
    resident: int


class Machine(NamedTuple):
    """The machine at a moment: seconds, and CPU seconds since boot that were busy or stolen."""

    time: float
    busy: float
    stolen: float


def table() -> dict[int, Entry]:
    """Return every process there is."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                text = Path("/proc", name, "stat").read_text()
                # The command's name may hold anything, ")" too; after it, fields 3 and on.
                field = text.rpartition(")")[2].split()
                ticks = sum(int(value) for value in field[11:15])
                memory = int(field[21]) * PAGE
                found[int(name)] = Entry(int(field[1]), field[0], ticks / TICK, memory)
    return found


def family(roots: Iterable[int], processes: dict[int, Entry]) -> list[int]:
    """Return those of `roots` that live, with all their descendants."""
    children: dict[int, list[int]] = {}
    for pid, entry in processes.items():
        children.setdefault(entry.parent, []).append(pid)
    found = []
    waiting = [root for root in roots if root in processes]
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        waiting += children.get(pid, [])
    return found


def cpu_seconds(roots: Iterable[int]) -> float:
    """Return the CPU seconds of these processes and their descendants, dead ones included."""
    processes = table()
    return sum(processes[pid].cpu for pid in family(roots, processes))


def machine() -> Machine:
    """Return what the whole machine has done since it started (/proc/stat)."""
    with open("/proc/stat") as file:
        ticks = [int(value) / TICK for value in file.readline().split()[1:]]
    # user, nice, system, idle, iowait, irq, softirq, steal
    return Machine(time.monotonic(), sum(ticks[:3]) + sum(ticks[5:7]), ticks[7])


def _kilobytes(pid: int, field: str, file: str = "status") -> int:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/{file}") as lines:
        for line in lines:
            if line.startswith(field):
                return int(line.split()[1])
    return 0


def resident(roots: Iterable[int]) -> tuple[int, int]:
    """Return the resident bytes, and the same with shared pages counted once (PSS)."""
    pids = family(roots, table())
    rss = sum(_kilobytes(pid, "VmRSS:") for pid in pids)
    pss = sum(_kilobytes(pid, "Pss:", "smaps_rollup") for pid in pids)
    return rss * 1024, pss * 1024


class PeakMemory:
    """The most memory a group of processes had during a ``with`` block.

    It is the larger of the sum of their high-water marks, reset at the start (5 in
    /proc/PID/clear_refs), and of the sums seen in samples: processes may end meanwhile.
    """

    def __init__(self, roots: Sequence[int]) -> None:
        self.bytes = 0
        self._roots = roots
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        for pid in family(self._roots, table()):
            with contextlib.suppress(OSError):
                Path(f"/proc/{pid}/clear_refs").write_text("5")
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._over.wait(SAMPLE):
            processes = table()
            pids = family(self._roots, processes)
            self.bytes = max(self.bytes, sum(processes[pid].resident for pid in pids))

    def __exit__(self, *_exception: object) -> None:
        self._over.set()
        self._thread.join()
        marks = sum(_kilobytes(pid, "VmHWM:") for pid in family(self._roots, table()))
        self.bytes = max(self.bytes, marks * 1024)


def _signal(roots: Iterable[int], number: signal.Signals) -> None:
    for pid in family(roots, table()):
        with contextlib.suppress(OSError):
            os.kill(pid, number)


def stop(programs: Sequence[subprocess.Popen[bytes]]) -> None:
    """End programs that we started, with their descendants, and collect what is left of them."""
    for program in programs:
        if program.poll() is None:
            _signal([program.pid], signal.SIGTERM)
    end = time.monotonic() + GRACE
    for program in programs:
        try:
            program.wait(max(0.05, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            _signal([program.pid], signal.SIGKILL)
            program.wait()
    # Orphaned grandchildren came to us, their subreaper (cli.py).
    known = {program.pid for program in programs}
    for pid, entry in table().items():
        if entry.parent == os.getpid() and entry.state == "Z" and pid not in known:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
