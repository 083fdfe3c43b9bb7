"""How the kernel sends what a link writes: congestion control, buffers, unsent bytes.

All of it is Linux's; elsewhere, and where the kernel refuses, links work with what they are
given.  The measured gains of all of it: doc/adr/0017-how-links-send.md.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from pathlib import Path
from typing import Any

from twisted.internet.interfaces import IDelayedCall

from phantom.core.headroom import Headroom
from phantom.core.queue_drain import QueueDrain
from phantom.core.unsent import MOST_UNSENT, NEAR, UnsentBound
from phantom.fast.gathering import gather
from phantom.fast.local import congestion_of, is_loopback, set_congestion, spare_pacing
from phantom.fast.room import give_room
from phantom.fast.tcp_info import LINUX, ConnectionState, read_state
from phantom.layer import bottom
from phantom.runtime import Runtime
from phantom.telemetry import make_logger

log = make_logger()

# Linux's numbers, for Pythons that do not name them (linux/tcp.h, asm-generic/socket.h).
_TCP_NOTSENT_LOWAT = getattr(socket, "TCP_NOTSENT_LOWAT", 25 if LINUX else None)
_SO_SNDBUFFORCE = 32
_SO_MAX_PACING_RATE = 47

#: What a link's send buffer should hold: a session keeps at most 16 MiB unacknowledged
#: (`phantom.core.blocks.MAX_RETAINED_BYTES`), and the kernel counts its own overhead too.
SEND_BUFFER = 32 * 1024 * 1024
#: What the kernel takes for no limit of the sending rate (sock_setsockopt, SO_MAX_PACING_RATE).
_NO_LIMIT = 0xFFFFFFFF
#: Where the kernel says how far it would let a send buffer grow by itself.
_TCP_WMEM = Path("/proc/sys/net/ipv4/tcp_wmem")
#: What the receive buffer begins with.  The kernel doubles it by round trips, too slowly for
#: BBR's start-up on a lossy path, which takes the wait for a full path.
RECEIVE_BUFFER = 2 * 1024 * 1024
#: Seconds between two looks at a busy link.
INTERVAL = 0.1
# The kernel's counters of segments begin again after this.
_WRAPS = 0xFFFFFFFF


class LinkSockets:
    """Prepares the sockets of links, all alike.

    Args:
        runtime: Timers.
        congestion: ``auto`` for BBR where the kernel has and allows it, except within the
            machine (`phantom.fast.local`); ``system`` for the machine's own choice; or the name
            of one.
    """

    def __init__(self, runtime: Runtime, congestion: str) -> None:
        self._runtime = runtime
        self._setting = congestion
        self._congestion: str | None = None
        self._big_buffers: int | None = None
        self._chosen = False

    def choose(self) -> None:
        """Find out what the kernel allows, and tell once.

        Not before the first link: a server that was started by root has become another user
        by then, who may do less.
        """
        if self._chosen:
            return
        self._chosen = True
        self._big_buffers = _big_send_buffers()
        wanted = "bbr" if self._setting == "auto" else self._setting
        with socket.socket() as trial:
            given = congestion_of(trial)
            if self._setting == "system" or given is None:
                log.info("congestion control of links: the system's ({name})", name=given)
                return
            if set_congestion(trial, wanted):
                self._congestion = wanted
                log.info("congestion control of links: {name}", name=wanted)
                return
        tell = log.info if self._setting == "auto" else log.warn
        tell(
            "congestion control of links: {given}, as the kernel has no {wanted} or does not "
            "allow it here (see: sysctl net.ipv4.tcp_allowed_congestion_control)",
            given=given,
            wanted=wanted,
        )

    def tune(self, transport: Any) -> None:
        """Set the options of a link's socket, and give it a `LinkGauge` where there can be one.

        Args:
            transport: A TCP transport or layers upon one; anything else is left alone.
        """
        transport = bottom(transport)
        if not hasattr(transport, "getHandle") or not getattr(transport, "connected", False):
            return
        handle = transport.getHandle()
        if handle.family not in (socket.AF_INET, socket.AF_INET6):
            return  # a local socket, behind a front
        self.choose()
        peer = _peer_of(handle) if self._setting == "auto" else None
        if is_loopback(peer):
            spare_pacing(handle, peer)
        elif self._congestion is not None:
            set_congestion(handle, self._congestion)
        if self._big_buffers is not None:
            _set(handle, socket.SOL_SOCKET, self._big_buffers, SEND_BUFFER // 2)
        give_room(handle, RECEIVE_BUFFER)
        if read_state(handle) is not None:
            transport.link_gauge = LinkGauge(self._runtime, transport)
        gather(self._runtime.clock, transport)


class LinkGauge:
    """Watches a connection while it is full (`phantom.interfaces.LinkGauge`).

    Args:
        runtime: Timers.
        transport: A TCP transport.
    """

    def __init__(self, runtime: Runtime, transport: Any) -> None:
        self._runtime = runtime
        self._transport = transport
        state = read_state(transport.getHandle())
        self._bound = UnsentBound(near=state is None or state.least_round_trip < NEAR)
        self._headroom = Headroom()
        self._drain = QueueDrain()
        self.record_limit = self._bound.record_limit
        set_unsent(transport, self._bound.low_water)
        self._bbr = congestion_of(transport.getHandle()) == "bbr"
        self._full = False
        self._timer: IDelayedCall | None = None
        # When the last look at a busy connection was, and what it showed.
        self._last: tuple[float, ConnectionState] | None = None
        self._mean_segment: float | None = None

    def full(self) -> None:
        """See `phantom.interfaces.LinkGauge`."""
        # A patient transport pauses its producer each time; whether it is full is seen later, when
        # it still does.
        self._full = not getattr(self._transport, "patient", False)
        if self._timer is None:
            self._look()

    def stop(self) -> None:
        """See `phantom.interfaces.LinkGauge`."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def least_round_trip(self) -> float | None:
        """See `phantom.interfaces.LinkGauge`."""
        state = self._state()
        return state.least_round_trip or None if state is not None else None

    def segments_lost(self) -> int | None:
        """See `phantom.interfaces.LinkGauge`."""
        state = self._state()
        return None if state is None else state.segments_lost

    def segments_under_way(self) -> int | None:
        """See `phantom.interfaces.LinkGauge`."""
        state = self._state()
        return None if state is None else state.segments_under_way

    def _state(self) -> ConnectionState | None:
        return read_state(self._transport.getHandle()) if self._transport.connected else None

    def _look(self) -> None:
        self._timer = None
        busy = self._full or bool(getattr(self._transport, "producerPaused", False))
        self._full = False
        state = self._state()
        if state is None or not busy:
            self._last = None
            self._headroom.pause()
            if self._drain.pause():
                self._set_pace()
            return
        now = self._runtime.clock.seconds()
        last, self._last = self._last, (now, state)
        if last is not None and now > last[0]:
            self._judge(state, self._bytes_arrived(last[1], state) / (now - last[0]), now)
        self._timer = self._runtime.call_later(INTERVAL, self._look)

    def _bytes_arrived(self, before: ConnectionState, state: ConnectionState) -> float:
        """Return how many bytes arrived between two looks, about.

        The kernel counts segments, and those of a client that cuts what it says are a quarter of a
        full one, so they are taken to be what left last was on average.
        """
        arrived = (state.delivered - before.delivered) & _WRAPS
        sent = (state.segments_sent - before.segments_sent) & _WRAPS
        if sent:
            self._mean_segment = (state.bytes_sent - before.bytes_sent) / sent
        return arrived * min(state.segment, self._mean_segment or state.segment)

    def _judge(self, state: ConnectionState, rate: float, now: float) -> None:
        if self._bound.observe(rate, starved=state.starved):
            self.record_limit = self._bound.record_limit
            set_unsent(self._transport, self._bound.low_water)
        if self._bbr and self._queue_changes(state, rate, now):
            self._set_pace()
        if self._bbr and self._headroom.observe(
            now,
            rate=rate,
            round_trip=state.round_trip,
            least=state.least_round_trip,
            starved=state.starved,
        ):
            restart_bbr(self._transport.getHandle())

    def _queue_changes(self, state: ConnectionState, rate: float, now: float) -> bool:
        if self._bound.size == MOST_UNSENT:
            return self._drain.pause()
        return self._drain.observe(
            now, rate=rate, round_trip=state.round_trip, least=state.least_round_trip
        )

    def _set_pace(self) -> None:
        """Tell the kernel how fast it may send; BBR is paced by it."""
        if self._transport.connected:
            limit = min(self._drain.limit or _NO_LIMIT, _NO_LIMIT)
            handle = self._transport.getHandle()
            with contextlib.suppress(OSError):
                # Unsigned, which Python's own way with an int is not.
                handle.setsockopt(socket.SOL_SOCKET, _SO_MAX_PACING_RATE, struct.pack("=I", limit))


