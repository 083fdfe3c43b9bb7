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
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure

from phantom.carriers.expected import ExpectedVisitor, Once, RelayPair
from phantom.carriers.nginx_site import Answer, SiteDecoy
from phantom.carriers.static_site import FolderSite, PageSite
from phantom.carriers.strangers import Strangers
from phantom.core.budget import TokenBucket
from phantom.core.nginx_pages import DEFAULT_BANNER, banner_in
from phantom.core.nginx_request import Request
from phantom.core.opening_h2 import PREFACE, ServerTalk
from phantom.errors import RemoteProtocolError
from phantom.interfaces import Expected
from phantom.runtime import Runtime
from phantom.telemetry import make_logger

log = make_logger()

#: Seconds to reach the web server, which is on this machine or next to it.
BACKEND_TIMEOUT = 5.0

#: Seconds between attempts at the web server's several addresses: it is near.
BACKEND_ATTEMPT_DELAY = 0.02

#: Lines in the log about a web server that cannot be reached, at once and a second: every
#: visitor asks for it anew.
LINES = 1
LINE_RATE = 1 / 60

#: Bytes of a response in which its headers must end to be looked at.
_HEAD_LIMIT = 4096


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


class WebServerDecoy:
    """What policies have in common that join visitors to a real web server.

    Args:
        runtime: The reactor and timers.
        host: Of the web server.
        port: Of the web server; it speaks without TLS there.
        pair: See `RelayPair`.
        strangers: Who counts the visitors; one of its own otherwise.

    Attributes:
        h2: Whether it is spoken to over HTTP/2.
        greeting: What it says unprompted, as far as is known yet.
    """

    h2: bool
    greeting: bytes

    def __init__(
        self,
        runtime: Runtime,
        host: str,
        port: int,
        pair: RelayPair,
        *,
        strangers: Strangers | None = None,
    ) -> None:
        self._runtime = runtime
        self._endpoint = _backend_endpoint(runtime.reactor, host, port)
        self._pair = pair
        self._strangers = Strangers() if strangers is None else strangers
        self._lines = TokenBucket(LINE_RATE, LINES)

    def _warn(self, text: str) -> None:
        """Write to the log what is wrong with the web server, but not for every visitor."""
        write = log.warn if self._lines.spend(self._runtime.clock.seconds()) else log.debug
        write(text)

    def _prepare(self) -> None:
        """Learn what has to be known, before a visitor is joined, if it is not known yet."""
        raise NotImplementedError

    def learn(self) -> Deferred[None] | None:
        """Ask the web server what has to be known of it; None when that is under way."""
        raise NotImplementedError

    def unreachable(self, transport: Any, received: bytes) -> None:
        """Deal with a visitor whom the web server does not take."""
        raise NotImplementedError

    def __call__(self, transport: Any, received: bytes) -> None:
        """Join a visitor to the web server."""
        self.expect(transport, lambda: None).take(received)

    def expect(self, transport: Any, stranger: Callable[[], None] | None) -> ExpectedVisitor:
        """Be ready for a visitor; see `phantom.interfaces.Expect` and `ExpectedVisitor`."""
        self._prepare()
        return ExpectedVisitor(
            self._runtime,
            self,
            self._endpoint,
            self._pair,
            self._strangers,
            transport,
            stranger,
        )


class BackendDecoy(WebServerDecoy):
    """A `phantom.interfaces.StrangerPolicy` that joins visitors to a real web server.

    While that cannot be reached, visitors get nginx's 502 page.

    Args:
        runtime: The reactor, timers and the time of day.
        host: Of the web server.
        port: Of the web server; it speaks HTTP without TLS there.
        pair: See `RelayPair`.
        strangers: Who counts the visitors; one of its own otherwise.

    Attributes:
        banner: What the web server calls itself, as far as is known yet.
    """

    h2 = False
    greeting = b""  # over HTTP/1 the visitor speaks first

    def __init__(
        self,
        runtime: Runtime,
        host: str,
        port: int,
        pair: RelayPair,
        *,
        strangers: Strangers | None = None,
    ) -> None:
        super().__init__(runtime, host, port, pair, strangers=strangers)
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
            self._warn("the decoy web server cannot be reached; visitors get its 502 page")

        return self._endpoint.connect(Once(_BannerReader(found))).addCallbacks(
            lambda _protocol: None, unreachable
        )

    learn = learn_banner

    def _prepare(self) -> None:
        if not self._asked:
            self.learn_banner()

    def unreachable(self, transport: Any, received: bytes) -> None:
        """Say 502."""
        self._out_of_order(transport, received)


