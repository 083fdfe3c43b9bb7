"""Connecting to one of several addresses over TCP: Happy Eyeballs (RFC 8305, section 5).

With a single address, the usual case for a client that sends literals, there is one attempt
and one timeout, and no race.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final

from twisted.internet.error import TimeoutError as ConnectTimeout
from twisted.internet.interfaces import IDelayedCall, IProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from phantom.core.eyeballs import ATTEMPT_DELAY
from phantom.errors import Outcome
from phantom.fast.dialing import Dialled, can_dial, dial
from phantom.fast.local import spare_pacing
from phantom.fast.timeouts import Timeouts
from phantom.layer import switch_protocol
from phantom.runtime import Runtime
from phantom.telemetry import make_logger

log = make_logger()

IPAddress = IPv4Address | IPv6Address

#: Errors that say this machine, not the destination, has run out of something.
EXHAUSTION: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

_OUTCOMES: Final = {
    **dict.fromkeys(EXHAUSTION, Outcome.LIMIT),
    errno.ECONNREFUSED: Outcome.REFUSED,
    errno.ECONNRESET: Outcome.RESET,
    errno.ETIMEDOUT: Outcome.TIMED_OUT,
    errno.EHOSTUNREACH: Outcome.HOST_UNREACHABLE,
    errno.EHOSTDOWN: Outcome.HOST_UNREACHABLE,
    errno.ENETUNREACH: Outcome.NETWORK_UNREACHABLE,
    errno.ENETDOWN: Outcome.NETWORK_UNREACHABLE,
    # No address of our own to connect from, or no such family at all: a machine without IPv6.
    errno.EADDRNOTAVAIL: Outcome.NETWORK_UNREACHABLE,
    errno.EAFNOSUPPORT: Outcome.NETWORK_UNREACHABLE,
    # The local firewall says no.
    errno.EACCES: Outcome.FORBIDDEN,
    errno.EPERM: Outcome.FORBIDDEN,
}

# When every address failed, each in its own way, the first of these that occurred is the
# answer: our own trouble before theirs, a host that answered before one that did not.
_TELLING: Final = (
    Outcome.LIMIT,
    Outcome.REFUSED,
    Outcome.RESET,
    Outcome.TIMED_OUT,
    Outcome.HOST_UNREACHABLE,
    Outcome.FORBIDDEN,
    Outcome.NETWORK_UNREACHABLE,
    Outcome.FAILED,
)


def connect_outcome(error: BaseException | None) -> Outcome:
    """Return what a failed attempt to connect is called; never `Outcome.CONNECTED`."""
    if isinstance(error, ConnectTimeout):
        return Outcome.TIMED_OUT
    # Twisted's own errors keep the system's number in `osError`, if there was one.
    return errno_outcome(getattr(error, "osError", None) or 0)


def errno_outcome(number: int) -> Outcome:
    """Return what a failed attempt to connect is called, by its ``errno``; 0 if unknown."""
    return _OUTCOMES.get(number, Outcome.FAILED)


def prepare_socket(handle: socket.socket, host: str) -> None:
    """Set the options of a connection to a destination.

    Args:
        handle: Its socket, best one that is not connected yet.
        host: The address, as text.

    Raises:
        OSError: The system is short of something, or the connection was reset already.
    """
    spare_pacing(handle, host)
    # A keystroke must not wait for the acknowledgement of the one before it.
    handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
    # A destination that vanished is noticed, if only after hours.
    handle.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, True)


def start_protocol(transport: Any, protocol: Any) -> bool:
    """Connect a protocol to a transport that was made; return whether that went well.

    If not, the transport was aborted.
    """
    try:
        switch_protocol(transport, protocol)
    except Exception:
        log.failure("a protocol could not be connected")
        transport.abortConnection()
        return False
    return True


@implementer(IProtocol)
class _Attempt:
    """One connection, until it is up; afterwards it tells when the connection is gone.

    It is what `phantom.fast.dialing` calls, and where that cannot dial, the factory and the
    protocol that Twisted's own connector asks for.
    """

    __slots__ = ("_connector", "_on_lost", "_race", "_timer")

    noisy = False

    def __init__(self, race: Race) -> None:
        self._race: Race | None = race
        self._on_lost: Callable[[], None] | None = None
        self._connector: Any = None
        self._timer: IDelayedCall | None = None

    def begin(self, runtime: Runtime, host: IPAddress, port: int, timeout: float | None) -> None:
        """Start connecting; `timeout` in seconds is the attempt's own, None for none."""
        if can_dial(runtime.reactor):
            connector: Any = dial(runtime.reactor, host, port, self, prepare_socket)
        else:
            # Twisted's own timeout runs on the reactor rather than on the runtime's clock.
            connector = runtime.reactor.connectTCP(str(host), port, self, timeout=None)
            # Twisted has made the socket, and connects it in the reactor's next turn.
            handle = getattr(getattr(connector, "transport", None), "socket", None)
            if handle is not None:
                spare_pacing(handle, str(host))
        if self._race is None:
            return  # it has failed already
        self._connector = connector
        if timeout is not None:
            self._timer = runtime.call_later(timeout, self._expire)

    def cancel(self) -> None:
        """Give up and say nothing."""
        if self._detach() is not None and self._connector is not None:
            self._connector.disconnect()
            self._connector = None

    def _expire(self) -> None:
        self._timer = None
        race = self._race
        self.cancel()
        if race is not None:
            race.failed(self, Outcome.TIMED_OUT)

    def _detach(self) -> Race | None:
        race, self._race = self._race, None
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        return race

    # -- phantom.fast.dialing.Caller ---------------------------------------------------

    def dialled(self, transport: Dialled) -> None:
        """Hand the connection to the race that asked for it."""
        race = self._detach()
        self._connector = None
        if race is None:
            transport.abortConnection()
        else:
            transport.on_lost = race.on_lost
            race.won(self, transport)

    def dial_failed(self, number: int) -> None:
        """Report the failure."""
        race = self._detach()
        self._connector = None
        if race is not None:
            race.failed(self, errno_outcome(number))

    # -- IProtocolFactory and what else a connector calls ------------------------------

    def doStart(self) -> None:
        """Do nothing."""

    def doStop(self) -> None:
        """Do nothing."""

    def startedConnecting(self, connector: Any) -> None:
        """Do nothing: `begin` keeps the connector."""

    def buildProtocol(self, _address: Any) -> _Attempt:
        """Return itself."""
        return self

    def clientConnectionFailed(self, _connector: Any, reason: Failure) -> None:
        """Report the failure, unless it was given up before."""
        race = self._detach()
        self._connector = None
        if race is not None:
            race.failed(self, connect_outcome(reason.value))

    def clientConnectionLost(self, connector: Any, _reason: Failure) -> None:
        """Tell that the connection is gone."""
        # Connector and transport refer to each other; at thousands of connections a second
        # that is work for the garbage collector which need not be.
        connector.transport = None
        on_lost, self._on_lost = self._on_lost, None
        if on_lost is not None:
            on_lost()

    # -- IProtocol --------------------------------------------------------------------

    def makeConnection(self, transport: Any) -> None:
        """Hand the connection to the race that asked for it."""
        race = self._detach()
        self._connector = None
        if race is None:
            transport.abortConnection()
        else:
            self._on_lost = race.on_lost
            race.won(self, transport)

    def connectionMade(self) -> None:
        """Do nothing: `makeConnection` has done it."""

    def dataReceived(self, _data: bytes) -> None:
        """Do nothing: the transport belongs to another protocol, or was aborted."""

    def connectionLost(self, _reason: Failure) -> None:
        """Do nothing: it was given up."""


