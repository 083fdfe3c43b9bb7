"""Captures a port of this machine: packets where root may, a relay's reads otherwise."""

from __future__ import annotations

from typing import Protocol

from phantom.audit.flows import Flow
from phantom.audit.relay import RecordingRelay
from phantom.audit.sniffer import Sniffer


class Watch(Protocol):
    """A capture under way: `Sniffer` or `RecordingRelay`.

    Attributes:
        port: Where to connect on 127.0.0.1 in order to be seen.
    """

    port: int

    def take(self) -> list[Flow]:
        """Return the connections since the last call."""
        ...

    def stop(self) -> None:
        """End the capture."""
        ...


def watch(port: int) -> Watch:
    """Capture a port of 127.0.0.1 from now on.

    Args:
        port: The server's.

    Raises:
        OSError: Neither is possible.
    """
    try:
        return Sniffer(port)
    except OSError:
        return RecordingRelay(port)  # no root, or no Linux


def sees_segments(seen: Watch) -> bool:
    """Tell whether segments are captured as they were sent."""
    return isinstance(seen, Sniffer)
