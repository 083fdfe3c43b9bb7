"""How much padding goes with what a link sends, and when: pure decisions.

The frame layer asks, by way of `phantom.tunnel.shaper`.  A censor that cannot read a link still
sees how much is said before the other side answers, and a TLS handshake inside one shows by that
(Xue et al., "Fingerprinting Obfuscated Proxy Traffic with Encapsulated TLS Handshakes", USENIX
Security 2024; nDPI's rule, `phantom.audit.detectors.inner_tls`).  Of the four bursts it looks at
only the client's are cheap to change.  The default therefore gives each of them one of two
sizes that no handshake has: some 270 to 350 bytes on the wire, or 3.4 KB and more; and what is
shorter leaves in four packets or more, which the rule passes over, also when nothing is left to
spend on padding (doc/adr/0019, doc/adr/0023).  The predecessor's strategies round or blur each
record by itself instead.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from enum import Enum
from itertools import pairwise
from typing import Protocol

import attrs

from phantom.core.session import SMALL_RECORD
from phantom.core.wire import HEADER_SIZE
from phantom.errors import RemoteProtocolError

#: ``draw(low, high)`` returns a random integer, both ends included.
Draw = Callable[[int, int], int]

#: Seconds without an answer within which two records still count as one burst.  Requests of one
#: page follow each other at once; an answer that is on its way separates what comes later.
ONE_BURST = 0.002
#: Records of at least this many bytes of plaintext are never padded: bulk data has the size of
#: bulk data, and joining padding to it would copy it.
BULK = 16 * 1024
#: Bytes of a block, and most random bytes, of the strategies with these names: as the
#: predecessor had them.
BLOCK = 256
MOST_RANDOM = 255
#: How many of a server's first records are blurred, and by how many bytes at most.  They would
#: be the same on every link (the answer to ATTACH, to the first streams, certificates); 2 KB in
#: all.
FIRST_ANSWERS = 12
MOST_BLUR = 300


#: Packets that nDPI's rule lets the first of its four bursts have, and one more: what leaves in so
#: many is passed over whatever its size, and whatever the path makes one burst of.
LEAST_PACKETS = 4
#: Bytes of a packet of the client's on bare TCP, at most: a rule seen in Russia in 2024 counts
#: those of 411 and more, with answers between.  Inside TLS any size will do.
PACKET = 400
#: How much the sizes of the pieces vary to either side, as a part of their mean.
UNEVEN = 0.3
#: Bytes of plaintext of which that makes `CROWD` packets: what is said at once, or in a
#: millisecond.
PACED = 2400
#: Packets in a row, with nothing heard of the peer between, after which what follows waits for a
#: millisecond where the kernel cannot be told to keep them apart: what goes beyond the congestion
#: window, ten packets at first, it joins to large ones.
CROWD = 8
#: Bytes that may leave in pieces, and how many are added a second if nothing does for more than
#: one; and the seconds, at least and at most, for which nothing is cut once they are used up: a
#: page takes some 80 KB.  An upload is thousands of large packets whatever is done, and must not
#: be slow: a window of so many packets carries four times as much in large ones.  It is not cut
#: anew before less than so many bytes a second are sent.
CUT_BURST, CUT_RATE, CUT_PAUSE = 160 * 1024, 32 * 1024, (1.0, 3.0)
#: Bytes that each stream adds to them when it opens: a browser's first words, a request, what
#: finishes a handshake, and their padding.
CUT_OPENING = 8 * 1024
#: Acknowledgements in a row, with nothing said between, after which they leave whole: who downloads
#: or listens says nothing else for hours, and no handshake has as many turns.
SILENT_ACKS = 50
#: Small packets of the client's on one link, in which something is said, after which nothing is
#: padded or cut in four any more; and how many each stream that opens adds, up to as many: there
#: may be a handshake in it.  nDPI stops at 25 packets, `phantom audit` looks at 1,000.  A keystroke
#: in four packets is lost four times as often, and costs as much more.
WATCHED_PACKETS, OPENING_PACKETS = 2000, 200
#: Bytes of the peer's after which what is said first is not padded either, in such a pause: it
#: acknowledges a download, thousands of times a second.  No flight of a handshake is as long.
AMID_BULK = 64 * 1024


class Padding(Enum):
    """The strategies, by the names that the configuration has for them."""

    DEFAULT = "default"
    NONE = "none"
    BLOCK = "block"
    RANDOM = "random"
    POWER_OF_TWO = "power-of-two"


@attrs.frozen(slots=True)
class Said:
    """What a policy is asked about.

    Attributes:
        size: Bytes of the record's plaintext.
        before: Bytes of the records that leave with it, in front of it.
        received: Bytes received on the link so far, parts of records included.
        now: Seconds on a clock that does not go back.
    """

    size: int
    before: int
    received: int
    now: float


class PaddingPolicy(Protocol):
    """What decides for one direction of one link."""

    @property
    def below(self) -> int:
        """Records of at least so many bytes of plaintext need not be asked about."""
        ...

    def pad(self, said: Said, draw: Draw) -> int:
        """Return the bytes of the PADDING frame to send with a record.

        Args:
            said: The record.
            draw: Randomness.

        Returns:
            0 for none, or at least a frame's header.
        """
        ...


def pieces(size: int, packets: int, most: int | None, draw: Draw) -> list[int]:
    """Return the sizes of all but the last of the pieces in which `size` bytes leave.

    Args:
        size: Bytes.
        packets: The least number of pieces.
        most: The most bytes of a piece, None for any.
        draw: Randomness.
    """
    if most is not None:
        packets = max(packets, math.ceil(size * (1 + UNEVEN) / most))
    mean = size / packets
    reach = int(mean * UNEVEN / 2)
    span = 2 * reach + 1
    ends: list[int] = []
    for first in range(1, packets, 3):
        # Three places by one number: each is a question to the kernel.
        number = draw(0, span**3 - 1)
        for place in range(first, min(first + 3, packets)):
            number, offset = divmod(number, span)
            ends.append(round(mean * place) + offset - reach)
    return [end - start for start, end in pairwise([0, *ends])]


def _at_least_header(wanted: int) -> int:
    """Return what a PADDING frame can have: nothing, or a header and more."""
    return wanted if wanted >= HEADER_SIZE else 0


_SCHEME = struct.Struct(">IHHHHHHI")
#: Most of `Scheme.share` and `Scheme.allowance` that a client lets a server ask for: a tenth of
#: the traffic, and a quarter of a megabyte a link.
MOST_SHARE = 100
MOST_ALLOWANCE = 256 * 1024


@attrs.frozen(slots=True, kw_only=True)
class Scheme:
    """The figures of the default strategy.  Sizes are bytes of plaintext.

    A record has 34 bytes more, and another 22 inside TLS; nDPI takes 24 off each packet.

    Attributes:
        version: 0 is what a client comes with; servers push higher ones.
        tiny_low: A burst that is shorter is filled up to this at least ...
        tiny_high: ... and to this at most.
        least: Up to so many bytes a burst counts as such a short one.
        low: A longer one is filled up to this at least, unless it is as long already ...
        high: ... and to this at most.
        share: What padding may make of all that was sent and received, in thousandths ...
        allowance: ... beyond so many bytes, which every link may spend.
    """

    version: int = 0
    tiny_low: int = 236
    tiny_high: int = 290
    least: int = 300
    low: int = 3420
    high: int = 3880
    share: int = 12
    allowance: int = 14 * 1024

    def problem(self) -> str | None:
        """Say what makes these figures unusable; None when nothing does."""
        if not 0 <= self.version <= 0xFFFFFFFF:
            return "the version is not a number of 32 bits"
        if not 0 <= self.tiny_low <= self.tiny_high <= self.least < self.low <= self.high:
            return "the sizes must rise: tiny, least, fill"
        if self.high > SMALL_RECORD:
            return f"no record may be filled up to more than {SMALL_RECORD} bytes"
        if not 0 <= self.share <= MOST_SHARE:
            return f"the share is at most {MOST_SHARE} thousandths"
        if not 0 <= self.allowance <= MOST_ALLOWANCE:
            return f"the allowance is at most {MOST_ALLOWANCE} bytes"
        return None

    def encode(self) -> bytes:
        """Return the payload of a SCHEME frame.

        Layout, 20 bytes, numbers big endian: version (4) | tiny low (2) | tiny high (2) |
        least (2) | low (2) | high (2) | share (2) | allowance (4).
        """
        return _SCHEME.pack(*attrs.astuple(self))

    @classmethod
    def decode(cls, payload: bytes | memoryview) -> Scheme:
        """Parse a payload; bytes behind the known ones are a later version's.

        Raises:
            RemoteProtocolError: It is cut short, or its figures are out of bounds.
        """
        if len(payload) < _SCHEME.size:
            raise RemoteProtocolError("a padding scheme is cut short")
        names = (field.name for field in attrs.fields(cls))
        scheme = cls(**dict(zip(names, _SCHEME.unpack_from(payload), strict=True)))
        problem = scheme.problem()
        if problem is not None:
            raise RemoteProtocolError(f"a padding scheme that cannot be: {problem}")
        return scheme


class BurstPadding:
    """The client's default: see the module.

    What it spends is bounded by what the link carries, so it never needs to be told when a
    page is over or a download has begun.

    Args:
        scheme: Its figures.

    Attributes:
        spent: Bytes of padding so far.
    """

    __slots__ = ("_burst", "_heard", "_scheme", "_sent", "_since", "below", "spent")

    def __init__(self, scheme: Scheme) -> None:
        self._scheme = scheme
        self._burst = 0
        self._heard = -1
        self._since = 0.0
        self._sent = 0
        self.spent = 0
        self.below = scheme.low

    def pad(self, said: Said, draw: Draw) -> int:
        """See `PaddingPolicy`."""
        scheme = self._scheme
        if said.received != self._heard or said.now - self._since > ONE_BURST:
            self._burst = 0
        self._heard = said.received
        self._since = said.now
        size = said.before + said.size
        self._burst += size
        self._sent += size
        if self._burst <= scheme.least:
            low, high = scheme.tiny_low, scheme.tiny_high
        elif self._burst < scheme.low:
            low, high = scheme.low, scheme.high
        else:
            return 0
        allowed = scheme.allowance + (self._sent + said.received) * scheme.share // 1000
        if self.spent + low - self._burst > allowed:
            return 0  # most often, on a link that is no longer new: ask for no randomness then
        wanted = _at_least_header(draw(low, high) - self._burst)
        if self.spent + wanted > allowed:
            return 0
        self.spent += wanted
        self._burst += wanted
        return wanted


class FirstAnswers:
    """The server's default: blurs the sizes of its first records.

    Filling a server's bursts as well would cost 10 % of a page (CENSOR.md, section 4), and the
    rule passes over four bursts when the client's alone are no handshake's.
    """

    __slots__ = ("_left", "below")

    def __init__(self) -> None:
        self._left = FIRST_ANSWERS
        self.below = BULK

    def pad(self, said: Said, draw: Draw) -> int:
        """See `PaddingPolicy`."""
        self._left -= 1
        if self._left <= 0:
            self.below = 0  # not asked any more
        return _at_least_header(draw(0, MOST_BLUR))


class BlockPadding:
    """Fills records up to whole blocks."""

    below = BULK

    def pad(self, said: Said, draw: Draw) -> int:
        """See `PaddingPolicy`."""
        wanted = -said.size % BLOCK
        return wanted + BLOCK if 0 < wanted < HEADER_SIZE else wanted


class RandomPadding:
    """Adds up to `MOST_RANDOM` bytes to each record."""

    below = BULK

    def pad(self, said: Said, draw: Draw) -> int:
        """See `PaddingPolicy`."""
        return HEADER_SIZE + draw(0, MOST_RANDOM)


class PowerPadding:
    """Fills records up to the next power of two."""

    below = BULK

    def pad(self, said: Said, draw: Draw) -> int:
        """See `PaddingPolicy`."""
        wanted = (1 << (said.size - 1).bit_length()) - said.size
        if 0 < wanted < HEADER_SIZE:
            wanted += 1 << said.size.bit_length()
        return wanted


def padding_policy(padding: Padding, *, client: bool, scheme: Scheme) -> PaddingPolicy | None:
    """Return the policy for one link, None for no padding.

    Args:
        padding: The strategy.
        client: Which side sends.
        scheme: The figures of the client's default.
    """
    if padding is Padding.NONE:
        return None
    if padding is Padding.DEFAULT:
        return BurstPadding(scheme) if client else FirstAnswers()
    others: dict[Padding, type[BlockPadding | RandomPadding | PowerPadding]] = {
        Padding.BLOCK: BlockPadding,
        Padding.RANDOM: RandomPadding,
        Padding.POWER_OF_TWO: PowerPadding,
    }
    return others[padding]()


class Timing(Enum):
    """How much the times of what is sent are blurred, by the configuration's names."""

    OFF = "off"
    DEFAULT = "default"
    AGGRESSIVE = "aggressive"


@attrs.frozen(slots=True, kw_only=True)
class Delays:
    """What timing obfuscation does.

    Attributes:
        most: Seconds a small record is held back at most.
        below: Bytes of plaintext from which on a record is not small.
        idle: Seconds of silence, at least and at most, after which cover traffic is sent.
        cover: Its bytes of plaintext, at least and at most.
    """

    most: float
    below: int
    idle: tuple[float, float]
    cover: tuple[int, int]


#: Twenty milliseconds are what a keystroke's way across a country varies by, and sixty what
#: somebody who types begins to notice.  Cover traffic: 130 bytes a second, and a kilobyte.
DELAYS = {
    Timing.DEFAULT: Delays(most=0.02, below=1400, idle=(2.0, 8.0), cover=(60, 1200)),
    Timing.AGGRESSIVE: Delays(most=0.06, below=1400, idle=(0.2, 1.5), cover=(60, 1800)),
}
#: Bytes held back after which all of them leave at once.
MOST_HELD = 8 * 1024
