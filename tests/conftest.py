"""What holds for every test: a time limit, and nothing left behind.

Tests run inside the reactor (pytest-twisted).  A test fails that takes longer than its
limit, that lets an error go unhandled or be logged, or that leaves delayed calls or open
descriptors in the real reactor.  `tests/test_harness.py` shows each of these failing.
"""

from __future__ import annotations

import functools
import gc
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis
import pytest
import txaio
from twisted.internet.defer import Deferred, ensureDeferred, succeed
from twisted.internet.error import ConnectionDone
from twisted.python import log
from twisted.python.failure import Failure

#: Seconds a test may take; ``@pytest.mark.timeout(seconds)`` says otherwise.
DEFAULT_TIMEOUT = 60.0

#: Seconds after the limit at which a test that blocks the reactor itself is interrupted.
BLOCKED_GRACE = 2.0

#: Seconds that sockets and timers have to go away after a test.  A clean test does not wait.
SETTLE_TIME = 0.5

hypothesis.settings.register_profile("dev", deadline=None, print_blob=True)
hypothesis.settings.register_profile("ci", derandomize=True, deadline=None)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "dev")


class TimeLimitError(Exception):
    """A test took longer than its limit."""


# -- time limit -----------------------------------------------------------------------


def _limit(item: pytest.Item) -> float:
    marker = item.get_closest_marker("timeout")
    return DEFAULT_TIMEOUT if marker is None else float(marker.args[0])


def _timed(function: Callable[..., Any], seconds: float) -> Callable[..., Deferred[Any]]:
    """Return `function` such that its Deferred or coroutine fails after `seconds`.

    The outer Deferred does not wait for the cancelled inner one: a test that swallows its
    cancellation still ends.  All examples of a property share one limit, and fail at once
    when it is over, or shrinking a hanging one would take for ever.
    """
    message = f"not done after {seconds:g} s"
    end = 0.0

    @functools.wraps(function)
    def timed(*args: Any, **kwargs: Any) -> Deferred[Any]:
        nonlocal end
        from twisted.internet import reactor

        world: Any = reactor
        end = end or world.seconds() + seconds
        left = end - world.seconds()
        if left <= 0:
            raise TimeLimitError(message)
        outcome = function(*args, **kwargs)
        if not isinstance(outcome, Deferred):
            if not hasattr(outcome, "__await__"):
                return succeed(outcome)
            outcome = ensureDeferred(outcome)
        result: Deferred[Any] = Deferred()

        def expire() -> None:
            result.errback(TimeLimitError(message))
            outcome.cancel()

        limit = world.callLater(left, expire)

        def finish(value: Any) -> None:
            if limit.active():
                limit.cancel()
                result.callback(value)

        outcome.addBoth(finish)
        return result

    return timed


def pytest_configure() -> None:
    """Mind Ctrl-C: a shell has what it starts in the background ignore it, and so its children."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Offer the tests that take minutes."""
    parser.addoption("--endurance", action="store_true", help="run the tests that take minutes")


@pytest.hookimpl(tryfirst=True)  # pytest-xdist looks at the groups in the same hook
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what takes minutes, visibly, unless it was asked for; group what runs real programs.

    With ``-n`` these run in one of the processes, one after the other: each has limits in real
    time, which hold beside a test without programs, and not always beside each other.
    """
    endurance = config.getoption("--endurance")
    for item in items:
        if item.get_closest_marker("e2e") is not None:
            item.add_marker(pytest.mark.xdist_group("programs"))
        if not endurance and item.get_closest_marker("endurance") is not None:
            item.add_marker(pytest.mark.skip(reason="takes minutes; run with --endurance"))


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> None:
    """Wrap the test in its time limit; pytest-twisted then runs it."""
    seconds = _limit(pyfuncitem)
    handle = getattr(pyfuncitem.obj, "hypothesis", None)
    if handle is not None:
        handle.inner_test = _timed(handle.inner_test, seconds)
    else:
        pyfuncitem.obj = _timed(pyfuncitem.obj, seconds)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Interrupt a test that blocks the reactor, so that no timer could end it."""
    seconds = _limit(item)

    def interrupt(_number: int, _frame: object) -> None:
        raise TimeLimitError(f"the reactor was blocked; not done after {seconds:g} s")

    previous = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds + BLOCKED_GRACE)
    try:
        return (yield)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


