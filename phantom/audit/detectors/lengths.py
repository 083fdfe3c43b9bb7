"""Lengths: of what clients say first, of their packets, and lengths written in the clear.

A stream that is framed by plaintext lengths can be followed from frame to frame; a random one
cannot.  The follower tries every place, width, byte order and constant, and asks whether one
and the same hypothesis holds in most of several connections.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from phantom.audit.flows import Flow, cut, spoken
from phantom.audit.verdict import Rule, Verdict

#: A hypothesis counts when it holds in this share of at least so many connections, each
#: followed over at least so many frames (CENSOR.md, section 2).
SUPPORT = 0.8
LEAST_FLOWS = 8
LEAST_FRAMES = 3
#: Connections looked at; more add time and no certainty.
MOST_FLOWS = 16
#: Bytes of a frame that may stand before its length.
MOST_OFFSET = 12
#: No known protocol has longer frames under a length in the clear.
LONGEST_FRAME = 65_600
#: What lengths of the kind "length of what follows" leave out besides the length itself:
#: nothing, small heads, and the tags of the usual ciphers.
_BESIDES = (0, 1, 2, 4, 8, 12, 16, 32)

#: Share of connections whose packet lengths must vary with a field for a finding.
ALIGNED = 0.6

RULE = Rule(
    detector="length-prefix",
    threshold=f"no hypothesis followed in {SUPPORT:.0%} of at least {LEAST_FLOWS} connections",
    source="length-prefix follower; cf. Fenske and Johnson, 2023",
)

FIRST_RULE = Rule(
    detector="first-length",
    threshold="no first length in 20 % of connections or more",
    source="first messages of one length; Alice et al., IMC 2020",
)

PACKETS_RULE = Rule(
    detector="client-packets",
    threshold="under 5 % of connections match",
    source="three client packets of 411 bytes or more, Russia 2024 (community report)",
)

#: Shares of `FIRST_RULE` and `PACKETS_RULE`, and the latter's size and number.
_FIRST_SHARE, _PACKETS_SHARE, _BIG, _BIG_PACKETS = 0.2, 0.05, 411, 3
#: First lengths say something from so many connections on.
_FIRST_LEAST = 20


class Hypothesis(NamedTuple):
    """Where the length stands, and what it counts.

    Attributes:
        offset: Bytes of the frame before it.
        width: Its bytes.
        order: Its byte order.
        more: Bytes of the frame that it does not count.
    """

    offset: int
    width: int
    order: Literal["big", "little"]
    more: int


def follow(stream: bytes, guess: Hypothesis) -> int:
    """Return how many frames a guess explains, 0 when they do not end where the stream does."""
    size = len(stream)
    start, end = guess.offset, guess.offset + guess.width
    offset = frames = 0
    while offset < size:
        if offset + end > size:
            return 0
        step = int.from_bytes(stream[offset + start : offset + end], guess.order) + guess.more
        if step < end or step > LONGEST_FRAME:
            return 0
        offset += step
        frames += 1
    return frames if offset == size else 0


def _hypotheses() -> list[Hypothesis]:
    orders: tuple[Literal["big", "little"], ...] = ("big", "little")
    return [
        Hypothesis(offset, width, order, more)
        for offset in range(MOST_OFFSET + 1)
        for width in (2, 3, 4)
        for order in orders
        for more in sorted({0, *(offset + width + besides for besides in _BESIDES)})
    ]


def followed(streams: Sequence[bytes], least: int = LEAST_FLOWS) -> tuple[Hypothesis, float] | None:
    """Return the hypothesis that most streams support, and their share; None without any."""
    streams = [stream for stream in streams if len(stream) > 16][:MOST_FLOWS]
    if len(streams) < least:
        return None
    allowed = len(streams) - SUPPORT * len(streams)
    best: tuple[Hypothesis, float] | None = None
    for guess in _hypotheses():
        misses = 0
        for stream in streams:
            if follow(stream, guess) < LEAST_FRAMES:
                misses += 1
                if misses > allowed:
                    break
        else:
            share = 1 - misses / len(streams)
            if best is None or share > best[1]:
                best = guess, share
    return best


def aligned(packets: Sequence[bytes]) -> tuple[Hypothesis, float] | None:
    """Return a field that tells the packets' lengths up to a constant, and how often."""
    packets = [packet for packet in packets if len(packet) > 16]
    if len({len(packet) for packet in packets}) < 6:
        return None  # nearly constant lengths follow any constant field
    for guess in _hypotheses():
        if guess.more:
            continue
        end = guess.offset + guess.width
        found = Counter(
            len(packet) - int.from_bytes(packet[guess.offset : end], guess.order)
            for packet in packets
        )
        more, count = found.most_common(1)[0]
        if count / len(packets) >= ALIGNED and 0 <= more < 512:
            return guess._replace(more=more), count / len(packets)
    return None


def detect(flows: Iterable[Flow]) -> Verdict:
    """Follow the streams of every flow that is not TLS, each direction by itself."""
    spoken_flows = spoken(flows)
    plain = [flow for flow in spoken_flows if not flow.is_tls]
    if spoken_flows and not plain:
        return RULE.skip("TLS shows its records' lengths, as everywhere")
    talks = [flow for flow in plain if len(flow.segments) >= 5]
    if len(talks) < LEAST_FLOWS:
        return RULE.skip(f"{len(talks)} connections with enough in them")
    found = []
    for up in (True, False):
        hit = followed([flow.stream(up) for flow in talks]) or aligned(
            [piece for flow in talks[:MOST_FLOWS] for piece in flow.pieces(up)[1:]]
        )
        if hit is not None:
            guess, share = hit
            found.append(
                f"{'client' if up else 'server'}: {guess.width} bytes at {guess.offset}, "
                f"{guess.order} endian, plus {guess.more}, in {share:.0%}"
            )
    measured = f"{len(found)} followed in {min(len(talks), MOST_FLOWS)} connections"
    return RULE.judge(not found, measured, tuple(found))


def detect_first(flows: Iterable[Flow]) -> Verdict:
    """Tell whether what clients say first has lengths of its own.

    All of it counts, not the first packet: one that is full says only that more follows.
    """
    plain = [flow for flow in spoken(flows) if not flow.is_tls]
    if len(plain) < _FIRST_LEAST:
        return FIRST_RULE.skip("TLS" if not plain else f"{len(plain)} connections")
    lengths = Counter(len(flow.opening()) for flow in plain)
    length, count = lengths.most_common(1)[0]
    share = count / len(plain)
    return FIRST_RULE.judge(
        share < _FIRST_SHARE,
        f"{len(lengths)} lengths in {len(plain)}; {length} bytes in {share:.0%}",
    )


def detect_packets(flows: Iterable[Flow]) -> Verdict:
    """Count the connections in which the client sends several full packets early."""
    plain = [flow for flow in spoken(flows) if not flow.is_tls]
    talks = [flow for flow in plain if len(flow.segments) >= 3]
    if not talks:
        return PACKETS_RULE.skip("TLS" if not plain else "no connection with enough in it")
    share = sum(map(_three_big, talks)) / len(talks)
    return PACKETS_RULE.judge(share < _PACKETS_SHARE, f"{share:.0%} of {len(talks)} match")


def _three_big(flow: Flow) -> bool:
    big = answered = 0
    for segment in cut(flow.segments):
        if segment.up and len(segment.data) >= _BIG:
            big += 1
        elif not segment.up and 0 < big < _BIG_PACKETS:
            answered += 1
    return big >= _BIG_PACKETS and answered > 0