class _GreetingReader(Protocol):
    """Learns what a web server says first over HTTP/2."""

    transport: Any

    def __init__(self, found: Callable[[bytes], None], warn: Callable[[str], None]) -> None:
        self._found = found
        self._warn = warn
        self._talk = ServerTalk()

    def connectionMade(self) -> None:
        # In the clear nginx waits for the preface; its own is in the first segment then.
        self.transport.write(PREFACE)

    def dataReceived(self, data: bytes) -> None:
        try:
            greeting = self._talk.whole_frames(data)
        except RemoteProtocolError:
            greeting = b""
        if self._talk.settings:
            self._found(greeting)
        else:
            self._warn("decoy_h2c does not speak HTTP/2 in the clear")
        self.transport.abortConnection()


class H2Decoy(WebServerDecoy):
    """A `phantom.interfaces.StrangerPolicy` for visitors who speak HTTP/2.

    They are joined to a web server that speaks it in the clear (h2c, with prior knowledge:
    RFC 9113, section 3.3).  What it says unprompted is learnt once, and said in its place the
    moment TLS is up, as a web server that does TLS itself would.

    Args:
        runtime: The reactor and timers.
        host: Of the web server.
        port: Of the web server.
        pair: See `RelayPair`.
        strangers: Who counts the visitors; one of its own otherwise.
    """

    h2 = True

    def __init__(
        self,
        runtime: Runtime,
        host: str,
        port: int,
        pair: RelayPair,
        *,
        strangers: Strangers | None = None,
    ) -> None:
        super().__init__(runtime, host, port, pair, strangers=strangers)
        self._asking = False
        self.greeting = b""

    def learn(self) -> Deferred[None] | None:
        """Find out what the web server says unprompted; None when that is under way."""
        if self._asking:
            return None
        self._asking = True

        def found(greeting: bytes) -> None:
            self.greeting = greeting

        def unreachable(_failure: Failure) -> None:
            self._warn("the web server of decoy_h2c cannot be reached; its visitors are closed")

        def over(_result: object) -> None:
            self._asking = False

        asked = self._endpoint.connect(Once(_GreetingReader(found, self._warn)))
        return asked.addCallbacks(lambda _protocol: None, unreachable).addBoth(over)

    def _prepare(self) -> None:
        if not self.greeting:
            self.learn()

    def unreachable(self, transport: Any, received: bytes) -> None:
        """Close: there is nothing to say in its place."""
        transport.loseConnection()


class Guests:
    """Leads visitors to one of two policies, by the protocol that ALPN chose.

    Args:
        http1: For those who speak HTTP/1.
        h2: For those who speak HTTP/2.
    """

    def __init__(self, http1: BackendDecoy | SiteDecoy, h2: H2Decoy | None = None) -> None:
        self.http1 = http1
        self.h2 = h2

    def __call__(self, transport: Any, received: bytes) -> None:
        """See `phantom.interfaces.StrangerPolicy`."""
        self._host(transport)(transport, received)

    def expect(self, transport: Any, stranger: Callable[[], None]) -> Expected:
        """See `phantom.interfaces.Expect`."""
        host = self._host(transport)
        early: ExpectedVisitor | None = getattr(transport, "expected", None)
        if early is not None:
            transport.expected = None
            if early.h2 == isinstance(host, H2Decoy):
                early.up(stranger)
                return early
            early.release()  # another protocol was agreed to than it seemed at first
        return host.expect(transport, stranger)

    def expect_early(self, transport: Any, alpn: str | None) -> ExpectedVisitor | None:
        """Be ready for a visitor whose TLS handshake has begun.

        Args:
            transport: TLS, which keeps what is returned as ``expected``.
            alpn: The protocol agreed to, as far as is known.

        Returns:
            To be released if the handshake fails; None where there is nothing to prepare.
        """
        host = self.h2 if self.h2 is not None and alpn == "h2" else self.http1
        return host.expect(transport, None) if isinstance(host, WebServerDecoy) else None

    def learn(self) -> None:
        """Ask the web servers, if there are any, what has to be known of them."""
        for host in (self.http1, self.h2):
            if isinstance(host, BackendDecoy | H2Decoy):
                host.learn()

    def _host(self, transport: Any) -> BackendDecoy | SiteDecoy | H2Decoy:
        if self.h2 is not None and getattr(transport, "alpn", None) == "h2":
            return self.h2
        return self.http1


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
