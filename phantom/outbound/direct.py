"""The server's way out: resolve once, judge every address, connect to the literal.

The name is resolved by us and never by Twisted, so that the address which the egress policy
permitted is the address that is connected to.
"""

from __future__ import annotations

import socket
from collections.abc import Hashable
from typing import Any, Final

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IProtocol
from twisted.python.failure import Failure

from phantom.address import Destination, Host
from phantom.core.egress import EgressPolicy
from phantom.core.eyeballs import connection_order
from phantom.core.limits import Limits
from phantom.errors import Outcome, RelayError
from phantom.fast.dialing import Dialled, Dialling, can_dial, dial
from phantom.fast.timeouts import Timeouts
from phantom.outbound.lookups import Lookups
from phantom.outbound.race import (
    EXHAUSTION,
    IPAddress,
    Race,
    errno_outcome,
    prepare_socket,
    start_protocol,
)
from phantom.reach import Cancel, Done, as_deferred
from phantom.runtime import Runtime
from phantom.telemetry import make_logger

log = make_logger()

#: Seconds for the attempts at all addresses of a destination together.  Browsers give up
#: after 20 to 30 s; the client should hear the true reason before that.
CONNECT_TIMEOUT: Final = 15.0

#: Seconds for the attempt at one address: three retransmissions of the SYN (after 1, 3 and
#: 7 s; RFC 6298, section 2) and some time for the answer.
ATTEMPT_TIMEOUT: Final = 10.0

#: Seconds for a lookup: the system's resolver asks a second name server after 5 s
#: (resolv.conf(5), "timeout"), and this leaves that one time to answer.
RESOLVE_TIMEOUT: Final = 8.0

#: Lookups at once, in all and per client, those included that wait for their turn
#: (`phantom.outbound.lookups`).  A page of a hundred sites asks for less at a time.
MAX_LOOKUPS: Final = 256
MAX_LOOKUPS_PER_CLIENT: Final = 64

#: Connections at once, in all and per client, being made or open.  A client's streams are
#: limited per session (max_streams); this bounds them over all of its sessions.
MAX_CONNECTIONS: Final = 65536
MAX_CONNECTIONS_PER_CLIENT: Final = 8192

#: Seconds between two warnings that descriptors have run out.
_WARNING_INTERVAL: Final = 60.0


class DirectOutbound:
    """Connects to destinations over TCP, as `phantom.interfaces.Outbound` says.

    Args:
        runtime: The reactor, the clock and name resolution.
        policy: What may be connected to.
        connect_timeout: Seconds for all addresses of a destination together.
        attempt_timeout: Seconds for one address.
        resolve_timeout: Seconds for a lookup.
        lookups: Limits on lookups by client; `MAX_LOOKUPS` and so on if not given.
        connections: Limits on connections by client, likewise.

    Attributes:
        policy: May be replaced while running; what is connected stays connected.
        lookups: As given.
        names: Looks names up, within those limits.
        connections: As given.
    """

    def __init__(
        self,
        runtime: Runtime,
        policy: EgressPolicy,
        *,
        connect_timeout: float = CONNECT_TIMEOUT,
        attempt_timeout: float = ATTEMPT_TIMEOUT,
        resolve_timeout: float = RESOLVE_TIMEOUT,
        lookups: Limits | None = None,
        connections: Limits | None = None,
    ) -> None:
        self.runtime = runtime
        self.policy = policy
        self.connect_timeout = connect_timeout
        self.attempt_timeout = attempt_timeout
        self.resolve_timeout = resolve_timeout
        self.lookups = lookups or Limits(MAX_LOOKUPS, MAX_LOOKUPS_PER_CLIENT)
        self.names = Lookups(runtime.resolve, self.lookups)
        self.connections = connections or Limits(MAX_CONNECTIONS, MAX_CONNECTIONS_PER_CLIENT)
        #: Time out where there is but one address.
        self.attempts = Timeouts(runtime.clock, min(connect_timeout, attempt_timeout))
        self._warned_at: float | None = None

    def connect(self, destination: Destination, protocol: IProtocol) -> Deferred[Any]:
        """Connect on behalf of nobody in particular; see `phantom.interfaces.Outbound`."""
        return self.for_client(None).connect(destination, protocol)

    def for_client(self, key: Hashable) -> ClientOutbound:
        """Return an outbound whose lookups and connections count against `key`.

        Args:
            key: The client's public key, or whatever identifies it.
        """
        return ClientOutbound(self, key)

    def warn_of_exhaustion(self) -> None:
        """Log that the process is out of descriptors or memory, once a minute at most."""
        now = self.runtime.monotonic()
        if self._warned_at is not None and now - self._warned_at < _WARNING_INTERVAL:
            return
        self._warned_at = now
        log.warn(
            "out of file descriptors or socket memory with {count} connections to "
            "destinations; new ones are refused. Raise the limit (LimitNOFILE=, ulimit -n)",
            count=self.connections.used,
        )


