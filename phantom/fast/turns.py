"""The reactor's turns: a list of calls for their end, and a shorter way to each event.

Twisted offers ``callLater(0)`` for "when this turn's events are dealt with": an object, a
heap entry and a pass through the timer loop for each, run at the beginning of the next turn.
Here it is a list, run when the events of a turn have been dealt with.

Twisted's epoll reactor also sets up a logging context for every event of every socket, so
that old-style log lines begin with the protocol's name.  phantom's log lines name their module,
so on that reactor events go straight to their sockets.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

from twisted.internet.base import ReactorBase
from twisted.internet.main import CONNECTION_DONE

from phantom.telemetry import make_logger

log = make_logger()

try:
    from twisted.internet import epollreactor
except ImportError:  # not Linux
    _EPOLL = None
else:
    _EPOLL = epollreactor.EPollReactor

Call = Callable[[], object]


class Turns:
    """Calls to make at the end of the reactor's present turn.

    Args:
        reactor: Its ``doIteration`` is replaced.
    """

    def __init__(self, reactor: Any) -> None:
        self._calls: list[Call] = []
        self._stock: Callable[[float | None], object] = reactor.doIteration
        self._reactor = reactor
        reactor.doIteration = self._epoll if is_epoll(reactor) else self._any

    def at_end(self, call: Call) -> None:
        """Call `call` once this turn's events are dealt with.

        What is added from within such a call is made at the end of the next turn, which
        then follows at once.
        """
        self._calls.append(call)

    def _any(self, delay: float | None) -> None:
        self._stock(0 if self._calls else delay)
        if self._calls:
            self._end()

    def _epoll(self, delay: float | None) -> None:
        if self._calls:
            delay = 0
        elif delay is None:
            delay = -1  # epoll_wait(2): no limit
        reactor = self._reactor
        selectables = reactor._selectables
        try:
            events = reactor._poller.poll(delay, len(selectables))
        except OSError as error:
            if error.errno != errno.EINTR:
                raise
            events = ()
        reads, reads_or_writes = reactor._POLL_IN, reactor._POLL_IN | reactor._POLL_OUT
        for number, event in events:
            # One that an earlier event of this turn has closed is gone from there.
            selectable = selectables.get(number)
            if selectable is None:
                continue
            if event & reads_or_writes != reads:
                reactor._doReadOrWrite(selectable, number, event)
                continue
            # Nearly every event; what follows is what the reactor does with it.
            try:
                why = selectable.doRead()
            except BaseException as error:
                # Whatever it is, it is this one's end and nobody else's.
                log.failure("reading failed; the connection is closed")
                why = error
            if why is not None:
                self._disconnect(selectable, why)
        if self._calls:
            self._end()

    def _disconnect(self, selectable: Any, why: BaseException) -> None:
        """Let one know that it has nothing to read any more."""
        input_ended = getattr(selectable, "input_ended", None)
        if why is CONNECTION_DONE and input_ended is not None:
            input_ended()
        else:
            self._reactor._disconnectSelectable(selectable, why, True)

    def _end(self) -> None:
        calls, self._calls = self._calls, []
        for call in calls:
            try:
                call()
            except Exception:
                # As the reactor does with its timers: one failure is not everybody's.
                log.failure("a call at the end of a turn failed")


def is_epoll(reactor: Any) -> bool:
    """Return whether this is Twisted's epoll reactor itself, whose inside is known here."""
    return type(reactor) is _EPOLL


def install_turns(reactor: Any) -> None:
    """Give a reactor `Turns`, if it can have them; for a process that is phantom's own.

    Args:
        reactor: Left as it is if it has no ``doIteration`` to replace (asyncio's, say).
    """
    if isinstance(reactor, ReactorBase) and _iterates(reactor) and find_turns(reactor) is None:
        reactor._phantom_turns = Turns(reactor)  # type: ignore[attr-defined]


def find_turns(reactor: Any) -> Turns | None:
    """Return what `install_turns` gave the reactor, or None."""
    turns: Turns | None = getattr(reactor, "_phantom_turns", None)
    return turns


def _iterates(reactor: ReactorBase) -> bool:
    """Return whether this reactor's loop is the stock one, made of iterations."""
    same_loop = type(reactor).mainLoop is ReactorBase.mainLoop
    return same_loop and type(reactor).doIteration is not ReactorBase.doIteration
