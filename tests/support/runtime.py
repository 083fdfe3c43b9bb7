"""A `Runtime` in which nothing happens unless the test makes it happen."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from ipaddress import ip_address
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock

from phantom.runtime import IPAddress, Runtime

#: What a fake wall clock shows when its test begins: 2026-01-01T00:00:00Z.
EPOCH = 1_767_225_600.0


class SeededEntropy:
    """Bytes that differ by seed and repeat by seed.

    Attributes:
        taken: How many bytes have been drawn.
    """

    def __init__(self, seed: int | str | bytes = 0) -> None:
        self._random = random.Random(seed)
        self.taken = 0

    def __call__(self, count: int) -> bytes:
        self.taken += count
        return self._random.randbytes(count)


class ScriptedResolver:
    """A resolver whose answers the test wrote.

    A name maps to addresses, or to an exception to fail with; a name that is not there
    fails as an unknown name does (`OSError`).  While `holding`, questions wait until
    `release`; a held question can be cancelled.

    Attributes:
        names: The script.
        asked: Every name asked for, in order.
        holding: Whether questions wait.
        held: The names that wait now.
    """

    def __init__(self, names: Mapping[str, Iterable[str] | Exception] | None = None) -> None:
        self.names: dict[str, Iterable[str] | Exception] = dict(names or {})
        self.asked: list[str] = []
        self.holding = False
        self._waiting: list[tuple[str, Deferred[list[IPAddress]]]] = []

    def __call__(self, name: str) -> Deferred[list[IPAddress]]:
        self.asked.append(name)
        if not self.holding:
            return self._answer(name)
        waiting: Deferred[list[IPAddress]] = Deferred(self._forget)
        self._waiting.append((name, waiting))
        return waiting

    @property
    def held(self) -> list[str]:
        return [name for name, _ in self._waiting]

    def release(self) -> None:
        """Answer what was held, and stop holding."""
        self.holding = False
        waiting, self._waiting = self._waiting, []
        for name, deferred in waiting:
            self._answer(name).chainDeferred(deferred)

    def _forget(self, cancelled: Deferred[list[IPAddress]]) -> None:
        self._waiting = [entry for entry in self._waiting if entry[1] is not cancelled]

    def _answer(self, name: str) -> Deferred[list[IPAddress]]:
        answer = self.names.get(name)
        if answer is None:
            return fail(OSError(-2, "Name or service not known"))
        if isinstance(answer, Exception):
            return fail(answer)
        return succeed([ip_address(text) for text in answer])


class FakeTime:
    """The three clocks of a `Runtime`, driven by one `Clock`.

    Attributes:
        clock: Where timers live.
        epoch: The wall time at which `clock` shows 0; assign to step the wall clock.
        slept: Seconds the machine has been asleep.
        local_address: The address the machine speaks from.
    """

    def __init__(self, clock: Clock, epoch: float = EPOCH) -> None:
        self.clock = clock
        self.epoch = epoch
        self.slept = 0.0
        self.local_address = "198.51.100.7"

    def wall(self) -> float:
        return self.epoch + self.clock.seconds() + self.slept

    def monotonic(self) -> float:
        return self.clock.seconds()

    def boottime(self) -> float:
        return self.clock.seconds() + self.slept

    def sleep(self, seconds: float) -> None:
        """Let the machine sleep: wall and boot time go on, timers do not."""
        self.slept += seconds


def fake_runtime(
    clock: Clock | None = None,
    *,
    seed: int | str | bytes = 0,
    names: Mapping[str, Iterable[str] | Exception] | None = None,
    reactor: Any = None,
    time: FakeTime | None = None,
    resolve: Callable[[str], Deferred[list[IPAddress]]] | None = None,
    entropy: Callable[[int], bytes] | None = None,
) -> Runtime:
    """Return a `Runtime` that is the same on every run.

    Args:
        clock: Its timers; by default the reactor's.
        seed: Decides every byte of its entropy.
        names: The script of its resolver (`ScriptedResolver`).
        reactor: By default a `MemoryReactorClock`, which records connects and listens.
        time: Wall, monotonic and boot time; by default they follow `clock`.
        resolve: A resolver in place of the scripted one.
        entropy: A source of bytes in place of the seeded one.

    Returns:
        The runtime.  ``runtime.clock`` is the `Clock` to advance, ``runtime.resolve`` the
        `ScriptedResolver`, ``runtime.entropy`` the `SeededEntropy`.
    """
    if reactor is None:
        reactor = clock if isinstance(clock, MemoryReactorClock) else MemoryReactorClock()
    if clock is None:
        clock = reactor
    if time is None:
        time = FakeTime(clock)
    return Runtime(
        reactor=reactor,
        clock=clock,
        entropy=SeededEntropy(seed) if entropy is None else entropy,
        wall_time=time.wall,
        monotonic=time.monotonic,
        boottime=time.boottime,
        local_address=lambda: time.local_address,
        resolve=ScriptedResolver(names) if resolve is None else resolve,
    )


def real_runtime(reactor: Any, *, seed: int | str | bytes | None = None) -> Runtime:
    """Return the system's runtime around the real `reactor`, for tests on loopback.

    Args:
        reactor: The running reactor (the `reactor` fixture).
        seed: Makes its entropy repeat, if given.
    """
    import attrs

    from phantom.runtime import system_runtime

    runtime = system_runtime(reactor)
    return runtime if seed is None else attrs.evolve(runtime, entropy=SeededEntropy(seed))
