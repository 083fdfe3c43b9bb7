"""What a visitor inside TLS gets who proves no known key: a web site.

In order of how well each stands up to a prober:

- `BackendDecoy` hands the visitor, unparsed, to a real web server.  Whatever they say, a real
  web server answers.
- `FolderDecoy` serves files as nginx would, over HTTP/1.1 alone.  It imitates: a prober who
  knows nginx better than we do can find a difference.
- `built_in_site` is the same for a page made up for this server.  A site of one page that
  nobody links to is itself a little odd.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.interfaces import IAddress, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure

from phantom.carriers.nginx_site import Answer, SiteDecoy
from phantom.carriers.static_site import FolderSite, PageSite
from phantom.carriers.strangers import Strangers
from phantom.core.nginx_pages import DEFAULT_BANNER, banner_in
from phantom.core.nginx_request import Request
from phantom.layer import switch_protocol
from phantom.runtime import Runtime
from phantom.telemetry import make_logger

log = make_logger()

#: Seconds to reach the web server, which is on this machine or next to it.
BACKEND_TIMEOUT = 5.0

#: Seconds between attempts at the web server's several addresses: it is near.
BACKEND_ATTEMPT_DELAY = 0.02

#: Bytes of a response in which its headers must end to be looked at.
_HEAD_LIMIT = 4096

RelayPair = Callable[..., tuple[Any, Any]]


class _BadGateway:
    """Says 502 to everything, as an nginx does that cannot reach its backend."""

    def __init__(self, banner: Callable[[], str]) -> None:
        self._banner = banner

    @property
    def banner(self) -> str:
        return self._banner()

    def answer(self, request: Request, origin: str) -> Answer | int:
        return 502


class _BannerReader(Protocol):
    """Asks a web server what it calls itself."""

    transport: Any

    def __init__(self, found: Callable[[str], None]) -> None:
        self._found = found
        self._head = b""

    def connectionMade(self) -> None:
        self.transport.write(b"HEAD / HTTP/1.0\r\n\r\n")

    def dataReceived(self, data: bytes) -> None:
        self._head += data
        if b"\r\n\r\n" in self._head or len(self._head) > _HEAD_LIMIT:
            banner = banner_in(self._head)
            if banner is not None:
                self._found(banner)
            self.transport.loseConnection()


class _Once(Factory):
    """Builds one protocol, for one attempt."""

    noisy = False

    def __init__(self, protocol: Any) -> None:
        self._protocol = protocol

    def buildProtocol(self, addr: IAddress | None) -> Any:
        return self._protocol


def _backend_endpoint(reactor: Any, host: str, port: int) -> IStreamClientEndpoint:
    # HostnameEndpoint reports a refusal only after its delay between attempts, and a 502
    # that comes a third of a second late is not nginx's.
    try:
        version = ip_address(host).version
    except ValueError:
        return HostnameEndpoint(
            reactor, host, port, timeout=BACKEND_TIMEOUT, attemptDelay=BACKEND_ATTEMPT_DELAY
        )
    endpoint = TCP4ClientEndpoint if version == 4 else TCP6ClientEndpoint
    return endpoint(reactor, host, port, timeout=BACKEND_TIMEOUT)


class BackendDecoy:
    """A `phantom.interfaces.StrangerPolicy` that joins visitors to a real web server.

    While that cannot be reached, visitors get nginx's 502 page.

    Args:
        runtime: The reactor, timers and the time of day.
        host: Of the web server.
        port: Of the web server; it speaks HTTP without TLS there.
        pair: Makes two protocols, each of which writes what the other receives, and the
            first of which holds what it receives until the second is connected
            (`phantom.relay.relay_pair`).
        strangers: Who counts the visitors; one of its own otherwise.

    Attributes:
        banner: What the web server calls itself, as far as is known yet.
    """

    def __init__(
        self,
        runtime: Runtime,
        host: str,
        port: int,
        pair: RelayPair,
        *,
        strangers: Strangers | None = None,
    ) -> None:
        self._endpoint = _backend_endpoint(runtime.reactor, host, port)
        self._pair = pair
        self._strangers = Strangers() if strangers is None else strangers
        self._out_of_order = SiteDecoy(
            runtime, _BadGateway(lambda: self.banner), strangers=self._strangers
        )
        self._asked = False
        self.banner = DEFAULT_BANNER

    def learn_banner(self) -> Deferred[None]:
        """Ask the web server what it calls itself, so that our own pages say the same.

        Returns:
            A Deferred that fires when the question was sent or could not be.
        """
        self._asked = True

        def found(banner: str) -> None:
            self.banner = banner

        def unreachable(_failure: Failure) -> None:
            self._asked = False
            log.warn("the decoy web server cannot be reached; visitors get its 502 page")

        return self._endpoint.connect(_Once(_BannerReader(found))).addCallbacks(
            lambda _protocol: None, unreachable
        )

    def __call__(self, transport: Any, received: bytes) -> None:
        """Join a visitor to the web server."""
        if not self._asked:
            self.learn_banner()
        lost = False

        def ended() -> None:
            nonlocal lost
            lost = True
            self._strangers.release(transport)

        self._strangers.admit(transport)
        near, far = self._pair(ended)
        switch_protocol(transport, near)  # which pauses it
        if received:
            near.dataReceived(received)

        def failed(_failure: Failure) -> None:
            self._strangers.release(transport)
            if not lost:
                self._out_of_order(transport, received)

        self._endpoint.connect(_Once(far)).addErrback(failed)


def FolderDecoy(  # noqa: N802  (reads as a class among its like)
    runtime: Runtime, path: str, *, strangers: Strangers | None = None
) -> SiteDecoy:
    """Return the policy that serves a folder's files over HTTP/1.1, weaker than a backend."""
    return SiteDecoy(runtime, FolderSite(path), strangers=strangers)


def built_in_site(
    runtime: Runtime, seed: bytes, *, strangers: Strangers | None = None
) -> SiteDecoy:
    """Return the policy for a server without a decoy: a page made up from `seed`.

    Args:
        runtime: Timers and the time of day.
        seed: Particular to the server, and secret: who knows it can tell the page.
        strangers: Who counts the visitors; one of its own otherwise.
    """
    return SiteDecoy(runtime, PageSite(seed), strangers=strangers)
