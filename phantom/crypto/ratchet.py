"""What a link with an ML-KEM exchange leaves for the links after it.

The KEM's key and ciphertext are 2.3 KB, much for a link on a path that lets 16 KB through.  So
the next link's keys are mixed with a secret that derives from the first exchange instead.  Each
step erases what it came from: who takes the present one learns nothing of the links before.
"""

from __future__ import annotations

import attrs

from phantom.core.handshake import SECRET_NAME_SIZE
from phantom.crypto.kdf import RATCHET_LABEL, STEP_LABEL, derive

#: Bytes of the chain and of a link's secret: as many as the KEM's.
_SIZE = 32
#: Bytes of a step in memory that processes share: name, secret and chain.
STEP_SIZE = SECRET_NAME_SIZE + 2 * _SIZE


@attrs.frozen(slots=True, repr=False)
class Step:
    """The secret for one link.

    Attributes:
        name: What the client calls it in message 1, 16 bytes.
        secret: What is mixed into the keys, 32 bytes.
    """

    name: bytes
    secret: bytes
    _chain: bytes

    def next(self) -> Step:
        """Return the secret of the link after."""
        return _step(self._chain)

    def encode(self) -> bytes:
        """Return `STEP_SIZE` bytes for memory that processes share; as secret as the step."""
        return self.name + self.secret + self._chain

    @classmethod
    def decode(cls, raw: bytes) -> Step:
        """Return the step that `encode` made these bytes of."""
        rest = raw[SECRET_NAME_SIZE:]
        return cls(raw[:SECRET_NAME_SIZE], rest[:_SIZE], rest[_SIZE:])

    def __repr__(self) -> str:
        return "<Step>"


def first_step(secret: bytes, handshake_hash: bytes) -> Step:
    """Return the secret for the link after one that did an ML-KEM exchange.

    Args:
        secret: The ML-KEM shared secret, 32 bytes.
        handshake_hash: That link's final handshake hash.
    """
    return _step(derive(secret, RATCHET_LABEL, salt=handshake_hash))


def _step(chain: bytes) -> Step:
    out = derive(chain, STEP_LABEL, length=2 * _SIZE + SECRET_NAME_SIZE)
    chain, secret, name = out[:_SIZE], out[_SIZE : 2 * _SIZE], out[2 * _SIZE :]
    return Step(name, secret, chain)
