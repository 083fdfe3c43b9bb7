"""The carriers a client can use, by name: an explicit table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.interfaces import IStreamClientEndpoint

from phantom.carriers.congestion import LinkSockets
from phantom.carriers.tcp import LinkSocketEndpoint
from phantom.carriers.tls_client import TLSClientEndpoint, TLSClientSettings
from phantom.errors import ConfigurationError
from phantom.runtime import Runtime

#: Seconds for all addresses of the server together; a SYN is retransmitted after 1, 3 and 7 s.
CONNECT_TIMEOUT: Final = 12.0


def tcp_endpoint(
    runtime: Runtime,
    host: str,
    port: int,
    _tls: TLSClientSettings | None = None,
    sockets: LinkSockets | None = None,
) -> IStreamClientEndpoint:
    """Return an endpoint for bare TCP, by Happy Eyeballs (RFC 8305)."""
    inner = HostnameEndpoint(runtime.reactor, host, port, timeout=CONNECT_TIMEOUT)
    return LinkSocketEndpoint(inner, sockets)


def tls_endpoint(
    runtime: Runtime,
    host: str,
    port: int,
    tls: TLSClientSettings | None = None,
    sockets: LinkSockets | None = None,
) -> IStreamClientEndpoint:
    """Return an endpoint for TLS over TCP.

    Raises:
        ConfigurationError: The settings are missing or cannot be used.
    """
    if tls is None:
        raise ConfigurationError("TLS needs the name to ask for", key="client.tls_sni")
    return TLSClientEndpoint(runtime, tcp_endpoint(runtime, host, port, None, sockets), tls)


CARRIERS: Final[
    dict[
        str,
        Callable[
            [Runtime, str, int, TLSClientSettings | None, LinkSockets | None],
            IStreamClientEndpoint,
        ],
    ]
] = {
    "tcp": tcp_endpoint,
    "tls": tls_endpoint,
}


def client_endpoint(
    runtime: Runtime,
    host: str,
    port: int,
    tls: TLSClientSettings | None,
    sockets: LinkSockets | None = None,
) -> IStreamClientEndpoint:
    """Return the endpoint for a server: TLS when there are settings for it, else bare TCP.

    Args:
        runtime: The outside world.
        host: Name or address.
        port: TCP's.
        tls: How to do TLS, None for bare TCP.
        sockets: Sets how the connection sends; None leaves that to the system.

    Raises:
        ConfigurationError: The settings cannot be used.
    """
    return CARRIERS["tcp" if tls is None else "tls"](runtime, host, port, tls, sockets)
