"""What a dialer is told, and what it notes of a link."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from phantom.core.detached import DETACHED_TIMEOUT
from phantom.core.endpoint_list import ServerEndpoint
from phantom.tunnel.frame import FrameProtocol
from phantom.tunnel.mux import MuxLimits


@attrs.frozen(slots=True, kw_only=True)
class DialerSettings:
    """What a dialer needs to know.

    Attributes:
        limits: What the session may hold.
        keepalive: Seconds, see `FrameProtocol`.
        drain_timeout: Seconds streams may take to finish when the client stops.
        detached_timeout: Seconds a session may wait for a new link.
        link_max_age: Seconds after which, about, a link is replaced by a fresh one; 0 never.
        on_scheme: Called with each padding scheme that the server pushes.
        lanes: Whether bulk may have a link of its own.
    """

    limits: MuxLimits
    keepalive: float
    drain_timeout: float
    detached_timeout: float = DETACHED_TIMEOUT
    link_max_age: float = 0.0
    on_scheme: Callable[[bytes], None] | None = None
    lanes: bool = True


@attrs.frozen(slots=True)
class Dialled:
    """A link that came about.

    Attributes:
        link: The link.
        endpoint: Where it leads.
        network: Where this machine was.
        since: When, on the clock of timers.
    """

    link: FrameProtocol
    endpoint: ServerEndpoint
    network: str
    since: float
