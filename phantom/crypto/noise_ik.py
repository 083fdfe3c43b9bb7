"""The Noise handshake: a thin adapter around the `noise` library.

``Noise_IK_25519_AESGCM_SHA256`` and ``Noise_IK_25519_ChaChaPoly_SHA256`` (Noise Protocol
Framework, revision 34, 7.5)::

    <- s
    ...
    -> e, es, s, ss     e (32) | encrypted s (48) | encrypted payload
    <- e, ee, se        e (32) | encrypted payload

The library is kept at arm's length: nothing else imports it, every failure becomes
`HandshakeError`, and three of its choices are replaced for each handshake:

- the ephemeral key is handed in, because it may be in Elligator2 form;
- the ephemeral key received is hashed as the raw 32 bytes of the wire, whatever point they
  stand for, so that no two strings make the same transcript;
- Diffie-Hellman is counted, so that a first message that fails early costs as much time as
  one that fails late.
"""

from __future__ import annotations

import contextlib
import hashlib
from typing import Any

import attrs
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from noise.backends.default.keypairs import KeyPair25519
from noise.connection import Keypair, NoiseConnection
from noise.exceptions import NoiseMaxNonceError, NoiseValueError

from phantom.core.handshake import (
    KEY_SIZE,
    MAX_REST,
    MIN_REST_ONE,
    MIN_REST_TWO,
    Cipher,
)
from phantom.crypto.elligator import Ephemeral, point_of
from phantom.crypto.kdf import derive, mix
from phantom.errors import HandshakeError, LocalProtocolError

__all__ = ["Ephemeral", "Initiator", "Responder", "TransportKeys"]

_NAMES = {
    Cipher.AESGCM: b"Noise_IK_25519_AESGCM_SHA256",
    Cipher.CHACHAPOLY: b"Noise_IK_25519_ChaChaPoly_SHA256",
}

_AEADS: dict[Cipher, type[AESGCM] | type[ChaCha20Poly1305]] = {
    Cipher.AESGCM: AESGCM,
    Cipher.CHACHAPOLY: ChaCha20Poly1305,
}

#: Diffie-Hellmans in either message of IK: es and ss, then ee and se.
_EXCHANGES = 2

# What the library raises on hostile input: a bad tag; a low-order point, or a buffer of the
# wrong size, from cryptography; a key of the wrong size from its own checks.
_FAILURES = (InvalidTag, ValueError, NoiseValueError, NoiseMaxNonceError)

# Some public key to multiply with when the peer's own is not to be had: the base point.
_SOME_POINT = X25519PublicKey.from_public_bytes((9).to_bytes(KEY_SIZE, "little"))


@attrs.frozen(slots=True, repr=False)
class TransportKeys:
    """What a finished handshake leaves.

    Attributes:
        send: The key for what this side sends, 32 bytes.
        receive: The key for what this side receives, 32 bytes.
        handshake_hash: Names this handshake uniquely, 32 bytes; not secret.
        cipher: The cipher of the records to come.
    """

    send: bytes
    receive: bytes
    handshake_hash: bytes
    cipher: Cipher

    def mixed_with(self, secret: bytes) -> TransportKeys:
        """Return the keys joined with a second shared secret (`phantom.crypto.kdf.mix`)."""
        return attrs.evolve(
            self,
            send=mix(self.send, secret, self.handshake_hash),
            receive=mix(self.receive, secret, self.handshake_hash),
        )

    def __repr__(self) -> str:
        return f"<TransportKeys {self.cipher.name}>"


class _Exchange:
    """Stands in for the library's Diffie-Hellman function, and counts."""

    dhlen = KEY_SIZE

    def __init__(self) -> None:
        self.count = 0

    def dh(self, private: X25519PrivateKey, public: X25519PublicKey) -> bytes:
        """Return the shared secret; a low-order point raises ValueError (RFC 7748, 6.1)."""
        self.count += 1
        return private.exchange(public)


class _RemoteKeys:
    """Stands in for the library's key class when it reads the peer's keys.

    The first key of a message is the ephemeral one; any later is a static key, always plain.
    """

    def __init__(self, hidden: bool) -> None:
        self._hidden = hidden

    def from_public_bytes(self, raw: bytes) -> KeyPair25519:
        if len(raw) != KEY_SIZE:
            raise NoiseValueError("a key of the wrong size")
        point = point_of(raw) if self._hidden else raw
        self._hidden = False
        # The library would serialise the key again; the transcript needs the wire's bytes.
        return KeyPair25519(public=X25519PublicKey.from_public_bytes(point), public_bytes=raw)


def _own_ephemeral(ephemeral: Ephemeral) -> KeyPair25519:
    return KeyPair25519(
        private=X25519PrivateKey.from_private_bytes(ephemeral.private),
        public=X25519PublicKey.from_public_bytes(ephemeral.point),
        public_bytes=ephemeral.wire,
    )