@attrs.frozen(slots=True)
class ClientOutbound:
    """The `DirectOutbound` as one client sees it; made by `DirectOutbound.for_client`.

    Attributes:
        outbound: What connects.
        key: Whose limits count.
    """

    outbound: DirectOutbound
    key: Hashable

    def connect(self, destination: Destination, protocol: IProtocol) -> Deferred[Any]:
        """Connect on behalf of the client; see `phantom.interfaces.Outbound`."""
        return as_deferred(self, destination, protocol)

    def begin(self, destination: Destination, protocol: IProtocol, done: Done) -> Cancel:
        """Connect on behalf of the client; see `phantom.reach.Beginner`."""
        connecting = _Connecting(self.outbound, self.key, destination, protocol, done)
        connecting.start(destination.host)
        return connecting.cancel


class _Connecting:
    """One attempt to connect: lookup if it takes one, judgement, race.

    To a single address there is no race, and where the reactor can do it this object dials
    itself (`phantom.fast.dialing.Caller`).
    """

    __slots__ = (
        "_counted",
        "_dialling",
        "_done",
        "_key",
        "_name",
        "_outbound",
        "_port",
        "_protocol",
        "_race",
        "_timer",
    )

    def __init__(
        self,
        outbound: DirectOutbound,
        key: Hashable,
        destination: Destination,
        protocol: IProtocol,
        done: Done,
    ) -> None:
        self._outbound = outbound
        self._key = key
        self._port = destination.port
        self._protocol: IProtocol | None = protocol
        #: Who is told, until it is.
        self._done: Done | None = done
        #: Counts among the outbound's connections.
        self._counted = False
        #: What is being looked up.
        self._name: str | None = None
        self._race: Race | None = None
        self._dialling: Dialling | None = None
        self._timer: IDelayedCall | None = None

    def start(self, host: Host) -> None:
        """Begin."""
        if not self._outbound.connections.acquire(self._key):
            self._fail(Outcome.LIMIT)
            return
        self._counted = True
        if isinstance(host, str):
            self._look_up(host)
        else:
            self._judge([host])

    # -- lookup -----------------------------------------------------------------------

    def _look_up(self, name: str) -> None:
        outbound = self._outbound
        self._timer = outbound.runtime.call_later(outbound.resolve_timeout, self._resolve_expired)
        self._name = name
        if not outbound.names.ask(self._key, name, self._looked_up):
            self._fail(Outcome.LIMIT)

    def _resolve_expired(self) -> None:
        self._timer = None
        self._fail(Outcome.UNRESOLVED)

    def _looked_up(self, result: list[IPAddress] | Failure) -> None:
        self._name = None
        if self._done is None:
            return  # given up in the meantime
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if isinstance(result, Failure):
            self._fail(self._name_failure(result.value))
        elif not result:
            self._fail(Outcome.UNRESOLVED)
        else:
            self._judge(result)

    def _name_failure(self, error: BaseException | None) -> Outcome:
        """Return what a failed lookup is called."""
        # gaierror is an OSError whose numbers mean something else.
        if (
            isinstance(error, OSError)
            and not isinstance(error, socket.gaierror)
            and error.errno in EXHAUSTION
        ):
            self._outbound.warn_of_exhaustion()
            return Outcome.LIMIT
        return Outcome.UNRESOLVED

    # -- connection -------------------------------------------------------------------

    def _judge(self, addresses: list[IPAddress]) -> None:
        """Race to those of `addresses` that the policy permits."""
        outbound, port = self._outbound, self._port
        permits = outbound.policy.permits
        permitted = [address for address in addresses if permits(address, port)]
        if not permitted:
            self._fail(Outcome.FORBIDDEN)
            return
        if len(permitted) > 1:
            permitted = connection_order(permitted)
        elif can_dial(outbound.runtime.reactor):
            self._dial(permitted[0])
            return
        assert self._protocol is not None
        self._race = Race(
            outbound.runtime, permitted, port, self._protocol, self._raced, self._uncount
        )
        if len(permitted) == 1:
            self._race.start_alone(outbound.attempts)
        else:
            self._race.start(outbound.attempt_timeout, outbound.connect_timeout)

    def _raced(self, outcome: Outcome, transport: Any) -> None:
        if outcome is Outcome.CONNECTED:
            self._connected(transport)
        else:
            self._not_connected(outcome)

    def _connected(self, transport: Any) -> None:
        """Report the transport, to which the protocol was connected."""
        done, self._done = self._done, None
        # This object lives as long as the connection, for `_uncount`.
        self._race = self._protocol = None
        if done is None:
            transport.abortConnection()  # cancelled by the protocol while it was connected
        else:
            done(transport)

    def _not_connected(self, outcome: Outcome) -> None:
        if outcome is Outcome.LIMIT:
            self._outbound.warn_of_exhaustion()
        self._fail(outcome)

    # -- to a single address ----------------------------------------------------------

    def _dial(self, address: IPAddress) -> None:
        outbound = self._outbound
        outbound.attempts.start(self, self._dial_expired)
        dialling = dial(outbound.runtime.reactor, address, self._port, self, prepare_socket)
        if self._done is not None:
            self._dialling = dialling

    def _dial_expired(self) -> None:
        self._fail(Outcome.TIMED_OUT)

    def dialled(self, transport: Dialled) -> None:
        """Take the connection; see `phantom.fast.dialing.Caller`."""
        self._dialling = None
        self._outbound.attempts.stop(self)
        transport.on_lost = self._uncount
        if start_protocol(transport, self._protocol):
            self._connected(transport)
        else:
            self._fail(Outcome.FAILED)

    def dial_failed(self, number: int) -> None:
        """Take the failure; see `phantom.fast.dialing.Caller`."""
        self._dialling = None
        self._not_connected(errno_outcome(number))

    def _uncount(self) -> None:
        """Count the connection as over."""
        if self._counted:
            self._counted = False
            self._outbound.connections.release(self._key)

    # -- end --------------------------------------------------------------------------

    def _fail(self, outcome: Outcome) -> None:
        done = self._clear()
        if done is not None:
            done(Failure(RelayError(outcome)))

    def cancel(self) -> None:
        """Give up, unless it is done; nobody is told."""
        self._clear()

    def _clear(self) -> Done | None:
        """Give up what is under way; return who is still to be told."""
        done, self._done = self._done, None
        if done is None:
            return None
        self._protocol = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        name, self._name = self._name, None
        if name is not None:
            self._outbound.names.forget(self._key, name, self._looked_up)
        race, self._race = self._race, None
        if race is not None:
            race.cancel()
        self._outbound.attempts.stop(self)
        dialling, self._dialling = self._dialling, None
        if dialling is not None:
            dialling.disconnect()
        self._uncount()
        return done
