"""What the kernel is told about links' sockets, and what is made of its answers."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock, deferLater
from twisted.internet.testing import StringTransport
from twisted.logger import globalLogPublisher

from phantom.carriers import congestion
from phantom.carriers.congestion import LinkGauge, LinkSockets, congestion_of
from phantom.core.unsent import FIRST_UNSENT, LEAST_SAMPLES, LEAST_UNSENT, MOST_UNSENT
from phantom.core.wire import MAX_RECORD_PLAINTEXT
from phantom.fast.tcp_info import ConnectionState, read_state
from phantom.layer import Layer
from phantom.runtime import Runtime

linux = pytest.mark.skipif(not hasattr(socket, "TCP_CONGESTION"), reason="Linux only")


@pytest.fixture
def messages() -> Iterator[list[tuple[str, str]]]:
    """(level, name told) of every line that `LinkSockets` logs."""
    seen: list[tuple[str, str]] = []

    def observe(event: Any) -> None:
        text = str(event.get("log_format", ""))
        if text.startswith("congestion control of links"):
            seen.append((event["log_level"].name, text.format(**event)))

    globalLogPublisher.addObserver(observe)
    yield seen
    globalLogPublisher.removeObserver(observe)


@pytest_twisted.async_yield_fixture
async def connection(reactor: Any) -> AsyncIterator[Any]:
    """The client's transport of a connection."""
    port = reactor.listenTCP(0, Factory.forProtocol(Protocol), interface="127.0.0.1")
    endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port)
    client = await endpoint.connect(Factory.forProtocol(Protocol))
    yield client.transport
    client.transport.abortConnection()
    await port.stopListening()
    await deferLater(reactor, 0.01)


@linux
async def test_a_named_one_is_set(
    connection: Any, runtime: Runtime, messages: list[tuple[str, str]]
) -> None:
    sockets = LinkSockets(runtime, "reno")  # which every kernel has and allows
    layer = Layer(Protocol())
    layer.transport = connection
    sockets.tune(layer)
    sockets.tune(layer)
    assert congestion_of(connection.getHandle()) == "reno"
    assert messages == [("info", "congestion control of links: reno")]


@linux
async def test_one_that_the_kernel_refuses_leaves_the_systems(
    connection: Any, runtime: Runtime, messages: list[tuple[str, str]]
) -> None:
    before = congestion_of(connection.getHandle())
    LinkSockets(runtime, "nobody-has-it").tune(connection)
    assert congestion_of(connection.getHandle()) == before
    [(level, text)] = messages
    assert level == "warn" and "nobody-has-it" in text and f": {before}," in text


