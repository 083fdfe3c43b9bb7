"""What the client knows of its server's endpoints, and which of them to dial next.

There are two sources: the client's own file, and the list that the server has signed with
its identity.  The list takes the place of the file, and a host whose key is not in it is not
trusted any more; but a file that was changed after the list came is the user's last word and
goes first, until the server confirms its list again.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address, ip_network

import attrs
from twisted.internet.interfaces import IDelayedCall

from phantom.core.budget import TokenBucket
from phantom.core.endpoint_choice import Plan
from phantom.core.endpoint_list import EndpointList, ServerEndpoint
from phantom.crypto.identity import verify
from phantom.errors import HandshakeError, RemoteProtocolError
from phantom.runtime import Runtime
from phantom.telemetry import Meters, make_logger
from phantom.tunnel.endpoint_memory import Memory, MemoryFile, fingerprint

log = make_logger()

#: Seconds until what worked is written down: links may come and go quickly.
SAVE_AFTER = 30.0
#: Lists a server may push at once, and a second: verifying one takes 0.1 ms.
PUSH_BURST = 8
PUSH_RATE = 0.1
#: Bits of an address that tell networks apart: the usual size of a home's or a cafe's.
NETWORK_BITS = {4: 24, 6: 64}


@attrs.frozen(slots=True)
class Course:
    """How to dial.

    Attributes:
        endpoints: In the order to try them; none if the session's host has none any more.
        others: Those of other hosts than the session's, in the order to try them.
        stagger: Seconds between the starts of two attempts.
    """

    endpoints: tuple[ServerEndpoint, ...]
    others: tuple[ServerEndpoint, ...]
    stagger: float


def network_of(address: str) -> str:
    """Return what names the network of an address of this machine; nothing without one."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return ""
    return str(ip_network((parsed, NETWORK_BITS[parsed.version]), strict=False))


