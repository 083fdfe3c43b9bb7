"""One plain request and its response, between a client and an origin.

::

    new -> connecting -> sent -> responding -> over
             ^            |
             +-- retry ---+   a re-used connection that closed without a word, once

Neither side's body is ever stored: what one transport cannot take pauses the other.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

import h11
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from phantom.core.httphead import Field, RequestHead, ResponseHead
from phantom.core.httpproxy import (
    Forward,
    is_repeatable,
    request_fields,
    response_fields,
    trailer_fields,
    wants_upgrade,
)
from phantom.errors import EXPLANATIONS, Outcome, RelayError
from phantom.fast.timeouts import Timeouts
from phantom.inbound.http_origin import OriginConnection
from phantom.inbound.pages import Page, error_page
from phantom.interfaces import Outbound
from phantom.relay import relay_pair
from phantom.runtime import Runtime
from phantom.telemetry import make_logger

#: Seconds for which an idle connection is trusted with a request that must not be sent
#: twice.  Servers close idle connections after 5 s (Node, Apache) or more, and a request
#: that crosses the close is lost; NTLM, which needs one connection for its three requests,
#: sends them within milliseconds.
FRESH_FOR: Final = 2.0

log = make_logger()


class ClientSide(Protocol):
    """What an exchange needs of the client's connection."""

    @property
    def upload_pending(self) -> bool:
        """Whether some of the request has not been received yet."""

    @property
    def write_blocked(self) -> bool:
        """Whether the client's transport wants no more for now."""

    def touch(self) -> None:
        """Something moved: the exchange is not stalled."""

    def advance(self) -> None:
        """Read on: the origin takes more."""

    def send_interim(self, status: int, reason: bytes, fields: list[Field]) -> None:
        """Send a 1xx response."""

    def send_response(
        self, status: int, reason: bytes, fields: list[Field], *, close: bool
    ) -> None:
        """Send the head of the final response."""

    def send_body(self, data: bytes) -> None:
        """Send some of its body."""

    def send_end(self, trailers: list[Field]) -> None:
        """End the response; the exchange is over."""

    def answer(self, page: Page) -> None:
        """Send a page of our own for a response; the exchange is over."""

    def abort(self) -> None:
        """Break the connection off, so that what was sent does not look complete."""

    def hand_over(self, near: Any, far_transport: Any, rest: bytes = b"") -> None:
        """Leave the connection to a relay."""

    @property
    def half_closed(self) -> Timeouts:
        """What limits the silence of that relay, see `phantom.relay.relay_pair`."""

    def relay_ended(self) -> None:
        """That relay is over."""


