"""One application's connection to the SOCKS port, in memory, and messages for it."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock

from phantom.address import Destination
from phantom.inbound.socks5 import Socks5Factory
from support import http_inbound
from support.runtime import fake_runtime
from support.transports import ByteTransport

HELLO = b"\x05\x01\x00"
REQUEST = b"\x05\x01\x00\x03\x09a.example\x01\xbb"
REQUEST_4A = b"\x04\x01\x01\xbb\x00\x00\x00\x01me\x00a.example\x00"
DESTINATION = Destination("a.example", 443)
CONNECTED_5 = bytes.fromhex("05 00 00 01 00000000 0000")


class ScriptedOutbound(http_inbound.ScriptedOutbound):
    """An outbound whose attempts the test decides.

    Attributes:
        asked: Destination, far protocol and Deferred of each attempt.
        cancelled: How many attempts were given up.
    """

    def succeed(self) -> ByteTransport:
        """Let the latest attempt connect."""
        _, protocol, attempt = self.asked[-1]
        transport = ByteTransport(protocol).connect()
        attempt.callback(transport)
        return transport

    def fail(self, error: Exception) -> None:
        self.asked[-1][2].errback(error)


class World:
    """One application on one port."""

    def __init__(
        self,
        outbound: ScriptedOutbound | None = None,
        credentials: dict[str, str] | None = None,
        **options: Any,
    ) -> None:
        self.clock = Clock()
        self.outbound = outbound if outbound is not None else ScriptedOutbound()
        self.factory = Socks5Factory(
            fake_runtime(self.clock), self.outbound, credentials, greeting_timeout=10.0, **options
        )
        self.app = self.accept()

    def accept(self) -> ByteTransport:
        protocol = self.factory.buildProtocol(None)
        assert protocol is not None
        return ByteTransport(protocol).connect()

    def nothing_left(self) -> bool:
        return not self.clock.getDelayedCalls() and not self.factory.waiting


def waiting_world(**options: Any) -> World:
    """Return a world whose application waits for the outbound."""
    world = World(**options)
    world.app.deliver(HELLO)
    assert world.app.take() == b"\x05\x00"
    world.app.deliver(REQUEST)
    assert world.outbound.asked[-1][0] == DESTINATION
    assert world.app.take() == b""
    return world
