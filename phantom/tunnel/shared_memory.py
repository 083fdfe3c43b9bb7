"""What the workers of one server have in common: tables in memory that all of them map.

The parent makes the memory before it forks; it is in no file, and gone with the last process.
Each use holds a lock of the POSIX kind: it belongs to the process, so that the descriptor may
be inherited, and the kernel frees that of a process which dies.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import mmap
import os
import struct
import sys
import tempfile
from collections.abc import Iterator

from phantom.core.claims import Claim, ClaimTable, client_place, table_size
from phantom.crypto.ratchet import STEP_SIZE, Step
from phantom.tunnel.post_quantum import EXCHANGES_PER_CLIENT, KEEP_EXCHANGE


def make_memory(size: int) -> int:
    """Return the descriptor of so many bytes of zeros, in memory where the system can."""
    if sys.platform == "linux":
        descriptor = os.memfd_create("phantom-workers", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, size)
    return descriptor


class _Shared:
    """Maps shared memory, and keeps the others out.

    Args:
        descriptor: From `make_memory`; stays the caller's.
        size: Its bytes.
    """

    def __init__(self, descriptor: int, size: int) -> None:
        self._descriptor = descriptor
        self._memory = mmap.mmap(descriptor, size)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        fcntl.lockf(self._descriptor, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN)


def make_claims() -> int:
    """Return the memory of an empty table of claims."""
    return make_memory(table_size())


class SharedClaims(_Shared):
    """Who holds which session.

    Args:
        descriptor: From `make_claims`; stays the caller's.
        incarnation: This process's; 0 for the parent, which claims nothing.

    Attributes:
        incarnation: This process's.
    """

    def __init__(self, descriptor: int, incarnation: int) -> None:
        super().__init__(descriptor, table_size())
        self.incarnation = incarnation
        self._table = ClaimTable(self._memory)

    def claim(self, client: bytes, session_id: bytes, most: int) -> Claim:
        """See `ClaimTable.claim`."""
        with self._locked():
            return self._table.claim(client, session_id, self.incarnation, most)

    def end(self, client: bytes, session_id: bytes) -> None:
        """See `ClaimTable.end`."""
        with self._locked():
            self._table.end(client, session_id)

    def owner(self, client: bytes, session_id: bytes) -> int:
        """Return the sibling that holds a session; 0 for none, or when it is this process."""
        with self._locked():
            owner = self._table.owner(client, session_id)
        return 0 if owner == self.incarnation else owner

    def elsewhere(self, client: bytes) -> list[int]:
        """Return the siblings that hold a client's sessions, one for each session."""
        with self._locked():
            owners = self._table.owners(client)
        return [owner for owner in owners if owner != self.incarnation]

    def bury(self, incarnation: int) -> int:
        """See `ClaimTable.bury`."""
        with self._locked():
            return self._table.bury(incarnation)


#: Places for exchanges: 64 a bucket, 4 a client; 5 MiB, of which only touched pages cost memory.
_BUCKETS = 1024
_PLACES = 64
#: Tag of the client (8) | when it ends, seconds (8) | the step used last, or the first one.
_PLACE = struct.Struct(f"<8sd{STEP_SIZE}s")
_BUCKET = _PLACES * _PLACE.size
_NOTHING = bytes(_PLACE.size)


def make_secrets() -> int:
    """Return the memory of a table of exchanges that is empty."""
    return make_memory(_BUCKETS * _BUCKET)


class SharedSecrets(_Shared):
    """What the workers share with their clients: `ServerSecrets` for several processes.

    A step is never older than what the clients may name, so of the two that a server knows
    only the first is kept, and the other made when it is wanted.

    Args:
        descriptor: From `make_secrets`; stays the caller's.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, _BUCKETS * _BUCKET)

    def find(self, client_key: bytes, name: bytes, now: float) -> Step | None:
        """See `phantom.tunnel.post_quantum.ServerSecrets.find`."""
        with self._locked():
            exchanges = self._exchanges(client_key, now)
        for _place, _until, first in exchanges:
            for step in (first, first.next()):
                if step.name == name:
                    return step
        return None

    def learned(self, client_key: bytes, first: Step, now: float) -> None:
        """See `phantom.tunnel.post_quantum.ServerSecrets.learned`."""
        tag, number = client_place(client_key, _BUCKETS)
        with self._locked():
            ends = []
            own = []
            for place in range(number * _BUCKET, (number + 1) * _BUCKET, _PLACE.size):
                whose, until, _step = _PLACE.unpack_from(self._memory, place)
                if 0.0 < until <= now:
                    self._erase(place)
                ends.append((until, place))
                if whose == tag and until > now:
                    own.append((until, place))
            # The client's oldest makes room, else a free place, or whatever ends soonest.
            _until, place = min(own if len(own) >= EXCHANGES_PER_CLIENT else ends)
            _PLACE.pack_into(self._memory, place, tag, now + KEEP_EXCHANGE, first.encode())

    def used(self, client_key: bytes, step: Step) -> None:
        """See `phantom.tunnel.post_quantum.ServerSecrets.used`."""
        tag, _number = client_place(client_key, _BUCKETS)
        with self._locked():
            for place, until, first in self._exchanges(client_key, -math.inf):
                if first.next() == step:
                    _PLACE.pack_into(self._memory, place, tag, until, step.encode())

    def _exchanges(self, client_key: bytes, now: float) -> list[tuple[int, float, Step]]:
        """Return a client's exchanges: where each is, when it ends, and its first step.

        Those that have ended by `now` are erased: nothing is to be had from them any more.
        """
        tag, number = client_place(client_key, _BUCKETS)
        bucket = bytes(self._memory[number * _BUCKET : (number + 1) * _BUCKET])
        found = []
        for index, (whose, until, step) in enumerate(_PLACE.iter_unpack(bucket)):
            place = number * _BUCKET + index * _PLACE.size
            if whose == tag and until <= now:
                self._erase(place)
            elif whose == tag:
                found.append((place, until, Step.decode(step)))
        return found

    def _erase(self, place: int) -> None:
        self._memory[place : place + _PLACE.size] = _NOTHING
