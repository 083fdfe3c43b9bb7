"""What TLS answers by itself, and a bound for it.

OpenSSL answers every key update (RFC 8446, section 4.6.3), so a visitor could ask for any amount of
answers, and read none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IDelayedCall

from phantom.carriers.tcp import unsent
from phantom.runtime import Runtime

#: Bytes of answers that may wait to be sent.  This is some 2,400 of them, beyond what the kernel
#: holds; nginx stops reading as soon as the kernel takes no more, and does not close (measured with
#: 1.22).
MOST_ANSWERS = 65536

#: Seconds between looks at whether the peer takes them.
ANSWERS_LOOK = 1.0


class Answers:
    """Sends one connection's, and does not read from a peer that does not take them.

    Args:
        runtime: Timers.
        wanted: Returns whether the connection is still of use.
        taken: Called when the peer may be read again.
    """

    __slots__ = ("_look", "_runtime", "_size", "_taken", "_wanted")

    def __init__(
        self, runtime: Runtime, wanted: Callable[[], bool], taken: Callable[[], None]
    ) -> None:
        self._runtime = runtime
        self._wanted = wanted
        self._taken = taken
        self._size = 0  # of the answers since the kernel had taken everything
        self._look: IDelayedCall | None = None

    @property
    def choked(self) -> bool:
        """Whether the peer is not read, as too many of them wait."""
        return self._look is not None

    def send(self, transport: Any, data: bytes) -> None:
        """Send what the engine has answered; read no more if it piles up."""
        if not unsent(transport):
            self._size = 0
        transport.write(data)
        self._size += len(data)
        if self._size > MOST_ANSWERS and self._look is None and unsent(transport) > MOST_ANSWERS:
            self._choke(transport)

    def _choke(self, transport: Any) -> None:
        self._look = self._runtime.call_later(ANSWERS_LOOK, self._look_again, transport)
        transport.pauseProducing()

    def _look_again(self, transport: Any) -> None:
        self._look = None
        if not self._wanted():
            return
        if unsent(transport) > MOST_ANSWERS:
            self._choke(transport)
            return
        self._size = 0
        self._taken()

    def stop(self) -> None:
        """Look no more: the connection is gone."""
        look, self._look = self._look, None
        if look is not None:
            look.cancel()
