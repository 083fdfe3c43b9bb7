"""One application's connection to the HTTP proxy, in memory, and messages for it."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from phantom.address import Destination
from phantom.errors import Outcome, RelayError
from phantom.inbound.http import HttpProxyFactory
from support.runtime import fake_runtime
from support.transports import ByteTransport

GET = b"GET http://a.example/x HTTP/1.1\r\nHost: a.example\r\n\r\n"
SENT = b"GET /x HTTP/1.1\r\nHost: a.example\r\n\r\n"
POST = b"POST http://a.example/ HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\n"
CONNECT = b"CONNECT b.example:443 HTTP/1.1\r\nHost: b.example\r\n\r\n"
ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
UPGRADE = (
    b"GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n"
    b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
)
#: Responses that were cut off.
TRUNCATED = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n",
]


class ScriptedOutbound:
    """An outbound whose attempts the test decides."""

    def __init__(self) -> None:
        self.asked: list[tuple[Destination, Any, Deferred[Any]]] = []
        self.cancelled = 0

    def connect(self, destination: Destination, protocol: Any) -> Deferred[Any]:
        def cancel(attempt: Deferred[Any]) -> None:
            self.cancelled += 1
            attempt.errback(RelayError(Outcome.CANCELLED))

        attempt: Deferred[Any] = Deferred(cancel)
        self.asked.append((destination, protocol, attempt))
        return attempt


class World:
    """One connection of an application to the proxy."""

    def __init__(self, **options: Any) -> None:
        self.clock = Clock()
        self.outbound = ScriptedOutbound()
        self.factory = HttpProxyFactory(
            fake_runtime(self.clock), self.outbound, greeting_timeout=10.0, **options
        )
        self.app = ByteTransport(self.factory.buildProtocol(None)).connect()

    def origin(self) -> ByteTransport:
        """Let the latest attempt connect."""
        _, protocol, attempt = self.outbound.asked[-1]
        transport = ByteTransport(protocol).connect()
        attempt.callback(transport)
        return transport

    def request(self, data: bytes = GET) -> ByteTransport:
        """Send a request and connect its origin."""
        self.app.deliver(data)
        return self.origin()

    def fail(self, outcome: Outcome) -> None:
        self.outbound.asked[-1][2].errback(RelayError(outcome))

    def status(self) -> int:
        """Return the status of the one response that has been written."""
        head = self.app.written.partition(b"\r\n\r\n")[0]
        return int(head.split(b" ")[1])

    def lingering(self) -> bool:
        return self.app.write_closed and not self.app.aborted

    def nothing_left(self) -> bool:
        self.app.flush()
        return not self.factory.waiting and not self.clock.getDelayedCalls()
