"""What the kernel knows of a TCP connection: Linux's ``tcp_info``."""

from __future__ import annotations

import socket
import struct
import sys

import attrs

#: Whether this is Linux, whose TCP can be asked and told more.
LINUX = sys.platform == "linux"

# struct tcp_info (linux/tcp.h), as far as `tcpi_bytes_sent`: the flags of the last rate sample,
# snd_mss, unacked, rtt, total_retrans, min_rtt, data_segs_out, delivered, bytes_sent.
_TCP_INFO = struct.Struct("=7xB8xI4xI40xI28xI44xI4xI32xI4xQ")
_APP_LIMITED = 1


@attrs.frozen(slots=True)
class ConnectionState:
    """What the kernel knows of a connection.

    Attributes:
        starved: Whether it had less to send than it could have sent.
        segment: Most bytes in a segment.
        round_trip: Seconds, smoothed.
        least_round_trip: Seconds; 0 when nothing was measured yet.
        delivered: Segments that arrived, modulo 2**32.
        segments_sent: Segments with data that left, retransmitted ones too, modulo 2**32.
        bytes_sent: Bytes in them.
        segments_lost: Segments that were sent again.
        segments_under_way: Segments that were sent and are not acknowledged.
    """

    starved: bool
    segment: int
    round_trip: float
    least_round_trip: float
    delivered: int
    segments_sent: int
    bytes_sent: int
    segments_lost: int = 0
    segments_under_way: int = 0


def read_state(handle: socket.socket) -> ConnectionState | None:
    """Return what the kernel knows of a connection, None where it does not say."""
    if not LINUX:
        return None
    try:
        raw = handle.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
    except OSError:
        return None
    if len(raw) < _TCP_INFO.size:
        return None  # older than Linux 4.19
    values = _TCP_INFO.unpack(raw)
    flags, segment, under_way, round_trip, lost, least, sent, delivered, bytes_sent = values
    # The kernel's value before the first sample is all ones.
    least = 0 if least == 0xFFFFFFFF else least
    return ConnectionState(
        bool(flags & _APP_LIMITED),
        segment,
        round_trip / 1e6,
        least / 1e6,
        delivered,
        sent,
        bytes_sent,
        lost,
        under_way,
    )
