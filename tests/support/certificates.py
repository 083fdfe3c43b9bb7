"""Self-signed certificates for servers of tests."""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
from base64 import b64encode
from pathlib import Path

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@attrs.frozen
class Certificate:
    """A certificate and its key, as files.

    Attributes:
        cert: The certificate in PEM; it is its own authority.
        key: Its private key in PEM.
        pin: What ``tls_pin`` says of it.
        serial: Its serial number.
    """

    cert: Path
    key: Path
    pin: str
    serial: int


def make_certificate(folder: Path, name: str, label: str = "server") -> Certificate:
    """Write a certificate for `name` and 127.0.0.1 that is valid for a day either way.

    Args:
        folder: Where the files go.
        name: The host name.
        label: What the files are called.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    serial = x509.random_serial_number()
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName(
                [x509.DNSName(name), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
            ),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        # As OpenSSL makes them; they tell apart what has the same name.
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    made = Certificate(
        folder / f"{label}.crt",
        folder / f"{label}.pem",
        "sha256/" + b64encode(hashlib.sha256(_spki(key)).digest()).decode(),
        serial,
    )
    made.cert.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    made.key.touch(mode=0o600)
    made.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return made


def _spki(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
