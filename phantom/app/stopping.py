"""The last turns of the reactor before a service has stopped."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

from twisted.internet.task import deferLater

from phantom.runtime import Runtime

#: Turns from a session's end to the closing of its last socket: Twisted's abortConnection
#: closes one turn after the call, and what calls it may itself wait for the end of a turn.
TURNS = 2


def hurry_at_second_signal(runtime: Runtime, hurry: Callable[[], object]) -> None:
    """Let another Ctrl-C or SIGTERM end the wait for streams.

    The reactor's own handlers would complain that it is stopping already.

    Args:
        runtime: Has the reactor.
        hurry: Ends what is being waited for; may be called more than once.
    """

    def handle(_signal: int, _frame: Any) -> None:
        # A handler runs between any two instructions: it only schedules.
        runtime.reactor.callFromThread(hurry)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handle)


async def sockets_closed(runtime: Runtime) -> None:
    """Wait until the connections that were just aborted are closed.

    A reactor that stops before leaves them to the kernel, which ends them cleanly: half a
    page would look like a whole one.
    """
    for _ in range(TURNS):
        await deferLater(runtime.clock, 0)
