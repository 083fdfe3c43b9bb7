"""Sessions in one worker, their links in another: in memory, on a clock of the test's."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.keys import CLIENT_PUBLIC, SERVER, SERVER_PUBLIC
from support.pipes import Pipe, Split, byte_by_byte, join, seeded_split, step, whole
from support.stack import NoReplays, Stack
from support.tunnel import SOMEWHERE, Recorder
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionRefusedError
from twisted.python.failure import Failure

from phantom.core.claims import Claim, ClaimTable, table_size
from phantom.core.handover import Message, encode
from phantom.core.handshake import Mode
from phantom.core.wire import Attach, FrameType, pack_frame
from phantom.inbound.tunnel import Gate, TunnelFactory, stream_acceptor
from phantom.tunnel.frame import FrameProtocol
from phantom.tunnel.handover import BorneLink, Connect, Junction, LinkBearer, first_attach
from phantom.tunnel.mux import MuxLimits
from phantom.tunnel.registry import SessionRegistry

MIB = 1024 * 1024


class Worker:
    """One worker of a group; also what its registry knows of the others."""

    def __init__(self, group: Group, incarnation: int) -> None:
        stack = group.stack
        self.group, self.incarnation = group, incarnation
        self.locals: list[Pipe] = []
        self.bearers: set[LinkBearer] = set()
        self.reachable = True
        self.registry = SessionRegistry(
            stack.runtime,
            MuxLimits(),
            max_links=group.max_links,
            acceptor=stream_acceptor(lambda key: stack.destinations, stack.runtime),
            attach_timeout=10,
            meters=stack.meters,
            others=self,
        )
        self.factory = TunnelFactory(
            stack.runtime,
            self.registry,
            Gate(frozenset({CLIENT_PUBLIC}), NoReplays(), stack.runtime, stack.meters),
            private_key=SERVER,
            public_key=SERVER_PUBLIC,
            mode=Mode.BARE,
            stranger=stack.strangers,
            drain=stack.drain,
            handshake_timeout=10,
            keepalive=20,
            admission=stack.admission,
            meters=stack.meters,
            instance=b"G" * 16,
            junction=self.junction,
        )

    def junction(self, frames: FrameProtocol) -> Junction:
        return Junction(self.group.stack.runtime, frames, self.route, self.bearer_changed)

    def bearer_changed(self, bearer: LinkBearer, carried: bool) -> None:
        (self.bearers.add if carried else self.bearers.remove)(bearer)

    def borne(self) -> BorneLink:
        runtime = self.group.stack.runtime
        return BorneLink(
            runtime,
            lambda: FrameProtocol(runtime, self.registry.receive(), 20),
            self.registry.give_way,
            lambda transport: True,
        )

    def route(self, client: bytes, session_id: bytes) -> Connect | None:
        owner = self.group.claims.owner(client, session_id)
        if not owner or owner == self.incarnation:
            return None
        return lambda protocol: self.connect(owner, protocol)

    def connect(self, owner: int, protocol: Any) -> Deferred[Any]:
        worker = self.group.workers.get(owner)
        if worker is None or not worker.reachable:
            return fail(ConnectionRefusedError())
        pipe = join(self.group.stack.clock, protocol, worker.borne(), split=self.group.split)
        self.locals.append(pipe)
        return succeed(protocol)

    # -- OtherWorkers

    def claim(self, client: bytes, session_id: bytes, most: int) -> Claim:
        return self.group.claims.claim(client, session_id, self.incarnation, most)

    def end(self, client: bytes, session_id: bytes) -> None:
        self.group.claims.end(client, session_id)

    def count_elsewhere(self, client: bytes) -> int:
        return sum(owner != self.incarnation for owner in self.group.claims.owners(client))

    def ask_for_room(self, client: bytes) -> None:
        for owner in set(self.group.claims.owners(client)) - {self.incarnation}:
            self.connect(owner, Request(encode(Message.ROOM, client)))


class Request:
    """Says one thing and listens."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.received = b""
        self.lost: Failure | None = None

    def makeConnection(self, transport: Any) -> None:
        self.transport = transport
        transport.write(self.data)

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Failure) -> None:
        self.lost = reason


