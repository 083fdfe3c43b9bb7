"""A model of two multiplexers joined by a pipe that delays and splits.

Whatever the order of opens, writes, pauses, half-closes and resets: what arrives is a
prefix of what was sent, and in the end equal to it unless the stream was reset; nothing is
buffered beyond what was granted; no stream leaks.
"""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    precondition,
    rule,
)
from hypothesis.stateful import run_state_machine_as_test as run_machine
from support.pipes import seeded_split, step
from support.tunnel import Joined, Recorder

from phantom.core.detached import DetachedLimits
from phantom.core.wire import Attach, FrameType, pack_frame
from phantom.tunnel.frame import FrameProtocol
from phantom.tunnel.frame_receiver import DeadEnd
from phantom.tunnel.mux import MuxLimits
from phantom.tunnel.stream import Stream

LIMITS = MuxLimits(max_streams=16, session_memory=1024 * 1024, window=128 * 1024)
SIZES = st.sampled_from([1, 100, 5_000, 20_000, 70_000, 300_000])


class Side:
    """One end of a stream, and what its application has done."""

    def __init__(self, stream: Stream, protocol: Recorder) -> None:
        self.stream = stream
        self.protocol = protocol
        self.sent = b""
        self.finished = False
        self.reset = False
        self.lost_writes = False


class Conversation:
    def __init__(self, number: int, client: Side) -> None:
        self.number = number
        self.client = client
        self.server: Side | None = None

    def sides(self) -> list[Side]:
        return [side for side in (self.client, self.server) if side is not None]


