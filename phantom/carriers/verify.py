"""Who is at the other end of TLS: the chain, the name, or a pinned key.

Both engines hand over the certificates as bytes and this module judges them, so that a
certificate is refused for the same reasons, in the same words, whichever engine is used.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import NoReturn

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import SSL, crypto
from service_identity import CertificateError, VerificationError
from service_identity.cryptography import (
    verify_certificate_hostname,
    verify_certificate_ip_address,
)

from phantom.errors import ConfigurationError, HandshakeError

# Codes of X509_verify_cert (openssl/x509_vfy.h).
_NOT_YET_VALID = 9
_EXPIRED = 10
_UNKNOWN_AUTHORITY = {2, 18, 19, 20, 21}

PIN_PREFIX = "sha256/"


def format_pin(pin: bytes) -> str:
    """Return a pin as the configuration writes it: ``sha256/BASE64``."""
    return PIN_PREFIX + base64.b64encode(pin).decode("ascii")


def parse_pin(text: str) -> bytes:
    """Parse ``sha256/BASE64``.

    Raises:
        ValueError: It is something else.
    """
    if not text.startswith(PIN_PREFIX):
        raise ValueError("a pin starts with sha256/")
    pin = base64.b64decode(text[len(PIN_PREFIX) :], validate=True)
    if len(pin) != hashlib.sha256().digest_size:
        raise ValueError("a pin holds 32 bytes")
    return pin


def pin_of(certificate: x509.Certificate) -> bytes:
    """Return SHA-256 of the certificate's SubjectPublicKeyInfo (as RFC 7469, section 2.4)."""
    spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(spki).digest()


class PeerVerifier:
    """Judges a server's certificates.

    Args:
        name: The DNS name or address the certificate must be for.
        ca_file: A PEM file with further trust anchors, besides the system's.
        pin: The SHA-256 of the server's public key; then neither the chain nor the name
            nor the dates matter.

    Raises:
        ConfigurationError: `ca_file` cannot be used.
    """

    def __init__(self, name: str, ca_file: str | None = None, pin: bytes | None = None) -> None:
        self._name = name
        self._pin = pin
        self._store: crypto.X509Store | None = None
        if pin is None:
            # A context is used only because it knows where the system's anchors are.
            # It owns the store that pyOpenSSL hands out, so it must live as long.
            self._context = SSL.Context(SSL.TLS_CLIENT_METHOD)
            self._context.set_default_verify_paths()
            self._store = self._context.get_cert_store()
            if ca_file is not None:
                self._add_anchors(ca_file)

    def _add_anchors(self, ca_file: str) -> None:
        try:
            with open(ca_file, "rb") as file:
                pem = file.read()
            anchors = x509.load_pem_x509_certificates(pem)
        except OSError as error:
            raise ConfigurationError(
                f"cannot be read: {error.strerror}", file=ca_file, key="tls_ca"
            ) from None
        except ValueError:
            raise ConfigurationError(
                "holds no PEM certificate", file=ca_file, key="tls_ca"
            ) from None
        for anchor in anchors:
            assert self._store is not None
            self._store.add_cert(crypto.X509.from_cryptography(anchor))

    def verify(self, chain: list[bytes], now: float) -> None:
        """Accept the peer or say why not.

        Args:
            chain: The certificates it sent, in DER, its own first.
            now: Seconds since the Unix epoch.

        Raises:
            HandshakeError: It is refused; the text says what to do.
        """
        if not chain:
            raise HandshakeError("the server sent no certificate")
        try:
            certificates = [x509.load_der_x509_certificate(der) for der in chain]
            leaf = certificates[0]
            found = pin_of(leaf)
        except Exception as error:
            # cryptography raises several kinds for malformed certificates and keys it does
            # not know; each of them means the same here.
            raise HandshakeError("the server's certificate cannot be read") from error
        if self._pin is not None:
            if found != self._pin:
                raise HandshakeError(
                    f"the server's key is not the pinned one: it is {format_pin(found)}; if "
                    "that is right, set tls_pin to it"
                )
            return
        self._verify_chain(certificates, found, now)
        self._verify_purpose(leaf)
        self._verify_name(leaf)

    def _verify_chain(self, certificates: list[x509.Certificate], found: bytes, now: float) -> None:
        assert self._store is not None
        leaf, *others = (crypto.X509.from_cryptography(entry) for entry in certificates)
        self._store.set_time(datetime.fromtimestamp(now, UTC))
        try:
            crypto.X509StoreContext(self._store, leaf, others).verify_certificate()
        except crypto.X509StoreContextError as error:
            self._refuse_chain(error, certificates[0], found)

    def _refuse_chain(
        self, error: crypto.X509StoreContextError, leaf: x509.Certificate, found: bytes
    ) -> NoReturn:
        code = error.errors[0] if error.errors else 0
        if code == _EXPIRED:
            raise HandshakeError(
                f"the server's certificate expired on {leaf.not_valid_after_utc:%Y-%m-%d}; "
                "renew it, or set this machine's clock"
            )
        if code == _NOT_YET_VALID:
            raise HandshakeError(
                "the server's certificate is valid only from "
                f"{leaf.not_valid_before_utc:%Y-%m-%d}; set this machine's clock"
            )
        if code in _UNKNOWN_AUTHORITY:
            raise HandshakeError(
                "the server's certificate is signed by an authority unknown here; set tls_ca "
                f'to that authority\'s file, or tls_pin = "{format_pin(found)}" if you know '
                "the key to be the server's"
            )
        raise HandshakeError(f"the server's certificate is not acceptable (OpenSSL code {code})")

    @staticmethod
    def _verify_purpose(leaf: x509.Certificate) -> None:
        try:
            usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        except (x509.ExtensionNotFound, ValueError, x509.DuplicateExtension):
            return
        # RFC 5280, section 4.2.1.12: absent means any purpose.
        if not {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE} & set(
            usage
        ):
            raise HandshakeError("the server's certificate is not one for a server")

    def _verify_name(self, leaf: x509.Certificate) -> None:
        try:
            ip_address(self._name)
        except ValueError:
            check: Callable[[x509.Certificate, str], None] = verify_certificate_hostname
        else:
            check = verify_certificate_ip_address
        try:
            check(leaf, self._name)
        except (VerificationError, CertificateError, ValueError):
            raise HandshakeError(
                f"the server's certificate is not for {self._name}; correct tls_sni, or the "
                "server's certificate"
            ) from None
