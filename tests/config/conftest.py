"""A folder for the tests of configuration files."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID
from support.config_files import CLIENT, OTHER, SECRET, SERVER_KEY, write


def make_certificate(key: ec.EllipticCurvePrivateKey) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "example.com")])
    day = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(day)
        .not_valid_after(day + datetime.timedelta(days=36500))
        .sign(key, hashes.SHA256())
        .public_bytes(Encoding.PEM)
    )


def make_key_file(key: ec.EllipticCurvePrivateKey, password: bytes | None = None) -> bytes:
    encryption = NoEncryption() if password is None else BestAvailableEncryption(password)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with everything that a file can name."""
    key, other = (ec.derive_private_key(n, ec.SECP256R1()) for n in (7, 8))
    write(tmp_path / "cert.pem", make_certificate(key), 0o644)
    write(tmp_path / "chain.pem", make_certificate(other) + make_certificate(key), 0o644)
    write(tmp_path / "other.pem", make_certificate(other), 0o644)
    write(tmp_path / "key.pem", make_key_file(key))
    write(tmp_path / "open.pem", make_key_file(key), 0o644)
    write(tmp_path / "locked.pem", make_key_file(key, b"x"))
    write(tmp_path / "junk.pem", b"junk")
    write(tmp_path / "server.key", SECRET + "\n")
    write(tmp_path / "open.key", SECRET + "\n", 0o644)
    write(tmp_path / "hex.key", SERVER_KEY.raw.hex())
    write(
        tmp_path / "clients.txt",
        f"# who\n{CLIENT} laptop at home # mine\n\n\t{OTHER}\r\n",
    )
    write(tmp_path / "bad.txt", f"{CLIENT}\nnonsense!\n{CLIENT} again\n")
    (tmp_path / "site").mkdir()
    return tmp_path
