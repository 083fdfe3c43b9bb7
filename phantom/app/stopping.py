"""The last turns of the reactor before a service has stopped."""

from __future__ import annotations

from twisted.internet.task import deferLater

from phantom.runtime import Runtime

#: Turns from a session's end to the closing of its last socket: Twisted's abortConnection
#: closes one turn after the call, and what calls it may itself wait for the end of a turn.
TURNS = 2


async def sockets_closed(runtime: Runtime) -> None:
    """Wait until the connections that were just aborted are closed.

    A reactor that stops before leaves them to the kernel, which ends them cleanly: half a
    page would look like a whole one.
    """
    for _ in range(TURNS):
        await deferLater(runtime.clock, 0)