class Group:
    """A client and a server of two workers; links go to whichever the test says."""

    def __init__(self, *, split: Split = whole, max_links: int = 4, start: bool = True) -> None:
        self.stack = Stack()
        self.claims = ClaimTable(bytearray(table_size(1)), 1)
        self.split, self.max_links = split, max_links
        self.workers: dict[int, Worker] = {}
        self.start(1)
        self.start(2)
        self.accept(1)
        if start:
            self.stack.dialer.start()
            self.stack.run()

    def start(self, incarnation: int) -> None:
        self.workers[incarnation] = Worker(self, incarnation)

    def accept(self, incarnation: int) -> None:
        """Let that worker accept the next links."""
        self.stack.factory = self.workers[incarnation].factory

    def cut(self, *, accept: int) -> None:
        self.accept(accept)
        self.stack.pipes[-1].cut()

    def crash(self, incarnation: int) -> None:
        """A worker is gone, with all its sockets; the parent notices."""
        worker = self.workers.pop(incarnation)
        for session, _mux in list(worker.registry._sessions.values()):
            # No word to anybody: it cannot.
            if session.link is not None:
                session.link.connected = False
        worker.registry._others = None
        self.claims.bury(incarnation)
        for pipe in (*self.stack.pipes, *worker.locals):
            pipe.cut()

    def connected(self) -> Recorder:
        protocol = Recorder()
        self.stack.outbound.connect(SOMEWHERE, protocol)
        self.stack.run()
        assert protocol.transport is not None
        return protocol

    @property
    def sessions(self) -> list[int]:
        return [len(worker.registry) for worker in self.workers.values()]


