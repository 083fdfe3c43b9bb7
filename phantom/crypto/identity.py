"""The server's identity: an Ed25519 key (RFC 8032) that signs its list of endpoints.

Hosts come and go, each with an X25519 key of its own; the identity stays.  A signed list is
``signature (64) | list``; what is signed is a label and the list, so that a signature made
for anything else means nothing here.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from phantom.core.endpoint_list import MAX_LIST_SIZE, EndpointList
from phantom.errors import HandshakeError, RemoteProtocolError

#: What is signed begins with this.
ENDPOINTS_LABEL = b"phantom 1 endpoints"
#: Bytes of a signature (RFC 8032, section 5.1.6).
SIGNATURE_SIZE = 64
#: Most bytes of a signed list.
MAX_SIGNED_SIZE = SIGNATURE_SIZE + MAX_LIST_SIZE


def public_of(private: bytes) -> bytes:
    """Return the public key of a private one, 32 bytes each."""
    return Ed25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def sign(endpoints: EndpointList, private: bytes) -> bytes:
    """Return the signed list.

    Args:
        endpoints: What to sign.
        private: The identity's private key, 32 bytes.

    Raises:
        ValueError: The list is too long to be encoded.
    """
    encoded = endpoints.encode()
    key = Ed25519PrivateKey.from_private_bytes(private)
    return key.sign(ENDPOINTS_LABEL + encoded) + encoded


def verify(signed: bytes, public: bytes) -> EndpointList:
    """Return the list of a signed one.

    The signature is checked before anything is parsed.

    Args:
        signed: From `sign`, or from anybody.
        public: The identity's public key, 32 bytes.

    Raises:
        HandshakeError: It is not signed by this identity.
        RemoteProtocolError: It is, and yet no list.
    """
    if not SIGNATURE_SIZE < len(signed) <= MAX_SIGNED_SIZE:
        raise RemoteProtocolError("a signed list of endpoints of an impossible length")
    signature, encoded = signed[:SIGNATURE_SIZE], signed[SIGNATURE_SIZE:]
    try:
        key = Ed25519PublicKey.from_public_bytes(public)
        key.verify(signature, ENDPOINTS_LABEL + encoded)
    except (InvalidSignature, ValueError):
        raise HandshakeError("a list of endpoints that the server's identity has not signed") from (
            None
        )
    return EndpointList.decode(encoded)
