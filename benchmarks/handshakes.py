"""What a handshake costs, and whether its failures can be told apart: ``python -m
benchmarks.handshakes cost|failures``.

Everything runs in memory, over transports that swallow what is written, so the figures are the
handshake's own and not the network's.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from ipaddress import IPv4Address
from typing import Any

import attrs
from twisted.internet.testing import MemoryReactorClock, StringTransport

from phantom.core.handshake import Cipher, HandshakePayload, Mode, PostQuantum
from phantom.core.replay import ReplayFilter, format_table, table_size
from phantom.crypto.elligator import Ephemeral
from phantom.crypto.header import prologue, seal_header
from phantom.crypto.kem import KeyPair
from phantom.crypto.noise_ik import Initiator
from phantom.inbound.tunnel import Gate
from phantom.runtime import Runtime
from phantom.telemetry import Meters
from phantom.tunnel.initiator import BETWEEN_PACKETS, InitiatorSettings, NoiseInitiator
from phantom.tunnel.post_quantum import ClientSecrets, ServerSecrets
from phantom.tunnel.responder import NoiseResponder


def keys() -> tuple[bytes, bytes]:
    """Return a fresh private and public key."""
    made = Ephemeral.plain(os.urandom)
    return made.private, made.wire


SERVER, CLIENT, NOBODY = keys(), keys(), keys()


def runtime() -> Runtime:
    """Return a runtime whose timers never fire, with real entropy and time."""
    reactor = MemoryReactorClock()

    def no_name(_name: str) -> Any:
        raise NotImplementedError

    return Runtime(
        reactor=reactor,
        clock=reactor,
        entropy=os.urandom,
        wall_time=time.time,
        monotonic=time.monotonic,
        boottime=time.monotonic,
        local_address=lambda: "",
        resolve=no_name,
    )


class Upper:
    """What sits on an established link, and does nothing."""

    def makeConnection(self, transport: Any) -> None:
        """Ignore it."""

    def dataReceived(self, data: bytes) -> None:
        """Ignore it."""

    def connectionLost(self, reason: Any) -> None:
        """Ignore it."""


class Server:
    """A server's handshake layer with a real replay table.

    Attributes:
        turned_away: How many visitors were strangers.
    """

    def __init__(self, mode: Mode) -> None:
        self.runtime = runtime()
        self.mode = mode
        self.turned_away = 0
        self.secrets = ServerSecrets()
        table = bytearray(table_size())
        format_table(table, os.urandom(16), os.urandom(16), time.time() - 1000)
        self._gate = Gate(
            frozenset({CLIENT[1]}), ReplayFilter(table, quota=10**6), self.runtime, Meters()
        )

    def visitor(self) -> NoiseResponder:
        """Return the layer for one visitor, connected."""
        responder = NoiseResponder(
            self.runtime,
            Upper(),
            private_key=SERVER[0],
            public_key=SERVER[1],
            mode=self.mode,
            gatekeeper=self._gate,
            stranger=self._stranger,
            abandon=self._stranger,
            timeout=10,
            visitors=self,
            instance=bytes(16),
            post_quantum=PostQuantum.AUTO,
            secrets=self.secrets,
        )
        responder.makeConnection(StringTransport(peerAddress=IPv4Address("192.0.2.1")))
        return responder

    def _stranger(self, transport: Any, received: bytes) -> None:
        self.turned_away += 1

    def arrived(self, visitor: NoiseResponder) -> None:
        """Count nobody."""

    def settled(self, visitor: NoiseResponder) -> None:
        """Count nobody."""


# -- cost ---------------------------------------------------------------------------------------


@attrs.frozen(slots=True)
class Cost:
    """One handshake: bytes of either message, and microseconds of either side."""

    message_1: int
    message_2: int
    client: float
    server: float


def one_link(server: Server, policy: PostQuantum, secrets: ClientSecrets | None) -> Cost:
    """Make a link in memory."""
    visitor = server.visitor()
    here = runtime()
    client = NoiseInitiator(
        here,
        Upper(),
        InitiatorSettings(
            private_key=CLIENT[0],
            server_key=SERVER[1],
            cipher=Cipher.AESGCM,
            mode=server.mode,
            host="example.com",
            post_quantum=policy,
            secrets=secrets,
        ),
        lambda transport, received: None,
        lambda failure: failure.raiseException(),
    )
    wire = StringTransport()
    began = time.perf_counter()
    client.makeConnection(wire)
    sent = time.perf_counter()
    here.reactor.pump([BETWEEN_PACKETS[1]] * 12)  # the packets after the first
    one = wire.value()
    received = time.perf_counter()
    visitor.dataReceived(one)
    answered = time.perf_counter()
    two = visitor.transport.value()
    read = time.perf_counter()
    client.dataReceived(two)
    done = time.perf_counter()
    assert client.established and visitor.established
    client.confirmed()
    visitor.confirmed()
    return Cost(
        len(one),
        len(two),
        1e6 * (sent - began + done - read),
        1e6 * (answered - received),
    )


def cost(repeat: int) -> None:
    """Print what each kind of handshake costs."""
    print("mode       keys        message 1 (B)      message 2 (B)      client us  server us")
    for mode in Mode:
        for name, policy, kept in (
            ("X25519", PostQuantum.OFF, False),
            ("+ ML-KEM", PostQuantum.AUTO, False),
            ("+ ratchet", PostQuantum.AUTO, True),
        ):
            server = Server(mode)
            secrets = ClientSecrets() if kept else None
            one_link(server, policy, secrets)
            links = [one_link(server, policy, secrets) for _ in range(repeat)]
            spans = []
            for sizes in ([x.message_1 for x in links], [x.message_2 for x in links]):
                middle = statistics.median(sizes)
                spans.append(f"{min(sizes):5d} {middle:6.0f} {max(sizes):5d}")
            print(
                f"{mode.name:10} {name:11} {spans[0]} {spans[1]} "
                f"{statistics.median(x.client for x in links):9.0f} "
                f"{statistics.median(x.server for x in links):10.0f}"
            )


# -- failures -----------------------------------------------------------------------------------


def message_one(
    *,
    client: bytes = CLIENT[0],
    server: bytes = SERVER[1],
    stale: float = 0.0,
    key: bytes | None = None,
    size: int = 1600,
) -> bytes:
    """Return a first message on bare TCP, without a prefix, always of one size."""
    while True:
        ephemeral = Ephemeral.elligator(os.urandom)
        if not all(0x20 <= byte < 0x7F for byte in ephemeral.wire[:6]):
            break
    content = HandshakePayload(
        timestamp=int((time.time() - stale) * 1000),
        encapsulation_key=KeyPair(os.urandom).public if key is None else key,
    )
    payload = content.encode(padding=size - len(content.encode()))
    header = seal_header(server, ephemeral.wire, b"client", 64 + len(payload), Cipher.AESGCM)
    handshake = Initiator(
        static_private=client,
        server_public=server,
        cipher=Cipher.AESGCM,
        prologue=prologue(Mode.BARE, header),
        ephemeral=ephemeral,
    )
    message = handshake.write_message_1(payload)
    return message[:32] + header + message[32:]


def damaged(place: int) -> bytes:
    """Return a first message with one bit wrong."""
    message = bytearray(message_one())
    message[place] ^= 1
    return bytes(message)


#: Bytes before the rest of a message: e and the sealed header.
_FIXED = 51

#: What fails before any Diffie-Hellman, for which no key is needed; and what only somebody with
#: the server's public key can send.
OUTSIDE: dict[str, Callable[[], bytes]] = {
    "garbage": lambda: b"\x80" + os.urandom(1700),
    "another server's key": lambda: message_one(server=NOBODY[1]),
    "a damaged header": lambda: damaged(40),
}
INSIDE: dict[str, Callable[[], bytes]] = {
    "a damaged static key": lambda: damaged(_FIXED + 5),
    "a damaged payload": lambda: damaged(_FIXED + 60),
    "an unknown client": lambda: message_one(client=NOBODY[0]),
    "a stale timestamp": lambda: message_one(stale=1000.0),
    "a false ML-KEM key": lambda: message_one(key=b"\xff" * 1184),
    "a replay": lambda: b"",
}


def time_of(server: Server, message: bytes) -> float:
    """Return the microseconds the server spends on a message that fails."""
    visitor = server.visitor()
    before = server.turned_away
    began = time.perf_counter()
    visitor.dataReceived(message)
    spent = time.perf_counter() - began
    assert server.turned_away == before + 1, "this was no failure"
    assert not visitor.transport.value(), "the server answered"
    return 1e6 * spent


def failure_times(repeat: int) -> dict[str, list[float]]:
    """Return the times of every kind of failure, taken in turns so that all share the noise."""
    server = Server(Mode.BARE)
    seen = message_one()
    server.visitor().dataReceived(seen)
    kinds = {**OUTSIDE, **INSIDE}
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(repeat):
        for kind, make in kinds.items():
            times[kind].append(time_of(server, make() or seen))
    return times


def separation(one: list[float], other: list[float]) -> float:
    """Return how often a time of `one` is below one of `other`: 0.5 when nobody can tell."""
    both = sorted([(x, 0) for x in one] + [(x, 1) for x in other])
    below = wins = 0
    for _, which in both:
        if which:
            wins += below
        else:
            below += 1
    return wins / (len(one) * len(other))


def failures(repeat: int) -> None:
    """Print the times, and how well each kind is told from an unknown client's."""
    times = failure_times(repeat)
    print("failure                     median us   10 %   90 %   told from an unknown client")
    for kind, taken in times.items():
        cuts = statistics.quantiles(taken, n=10)
        auc = separation(times["an unknown client"], taken)
        print(
            f"{kind:26} {statistics.median(taken):10.1f} {cuts[0]:6.1f} {cuts[-1]:6.1f} "
            f"{max(auc, 1 - auc):8.2f}"
        )


def main() -> None:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("cost", "failures"))
    parser.add_argument("--repeat", type=int, default=1000)
    arguments = parser.parse_args()
    {"cost": cost, "failures": failures}[arguments.what](arguments.repeat)


if __name__ == "__main__":
    main()
