"""Make ``twistd phantom-server`` and ``twistd phantom-client`` known to Twisted.

`twistd` imports this file to list its commands, whatever command is wanted: it must stay
light.  The modules named below are imported only when their command is.
"""

from __future__ import annotations

from twisted.application.service import ServiceMaker

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
