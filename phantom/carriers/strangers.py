"""Bounds how many visitors are served at once: the oldest makes room for the newest."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

from phantom.core.admission import MAX_PLACES, PREFIX_SHARE, Admission, IPAddress


def address_of(transport: Any) -> IPAddress | None:
    """Return the address a transport comes from, or None when it has none."""
    try:
        return ip_address(transport.getPeer().host)
    except (AttributeError, ValueError):
        return None


class Strangers:
    """A bounded set of transports.

    Args:
        limit: All of them.
        per_prefix: Those of one /24 or /56.
    """

    def __init__(
        self, limit: int = MAX_PLACES, per_prefix: int = MAX_PLACES // PREFIX_SHARE
    ) -> None:
        self._admission = Admission(limit, per_prefix)
        # Keyed by identity: transports need not be hashable by anything better.
        self._transports: dict[int, Any] = {}

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._transports)

    def admit(self, transport: Any) -> None:
        """Count `transport`; whichever has to make room for it is aborted."""
        key = id(transport)
        evicted = self._admission.admit(key, address_of(transport))
        self._transports[key] = transport
        if isinstance(evicted, int):
            self._transports.pop(evicted).abortConnection()

    def release(self, transport: Any) -> None:
        """Stop counting `transport`; harmless when it is not counted."""
        self._admission.release(id(transport))
        self._transports.pop(id(transport), None)
