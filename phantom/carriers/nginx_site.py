"""An HTTP/1 server that behaves like nginx, for visitors who are not clients.

It is what answers when no real web server does: on the plain text sent to the TLS port, in
place of a decoy that is down, and for the folder and the built-in site.  What it says comes
from a `Site`; how a request is read, refused, kept alive, timed out and closed is nginx's
way with its default settings.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import IO, Any, Protocol

import attrs
from twisted.internet.interfaces import (
    IDelayedCall,
    IHalfCloseableProtocol,
    IProtocol,
    IPullProducer,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from phantom.carriers.strangers import Strangers
from phantom.carriers.tcp import unsent
from phantom.core.nginx_pages import CLOSING, Response, error_page, head
from phantom.core.nginx_request import (
    HTTP_09,
    MAX_BODY,
    BodySkipper,
    Request,
    RequestError,
    RequestReader,
)
from phantom.layer import lose_without_notice, switch_protocol
from phantom.runtime import Runtime

#: nginx's ``client_header_timeout``: seconds for a whole request head.
HEADER_TIMEOUT = 60.0

#: nginx's ``keepalive_timeout``: seconds between requests.
KEEPALIVE_TIMEOUT = 75.0

#: nginx's ``keepalive_requests``: how many on one connection.
KEEPALIVE_REQUESTS = 1000

#: nginx's ``send_timeout``: seconds without progress while sending a body.
SEND_TIMEOUT = 60.0

#: nginx's ``lingering_timeout``: seconds of silence after which a closed connection, or a
#: body that nobody wants, is no longer read.
LINGERING_TIMEOUT = 5.0

#: nginx's ``lingering_time``: seconds after which reading stops in any case.
LINGERING_TIME = 30.0

#: Bytes of answers that may wait for a visitor to read them before the next request is looked at;
#: nginx answers it only when the kernel has taken all of the last answer.
MOST_UNREAD = 16384

#: Bytes of a file in one write.
_CHUNK = 65536


@attrs.frozen(slots=True, kw_only=True)
class Answer:
    """A response and where its body comes from.

    Attributes:
        response: Status and headers; its length is that of the body.
        body: The body itself, or
        file: what to read it from, at its present position; closed afterwards.
    """

    response: Response
    body: bytes = b""
    file: IO[bytes] | None = None


class Site(Protocol):
    """Answers requests.

    Attributes:
        banner: The Server header.
    """

    @property
    def banner(self) -> str:
        """Return the Server header."""
        ...

    def answer(self, request: Request, origin: str) -> Answer | int:
        """Answer one request.

        Args:
            request: What was asked; its method is any but TRACE and CONNECT.
            origin: The scheme and authority of this server, for redirects.

        Returns:
            An answer, or the status of an error page.
        """
        ...


@implementer(IProtocol, IHalfCloseableProtocol, IPullProducer)
class NginxConnection:
    """One visitor's connection.

    Args:
        runtime: Timers and the time of day.
        site: What to say.
        https: Whether the visitor came by TLS, for redirects.
        plain_only: Answer every good request with nginx's page for plain HTTP on a TLS port.
        ended: Called once, when the connection is lost.
        elapsed: For how many seconds it has been there without a request.
    """

    transport: Any = None

    def __init__(
        self,
        runtime: Runtime,
        site: Site,
        *,
        https: bool,
        plain_only: bool = False,
        ended: Callable[[], None] | None = None,
        elapsed: float = 0.0,
    ) -> None:
        self._runtime = runtime
        self._elapsed = elapsed
        self._site = site
        self._https = https
        self._plain_only = plain_only
        self._on_end = ended
        self._reader = RequestReader()
        self._body: BodySkipper | None = None  # what is left of the last request's
        self._keep = True  # the connection goes on after the present answer
        self._served = 0
        self._in_head = True  # the timer that runs is for the head
        self._timer: IDelayedCall | None = None
        self._file: IO[bytes] | None = None
        self._file_left = 0
        self._draining = False  # the next request waits until the answers are taken
        self._closing = False  # the last answer is out; what comes is thrown away
        self._linger_end = 0.0

    # -- IProtocol --------------------------------------------------------------------

    def makeConnection(self, transport: Any) -> None:
        """Wait for a request."""
        self.transport = transport
        self._set_timer(max(0.0, HEADER_TIMEOUT - self._elapsed))

    def connectionMade(self) -> None:
        """Do nothing: `makeConnection` has done it."""

    def dataReceived(self, data: bytes) -> None:
        """Read requests and answer them, one after the other."""
        if self._closing:
            left = self._linger_end - self._runtime.clock.seconds()
            self._set_timer(min(LINGERING_TIMEOUT, max(0.0, left)))
            return
        self._reader.feed(data)
        self._serve()

    def readConnectionLost(self) -> None:
        """Close: nginx takes the end of input for the end."""
        self._closing = True
        if self._file is None and not self._draining:
            self._cancel_timer()
            self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        """Do nothing: our half-close is only the begin of lingering."""

    def connectionLost(self, _reason: Failure) -> None:
        """Free everything."""
        self._closing = True
        self._cancel_timer()
        if self._file is not None:
            self._file.close()
            self._file = None
        ended, self._on_end = self._on_end, None
        if ended is not None:
            ended()

    # -- IPullProducer: sending a file, or waiting until answers are taken ----------------

    def resumeProducing(self) -> None:
        """Send the next piece of the file, or go on with the next request."""
        file = self._file
        if file is None:
            if self._draining:
                self._drained()
            return
        piece = file.read(min(_CHUNK, self._file_left))
        self._file_left -= len(piece)
        if piece:
            self._set_timer(SEND_TIMEOUT)
            self.transport.write(piece)
            if self._file_left:
                return
        else:
            self._keep = False  # the file shrank: only a close says that the rest is missing
        file.close()
        self._file = None
        self.transport.unregisterProducer()
        if self._closing:
            self.transport.loseConnection()
            return
        self.transport.resumeProducing()
        # Not from inside the transport's own call, which this may end.
        self._runtime.at_turn_end(self._answered)

    def stopProducing(self) -> None:
        """Do nothing: `connectionLost` follows."""

    # -- inside -----------------------------------------------------------------------

    def _serve(self) -> None:
        """Answer what can be answered of what was received."""
        reader = self._reader
        while not self._closing and self._file is None and not self._draining:
            if self._body is not None:
                try:
                    reader.buffer = self._body.feed(reader.buffer)
                except RequestError:
                    self._end()
                    return
                if not self._body.done:
                    return
                self._body = None
                if not self._keep:
                    self._end()
                    return
            if not reader.buffer:
                return
            if unsent(self.transport) > MOST_UNREAD:
                self._drain()
                return
            try:
                request = reader.next_request()
            except RequestError as error:
                self._refuse(error)
                return
            if request is None:
                if not self._in_head:
                    # Once for each head: sending it byte by byte gains no time.
                    self._in_head = True
                    self._set_timer(HEADER_TIMEOUT)
                return
            self._answer(request)

    def _answer(self, request: Request) -> None:
        self._served += 1
        self._body = body = request.body
        self._keep = request.keep_alive and self._served < KEEPALIVE_REQUESTS
        try:
            self._reader.buffer = body.feed(self._reader.buffer)
        except RequestError:
            self._keep = False
        if self._plain_only:
            answer: Answer | int = 497
        elif body.length > MAX_BODY:
            answer = 413
        else:
            answer = self._site.answer(request, self._origin(request))
        if isinstance(answer, int):
            self._send_page(answer, request.version, request.method, request.user_agent)
        else:
            self._send(answer, request.version, request.method)

    def _refuse(self, error: RequestError) -> None:
        self._served += 1
        self._keep = False
        self._body = error.body
        method = b"HEAD" if error.head_only else b"GET"
        self._send_page(error.status, error.version, method, error.user_agent)

    def _send_page(self, status: int, version: int, method: bytes, user_agent: bytes) -> None:
        if status in CLOSING:
            self._keep = False
        page = error_page(status, banner=self._site.banner, version=version, user_agent=user_agent)
        response = Response(status=status, length=len(page))
        self._send(Answer(response=response, body=page), version, method)

    def _send(self, answer: Answer, version: int, method: bytes) -> None:
        output = b""
        if version != HTTP_09:
            output = head(
                answer.response,
                banner=self._site.banner,
                now=self._runtime.wall_time(),
                keep_alive=self._keep,
            )
        file = answer.file
        if method == b"HEAD" and version != HTTP_09:
            self.transport.write(output)
        elif file is None:
            self.transport.write(output + answer.body)
        else:
            self._file = file
            self._file_left = answer.response.length or 0
            self.transport.write(output)
            # No more requests meanwhile: what is not read waits in the kernel.
            self.transport.pauseProducing()
            self.transport.registerProducer(self, False)
            return
        if file is not None:
            file.close()
        self._answered()

    def _drain(self) -> None:
        """Leave requests where they are until the answers before them are taken."""
        self._set_timer(SEND_TIMEOUT)
        self.transport.pauseProducing()
        self.transport.registerProducer(self, False)  # which asks at once, while data waits
        self._draining = True

    def _drained(self) -> None:
        self._draining = False
        self.transport.unregisterProducer()
        if self._closing:
            self.transport.loseConnection()
            return
        self._set_timer(HEADER_TIMEOUT if self._in_head else KEEPALIVE_TIMEOUT)
        self.transport.resumeProducing()
        self._runtime.at_turn_end(self._serve)

    def _answered(self) -> None:
        """Go on after an answer: wait for the next request, or close."""
        if self._closing:
            return
        waiting = self._body is not None and not self._body.done
        if self._keep:
            self._in_head = False
            self._set_timer(KEEPALIVE_TIMEOUT)
        elif waiting:
            self._set_timer(LINGERING_TIMEOUT)
        else:
            self._end()
            return
        if self._reader.buffer:
            self._runtime.at_turn_end(self._serve)

    def _end(self) -> None:
        """Close, but not in the face of a visitor who is still sending."""
        if self._closing:
            return
        self._closing = True
        if self._reader.buffer:
            self._reader.buffer = b""
            self._linger_end = self._runtime.clock.seconds() + LINGERING_TIME
            self._set_timer(LINGERING_TIMEOUT)
            self.transport.loseWriteConnection()
        else:
            self._cancel_timer()
            self.transport.loseConnection()

    def _origin(self, request: Request) -> str:
        host = self.transport.getHost()
        name = request.target_host.decode("latin-1") or getattr(host, "host", "localhost")
        scheme, usual = ("https", 443) if self._https else ("http", 80)
        port = getattr(host, "port", usual)
        return f"{scheme}://{name}" + ("" if port == usual else f":{port}")

    def _set_timer(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.reset(seconds)
        else:
            self._timer = self._runtime.call_later(seconds, self._timed_out)

    def _cancel_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _timed_out(self) -> None:
        self._timer = None
        if self._file is not None:
            self.transport.abortConnection()
            return
        self._closing = True
        if self._reader.buffer:
            lose_without_notice(self.transport)
        else:
            self.transport.loseConnection()


class SiteDecoy:
    """A `phantom.interfaces.StrangerPolicy` that lets visitors talk to a `Site`.

    Args:
        runtime: Timers and the time of day.
        site: What to say.
        https: Whether visitors came by TLS.
        plain_only: Answer every good request with nginx's page for plain HTTP on a TLS port.
        strangers: Who counts them; one of its own otherwise.
    """

    def __init__(
        self,
        runtime: Runtime,
        site: Site,
        *,
        https: bool = True,
        plain_only: bool = False,
        strangers: Strangers | None = None,
    ) -> None:
        self._runtime = runtime
        self._site = site
        self._https = https
        self._plain_only = plain_only
        self._strangers = Strangers() if strangers is None else strangers

    def __call__(self, transport: Any, received: bytes) -> None:
        """Serve a visitor."""
        self._serve(transport, received, 0.0)

    def expect(self, transport: Any, stranger: Callable[[], None]) -> _Awaited:
        """Be ready for a visitor; see `phantom.interfaces.Expect`."""
        since = self._runtime.clock.seconds()

        def take(received: bytes) -> None:
            self._serve(transport, received, self._runtime.clock.seconds() - since)

        return _Awaited(take)

    def _serve(self, transport: Any, received: bytes, elapsed: float) -> None:
        connection = NginxConnection(
            self._runtime,
            self._site,
            https=self._https,
            plain_only=self._plain_only,
            ended=lambda: self._strangers.release(transport),
            elapsed=elapsed,
        )
        self._strangers.admit(transport)
        switch_protocol(transport, connection)
        transport.resumeProducing()
        if received:
            connection.dataReceived(received)


class _Awaited:
    """A `phantom.interfaces.Expected` of a `SiteDecoy`."""

    def __init__(self, take: Callable[[bytes], None]) -> None:
        self.take = take

    def pass_on(self, data: bytes) -> None:
        """Do nothing: over HTTP/1 there is nothing to pass on early."""

    def release(self) -> None:
        """Do nothing: nothing is held."""