class Race:
    """Connects a protocol to whichever address answers first.

    Args:
        runtime: The reactor and the timers.
        addresses: In the order of `phantom.core.eyeballs.connection_order`; at least one.
        port: The port at each of them.
        protocol: It is connected to the winner.
        on_done: Called once: with ``CONNECTED`` and the transport, right after the protocol
            was connected to it and before it can receive anything, or with an outcome and
            None.  Not called after `cancel`.
        on_lost: Called when the connection, once made, is lost; whether it was reported or not.
    """

    __slots__ = (
        "_addresses",
        "_attempt_timeout",
        "_attempts",
        "_failures",
        "_next",
        "_on_done",
        "_port",
        "_protocol",
        "_runtime",
        "_stagger",
        "_timeouts",
        "_timer",
        "on_lost",
    )

    def __init__(
        self,
        runtime: Runtime,
        addresses: list[IPAddress],
        port: int,
        protocol: IProtocol,
        on_done: Callable[[Outcome, Any], None],
        on_lost: Callable[[], None],
    ) -> None:
        self._runtime = runtime
        self._addresses = addresses
        self._next = 0
        self._port = port
        self._protocol: IProtocol | None = protocol
        self._on_done: Callable[[Outcome, Any], None] | None = on_done
        self.on_lost = on_lost
        self._attempts: list[_Attempt] = []
        self._attempt_timeout: float | None = None
        self._failures: list[Outcome] = []
        self._stagger: IDelayedCall | None = None
        self._timeouts: Timeouts | None = None
        self._timer: IDelayedCall | None = None

    def start(self, attempt_timeout: float, timeout: float) -> None:
        """Start with the first address.

        Args:
            attempt_timeout: Seconds after which one address is given up.
            timeout: Seconds after which all are.
        """
        self._attempt_timeout = attempt_timeout
        self._timer = self._runtime.call_later(timeout, self._expire)
        self._begin_next()

    def start_alone(self, timeouts: Timeouts) -> None:
        """Start with the only address; its time, and all there is, is that of `timeouts`."""
        self._timeouts = timeouts
        timeouts.start(self, self._expire)
        self._begin_next()

    def cancel(self) -> None:
        """Give all attempts up."""
        self._clear()

    def _begin_next(self) -> None:
        """Start on the next address, and the wait before the one after it."""
        attempt = _Attempt(self)
        self._attempts.append(attempt)
        host = self._addresses[self._next]
        self._next += 1
        if self._next < len(self._addresses):
            self._stagger = self._runtime.call_later(ATTEMPT_DELAY, self._stagger_over)
        attempt.begin(self._runtime, host, self._port, self._attempt_timeout)

    def _stagger_over(self) -> None:
        self._stagger = None
        self._begin_next()

    def _expire(self) -> None:
        self._timer = None
        self._failures.append(Outcome.TIMED_OUT)
        self._fail()

    def failed(self, attempt: _Attempt, outcome: Outcome) -> None:
        """Go on with the next address at once, or give up if this was the last."""
        self._attempts.remove(attempt)
        self._failures.append(outcome)
        if self._next < len(self._addresses):
            if self._stagger is not None:
                self._stagger.cancel()
                self._stagger = None
            self._begin_next()
        elif not self._attempts:
            self._fail()

    def won(self, attempt: _Attempt, transport: Any) -> None:
        """Connect the protocol, then report."""
        protocol, on_done = self._protocol, self._on_done
        self._attempts.remove(attempt)
        self._clear()
        if not isinstance(transport, Dialled):  # `dial` has prepared that
            with contextlib.suppress(OSError):  # reset already: the next read will tell
                transport.setTcpNoDelay(True)
                transport.setTcpKeepAlive(True)
        if not start_protocol(transport, protocol):
            if on_done is not None:
                on_done(Outcome.FAILED, None)
            return
        # In the same turn, so nothing can have been received yet.
        if on_done is not None:
            on_done(Outcome.CONNECTED, transport)

    def _fail(self) -> None:
        on_done = self._on_done
        self._clear()
        if on_done is not None:
            on_done(min(self._failures, key=_TELLING.index), None)

    def _clear(self) -> None:
        """Leave nothing running and refer to nobody."""
        self._on_done = self._protocol = None
        self._next = len(self._addresses)
        if self._timeouts is not None:
            self._timeouts.stop(self)
        for timer in (self._timer, self._stagger):
            if timer is not None:
                timer.cancel()
        self._timer = self._stagger = None
        attempts, self._attempts = self._attempts, []
        for attempt in attempts:
            attempt.cancel()
