"""Reaching a destination with one callback in place of a Deferred.

An `phantom.interfaces.Outbound` answers by a Deferred, which is what an embedding program wants.
Between our own inbounds and outbounds it would be made, given three callbacks and called within
one turn, some 10 us for each connection on either side.  So ours offer ``begin`` besides
(`Beginner`), the inbounds call `reach`, which uses it where it is, and ``connect`` is made from
it by `as_deferred`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from phantom.address import Destination
from phantom.errors import Outcome, RelayError
from phantom.interfaces import Outbound

#: Called once with the transport, or with the `Failure` of a `RelayError`.
Done = Callable[[Any], None]
#: Gives up, and frees what is held; nothing when it is done.
Cancel = Callable[[], None]


class Beginner(Protocol):
    """An outbound that can do without a Deferred."""

    def begin(self, destination: Destination, protocol: Any, done: Done) -> Cancel:
        """As `phantom.interfaces.Outbound.connect`, with a callback.

        Args:
            destination: Where to.
            protocol: Is connected before `done` is called.
            done: Called once, perhaps before this returns; not after a cancellation.
        """
        ...


def reach(outbound: Outbound, destination: Destination, protocol: Any, done: Done) -> Cancel:
    """Connect by any outbound, the shortest way it offers.

    Args:
        outbound: What connects.
        destination: Where to.
        protocol: Is connected before `done` is called.
        done: Called at most once, as a `Beginner` does; after a cancellation an outbound
            with a Deferred calls it with a failure.  Must not raise.

    Returns:
        What gives up.
    """
    begin: Callable[[Destination, Any, Done], Cancel] | None = getattr(outbound, "begin", None)
    if begin is not None:
        return begin(destination, protocol, done)
    attempt = outbound.connect(destination, protocol)
    attempt.addBoth(done)
    return attempt.cancel


def as_deferred(beginner: Beginner, destination: Destination, protocol: Any) -> Deferred[Any]:
    """Return what ``connect`` has to return, by way of ``begin``."""

    def cancelled(deferred: Deferred[Any]) -> None:
        cancel()
        deferred.errback(RelayError(Outcome.CANCELLED))

    def done(result: Any) -> None:
        if isinstance(result, Failure):
            deferred.errback(result)
        else:
            deferred.callback(result)

    deferred: Deferred[Any] = Deferred(cancelled)
    cancel = beginner.begin(destination, protocol, done)
    return deferred
