"""What the kernel knows of a TCP connection: Linux's ``tcp_info``."""

from __future__ import annotations

import socket
import struct

import attrs

#: Whether this is Linux, by an option of TCP that nothing else has.
LINUX = hasattr(socket, "TCP_CORK")

# struct tcp_info (linux/tcp.h), as far as `tcpi_delivered`: the flags of the last rate sample,
# snd_mss, unacked, rtt, snd_cwnd, notsent_bytes, min_rtt, delivered.
_TCP_INFO = struct.Struct("=7xB8xI4xI40xI8xI60xII40xI")
_APP_LIMITED = 1


@attrs.frozen(slots=True)
class ConnectionState:
    """What the kernel knows of a connection.

    Attributes:
        starved: Whether it had less to send than it could have sent.
        segment: Bytes in a segment.
        round_trip: Seconds, smoothed.
        least_round_trip: Seconds; 0 when nothing was measured yet.
        delivered: Segments that arrived, modulo 2**32.
        under_way: Segments that were sent and are not acknowledged.
        unsent: Bytes that wait to be sent for the first time.
        window: Segments of the congestion window: so many may be under way.
    """

    starved: bool
    segment: int
    round_trip: float
    least_round_trip: float
    delivered: int
    under_way: int = 0
    unsent: int = 0
    window: int = 0


def read_state(handle: socket.socket) -> ConnectionState | None:
    """Return what the kernel knows of a connection, None where it does not say."""
    if not LINUX:
        return None
    try:
        raw = handle.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
    except OSError:
        return None
    if len(raw) < _TCP_INFO.size:
        return None  # older than Linux 4.18
    flags, segment, under_way, round_trip, window, unsent, least, delivered = _TCP_INFO.unpack(raw)
    # The kernel's value before the first sample is all ones.
    least = 0 if least == 0xFFFFFFFF else least
    return ConnectionState(
        bool(flags & _APP_LIMITED),
        segment,
        round_trip / 1e6,
        least / 1e6,
        delivered,
        under_way,
        unsent,
        window,
    )