@linux
async def test_auto_never_warns(
    connection: Any,
    runtime: Runtime,
    messages: list[tuple[str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(congestion, "set_congestion", lambda handle, name: False)
    LinkSockets(runtime, "auto").tune(connection)
    [(level, text)] = messages
    assert level == "info" and "no bbr" in text


@linux
async def test_the_system_is_left_alone(connection: Any, runtime: Runtime) -> None:
    before = congestion_of(connection.getHandle())
    LinkSockets(runtime, "system").tune(connection)
    assert congestion_of(connection.getHandle()) == before


@linux
async def test_buffers_only_grow(connection: Any, runtime: Runtime) -> None:
    handle = connection.getHandle()
    send = handle.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
    receive = handle.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    LinkSockets(runtime, "system").tune(connection)
    assert handle.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) >= send
    assert handle.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) >= receive
    # One byte wakes the reader.
    assert handle.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == 1


@linux
async def test_the_kernels_own_numbers(connection: Any) -> None:
    state = read_state(connection.getHandle())
    assert state is not None
    assert 500 <= state.segment <= 65536
    assert 0 < state.least_round_trip <= state.round_trip < 1
    connection.getHandle().send(bytes(100))
    after = read_state(connection.getHandle())
    assert after is not None
    assert after.bytes_sent - state.bytes_sent == 100
    assert after.segments_sent - state.segments_sent == 1
    assert after.segments_lost == state.segments_lost == 0
    assert state.segments_under_way == 0 <= after.segments_under_way <= 1


def test_what_is_no_tcp_is_left_alone(runtime: Runtime) -> None:
    transport = StringTransport()
    LinkSockets(runtime, "auto").tune(transport)
    assert not hasattr(transport, "link_gauge")


class Full:
    """A transport that is full, over a connection of which the test says what it carries."""

    bufferSize = 65536  # noqa: N815
    patient = False
    connected = True
    producerPaused = True  # noqa: N815

    def __init__(self) -> None:
        self.handle = socket.socket()
        self.state = ConnectionState(False, 1000, 0.041, 0.04, 0, 0, 0)

    def getHandle(self) -> socket.socket:
        return self.handle


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> Iterator[Full]:
    transport = Full()
    monkeypatch.setattr(congestion, "read_state", lambda handle: transport.state)
    yield transport
    transport.handle.close()


def carry(full: Full, clock: Clock, seconds: float, segments: int, **changes: Any) -> None:
    """Let `segments` segments a second of 1000 bytes, or `size`, leave and arrive."""
    for _ in range(round(seconds * 10)):
        old = full.state
        full.state = ConnectionState(
            changes.get("starved", False),
            1000,
            changes.get("round_trip", old.round_trip),
            old.least_round_trip,
            (old.delivered + segments // 10) & 0xFFFFFFFF,
            (old.segments_sent + segments // 10) & 0xFFFFFFFF,
            old.bytes_sent + segments // 10 * changes.get("size", 1000),
        )
        clock.advance(congestion.INTERVAL)


@linux
def test_a_slow_link_gets_little_at_once(full: Full, runtime: Runtime, clock: Clock) -> None:
    # Its counters wrap.
    full.state = ConnectionState(False, 1000, 0.041, 0.04, 0xFFFFFFF0, 0xFFFFFFF1, 10**10)
    gauge = LinkGauge(runtime, full)
    assert gauge.record_limit == FIRST_UNSENT // 4
    assert full.patient
    gauge.full()
    carry(full, clock, LEAST_SAMPLES / 10, 100)
    low_water = full.handle.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT)
    assert low_water == LEAST_UNSENT // 2
    assert gauge.record_limit == LEAST_UNSENT // 4
    assert full.bufferSize < 8192
    carry(full, clock, 0.2, 100_000)
    low_water = full.handle.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT)
    assert low_water == MOST_UNSENT
    assert (gauge.record_limit, full.bufferSize) == (MAX_RECORD_PLAINTEXT, 65536)
    assert not full.patient
    gauge.stop()
    assert not clock.getDelayedCalls()


@linux
def test_small_packets_do_not_make_a_link_look_fast(
    full: Full, runtime: Runtime, clock: Clock
) -> None:
    gauge = LinkGauge(runtime, full)
    gauge.full()
    carry(full, clock, LEAST_SAMPLES / 10, 4000, size=100)  # 400 KB/s: 8 KB in 20 ms
    assert gauge.record_limit == LEAST_UNSENT // 4
    gauge.stop()


@linux
def test_nothing_sent_while_much_arrives(full: Full, runtime: Runtime, clock: Clock) -> None:
    gauge = LinkGauge(runtime, full)
    gauge.full()
    carry(full, clock, 0.1, 0)
    full.state = attrs.evolve(full.state, delivered=full.state.delivered + 10_000)
    clock.advance(congestion.INTERVAL)
    assert gauge.record_limit == MAX_RECORD_PLAINTEXT
    gauge.stop()


def test_an_idle_link_is_not_watched(full: Full, runtime: Runtime, clock: Clock) -> None:
    gauge = LinkGauge(runtime, full)
    gauge.full()
    carry(full, clock, 1, 100)
    full.producerPaused = False
    carry(full, clock, 0.2, 0)
    assert not clock.getDelayedCalls()
    full.producerPaused = True
    gauge.full()
    assert clock.getDelayedCalls()
    full.connected = False
    clock.advance(1)
    assert not clock.getDelayedCalls()


@linux
def test_a_link_to_a_near_peer_begins_with_the_most(full: Full, runtime: Runtime) -> None:
    full.state = ConnectionState(False, 1000, 0.001, 0.0005, 0, 0, 0)
    assert LinkGauge(runtime, full).record_limit == MAX_RECORD_PLAINTEXT
    assert not full.patient


@linux
def test_light_traffic_on_a_slow_link_is_no_sign_of_its_rate(
    full: Full, runtime: Runtime, clock: Clock
) -> None:
    """A patient transport pauses with each record, and is soon ready again."""
    gauge = LinkGauge(runtime, full)
    for _ in range(3 * LEAST_SAMPLES):
        full.producerPaused = True
        gauge.full()
        full.producerPaused = False
        carry(full, clock, 0.1, 20)
    assert gauge.record_limit == FIRST_UNSENT // 4


@linux
def test_bbrs_queue_before_a_slow_link_is_emptied(
    full: Full, runtime: Runtime, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pace() -> int:
        so_max_pacing_rate = 47
        return full.handle.getsockopt(socket.SOL_SOCKET, so_max_pacing_rate) & 0xFFFFFFFF

    monkeypatch.setattr(congestion, "congestion_of", lambda handle: "bbr")
    gauge = LinkGauge(runtime, full)
    gauge.full()
    carry(full, clock, 1, 1000, round_trip=0.08)
    assert 800_000 < pace() < 1_000_000
    carry(full, clock, 0.1, 1000, round_trip=0.041)
    assert pace() == 0xFFFFFFFF
    carry(full, clock, 1, 1000, round_trip=0.08)
    assert pace() < 1_000_000
    full.producerPaused = False  # and idle
    carry(full, clock, 0.1, 0)
    assert pace() == 0xFFFFFFFF


@linux
def test_a_fast_link_is_never_slowed_down(
    full: Full, runtime: Runtime, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(congestion, "congestion_of", lambda handle: "bbr")
    monkeypatch.setattr(LinkGauge, "_set_pace", lambda gauge: pytest.fail("slowed down"))
    gauge = LinkGauge(runtime, full)
    gauge.full()
    carry(full, clock, 2, 20_000, round_trip=0.08)
    gauge.stop()


def test_bbr_starts_anew_where_it_gave_up_early(
    full: Full, runtime: Runtime, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: list[str] = []
    monkeypatch.setattr(congestion, "congestion_of", lambda handle: "bbr")
    monkeypatch.setattr(
        congestion, "set_congestion", lambda handle, name: names.append(name) or True
    )
    gauge = LinkGauge(runtime, full)
    gauge.full()
    carry(full, clock, 2, 1000, round_trip=0.05)  # a queue: the path is full
    assert not names
    carry(full, clock, 2, 1000, round_trip=0.04)
    assert names == ["reno", "bbr"]
    gauge.stop()


def test_only_bbr_is_started_anew(
    full: Full, runtime: Runtime, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(congestion, "congestion_of", lambda handle: "cubic")
    monkeypatch.setattr(congestion, "restart_bbr", lambda handle: pytest.fail("restarted"))
    gauge = LinkGauge(runtime, full)
    gauge.full()
    carry(full, clock, 10, 1000, round_trip=0.04)
    gauge.stop()
