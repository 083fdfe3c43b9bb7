"""CPU time and memory are those of the processes asked for, with their descendants."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from benchmarks import accounting

Start = Callable[[str], "subprocess.Popen[bytes]"]


@pytest.fixture
def start() -> Iterator[Start]:
    started = []

    def begin(code: str) -> subprocess.Popen[bytes]:
        pipe = subprocess.PIPE
        program = subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe)
        started.append(program)
        assert program.stdout is not None
        program.stdout.readline()
        return program

    yield begin
    for program in started:
        program.kill()
        program.communicate()


SLEEPING_PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", '''
import time
while time.process_time() < 0.4: pass  # the kernel counts in ticks of 10 ms
print(flush=True)
time.sleep(60)
'''])
time.sleep(60)
"""


def test_the_time_of_descendants_counts(start: Start) -> None:
    parent = start(SLEEPING_PARENT)
    family = accounting.family([parent.pid], accounting.table())
    assert len(family) == 2
    assert 0.3 <= accounting.cpu_seconds([parent.pid]) < 5
    accounting.stop([parent])
    assert parent.poll() is not None
    deadline = time.monotonic() + 5
    while accounting.family(family, accounting.table()) and time.monotonic() < deadline:
        living = accounting.table()
        if all(living[pid].state == "Z" for pid in family if pid in living):
            break  # whoever inherited it has not looked yet
        time.sleep(0.01)
    else:
        assert not accounting.family(family, accounting.table())


def test_a_process_that_is_gone_counts_nothing() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as program:
        program.wait()
    assert accounting.cpu_seconds([program.pid]) == 0
    assert accounting.resident([program.pid]) == (0, 0)


def test_memory_that_was_given_back_is_in_the_peak(start: Start) -> None:
    code = """
import sys
print(flush=True)
sys.stdin.readline()
held = bytearray(64 << 20)
held[::4096] = b"x" * len(held[::4096])
del held
print(flush=True)
sys.stdin.readline()
"""
    program = start(code)
    assert program.stdin is not None
    assert program.stdout is not None
    with accounting.PeakMemory([program.pid]) as peak:
        program.stdin.write(b"\n")
        program.stdin.flush()
        program.stdout.readline()
    now, _ = accounting.resident([program.pid])
    assert peak.bytes > 64 << 20
    assert now < 64 << 20


def test_the_machine_is_busier_than_we_are() -> None:
    before, own = accounting.machine(), time.process_time()
    while time.process_time() - own < 0.2:
        os.getpid()
    after = accounting.machine()
    assert after.busy - before.busy > 0.1