class KnownEndpoints:
    """All endpoints of one server.

    Args:
        runtime: Clock, entropy and the local address.
        configured: What the client's file says; at least one, the best first.
        meters: Counts lists that were taken and refused.
        identity: The server's identity, 32 bytes; None takes no list.
        file: Where to remember; None forgets.
    """

    def __init__(
        self,
        runtime: Runtime,
        configured: Sequence[ServerEndpoint],
        meters: Meters,
        *,
        identity: bytes | None = None,
        file: MemoryFile | None = None,
    ) -> None:
        self._runtime = runtime
        self._configured = tuple(configured)
        self._meters = meters
        self._identity = identity
        self._file = file
        self._memory = Memory() if file is None else file.load()
        self._said = fingerprint(*(endpoint.label.encode() for endpoint in configured))
        self._list: EndpointList | None = None
        self._pushes = TokenBucket(PUSH_RATE, PUSH_BURST)
        self._save_timer: IDelayedCall | None = None
        if self._memory.signed:
            self._recall(self._memory.signed)

    def _recall(self, signed: bytes) -> None:
        try:
            if self._identity is None:
                raise HandshakeError("no identity is configured")
            self._list = verify(signed, self._identity)
        except (HandshakeError, RemoteProtocolError) as error:
            log.warn("the remembered endpoints are ignored: {why}", why=str(error))
            self._memory.signed = b""

    # -- choosing -------------------------------------------------------------------------

    @property
    def candidates(self) -> tuple[ServerEndpoint, ...]:
        """Every endpoint that comes into question, the best first."""
        known = self._list
        if known is None:
            return self._configured
        listed = known.endpoints
        if self._memory.configured != self._said:
            both = (*self._configured, *listed)
        else:
            # Another address of a listed host does no harm, and may be all that works.
            both = (*listed, *(e for e in self._configured if self.trusts(e.public_key)))
        unique: dict[str, ServerEndpoint] = {}
        for endpoint in both:
            unique.setdefault(endpoint.label, endpoint)
        return tuple(unique.values())

    def trusts(self, host: bytes) -> bool:
        """Whether a host is, by its key, still one of the server's."""
        known = self._list
        if known is None or self._memory.configured != self._said:
            return any(e.public_key == host for e in self.candidates)
        return any(endpoint.public_key == host for endpoint in known.endpoints)

    def course(self, host: bytes | None = None, *, hurry: bool = False) -> Course:
        """Return the course of the next attempt.

        Args:
            host: The key of the host that a session lives on; None without a session, and
                all hosts are alike.
            hurry: Streams wait: race even when sure.
        """
        candidates = self.candidates
        by_label = {endpoint.label: endpoint for endpoint in candidates}
        random = self._runtime.uniform(0.0, 1.0)
        now, network = self._runtime.wall_time(), self.network

        def plan(group: list[str]) -> Plan:
            return self._memory.choice.plan(group, network, now, random, hurry=hurry)

        same = plan([e.label for e in candidates if host is None or e.public_key == host])
        others = plan([e.label for e in candidates if host is not None and e.public_key != host])
        return Course(
            tuple(by_label[label] for label in same.order),
            tuple(by_label[label] for label in others.order),
            same.stagger,
        )

    @property
    def network(self) -> str:
        """What names the network the machine is on now; nothing without one."""
        return network_of(self._runtime.local_address())

    # -- learning what works --------------------------------------------------------------

    def worked(self, endpoint: ServerEndpoint, network: str) -> None:
        """A link to `endpoint` came about."""
        self._memory.choice.worked(endpoint.label, network, self._runtime.wall_time())
        self._save_soon()

    def failed(self, endpoint: ServerEndpoint, network: str) -> None:
        """An attempt at `endpoint` came to nothing."""
        if network:  # else it is this machine that has no network
            choice, random = self._memory.choice, self._runtime.uniform(0.0, 1.0)
            choice.failed(endpoint.label, network, self._runtime.wall_time(), random)
            self._save_soon()

    def lost(self, endpoint: ServerEndpoint, network: str, lived: float) -> None:
        """A link to `endpoint` was lost after `lived` seconds."""
        if network and network == self.network:  # else it is this machine that moved
            choice, random = self._memory.choice, self._runtime.uniform(0.0, 1.0)
            choice.lost(endpoint.label, network, lived, self._runtime.wall_time(), random)
            self._save_soon()

    # -- learning from the server ---------------------------------------------------------

    def learn(self, signed: bytes) -> bool:
        """Take a list that the server has pushed, if it is genuine and not old.

        Returns:
            Whether the endpoints have changed.
        """
        if self._identity is None or not self._pushes.spend(self._runtime.clock.seconds()):
            return False
        try:
            pushed = verify(signed, self._identity)
        except (HandshakeError, RemoteProtocolError) as error:
            return self._refused(str(error))
        known = self._list
        if known is not None and pushed.version <= known.version:
            if pushed.version < known.version:
                return self._refused("it is older than the known one")
            if pushed.endpoints != known.endpoints:
                return self._refused("it has the known one's version and says something else")
            if self._memory.configured == self._said:
                return False
            self._memory.configured = self._said
            self._save()
            return False
        self._list = pushed
        self._memory.signed, self._memory.configured = signed, self._said
        self._meters.count("endpoints.learned")
        log.info(
            "the server has sent version {version} of its endpoints: {count}",
            version=pushed.version,
            count=len(pushed.endpoints),
        )
        self._save()
        return True

    def _refused(self, why: str) -> bool:
        self._meters.count("endpoints.refused")
        log.warn("a list of the server's endpoints is refused: {why}", why=why)
        return False

    # -- remembering ----------------------------------------------------------------------

    def _save_soon(self) -> None:
        if self._file is not None and self._save_timer is None:
            self._save_timer = self._runtime.call_later(SAVE_AFTER, self._save)

    def _save(self) -> None:
        timer, self._save_timer = self._save_timer, None
        if timer is not None and timer.active():
            timer.cancel()
        if self._file is not None:
            self._file.save(self._memory)

    def close(self) -> None:
        """Write down what has not been written yet."""
        if self._save_timer is not None:
            self._save()
