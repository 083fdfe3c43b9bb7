"""ML-KEM-768 (FIPS 203): a shared secret that a quantum computer does not find.

It is mixed into keys that X25519 has made (`phantom.crypto.kdf.mix`), so that both must be
broken.  Median microseconds on the machine of benchmarks/: a key pair 98, reading a public key
16, encapsulating 19, decapsulating 29; an X25519 exchange takes 40.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.mlkem import (
    MLKEM768PrivateKey,
    MLKEM768PublicKey,
)

from phantom.errors import RemoteProtocolError

#: Bytes of randomness that make a key pair: d and z (FIPS 203, algorithm 19).
SEED_SIZE = 64


@cache
def available() -> bool:
    """Tell whether the OpenSSL that `cryptography` was built with knows ML-KEM-768."""
    try:
        MLKEM768PrivateKey.from_seed_bytes(bytes(SEED_SIZE))
    except UnsupportedAlgorithm:
        return False
    return True


class KeyPair:
    """A key pair for one exchange.

    Args:
        entropy: ``entropy(n)`` returns n random bytes.

    Attributes:
        public: The encapsulation key, 1184 bytes.
    """

    __slots__ = ("_private", "public")

    def __init__(self, entropy: Callable[[int], bytes]) -> None:
        self._private = MLKEM768PrivateKey.from_seed_bytes(entropy(SEED_SIZE))
        self.public = self._private.public_key().public_bytes_raw()

    def decapsulate(self, ciphertext: bytes) -> bytes:
        """Return the shared secret, 32 bytes.

        A ciphertext that was not made with the key gives a secret that nobody else has
        (FIPS 203, algorithm 18: implicit rejection), and so keys that open nothing.

        Args:
            ciphertext: 1088 bytes.
        """
        return self._private.decapsulate(ciphertext)


class EncapsulationKey:
    """The other side's key.

    Args:
        raw: 1184 bytes.

    Raises:
        RemoteProtocolError: They are no key: a coefficient is not below the modulus (FIPS 203,
            7.2).
    """

    __slots__ = ("_public",)

    def __init__(self, raw: bytes) -> None:
        try:
            self._public = MLKEM768PublicKey.from_public_bytes(raw)
        except ValueError:
            raise RemoteProtocolError("not an ML-KEM-768 encapsulation key") from None

    def encapsulate(self) -> tuple[bytes, bytes]:
        """Return a fresh shared secret (32 bytes) and the ciphertext that tells it (1088).

        The randomness is OpenSSL's own: the library takes none from outside.
        """
        return self._public.encapsulate()
