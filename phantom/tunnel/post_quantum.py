"""The post-quantum part of a link's keys: an ML-KEM exchange, or what an earlier one left.

Both sides keep the ratchet of `phantom.crypto.ratchet` in memory only.  They cannot step at the
same moment, since any message may be lost, so the client steps when the server has answered a
link's first record, and the server keeps two steps: the last one used, which the client may use
again, and the one after it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import cache
from typing import Any, Protocol

import attrs

from phantom.core.handshake import HandshakePayload, PostQuantum
from phantom.crypto import kem
from phantom.crypto.noise_ik import TransportKeys
from phantom.crypto.ratchet import Step, first_step
from phantom.errors import HandshakeError, RemoteProtocolError

#: Seconds after which a client does a new exchange: what can be stolen from memory is the more
#: worth the longer it serves, and 2.3 KB an hour are nothing.
FRESH_EXCHANGE_AFTER = 3600.0
#: Seconds a server keeps what an exchange left: longer than any client of ours uses it.
KEEP_EXCHANGE = 2 * FRESH_EXCHANGE_AFTER
#: Exchanges of one client key that a server keeps: one is in use, and attempts that raced, or
#: a second machine with the same key, leave some more.
EXCHANGES_PER_CLIENT = 4


class SecretForgottenError(HandshakeError):
    """The server does not have the secret that the client named; a new exchange is due."""


class ClientSecrets:
    """What a client shares with the servers it has been linked to, by their keys."""

    def __init__(self) -> None:
        self._servers: dict[bytes, tuple[Step, float]] = {}

    def find(self, server_key: bytes, now: float) -> Step | None:
        """Return the secret for the next link to a server, None if an exchange is due."""
        step, since = self._servers.get(server_key, (None, 0.0))
        if now - since >= FRESH_EXCHANGE_AFTER:
            self._servers.pop(server_key, None)
            return None
        return step

    def learned(self, server_key: bytes, first: Step, now: float) -> None:
        """Keep what an exchange left."""
        self._servers[server_key] = first, now

    def used(self, server_key: bytes, step: Step) -> None:
        """Go on: the server has shown that it used `step` too."""
        present, since = self._servers.get(server_key, (None, 0.0))
        if present == step:
            self._servers[server_key] = step.next(), since

    def forget(self, server_key: bytes, step: Step) -> None:
        """Drop a secret that the server does not have, unless there is a newer one."""
        if self._servers.get(server_key, (None, 0.0))[0] == step:
            del self._servers[server_key]


@attrs.define(slots=True, eq=False)
class _Left:
    """What one exchange left: the step used last, or the first one, and the one after."""

    client_key: bytes
    until: float
    steps: tuple[Step, Step]


class ExchangeMemory(Protocol):
    """Where a server keeps what exchanges left: `ServerSecrets`, or one that workers share."""

    def find(self, client_key: bytes, name: bytes, now: float) -> Step | None:
        """Return the secret a client names, None if it is not here any more."""
        ...

    def learned(self, client_key: bytes, first: Step, now: float) -> None:
        """Keep what an exchange left; the client's oldest makes room."""
        ...

    def used(self, client_key: bytes, step: Step) -> None:
        """Note that a link with `step` has proven itself; the steps before it are gone."""
        ...


class ServerSecrets:
    """What a server shares with its clients.

    Only links that have proven themselves add to it, so it is bounded by the clients allowed.
    """

    def __init__(self) -> None:
        self._clients: dict[bytes, list[_Left]] = {}
        # In the order of their ends, since all last equally long.
        self._order: deque[_Left] = deque()

    def __len__(self) -> int:
        """Return how many exchanges are remembered."""
        return sum(len(left) for left in self._clients.values())

    def find(self, client_key: bytes, name: bytes, now: float) -> Step | None:
        """Return the secret a client names, None if it is not here any more."""
        self._expire(now)
        for left in self._clients.get(client_key, ()):
            for step in left.steps:
                if step.name == name:
                    return step
        return None

    def learned(self, client_key: bytes, first: Step, now: float) -> None:
        """Keep what an exchange left; the client's oldest makes room."""
        self._expire(now)
        left = _Left(client_key, now + KEEP_EXCHANGE, (first, first.next()))
        own = self._clients.setdefault(client_key, [])
        own.append(left)
        self._order.append(left)
        if len(own) > EXCHANGES_PER_CLIENT:
            self._order.remove(own.pop(0))

    def used(self, client_key: bytes, step: Step) -> None:
        """Note that a link with `step` has proven itself; the steps before it are gone."""
        for left in self._clients.get(client_key, ()):
            if step in left.steps:
                left.steps = step, step.next()

    def _expire(self, now: float) -> None:
        while self._order and self._order[0].until <= now:
            left = self._order.popleft()
            own = self._clients[left.client_key]
            own.remove(left)
            if not own:
                del self._clients[left.client_key]


#: Stands for the key of a client that has proven none.
NOBODY = b""


@cache
def stand_in() -> bytes:
    """Return a payload to go on with where a message has none that can be read.

    A server that requires an exchange finds one in it.
    """
    if not kem.available():
        return HandshakePayload(timestamp=0).encode()
    return HandshakePayload(timestamp=0, encapsulation_key=kem.KeyPair(bytes).public).encode(256)


@attrs.frozen(slots=True)
class Agreed:
    """How it came out.

    Attributes:
        keys: The link's keys.
        post_quantum: Whether they rest on more than X25519.
        confirmed: To be called once the peer has proven itself live.
    """

    keys: TransportKeys
    post_quantum: bool
    confirmed: Callable[[], None]


