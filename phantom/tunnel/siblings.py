"""What a worker process knows of the others: whose a session is, and how to reach its owner."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.protocol import Factory, Protocol

from phantom.core.claims import Claim
from phantom.core.handover import Message, encode
from phantom.runtime import Runtime
from phantom.telemetry import Meters, make_logger
from phantom.tunnel.frame import FrameProtocol
from phantom.tunnel.handover import BorneLink, Connect, Junction, LinkBearer
from phantom.tunnel.registry import SessionRegistry
from phantom.tunnel.session_log import SessionLog
from phantom.tunnel.shaper import Shaping
from phantom.tunnel.shared_memory import SharedClaims

log = make_logger()

#: Seconds that connecting to a sibling may take: it is on the same machine, and a client waits.
CONNECT_TIMEOUT = 5.0
#: Connections of siblings that the kernel holds until they are accepted: after an outage of the
#: network clients come back all at once.
LOCAL_BACKLOG = 1024
#: ``struct ucred`` (linux/socket.h): process, user, group.
_UCRED = struct.Struct("iII")


class Siblings:
    """The other workers, to one worker's registry and to its links.

    Args:
        runtime: Has the reactor.
        claims: Who holds what.
        folder: Where each worker's socket is; only this user may enter it.
        keepalive: Seconds, see `FrameProtocol`.
        meters: Counts links that are carried.
        shaping: How links are shaped whose sessions are here; None leaves records as they are.
    """

    def __init__(
        self,
        runtime: Runtime,
        claims: SharedClaims,
        folder: Path,
        keepalive: float,
        meters: Meters,
        shaping: Shaping | None = None,
    ) -> None:
        self._runtime = runtime
        self._claims = claims
        self._folder = folder
        self._keepalive = keepalive
        self._meters = meters
        self._shaping = shaping
        self._port: Any = None
        self._log = SessionLog(runtime.clock)
        self._bearers: set[LinkBearer] = set()
        self._quiet: list[Deferred[None]] = []

    # -- for the registry -------------------------------------------------------------------

    def claim(self, client: bytes, session_id: bytes, most: int) -> Claim:
        """Claim a session that begins here."""
        return self._claims.claim(client, session_id, most)

    def end(self, client: bytes, session_id: bytes) -> None:
        """Note that a session of this process has ended."""
        self._claims.end(client, session_id)

    def count_elsewhere(self, client: bytes) -> int:
        """Return how many sessions a client has in other workers."""
        return len(self._claims.elsewhere(client))

    def ask_for_room(self, client: bytes) -> None:
        """Ask the others to let one of the client's sessions give way, if it may."""
        for incarnation in set(self._claims.elsewhere(client)):
            connecting = self._connect_to(incarnation)(_Request(encode(Message.ROOM, client)))
            connecting.addErrback(
                lambda failure: log.debug(
                    "a worker cannot be reached: {why}", why=failure.getErrorMessage()
                )
            )

    # -- links ------------------------------------------------------------------------------

    def junction(self, frames: FrameProtocol) -> Junction:
        """Return what stands above the Noise layer of a new link."""
        return Junction(self._runtime, frames, self._route, self._bearer_changed)

    def _route(self, client: bytes, session_id: bytes) -> Connect | None:
        owner = self._claims.owner(client, session_id)
        return self._connect_to(owner) if owner else None

    def _connect_to(self, incarnation: int) -> Connect:
        path = str(self._socket(incarnation))
        endpoint = UNIXClientEndpoint(self._runtime.reactor, path, timeout=CONNECT_TIMEOUT)

        def connect(protocol: Any) -> Deferred[Any]:
            connecting: Deferred[Any] = endpoint.connect(_quietly(lambda: protocol))
            return connecting

        return connect

    def _bearer_changed(self, bearer: LinkBearer, carried: bool) -> None:
        if carried:
            self._bearers.add(bearer)
            self._meters.count("link.passed_on")
            write = log.info if self._log.allows(bearer.client_key) else log.debug
            write("link passed on to another worker; {count} now", count=len(self._bearers))
            return
        self._bearers.discard(bearer)
        if not self._bearers:
            quiet, self._quiet = self._quiet, []
            for deferred in quiet:
                deferred.callback(None)

    # -- operation ----------------------------------------------------------------------------

    def _socket(self, incarnation: int) -> Path:
        return self._folder / str(incarnation)

    def start(self, registry: SessionRegistry) -> None:
        """Take links for this process's sessions from now on."""

        def make_frames() -> FrameProtocol:
            shaper = None if self._shaping is None else self._shaping.shaper(self._runtime)
            return FrameProtocol(self._runtime, registry.receive(), self._keepalive, shaper)

        def make() -> BorneLink:
            return BorneLink(self._runtime, make_frames, registry.give_way, _same_user)

        self._port = self._runtime.reactor.listenUNIX(
            str(self._socket(self._claims.incarnation)),
            _quietly(make),
            backlog=LOCAL_BACKLOG,
            mode=0o600,
        )

    def when_quiet(self) -> Deferred[None]:
        """Return a Deferred that fires when no link is carried for another worker."""
        deferred: Deferred[None] = Deferred()
        if self._bearers:
            self._quiet.append(deferred)
        else:
            deferred.callback(None)
        return deferred

    def hurry(self) -> None:
        """End the links that are carried for others."""
        for bearer in list(self._bearers):
            bearer.abort()

    def stop(self) -> Deferred[Any] | None:
        """Take no more links from siblings."""
        port, self._port = self._port, None
        return port.stopListening() if port is not None else None


class _Request(Protocol):
    """Says one thing, and waits to be left."""

    def __init__(self, message: bytes) -> None:
        self._message = message

    def connectionMade(self) -> None:
        self.transport.write(self._message)  # type: ignore[union-attr]


def _quietly(make: Callable[[], Any]) -> Factory:
    factory: Factory = Factory.forProtocol(make)
    factory.noisy = False
    return factory


def _same_user(transport: Any) -> bool:
    """Whether the process at the other end of a local socket is this user's.

    Where the system cannot tell, the folder's permissions must do.
    """
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return True
    try:
        answer = transport.getHandle().getsockopt(socket.SOL_SOCKET, option, _UCRED.size)
    except OSError as error:
        return error.errno == errno.ENOPROTOOPT
    return bool(_UCRED.unpack(answer)[1] == os.geteuid())
