"""Sockets that are bound before anything starts.

twistd calls ``makeService`` before it daemonises and before it drops privileges, and a
``SystemExit`` raised there is one clean line and a non-zero status; raised later it hangs
the daemonising parent.  So ports are bound there and adopted by the reactor at start.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred

from phantom.config.values import ListenAddress, UnixSocket
from phantom.errors import ConfigurationError
from phantom.fast.accepting import quicken_port
from phantom.fast.local import spare_pacing
from phantom.runtime import Runtime

#: Connections the kernel holds until they are accepted: a browser opens dozens at once, and
#: Twisted's 50 drops some.  The kernel caps it at net.core.somaxconn, 4096 by default.
BACKLOG = 1024


def bind(address: ListenAddress | UnixSocket, key: str) -> socket.socket:
    """Return a listening socket.

    Args:
        address: Where to listen; without a host, on every address of both families.
        key: The setting it comes from, for the message.

    Raises:
        ConfigurationError: The address is in use, is not this machine's, or may not be
            bound by this user.
    """
    if isinstance(address, UnixSocket):
        return _bind_unix(address, key)
    host = str(address.host) if address.host is not None else "::"
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    if address.host is None and not _has_ipv6():
        host, family = "0.0.0.0", socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(
                socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if address.host is None else 1
            )
        spare_pacing(listener, host)  # what is accepted inherits it
        listener.bind((host, address.port))
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise _explain(error, address, key) from None
    return listener


def _bind_unix(address: UnixSocket, key: str) -> socket.socket:
    """Return a listening unix socket, in place of one that nobody listens on any more.

    Whoever may enter its folder may connect, as with a port on loopback.
    """
    path = str(address.path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if os.path.lexists(path) and stat.S_ISSOCK(os.lstat(path).st_mode):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as attempt:
                if attempt.connect_ex(path) == errno.ECONNREFUSED:
                    os.unlink(path)
        listener.bind(path)
        os.chmod(path, 0o666)  # noqa: S103  (the folder says who may)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        reason = "it is in use" if error.errno == errno.EADDRINUSE else error.strerror
        raise ConfigurationError(f"cannot listen on {address}: {reason}", key=key) from None
    return listener


def address_text(address: Any) -> str:
    """Return a socket's address as ``host:port``, as programs want it; "no port" for none."""
    if address is None:
        return "no port"
    if isinstance(address, str):
        return f"unix:{address}"
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _has_ipv6() -> bool:
    if not socket.has_ipv6:
        return False
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as trial:
            trial.bind(("::1", 0))
    except OSError:
        return False
    return True


def _explain(error: OSError, address: ListenAddress, key: str) -> ConfigurationError:
    if error.errno == errno.EADDRINUSE:
        return ConfigurationError(
            f"{address} is in use",
            key=key,
            fix=f"stop what listens there (see: ss -ltnp 'sport = :{address.port}'), "
            "or choose another port",
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return ConfigurationError(
            f"{address} is no address of this machine",
            key=key,
            fix=f'use one of its own, or ":{address.port}" for all',
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return ConfigurationError(
            f"this user may not listen on {address}",
            key=key,
            fix="start as root with --uid and --gid, or choose a port from 1024",
        )
    return ConfigurationError(f"cannot listen on {address}: {error.strerror}", key=key)


class ListeningService(Service):
    """Serves connections of a bound socket with a factory.

    Args:
        runtime: Has the reactor.
        listener: From `bind`; closed when the service stops.
        factory: Builds the protocols.
    """

    def __init__(self, runtime: Runtime, listener: socket.socket, factory: Any) -> None:
        self._runtime = runtime
        self._listener = listener
        self._factory = factory
        self._port: Any = None
        self.address: Any = listener.getsockname()

    def startService(self) -> None:
        """Accept connections from now on."""
        super().startService()
        self._port = self._runtime.reactor.adoptStreamPort(
            self._listener.fileno(), self._listener.family, self._factory
        )
        quicken_port(self._port)
        self._listener.close()  # the reactor has its own duplicate

    def stopService(self) -> Deferred[Any]:
        """Accept no more."""
        super().stopService()
        port, self._port = self._port, None
        if port is None:
            self._listener.close()
            return maybeDeferred(lambda: None)
        return maybeDeferred(port.stopListening)