class Multiplexers(RuleBasedStateMachine):
    conversations = Bundle("conversations")

    @initialize(seed=st.integers(0, 2**32), delay=st.sampled_from([0.0, 0.02]))
    def start(self, seed: int, delay: float) -> None:
        self.joined = Joined(limits=LIMITS, delay=delay, split=seeded_split(seed))
        self.all: list[Conversation] = []
        self.joined.registry._detached_limits = DetachedLimits(timeout=1e9)
        self.counter = 0
        self.free = self.joined.mux._pool.free

    def settle(self, seconds: float) -> None:
        self.joined.run(seconds)
        for conversation in self.all:
            stream_id = conversation.client.stream.stream_id
            if conversation.server is None and stream_id in self.joined.server_protocols:
                protocol = self.joined.server_protocols[stream_id]
                stream = next(s for s, _ in self.joined.accepted if s.stream_id == stream_id)
                conversation.server = Side(stream, protocol)

    @rule(target=conversations, early=st.booleans())
    def open(self, early: bool) -> Conversation:
        if len(self.joined.mux.streams) >= LIMITS.max_streams:
            self.settle(1)
        if len(self.joined.mux.streams) >= LIMITS.max_streams:
            return self.all[0]
        stream, protocol = self.joined.open(early=early)
        conversation = Conversation(len(self.all), Side(stream, protocol))
        self.all.append(conversation)
        return conversation

    def pick(self, conversation: Conversation, server: bool) -> Side:
        return conversation.server if server and conversation.server else conversation.client

    @rule(conversation=conversations, server=st.booleans(), size=SIZES)
    def write(self, conversation: Conversation, server: bool, size: int) -> None:
        side = self.pick(conversation, server)
        if side.finished or side.reset or side.protocol.lost is not None:
            return
        self.counter += 1
        data = self.counter.to_bytes(4, "big") * (size // 4 + 1)
        side.stream.write(data)
        side.sent += data

    @rule(conversation=conversations, server=st.booleans())
    def half_close(self, conversation: Conversation, server: bool) -> None:
        side = self.pick(conversation, server)
        side.stream.loseWriteConnection()
        side.finished = True

    @rule(conversation=conversations, server=st.booleans(), pause=st.booleans())
    def pause(self, conversation: Conversation, server: bool, pause: bool) -> None:
        side = self.pick(conversation, server)
        if pause:
            side.stream.pauseProducing()
        else:
            side.stream.resumeProducing()

    @rule(conversation=consumes(conversations), server=st.booleans())
    def reset(self, conversation: Conversation, server: bool) -> None:
        side = self.pick(conversation, server)
        side.stream.abortConnection()
        side.reset = True

    @rule()
    def cut(self) -> None:
        """The link dies, with all that is in it."""
        self.joined.pipe.cut()

    @rule()
    def freeze(self) -> None:
        """The link swallows everything and says nothing."""
        self.joined.pipe.stall()

    @rule()
    def relink(self) -> None:
        """Another link comes, whether the one before still lives or not."""
        self.joined.relink()

    @rule(between=st.sampled_from([None, 0.0, 0.01, 0.03]))
    def relink_twice(self, between: float | None) -> None:
        """Two links are proposed, the first perhaps answered, perhaps on its way."""
        self.joined.relink()
        if between is not None:
            self.settle(between)
        self.joined.relink()

    @rule(carried=st.integers(0, 120), server=st.booleans())
    def cut_around_the_answer(self, carried: int, server: bool) -> None:
        """A new link dies after so many bytes: in an ATTACH, or just behind it."""
        self.joined.relink()
        pipe, clock = self.joined.pipe, self.joined.clock
        until = clock.seconds() + 1
        while pipe.carried[server] < carried and clock.seconds() < until and step(clock):
            pass
        pipe.cut()

    @rule(epoch=st.integers(0, 3))
    def replay(self, epoch: int) -> None:
        """An ATTACH from before comes again, by a link of the same client."""
        joined = self.joined
        attach = Attach(joined.session.session_id, joined.session.epoch - epoch, 0, 0, 0, 0)
        kept = joined.client_link, joined.server_link, joined.client_end, joined.server_end
        made: list[FrameProtocol] = []
        joined._link(made.append)
        made[0].receiver = DeadEnd()
        known = len(joined.registry) and joined.server_session.epoch
        if 0 <= attach.epoch <= known:
            made[0].send_record(pack_frame(FrameType.ATTACH, 0, attach.encode()))
        joined.client_link, joined.server_link, joined.client_end, joined.server_end = kept

    @rule()
    def wait_long(self) -> None:
        """Longer than any timer of a link, shorter than a session may be without one."""
        self.settle(50)

    @precondition(lambda self: self.all)
    @rule(seconds=st.sampled_from([0.0, 0.01, 0.05]))
    def wait(self, seconds: float) -> None:
        self.settle(seconds)

    @invariant()
    def delivered_is_a_prefix_of_sent(self) -> None:
        if not hasattr(self, "joined"):
            return
        assert not self.joined.ended, self.joined.ended
        for conversation in self.all:
            if conversation.server is None:
                continue
            for giver, taker in (
                (conversation.client, conversation.server),
                (conversation.server, conversation.client),
            ):
                assert giver.sent.startswith(taker.protocol.data)

    @invariant()
    def buffered_stays_within_the_memory(self) -> None:
        if not hasattr(self, "joined") or not len(self.joined.registry):
            return
        for mux in (self.joined.mux, self.joined.server_mux):
            live = [*mux.streams.values(), *mux.undelivered.values()]
            assert sum(s.window.buffered + s.window.outstanding for s in live) <= (
                LIMITS.session_memory + len(mux.undelivered) * 16 * 1024
            )

    def teardown(self) -> None:
        if not hasattr(self, "joined"):
            return
        self.joined.relink()
        self.settle(1)
        for conversation in self.all:
            for side in conversation.sides():
                side.stream.resumeProducing()
                if not side.finished:
                    side.stream.loseWriteConnection()
        self.settle(5)
        for conversation in self.all:
            sides = conversation.sides()
            broken = any(side.reset for side in sides)
            if len(sides) == 2 and not broken:
                client, server = sides
                assert server.protocol.data == client.sent
                assert client.protocol.data == server.sent
                assert client.protocol.clean and server.protocol.clean
        for mux in (self.joined.mux, self.joined.server_mux):
            assert not mux.streams and not mux.undelivered
            assert not any(s.queued for s in mux.streams.values())
            assert mux._pool.free == self.free
        assert self.joined.session._log.size == 0
        for session in (self.joined.session, self.joined.server_session):
            assert session.idle and session._log._block is None


def test_two_multiplexers_agree_whatever_happens() -> None:
    run_machine(
        Multiplexers, settings=settings(max_examples=150, stateful_step_count=30, deadline=None)
    )