def numbered(size: int) -> bytes:
    return b"".join(i.to_bytes(4, "big") for i in range(size // 4))


@pytest.mark.parametrize("split", [whole, seeded_split(5)], ids=["whole", "cut"])
def test_a_transfer_whose_links_come_anywhere(split: Split) -> None:
    group = Group(split=split)
    stack = group.stack
    protocol = group.connected()
    data = numbered(2 * MIB)
    piece = 64 * 1024
    for number, start in enumerate(range(0, len(data), piece)):
        protocol.transport.write(data[start : start + piece])
        stack.run(0.12)
        if number % 4 == 0:
            group.cut(accept=2 if number % 8 else 1)
    stack.run(5)
    assert stack.destinations.transports[0].received == data
    assert protocol.data == data
    assert group.sessions == [1, 0]
    assert len(group.workers[2].locals) == 4
    assert len(group.workers[2].bearers) == 1


@settings(max_examples=25)
@given(
    cuts=st.lists(st.tuples(st.floats(0.0, 0.4), st.integers(1, 2)), min_size=1, max_size=10),
    seed=st.integers(0, 999),
)
@example(cuts=[(0.0, 1), (0.15, 1)], seed=0)
def test_whenever_it_is_cut_everything_arrives_once(
    cuts: list[tuple[float, int]], seed: int
) -> None:
    group = Group(split=seeded_split(seed))
    stack = group.stack
    protocol = group.connected()
    data = numbered(300_000)
    protocol.transport.write(data)
    for pause, accept in cuts:
        stack.run(pause)
        group.cut(accept=accept)
    stack.run_until(lambda: len(protocol.data) >= len(data))
    assert protocol.data == data == stack.destinations.transports[0].received
    assert group.sessions == [1, 0]


def test_links_for_others_are_left_when_they_end() -> None:
    group = Group()
    stack = group.stack
    protocol = group.connected()
    group.cut(accept=2)
    stack.run()
    assert len(group.workers[2].bearers) == 1
    stack.dialer.stop()
    protocol.transport.loseConnection()
    stack.run(60)
    assert not group.workers[2].bearers
    assert group.sessions == [0, 0]
    local = group.workers[2].locals[-1]
    assert not local.left.connected and not local.right.connected
    assert not stack.clock.calls


def test_what_a_crashed_worker_had_is_lost_and_not_done_again() -> None:
    """The client has heard of nothing, so its numbers are those of a session that begins."""
    group = Group(start=False)
    stack = group.stack
    protocol = Recorder()
    connecting = stack.outbound.connect(SOMEWHERE, protocol)
    failures: list[Failure] = []
    connecting.addErrback(failures.append)
    stack.dialer.start()
    while not stack.destinations.asked:
        assert step(stack.clock)
    session = stack.dialer._session
    assert session is not None and session.progress == 0
    group.crash(1)
    group.start(3)
    group.accept(2)
    stack.run(5)
    assert stack.meters.counts["session.refused.session_lost"] == 1
    assert failures or protocol.lost is not None
    assert len(stack.destinations.asked) == 1
    # A new session has begun in its place, and works.
    assert group.sessions == [1, 0]
    again = group.connected()
    again.transport.write(b"hello")
    stack.run()
    assert again.data == b"hello"


def test_a_crash_of_the_owner_ends_the_link_elsewhere() -> None:
    group = Group()
    stack = group.stack
    protocol = group.connected()
    group.cut(accept=2)
    stack.run()
    assert group.workers[2].bearers
    worker = group.workers.pop(1)
    group.claims.bury(1)
    for pipe in group.workers[2].locals:
        pipe.cut()
    stack.run(5)
    assert protocol.lost is not None
    assert not group.workers[2].bearers
    assert group.sessions == [1]
    worker.registry._others = None


def test_an_owner_that_cannot_be_reached_for_a_moment() -> None:
    group = Group()
    stack = group.stack
    protocol = group.connected()
    protocol.transport.write(b"one")
    group.workers[1].reachable = False
    group.cut(accept=2)
    stack.run(3)
    assert stack.dialer.mux is None
    group.workers[1].reachable = True
    stack.run(10)
    protocol.transport.write(b"two")
    stack.run()
    assert protocol.data == b"onetwo"
    assert group.sessions == [1, 0]


def test_a_limit_counts_in_all_workers() -> None:
    """A session without a link gives way, in whichever worker it is."""
    group = Group(max_links=2)
    stack = group.stack
    for number in range(2):
        stack.run()
        # The client's program is killed and started again: nobody says goodbye.
        stack.dialer._running = False
        stack.pipes[-1].cut()
        group.accept(1 + number % 2)
        stack.start_client()
        stack.dialer.start()
        stack.run(20)
        assert sum(group.sessions) == 2
        assert stack.dialer.mux is not None
    assert group.connected()


def stalled(split: Split) -> tuple[Group, Recorder, Pipe, Pipe]:
    group = Group(split=split)
    stack = group.stack
    protocol = group.connected()
    group.cut(accept=2)
    stack.run()
    return group, protocol, stack.pipes[-1], group.workers[2].locals[-1]


def test_a_slow_client_holds_up_its_own_link_only() -> None:
    group, protocol, link, local = stalled(whole)
    stack = group.stack
    destination = stack.destinations.transports[0]
    # The client takes nothing any more: what the server sends fills link and local socket.
    link.left.pauseProducing()
    for _ in range(64):
        destination.protocol.dataReceived(bytes(64 * 1024))
        stack.run(0.05)
    session = next(iter(group.workers[1].registry._sessions.values()))[0]
    assert session.link is not None and session.link.congested
    # Each hop holds a socket's worth and a few records, no more.
    assert len(local.right._out.unsent) < 300_000
    assert len(link.right._out.unsent) < 300_000
    link.left.resumeProducing()
    stack.run(20)
    assert len(protocol.data) == 64 * 64 * 1024


def test_a_slow_owner_holds_up_its_own_link_only() -> None:
    group, protocol, link, local = stalled(whole)
    stack = group.stack
    others = [Recorder() for _ in range(16)]
    for other in others:
        stack.outbound.connect(SOMEWHERE, other)
    stack.run()
    local.right.pauseProducing()
    for other in (protocol, *others):
        other.transport.write(bytes(MIB // 4))
    stack.run(0.5)
    assert len(local.left._out.unsent) < 300_000
    assert link.right.connected and not link.right._reading
    local.right.resumeProducing()
    stack.run(20)
    assert all(len(other.data) == MIB // 4 for other in (protocol, *others))


def test_a_record_that_takes_long_is_a_sign_of_life() -> None:
    group, protocol, link, _local = stalled(whole)
    stack = group.stack
    session = next(iter(group.workers[1].registry._sessions.values()))[0]
    assert session.link is not None
    before = session.link.received
    way = link.right._in
    way.capacity, way.delay = 500, 1.0  # 500 bytes a second
    protocol.transport.write(bytes(4000))
    stack.run(2.5)
    assert before < session.link.received
    stack.run(60)
    assert len(protocol.data) == 4000
    assert stack.meters.counts["session.detached"] == 1  # by the test's own cut


# -- records and messages ---------------------------------------------------------------------

ATTACH = pack_frame(FrameType.ATTACH, 0, Attach(b"I" * 16, 1, 0, 0, 0, 0).encode())
PADDING = pack_frame(FrameType.PADDING, 0, b"x" * 20)


@pytest.mark.parametrize(
    ("record", "found"),
    [
        (ATTACH, True),
        (PADDING + ATTACH, True),
        (pack_frame(FrameType.PING, 0, b"12345678") + ATTACH + PADDING, True),
        (PADDING, False),
        (b"", False),
        (ATTACH[:-1], False),
        (pack_frame(FrameType.ACK, 0, bytes(8)) + ATTACH, False),
        (pack_frame(FrameType.ATTACH, 0, b"short"), False),
    ],
)
def test_the_first_attach(record: bytes, found: bool) -> None:
    assert (first_attach(record) is not None) is found


@given(st.binary(max_size=200))
def test_any_record_has_an_attach_or_has_none(record: bytes) -> None:
    first_attach(record)


def visit(group: Group, data: bytes, split: Split = whole) -> Request:
    request = Request(data)
    join(group.stack.clock, request, group.workers[1].borne(), split=split)
    group.stack.run(0.1)
    return request


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        encode(Message.RECORD, b"x"),
        encode(Message.LINK, CLIENT_PUBLIC) + encode(Message.LOSE),
        encode(Message.LINK, CLIENT_PUBLIC) + encode(Message.LINK, CLIENT_PUBLIC),
        encode(Message.LINK, CLIENT_PUBLIC) + encode(Message.RECORD, b"\0" * 5),
    ],
)
def test_who_breaks_the_rules_is_left(data: bytes) -> None:
    group = Group()
    assert visit(group, data, byte_by_byte).lost is not None
    assert group.sessions == [1, 0]


def test_who_says_nothing_is_left() -> None:
    group = Group()
    request = visit(group, b"")
    assert request.lost is None
    group.stack.run(6)
    assert request.lost is not None


@given(st.binary(max_size=120))
@settings(max_examples=50)
def test_random_bytes_end_the_connection_and_nothing_else(data: bytes) -> None:
    runtime = Stack().runtime
    worker_clock: Any = runtime.clock
    borne = BorneLink(runtime, lambda: pytest.fail("a link"), lambda key: None, lambda _: True)
    request = Request(data)
    join(worker_clock, request, borne)
    worker_clock.advance(0)


def test_another_users_process_is_turned_away() -> None:
    group = Group()
    runtime = group.stack.runtime
    borne = BorneLink(
        runtime, lambda: pytest.fail("a link"), lambda key: None, lambda transport: False
    )
    request = Request(encode(Message.LINK, CLIENT_PUBLIC))
    join(group.stack.clock, request, borne)
    group.stack.run(0.1)
    assert request.lost is not None