class _Party:
    """What both sides have in common: a library object that is used for two messages."""

    # Any: the library is untyped.
    _noise: Any

    def __init__(
        self, static_private: bytes, remote: bytes | None, cipher: Cipher, prologue: bytes
    ) -> None:
        self._cipher = cipher
        self._keys: TransportKeys | None = None
        self._step = 0
        connection = NoiseConnection.from_name(_NAMES[cipher])
        connection.set_prologue(prologue)
        try:
            connection.set_keypair_from_private_bytes(Keypair.STATIC, static_private)
            if remote is None:
                connection.set_as_responder()
            else:
                connection.set_as_initiator()
                connection.set_keypair_from_public_bytes(Keypair.REMOTE_STATIC, remote)
        except _FAILURES:
            raise HandshakeError("a static key is not an X25519 key") from None
        connection.start_handshake()
        self._noise = connection
        self._exchange = connection.noise_protocol.dh_fn = _Exchange()

    @property
    def keys(self) -> TransportKeys:
        """The keys of the records, once both messages are through.

        Raises:
            LocalProtocolError: They are not.
        """
        if self._keys is None:
            raise LocalProtocolError("the handshake is not finished")
        return self._keys

    def _advance(self, step: int) -> None:
        if self._step != step:
            raise LocalProtocolError("a handshake message out of turn")
        self._step += 1

    def _write(self, payload: bytes, overhead: int) -> bytes:
        if len(payload) + overhead > MAX_REST:
            raise LocalProtocolError("a handshake payload too long for its message")
        try:
            return bytes(self._noise.write_message(bytes(payload)))
        except _FAILURES:
            self._give_up()
            raise HandshakeError("the peer's key is of low order") from None

    def _read(self, message: bytes) -> bytes:
        start = self._exchange.count
        try:
            return bytes(self._noise.read_message(bytes(message)))
        except _FAILURES:
            while self._exchange.count < start + _EXCHANGES:
                self._spend(message)
            self._give_up()
            raise HandshakeError("a handshake message that is not authentic") from None

    def _spend(self, message: bytes) -> None:
        """Do what a step of the handshake costs, for nothing: agree on a key, try it, hash."""
        secret = self._exchange.dh(self._static, _SOME_POINT)
        hashlib.sha256(message)
        key = derive(secret, message[:KEY_SIZE], length=64)[KEY_SIZE:]
        with contextlib.suppress(InvalidTag):
            _AEADS[self._cipher](key).decrypt(bytes(12), message[MIN_REST_ONE:], message[:32])

    @property
    def _static(self) -> X25519PrivateKey:
        key: X25519PrivateKey = self._noise.noise_protocol.keypairs["s"].private
        return key

    def _give_up(self) -> None:
        self._step = -1
        self._noise = None

    def _finish(self) -> None:
        protocol = self._noise.noise_protocol
        self._keys = TransportKeys(
            protocol.cipher_state_encrypt.k,
            protocol.cipher_state_decrypt.k,
            protocol.handshake_hash,
            self._cipher,
        )
        self._noise = None


class Initiator(_Party):
    """The client's side.

    Args:
        static_private: The client's private key, 32 bytes.
        server_public: The server's public key, 32 bytes.
        cipher: The cipher of handshake and records.
        prologue: What both sides must agree on (`phantom.crypto.header.prologue`).
        ephemeral: A fresh key pair.  If it is hidden, the server's is read as hidden too.

    Raises:
        HandshakeError: A static key is malformed.
    """

    def __init__(
        self,
        *,
        static_private: bytes,
        server_public: bytes,
        cipher: Cipher,
        prologue: bytes,
        ephemeral: Ephemeral,
    ) -> None:
        super().__init__(static_private, server_public, cipher, prologue)
        protocol = self._noise.noise_protocol
        protocol.handshake_state.e = _own_ephemeral(ephemeral)
        protocol.keypair_class = _RemoteKeys(ephemeral.hidden)

    def write_message_1(self, payload: bytes) -> bytes:
        """Return ``e (32) | encrypted static key (48) | encrypted payload``.

        Raises:
            HandshakeError: The server's public key is a point of low order.
            LocalProtocolError: Out of turn, or the payload is too long.
        """
        self._advance(0)
        return self._write(payload, MIN_REST_ONE)

    def read_message_2(self, message: bytes) -> bytes:
        """Return the payload of message 2; `keys` are ready then.

        Args:
            message: All of it, e included.

        Raises:
            HandshakeError: It is not authentic.
            LocalProtocolError: Out of turn.
        """
        self._advance(1)
        payload = self._read(message)
        self._finish()
        return payload


class Responder(_Party):
    """The server's side.

    Args:
        static_private: The server's private key, 32 bytes.
        cipher: As opened from the sealed header.
        prologue: What both sides must agree on.
        elligator: Whether ephemeral keys are in Elligator2 form.

    Raises:
        HandshakeError: The static key is malformed.
    """

    def __init__(
        self, *, static_private: bytes, cipher: Cipher, prologue: bytes, elligator: bool
    ) -> None:
        super().__init__(static_private, None, cipher, prologue)
        self._elligator = elligator
        self._noise.noise_protocol.keypair_class = _RemoteKeys(elligator)

    def read_message_1(self, message: bytes) -> tuple[bytes, bytes]:
        """Return the client's static public key and the payload.

        Two Diffie-Hellmans are done whatever the message, so that how long a failure takes
        does not tell where it happened.

        Args:
            message: All of it, e included.

        Raises:
            HandshakeError: It is not authentic.
            LocalProtocolError: Out of turn.
        """
        self._advance(0)
        payload = self._read(message)
        # Now, because the library deletes it with the handshake's other state.
        client: bytes = self._noise.noise_protocol.handshake_state.rs.public_bytes
        return client, payload

    def write_message_2(self, payload: bytes, ephemeral: Ephemeral) -> bytes:
        """Return ``e (32) | encrypted payload``; `keys` are ready then.

        Args:
            payload: What to say to the client.
            ephemeral: A fresh key pair, of the form this handshake uses.

        Raises:
            HandshakeError: A key of the client's is a point of low order.
            LocalProtocolError: Out of turn, the wrong form, or the payload is too long.
        """
        if ephemeral.hidden is not self._elligator:
            raise LocalProtocolError("an ephemeral key of the other mode's form")
        self._advance(1)
        self._noise.noise_protocol.handshake_state.e = _own_ephemeral(ephemeral)
        message = self._write(payload, MIN_REST_TWO)
        self._finish()
        return message