def _nothing() -> None:
    pass


class ClientExchange:
    """The client's part in one handshake.

    Args:
        policy: Whether to do it.
        server_key: The server's static public key.
        secrets: What earlier links left; None to do an exchange for every link.
        entropy: ``entropy(n)`` returns n random bytes.
        now: Seconds on a clock that does not go back.

    Attributes:
        fields: What to put into message 1's payload.

    Raises:
        HandshakeError: It is required, and this machine cannot do it.
    """

    def __init__(
        self,
        policy: PostQuantum,
        server_key: bytes,
        secrets: ClientSecrets | None,
        entropy: Callable[[int], bytes],
        now: float,
    ) -> None:
        self._required = policy is PostQuantum.REQUIRE
        self._server_key = server_key
        self._secrets = secrets
        self._now = now
        self._step: Step | None = None
        self._pair: kem.KeyPair | None = None
        self.fields: dict[str, Any] = {}
        if policy is PostQuantum.OFF:
            return
        if secrets is not None:
            self._step = secrets.find(server_key, now)
        if self._step is not None:
            self.fields = {"known_secret": self._step.name}
        elif kem.available():
            self._pair = kem.KeyPair(entropy)
            self.fields = {"encapsulation_key": self._pair.public}
        elif self._required:
            raise HandshakeError(
                'post_quantum = "require", and the OpenSSL of this machine\'s cryptography '
                "package does not know ML-KEM-768; upgrade that package"
            )

    def finish(self, answer: HandshakePayload, keys: TransportKeys) -> Agreed:
        """Return the link's keys.

        Args:
            answer: The payload of message 2.
            keys: What the Noise handshake made.

        Raises:
            SecretForgottenError: The server does not have the secret; it has been dropped here.
            HandshakeError: The server does no exchange, and it is required.
            RemoteProtocolError: The server answers a question that was not asked.
        """
        step, pair, secrets = self._step, self._pair, self._secrets
        if (answer.kem_ciphertext is not None and pair is None) or (
            answer.known_secret is not None and (step is None or answer.known_secret != step.name)
        ):
            raise RemoteProtocolError("an answer to no question of post-quantum keys")
        if step is not None and secrets is not None:
            if answer.known_secret is None:
                secrets.forget(self._server_key, step)
                raise SecretForgottenError("the server does not have the secret of the last link")
            return Agreed(
                keys.mixed_with(step.secret), True, lambda: secrets.used(self._server_key, step)
            )
        if pair is not None and answer.kem_ciphertext is not None:
            secret = pair.decapsulate(answer.kem_ciphertext)
            if secrets is None:
                return Agreed(keys.mixed_with(secret), True, _nothing)
            first = first_step(secret, keys.handshake_hash)
            return Agreed(
                keys.mixed_with(secret),
                True,
                lambda: secrets.learned(self._server_key, first, self._now),
            )
        if self._required:
            raise HandshakeError(
                "the server does no post-quantum key exchange, and this client's config has "
                'post_quantum = "require"'
            )
        return Agreed(keys, False, _nothing)


class ServerExchange:
    """The server's part in one handshake.

    Args:
        policy: Whether to do it.
        secrets: What earlier links left.
        client_key: The client's static public key.
        payload: That of message 1.
        now: Seconds on a clock that does not go back.

    Attributes:
        redo: Whether the client named a secret that is not here: it is told by the answer,
            and nothing more may come of this link.

    Raises:
        RemoteProtocolError: The encapsulation key is none, or there is nothing where something
            is required.
    """

    def __init__(
        self,
        policy: PostQuantum,
        secrets: ExchangeMemory,
        client_key: bytes,
        payload: HandshakePayload,
        now: float,
    ) -> None:
        self._secrets = secrets
        self._client_key = client_key
        self._now = now
        self._step: Step | None = None
        self._key: kem.EncapsulationKey | None = None
        self._secret = b""
        self.redo = False
        if policy is PostQuantum.OFF or (policy is PostQuantum.AUTO and not kem.available()):
            return
        offered, name = payload.encapsulation_key, payload.known_secret
        if offered is not None:
            self._key = kem.EncapsulationKey(offered)
        if name is not None:
            self._step = secrets.find(client_key, name, now)
            self.redo = self._step is None and offered is None
        if policy is PostQuantum.REQUIRE and offered is None and name is None:
            raise RemoteProtocolError("a first message without a post-quantum part")

    def answer(self) -> dict[str, Any]:
        """Return what to put into message 2's payload; called once."""
        if self._step is not None:
            return {"known_secret": self._step.name}
        if self._key is not None:
            self._secret, ciphertext = self._key.encapsulate()
            return {"kem_ciphertext": ciphertext}
        return {}

    def finish(self, keys: TransportKeys) -> Agreed:
        """Return the link's keys.

        Args:
            keys: What the Noise handshake made.
        """
        step, secrets, client_key = self._step, self._secrets, self._client_key
        if step is not None:
            return Agreed(
                keys.mixed_with(step.secret), True, lambda: secrets.used(client_key, step)
            )
        if self._secret:
            first = first_step(self._secret, keys.handshake_hash)
            return Agreed(
                keys.mixed_with(self._secret),
                True,
                lambda: secrets.learned(client_key, first, self._now),
            )
        return Agreed(keys, False, _nothing)
