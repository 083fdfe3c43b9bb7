"""What the parts of phantom promise one another.

`typing.Protocol` where only our own code calls; where Twisted calls, its own zope
interfaces are used directly (`IProtocol`, `IHalfCloseableProtocol`, `ITCPTransport`,
`IPushProducer`, `IConsumer`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.defer import Deferred

from phantom.address import Destination


class Outbound(Protocol):
    """Turns a destination into a transport."""

    def connect(self, destination: Destination, protocol: Any) -> Deferred[Any]:
        """Connect `protocol` to `destination`.

        On success ``protocol.makeConnection(transport)`` has been called, with a transport
        that half-closes (``loseWriteConnection``), aborts (``abortConnection``) and is both
        a push producer and a consumer; then the Deferred fires with that transport.  No
        byte reaches the protocol before the Deferred's callbacks have run.

        Cancelling gives the attempt up and frees what it holds.

        Args:
            destination: Where to.
            protocol: An `IProtocol`, for whom an IHalfCloseableProtocol is as good.

        Returns:
            A Deferred of the transport.  It fails with `phantom.errors.RelayError` and
            nothing else.
        """
        ...


class LinkGauge(Protocol):
    """Watches the connection beneath a link, and says how much should be put into it at once.

    A carrier that has one leaves it on the lowest transport, as its attribute ``link_gauge``.

    Attributes:
        record_limit: Most bytes of plaintext that one record should have now, so that what
            comes after it need not wait for long.
    """

    record_limit: int

    def full(self) -> None:
        """The connection takes no more for now: there is something to watch."""

    def stop(self) -> None:
        """The link is gone."""

    def least_round_trip(self) -> float | None:
        """Return the least round trip seen, in seconds; None when that is not known."""
        ...

    def segments_lost(self) -> int | None:
        """Return how many segments were sent again so far; None when that is not known."""
        ...

    def segments_under_way(self) -> int | None:
        """Return how many segments were sent and are not acknowledged; None when not known."""
        ...


class StrangerPolicy(Protocol):
    """What happens to a visitor who could not prove a known key."""

    def __call__(self, transport: Any, received: bytes) -> None:
        """Take the transport over for good.

        Args:
            transport: What the visitor is connected by, already decrypted by the carrier.
                Its protocol is replaced (`phantom.layer.switch_protocol`).
            received: Every byte read from the visitor so far, unparsed.
        """
        ...


class Said(Protocol):
    """What a web server has said to a visitor over HTTP/2.

    Attributes:
        settings: How many SETTINGS frames.
        acknowledged: Whether the visitor's own SETTINGS were acknowledged.
        unsaid: Part of it that is still to be sent.
    """

    settings: int
    acknowledged: bool
    unsaid: bytes


class Expected(Protocol):
    """A visitor inside TLS of whom it is not known yet whether it is a stranger.

    A web server is ready for it meanwhile, and its clocks run: what it does unprompted, and
    when, is then what the visitor sees.  Exactly one of `take` and `release` is called.
    """

    def pass_on(self, data: bytes) -> None:
        """Give the web server bytes of the visitor's that it would act on at once."""
        ...

    def take(self, received: bytes) -> None:
        """The visitor is a stranger: take it over for good.

        Args:
            received: Every byte read from it that was not passed on.
        """
        ...

    def release(self) -> Said | None:
        """The visitor is a client, or has left: the web server is not needed."""
        ...


#: ``expect(transport, stranger)`` begins to expect a visitor; `stranger` is called when the
#: web server has spoken or left first, whereupon `take` is to be called.
Expect = Callable[[Any, Callable[[], None]], Expected]