# -- nothing left behind ----------------------------------------------------------------


def pytest_collection_finish() -> None:
    """Keep what is loaded by now out of the collections after each test: they cost less."""
    gc.collect()
    gc.freeze()


_FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Note whether the test itself failed."""
    report: Any = yield
    if report.when != "teardown" and report.failed:
        item.stash[_FAILED] = True
    return report


class LoggedFailures:
    """The failures logged during one test, unhandled Deferred errors included."""

    def __init__(self) -> None:
        self._events: list[tuple[Failure, str]] = []

    def __call__(self, event: dict[str, Any]) -> None:
        # An unhandled Deferred error is announced by a line of its own, without a failure.
        if event.get("isError") and "failure" in event:
            self._events.append((event["failure"], log.textFromEventDict(event) or ""))

    def flush(self, *types: type[BaseException]) -> list[Failure]:
        """Return the failures of these types, or all, and count them as expected."""
        gc.collect()
        wanted = types or (BaseException,)
        taken = [failure for failure, _ in self._events if failure.check(*wanted)]
        self._events = [event for event in self._events if not event[0].check(*wanted)]
        return taken

    def texts(self) -> list[str]:
        """Return what is left, as text."""
        return [text for _, text in self._events]


def _leftovers(calls: set[Any], descriptors: set[Any]) -> tuple[list[Any], list[Any]]:
    from twisted.internet import reactor

    world: Any = reactor
    internal = getattr(world, "_internalReaders", set())
    left_calls = [c for c in world.getDelayedCalls() if c.active() and c not in calls]
    left_descriptors = [
        d
        for d in dict.fromkeys([*world.getReaders(), *world.getWriters()])
        if d not in internal and d not in descriptors
    ]
    return left_calls, left_descriptors


async def _settle(calls: set[Any], descriptors: set[Any]) -> None:
    from twisted.internet import reactor
    from twisted.internet.task import deferLater

    world: Any = reactor
    end = world.seconds() + SETTLE_TIME
    while any(_leftovers(calls, descriptors)) and world.seconds() < end:
        await deferLater(world, 0.005)


def _clear_away(calls: list[Any], descriptors: list[Any]) -> None:
    """Keep one test's leftovers from being another test's trouble."""
    from twisted.internet import reactor

    world: Any = reactor
    for call in calls:
        call.cancel()
    for descriptor in descriptors:
        world.removeReader(descriptor)
        world.removeWriter(descriptor)
        descriptor.connectionLost(Failure(ConnectionDone()))


@pytest.fixture(autouse=True)
def logged_failures(request: pytest.FixtureRequest) -> Iterator[LoggedFailures]:
    """Fail the test that leaves errors, delayed calls or open descriptors behind.

    A test that means to cause logged errors takes them with ``logged_failures.flush(Type)``.
    """
    import pytest_twisted
    from twisted.internet import reactor

    world: Any = reactor
    calls = set(world.getDelayedCalls())
    descriptors = {*world.getReaders(), *world.getWriters()}
    failures = LoggedFailures()
    log.addObserver(failures)
    try:
        yield failures
        if any(_leftovers(calls, descriptors)):
            pytest_twisted.blockon(ensureDeferred(_settle(calls, descriptors)))
        gc.collect()  # a Deferred in a cycle reports its error when it is collected
        problems = [f"error not handled: {text}" for text in failures.texts()]
        left_calls, left_descriptors = _leftovers(calls, descriptors)
        problems += [f"delayed call left: {call}" for call in left_calls]
        problems += [f"descriptor left open: {item!r}" for item in left_descriptors]
        _clear_away(left_calls, left_descriptors)
    finally:
        log.removeObserver(failures)
    if problems and not request.node.stash.get(_FAILED, False):
        pytest.fail("\n".join(problems), pytrace=False)


@pytest.fixture(autouse=True)
def log_level() -> Iterator[None]:
    """Put the level back that a test, or a program's part that it runs, has set."""
    txaio.use_twisted()  # as phantom.telemetry does, which not every test imports
    level = txaio.get_global_log_level()
    yield
    txaio.set_global_log_level(level)


@pytest.fixture(scope="session")
def reactor() -> Any:
    """Return the running reactor, for tests with real sockets on loopback."""
    from twisted.internet import reactor

    return reactor
