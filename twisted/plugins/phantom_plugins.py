"""Make phantom's two services and its endpoint known to Twisted.

`twistd` imports this file to list its commands, whatever command is wanted: it must stay
light.  The modules named below are imported only when their command is.
"""

from __future__ import annotations

from typing import Any

from twisted.application.service import ServiceMaker
from twisted.internet.interfaces import IStreamClientEndpointStringParserWithReactor
from twisted.plugin import IPlugin
from zope.interface import implementer

phantom_server = ServiceMaker(
    "phantom server",
    "phantom.app.server",
    "Let your own devices reach the open internet through this machine (phantom).",
    "phantom-server",
)

phantom_client = ServiceMaker(
    "phantom client",
    "phantom.app.client",
    "Offer this machine's programs a SOCKS5 and HTTP proxy through your phantom server.",
    "phantom-client",
)


@implementer(IPlugin, IStreamClientEndpointStringParserWithReactor)
class _TunnelEndpointParser:
    """``phantom:HOST:PORT[:config=FILE]`` in `clientFromString`; see `phantom.app.endpoint`."""

    prefix = "phantom"

    def parseStreamClient(self, reactor: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N802
        from phantom.app.endpoint import parse_stream_client

        return parse_stream_client(reactor, *args, **kwargs)


phantom_endpoint = _TunnelEndpointParser()