def restart_bbr(handle: socket.socket) -> None:
    """Let BBR start anew on a connection, from the window it has.

    Setting what is set already does nothing, so another one, which every kernel has, is set in
    between; nothing arrives meanwhile.
    """
    if set_congestion(handle, "reno"):
        set_congestion(handle, "bbr")


def set_unsent(transport: Any, size: int) -> None:
    """Bound what a connection holds unsent, in the kernel and in Twisted's own buffer.

    Args:
        transport: A TCP transport.
        size: Bytes.  What is in flight does not count towards it.
    """
    if _TCP_NOTSENT_LOWAT is not None:
        _set(transport.getHandle(), socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, size)
    transport.patient = size < MOST_UNSENT
    # Twisted reads by this size too, so it is left alone on fast links.
    transport.bufferSize = min(type(transport).bufferSize, max(1024, size // 4))
    if size == MOST_UNSENT:
        transport.bufferSize = type(transport).bufferSize


def _big_send_buffers() -> int | None:
    """Return the option that makes a send buffer larger than the kernel would by itself.

    The kernel's own limit (4 MiB by default) is counted with its overhead, and holds 2.8 MB.
    On a path of 200 ms that loses 1 % of the packets this halves the rate: 56 Mbit/s, and 90
    without.  A fixed size costs no memory: what is unsent is bounded apart.
    """
    try:
        automatic = int(_TCP_WMEM.read_text("ascii").split()[2])
    except (OSError, ValueError, IndexError):
        return None
    for option in (_SO_SNDBUFFORCE, socket.SO_SNDBUF):
        with socket.socket() as trial:
            _set(trial, socket.SOL_SOCKET, option, SEND_BUFFER // 2)
            if trial.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) > automatic:
                return option
    return None


def _peer_of(handle: socket.socket) -> object:
    """Return the address a socket is connected to, None when it is not any more."""
    try:
        return handle.getpeername()[0]
    except OSError:
        return None


def _set(handle: socket.socket, level: int, option: int, value: int) -> None:
    try:
        handle.setsockopt(level, option, value)
    except OSError:
        return  # a kernel that refuses does as before
