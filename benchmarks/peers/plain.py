"""Peers that hide nothing: the limits of the machine, and of plain relays."""

from __future__ import annotations

import sys

from benchmarks.peers.base import Commands, Peer, Place, program

#: Twisted's own port forwarder, as its documentation would have it, and nothing else.
STOCK_RELAY = """
import sys
from twisted.internet import reactor
from twisted.protocols.portforward import ProxyFactory
destination, port, listen = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
reactor.listenTCP(listen, ProxyFactory(destination, port), 500, "127.0.0.1")
reactor.run()
"""


def direct(place: Place) -> Commands:
    """Connect to the destination itself."""
    return Commands()


def twisted_relay(place: Place) -> Commands:
    """Connect to a stock Twisted process that connects to the destination."""
    script = place.file("relay.py", STOCK_RELAY)
    where = [place.destination, str(place.destination_port), str(place.socks_port)]
    return Commands(
        client=[[sys.executable, script, *where]], proxy=f"forward://127.0.0.1:{place.socks_port}"
    )


def microsocks(place: Place) -> Commands:
    """Connect to a SOCKS5 proxy on the server's side."""
    command = [program("microsocks"), "-i", place.server, "-p", str(place.port)]
    return Commands(server=[command], proxy=f"socks5://{place.server}:{place.port}")


PEERS = [
    Peer("direct", direct, "no proxy: the limit of load generator and kernel", "none", "base"),
    Peer(
        "twisted-relay",
        twisted_relay,
        "twisted.protocols.portforward in one process: plain, no SOCKS, nothing to negotiate",
        "none",
        "base",
    ),
    Peer(
        "microsocks",
        microsocks,
        "a plain SOCKS5 hop on the server's side (C, a thread for each connection)",
        "none",
        "more",
        apt=("microsocks",),
    ),
]
