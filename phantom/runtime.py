"""The only place that reaches for the reactor, entropy, wall time and name resolution.

Everything else is handed a `Runtime`, so that a test decides all four.
"""

from __future__ import annotations

import os
import random
import socket
import time
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from phantom.fast.turns import Turns, find_turns

IPAddress = IPv4Address | IPv6Address
Resolve = Callable[[str], Deferred[list[IPAddress]]]

#: Threads for name lookups, apart from the reactor's own pool, so that slow name servers
#: cannot starve anything else (getaddrinfo blocks its thread for up to 30 s by default).
#: They are started as they are needed; an idle one takes some 20 kB.
RESOLVER_THREADS = 32


@attrs.frozen(slots=True, kw_only=True)
class Runtime:
    """What a component may know of the world outside its arguments.

    Attributes:
        reactor: Twisted's reactor, or a stand-in that provides what the component uses
            (`IReactorTCP` and so on).
        clock: Timers; the reactor itself outside tests.
        entropy: ``entropy(n)`` returns n bytes fit for keys.
        wall_time: Seconds since the Unix epoch, for timestamps that another host reads.
        monotonic: Seconds that stop while the machine sleeps.
        boottime: Seconds that go on while the machine sleeps; a lead over `monotonic`
            that grows is a sleep.
        local_address: The address this machine would speak from; when it changes, so has
            the network.
        turns: The quick way to the end of a turn, where the reactor has it.
        resolve: Name to addresses in the system's order of preference; fails with
            `OSError` (``socket.gaierror``) when there are none.  Cancellable.
    """

    reactor: Any
    clock: IReactorTime
    entropy: Callable[[int], bytes]
    wall_time: Callable[[], float]
    monotonic: Callable[[], float]
    boottime: Callable[[], float]
    local_address: Callable[[], str]
    resolve: Resolve
    turns: Turns | None = None

    def call_later(self, seconds: float, call: Callable[..., object], *args: Any) -> IDelayedCall:
        """Schedule ``call(*args)`` and return the handle that cancels it."""
        return self.clock.callLater(seconds, call, *args)

    def at_turn_end(self, call: Callable[[], object]) -> None:
        """Call `call` once this turn of the reactor's events is dealt with.

        Writes made in one turn are joined into one record there.
        """
        if self.turns is None:
            self.clock.callLater(0, call)
        else:
            self.turns.at_end(call)

    def uniform(self, low: float, high: float) -> float:
        """Return a random number from `low` to `high`, drawn from `entropy`."""
        return low + (high - low) * (int.from_bytes(self.entropy(7), "big") / (1 << 56))

    def randint(self, low: int, high: int) -> int:
        """Return a random integer from `low` to `high`, both included."""
        # A bias below 2**-32 for any span used here; not for keys.
        return low + int.from_bytes(self.entropy(8), "big") % (high - low + 1)

    def shuffle(self, items: list[Any]) -> None:
        """Shuffle `items` in place."""
        random.Random(self.entropy(16)).shuffle(items)


def _boottime() -> float:
    clock = getattr(time, "CLOCK_BOOTTIME", None)  # Linux; elsewhere monotonic counts sleep or not
    return time.clock_gettime(clock) if clock is not None else time.monotonic()


def _local_address() -> str:
    """Ask the routing table, by a socket that is connected and never sends anything."""
    for family, anywhere in (
        # Documentation addresses (RFC 5737, RFC 3849): routed like any other, and nobody's.
        (socket.AF_INET, ("192.0.2.1", 9)),
        (socket.AF_INET6, ("2001:db8::1", 9)),
    ):
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect(anywhere)
                return str(probe.getsockname()[0])
        except OSError:
            continue
    return ""


def _lookup(name: str) -> list[IPAddress]:
    found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    # dict.fromkeys keeps getaddrinfo's order, which is RFC 6724's.
    return list(dict.fromkeys(ip_address(entry[4][0]) for entry in found))


def system_resolver(reactor: Any) -> Resolve:
    """Return a resolver that asks the operating system on threads of its own."""
    pool: ThreadPool | None = None

    def resolve(name: str) -> Deferred[list[IPAddress]]:
        nonlocal pool
        if pool is None:
            pool = ThreadPool(0, RESOLVER_THREADS, name="phantom-resolver")
            pool.start()
            reactor.addSystemEventTrigger("during", "shutdown", pool.stop)
        return deferToThreadPool(reactor, pool, _lookup, name)

    return resolve


def steady(reactor: Any) -> None:
    """Let the reactor's timers follow a clock that nobody sets.

    Twisted's follow the wall clock: set back by an hour, every keepalive and every redial
    would come an hour late; set forward, sessions that wait would expire at once.

    Args:
        reactor: Without timers as yet: those already set would never come, so with any it
            is left as it is.
    """
    if not reactor.getDelayedCalls():
        reactor.seconds = time.monotonic


def system_runtime(reactor: Any) -> Runtime:
    """Return the real thing around `reactor`."""
    return Runtime(
        reactor=reactor,
        clock=reactor,
        entropy=os.urandom,
        wall_time=time.time,
        monotonic=time.monotonic,
        boottime=_boottime,
        local_address=_local_address,
        resolve=system_resolver(reactor),
        turns=find_turns(reactor),
    )
