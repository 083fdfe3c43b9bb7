"""The tunnel for programs that embed it: a Twisted endpoint, also as a string.

::

    endpoint = clientFromString(reactor, "phantom:example.com:443:config=client.toml")
    endpoint.connect(factory)

Every endpoint with the same file shares one link, which is dialled with the first of them
and closed when the reactor stops.  No proxy port is opened.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectionAborted
from twisted.internet.interfaces import (
    IProtocolFactory,
    IStreamClientEndpoint,
)
from zope.interface import implementer

from phantom.address import Destination, parse_host
from phantom.config.load import load_client
from phantom.interfaces import Outbound
from phantom.tunnel.stream import ADDRESS


@implementer(IStreamClientEndpoint)
class OutboundEndpoint:
    """One destination through an outbound.

    Args:
        outbound: Reaches it.
        destination: Where to.
    """

    def __init__(self, outbound: Outbound, destination: Destination) -> None:
        self._outbound = outbound
        self._destination = destination

    def connect(self, factory: IProtocolFactory) -> Deferred[Any]:
        """Connect a protocol of `factory`.

        Returns:
            A cancellable Deferred of the protocol; fails with `phantom.errors.RelayError`.
        """
        protocol = factory.buildProtocol(ADDRESS)
        if protocol is None:
            return fail(ConnectionAborted())
        connecting = self._outbound.connect(self._destination, protocol)
        connecting.addCallback(lambda _transport: protocol)
        return connecting


class SharedTunnels:
    """The tunnels of this process, one for each reactor and configuration file."""

    def __init__(self) -> None:
        self._outbounds: dict[tuple[int, Path], Outbound] = {}

    def outbound(self, reactor: Any, config: Path | None) -> Outbound:
        """Return the outbound of a file's tunnel, and start that tunnel if need be.

        Args:
            reactor: The reactor it runs on.
            config: The client's file; None for where the platform keeps configuration.

        Raises:
            ConfigurationError: The file cannot be used.
        """
        from phantom.app.client import make_tunnel
        from phantom.runtime import system_runtime
        from phantom.telemetry import Meters

        key = (id(reactor), (config or Path()).absolute())
        if key not in self._outbounds:
            file = load_client(config)
            dialer, outbound = make_tunnel(system_runtime(reactor), file.client, Meters())
            dialer.start()
            reactor.addSystemEventTrigger("before", "shutdown", dialer.stop)
            self._outbounds[key] = outbound
        return self._outbounds[key]


_tunnels = SharedTunnels()


def parse_stream_client(
    reactor: Any, host: str, port: str, config: str | None = None
) -> OutboundEndpoint:
    """Return the endpoint for ``phantom:HOST:PORT[:config=FILE]``.

    An IPv6 address is written with its colons escaped, as in every endpoint string.

    Raises:
        ValueError: Host or port is none.
        ConfigurationError: The file cannot be used.
    """
    destination = Destination(parse_host(host), int(port))
    path = Path(config) if config is not None else None
    return OutboundEndpoint(_tunnels.outbound(reactor, path), destination)