class Exchange:
    """One request and its response.

    Args:
        client: The client's connection.
        head: The request.
        forward: Where it goes.
        outbound: What connects.
        runtime: For the time.

    Attributes:
        response_started: Whether the head of the final response has gone to the client.
        left: The connection to the origin, for the next exchange, if it can have one.
    """

    def __init__(
        self,
        client: ClientSide,
        head: RequestHead,
        forward: Forward,
        outbound: Outbound,
        runtime: Runtime,
    ) -> None:
        self._client = client
        self._head = head
        self._forward = forward
        self._outbound = outbound
        self._runtime = runtime
        self._request = h11.Request(
            method=head.method,
            target=forward.target,
            headers=request_fields(head, forward.host),
        )
        self._repeatable = is_repeatable(head)
        self._attempt: Deferred[Any] | None = None
        self._origin: OriginConnection | None = None
        self._reused = False
        self._over = False
        self.response_started = False
        self.left: OriginConnection | None = None

    def start(self, idle: OriginConnection | None) -> None:
        """Send the request.

        Args:
            idle: The connection that an earlier exchange of this client left, if any; it is
                used or closed.
        """
        if idle is not None:
            rested = self._runtime.monotonic() - idle.idle_since
            if (
                idle.reusable
                and idle.destination == self._forward.destination
                and (self._repeatable or rested < FRESH_FOR)
            ):
                self._reused = True
                self._send(idle)
                return
            idle.close()
        self._connect()

    # -- for the client's connection --------------------------------------------------------

    @property
    def takes_body(self) -> bool:
        """Whether more of the request's body can be sent on now."""
        return self._origin is not None and not self._origin.write_blocked

    def send_body(self, data: bytes) -> None:
        """Pass some of the request's body on; only when `takes_body`."""
        if self._origin is not None:
            self._origin.send_body(data)

    def send_end(self, trailers: list[Field]) -> None:
        """End the request's body."""
        if self._origin is not None:
            self._origin.send_end(trailer_fields(trailers))

    def pause(self) -> None:
        """Take no more of the response: the client's transport is full."""
        if self._origin is not None:
            self._origin.pause_reading()

    def resume(self) -> None:
        """Take more of the response."""
        if self._origin is not None:
            self._origin.resume_reading()

    def abandon(self) -> None:
        """Give everything up: the client is gone."""
        self._over = True
        attempt, self._attempt = self._attempt, None
        if attempt is not None:
            attempt.cancel()
        origin, self._origin = self._origin, None
        if origin is not None:
            origin.abort()

    def expire(self) -> None:
        """Give up, because nothing has moved for too long."""
        self.abandon()
        self._fail(Outcome.TIMED_OUT)

    # -- connecting -------------------------------------------------------------------------

    def _connect(self) -> None:
        origin = OriginConnection(self._forward.destination)
        self._attempt = attempt = self._outbound.connect(self._forward.destination, origin)
        attempt.addCallbacks(self._connected, self._refused, callbackArgs=(origin,))
        attempt.addErrback(self._broken)

    def _connected(self, transport: Any, origin: OriginConnection) -> None:
        self._attempt = None
        if self._over:  # connected in spite of being cancelled
            transport.abortConnection()
            return
        if origin.transport is None:  # and lost again at once
            self._fail(Outcome.RESET)
            return
        self._send(origin)

    def _refused(self, failure: Failure) -> None:
        self._attempt = None
        if self._over:
            return
        outcome = Outcome.FAILED
        if isinstance(failure.value, RelayError):
            outcome = failure.value.outcome
        else:
            log.failure("the outbound failed unexpectedly", failure=failure)
        self._fail(outcome)

    def _broken(self, failure: Failure) -> None:
        """A bug on this side: neither side is left hanging."""
        log.failure("forwarding a request failed", failure=failure)
        self.abandon()
        self._client.abort()

    def _send(self, origin: OriginConnection) -> None:
        self._origin = origin
        if self._client.write_blocked:
            origin.pause_reading()
        else:
            origin.resume_reading()  # it may have been left paused by the last exchange
        origin.start(self, self._request, has_body=self._head.has_body)
        if self._head.has_body:
            self._client.advance()

    def _fail(self, outcome: Outcome) -> None:
        log.debug("HTTP request failed: {outcome}", outcome=outcome.name)
        explanation = EXPLANATIONS[outcome]
        self._fail_with(error_page(explanation.http, explanation.advice))

    def _fail_with(self, page: Page) -> None:
        self._over = True
        self._origin = None
        if self.response_started:
            # Never an orderly end: what the client has is not the whole response.
            self._client.abort()
        else:
            self._client.answer(page)

    # -- OriginListener -----------------------------------------------------------------------

    def upload_resumed(self) -> None:
        """The origin takes more of the request's body."""
        self._client.advance()

    def interim_received(self, head: ResponseHead) -> None:
        """Pass a 1xx on to a client that knows of them (RFC 9110, section 15.2)."""
        self._client.touch()
        if self._head.version != b"1.0":
            fields = response_fields(head, self._head.version)
            self._client.send_interim(head.status, head.reason, fields)

    def response_received(self, head: ResponseHead) -> None:
        """Pass the head of the response on."""
        self._client.touch()
        if head.status == 407:
            # Asked by an origin, a client would tell it the proxy's password.
            self._give_up("The destination answered as if it were a proxy (407).")
            return
        self.response_started = True
        self._client.send_response(
            head.status,
            head.reason,
            response_fields(head, self._head.version),
            # An answer to a request that is still being sent ends the connection, as there
            # may be no end to what would have to be skipped (RFC 9112, section 9.3).
            close=self._client.upload_pending,
        )

    def body_received(self, data: bytes) -> None:
        """Pass some of the body on."""
        self._client.touch()
        self._client.send_body(data)

    def response_ended(self, trailers: list[Field]) -> None:
        """End the response."""
        self._over = True
        origin, self._origin = self._origin, None
        if origin is not None:
            origin.idle_since = self._runtime.monotonic()
            self.left = origin if origin.reusable else None
        # HTTP/1.0 has no place for trailers.
        self._client.send_end(trailer_fields(trailers) if self._head.version != b"1.0" else [])

    def protocol_switched(self, head: ResponseHead, rest: bytes) -> None:
        """Join both sides: the origin has agreed to another protocol."""
        origin = self._origin
        if origin is None or self._client.upload_pending or not wants_upgrade(self._head):
            self._give_up("The destination changed the protocol without being asked to.")
            return
        self._over = True
        self._origin = None
        fields = response_fields(head, self._head.version)
        self._client.send_interim(101, head.reason, fields)
        near, far = relay_pair(self._client.relay_ended, self._client.half_closed)
        transport = origin.hand_over(far)
        self._client.hand_over(near, transport, rest)

    def origin_failed(self, outcome: Outcome, *, malformed: bool) -> None:
        """Retry, or say what happened."""
        origin, self._origin = self._origin, None
        heard = origin is not None and origin.heard
        if malformed:
            self._give_up("The destination's answer is not well-formed HTTP.")
        elif self._reused and self._repeatable and not heard:
            # It was closing just then (RFC 9112, section 9.3.1).
            self._reused = False
            self._connect()
        else:
            self._fail(outcome)

    def _give_up(self, text: str) -> None:
        """Break the connection to the origin off for what it did."""
        log.debug("HTTP request failed: the origin's answer is not acceptable")
        if self._origin is not None:
            self._origin.abort()
        self._fail_with(error_page(502, text))
