"""Which endpoint to dial first: what worked last on this network, with hysteresis.

An endpoint that fails a few times in a row is *demoted*: it is tried after all others, and
only now and then.  One success promotes it again.  Between the two nothing changes places,
so that a single lost SYN does not send a client from host to host.

Time is wall time, because what is remembered outlives the process; a clock that was set back
is borne.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs

#: Failures in a row that demote: one or two happen on any bad network.
DEMOTE_AFTER = 3
#: A link that lived for less than this many seconds counts as a failure: some censors let the
#: handshake pass and freeze what comes after it.
SHORT_LIFE = 30.0
#: Seconds until a demoted endpoint is tried again, after the first demotion and at most.
#: A block lasts for hours; a server that restarts comes back in a minute.
RETRY_FIRST = 60.0
RETRY_LONGEST = 3600.0
#: Seconds between the starts of attempts that race, at least and at most: longer than most
#: handshakes take (2 round trips), so that an honest first one wins; jittered, so that no
#: two connects with a fixed distance mark a client.
STAGGER = (1.0, 2.0)
#: The same when the first one worked when last heard of: it deserves a lost SYN's patience
#: (RFC 6298 retransmits after 1 and 3 s).
PATIENT_STAGGER = (4.0, 6.0)
#: Networks that are remembered, and endpoints on each; the least recently used give way.
MAX_NETWORKS = 16
MAX_ENDPOINTS = 64
#: Longest name of a network or an endpoint that is read back from a file.
MAX_NAME = 512
#: No wall clock shows more: what a file claims beyond is nonsense.
_MAX_TIME = 1e11


@attrs.define(slots=True)
class Record:
    """What is known of one endpoint on one network.

    Attributes:
        failures: Attempts that failed since the last success.
        short_lives: Links in a row that died young.
        demotions: Times it was demoted since it last lived long.
        retry_at: When a demoted one may be tried again.
        worked_at: When it last worked; 0 never.
    """

    failures: int = 0
    short_lives: int = 0
    demotions: int = 0
    retry_at: float = 0.0
    worked_at: float = 0.0

    @property
    def demoted(self) -> bool:
        """Whether it is out of favour."""
        return self.failures >= DEMOTE_AFTER or self.short_lives >= DEMOTE_AFTER


@attrs.frozen(slots=True)
class Plan:
    """How to dial.

    Attributes:
        order: Endpoints, the one to try first first; all of them due.
        unsure: Whether the first one is no safe bet, and the race is on.
        stagger: Seconds between the starts of two attempts.  A failure starts the next at
            once.
    """

    order: tuple[str, ...]
    unsure: bool
    stagger: float


class EndpointChoice:
    """What worked where."""

    def __init__(self) -> None:
        # Both levels in the order of their use, the least recent first.
        self._networks: dict[str, dict[str, Record]] = {}

    # -- choosing -------------------------------------------------------------------------

    def plan(
        self,
        endpoints: Sequence[str],
        network: str,
        now: float,
        random: float,
        *,
        hurry: bool = False,
    ) -> Plan:
        """Return the order for one attempt.

        Args:
            endpoints: Those that come into question, the operator's favourite first.
            network: Where the machine is.
            now: Wall time in seconds.
            random: From 0 to 1.
            hurry: Streams wait: race even when sure.
        """
        here = self._networks.get(network, {})
        unknown = Record()
        records = {name: here.get(name, unknown) for name in dict.fromkeys(endpoints)}
        elsewhere = {name: self._worked_anywhere(name) for name in records}

        # sorted() is stable: among equals the operator's order stays.
        def rank(name: str) -> tuple[float, float]:
            return -records[name].worked_at, -elsewhere[name]

        healthy = sorted((name for name in records if not records[name].demoted), key=rank)
        demoted = sorted((name for name in records if records[name].demoted), key=rank)
        due = [name for name in demoted if self._is_due(records[name], now)]
        # When nothing is in favour everything is tried: the client never gives up.
        order = healthy + due if healthy else due + [n for n in demoted if n not in due]
        first = records[order[0]] if order else unknown
        unsure = hurry or not first.worked_at or bool(first.failures or first.short_lives)
        low, high = STAGGER if unsure else PATIENT_STAGGER
        return Plan(tuple(order), unsure, low + (high - low) * random)

    @staticmethod
    def _is_due(record: Record, now: float) -> bool:
        # A retry further off than any can be was written by a clock that has been set back.
        return now >= record.retry_at or record.retry_at > now + RETRY_LONGEST

    def _worked_anywhere(self, name: str) -> float:
        records = (network.get(name) for network in self._networks.values())
        return max((record.worked_at for record in records if record is not None), default=0.0)

    # -- learning -------------------------------------------------------------------------

    def worked(self, endpoint: str, network: str, now: float) -> None:
        """A link came about: all failed attempts are forgiven."""
        record = self._record(endpoint, network)
        record.failures = 0
        record.worked_at = now

    def failed(self, endpoint: str, network: str, now: float, random: float) -> None:
        """An attempt came to nothing."""
        record = self._record(endpoint, network)
        record.failures = min(record.failures + 1, DEMOTE_AFTER)
        self._demote(record, now, random)

    def lost(self, endpoint: str, network: str, lived: float, now: float, random: float) -> None:
        """A link that had come about was lost.

        Args:
            endpoint: Which one it led to.
            network: Where the machine was when it came about.
            lived: Seconds it lasted.
            now: Wall time in seconds.
            random: From 0 to 1.
        """
        record = self._record(endpoint, network)
        if lived >= SHORT_LIFE:
            record.short_lives = record.demotions = 0
        else:
            record.short_lives = min(record.short_lives + 1, DEMOTE_AFTER)
            self._demote(record, now, random)

    @staticmethod
    def _demote(record: Record, now: float, random: float) -> None:
        """Put off the next try of one that has failed too often, longer each time."""
        if record.demoted:
            wait = min(RETRY_LONGEST, RETRY_FIRST * 2.0 ** min(record.demotions, 16))
            record.demotions = min(record.demotions + 1, 16)
            record.retry_at = now + wait * (0.5 + 0.5 * random)

    def _record(self, endpoint: str, network: str) -> Record:
        """Return the record, made if need be, as the most recently used one."""
        here = self._networks.pop(network, {})
        self._networks[network] = here
        record = here.pop(endpoint, None) or Record()
        here[endpoint] = record
        for table, most in ((self._networks, MAX_NETWORKS), (here, MAX_ENDPOINTS)):
            if len(table) > most:
                table.pop(next(iter(table)))
        return record

    # -- remembering ----------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """Return everything as what `json.dumps` takes."""
        return {
            network: {name: list(attrs.astuple(record)) for name, record in here.items()}
            for network, here in self._networks.items()
        }

    @classmethod
    def from_json(cls, value: object) -> EndpointChoice:
        """Read what `to_json` made.

        Raises:
            ValueError: It is nothing of the kind.
        """
        choice = cls()
        for network, here in _items(value, MAX_NETWORKS):
            choice._networks[network] = {
                name: _record_from(fields) for name, fields in _items(here, MAX_ENDPOINTS)
            }
        return choice


def _items(value: object, most: int) -> list[tuple[str, object]]:
    if not isinstance(value, dict) or len(value) > most:
        raise ValueError("no table, or too long a one")
    if any(not isinstance(name, str) or len(name) > MAX_NAME for name in value):
        raise ValueError("no name")
    return list(value.items())


def _record_from(fields: object) -> Record:
    if not isinstance(fields, list) or len(fields) != 5:
        raise ValueError("no record")
    counts, times = fields[:3], fields[3:]
    for number, high in (*((c, 16) for c in counts), *((t, _MAX_TIME) for t in times)):
        whole = isinstance(number, int) and not isinstance(number, bool)
        # A NaN fails both comparisons.
        if not (whole or (high == _MAX_TIME and isinstance(number, float))):
            raise ValueError("no number")
        if not 0 <= number <= high:
            raise ValueError("a number out of range")
    failures, short_lives, demotions = counts
    return Record(failures, short_lives, demotions, float(times[0]), float(times[1]))
