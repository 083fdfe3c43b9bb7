"""Certificates, and two layers joined in memory, for the tests of the carriers."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import attrs
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from phantom.carriers import tls_utls
from phantom.carriers.tls_openssl import OpenSSLClientEngines
from phantom.runtime import Runtime, system_runtime

NOW = datetime(2026, 6, 1, tzinfo=UTC)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


class Authority:
    """Issues certificates into a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = _name("test authority")
        self.certificate = self._sign(
            self.name,
            self.key.public_key(),
            NOW - timedelta(days=1),
            NOW + timedelta(days=3650),
            [
                (x509.BasicConstraints(ca=True, path_length=None), True),
                (x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()), False),
            ],
        )
        self.ca_file = str(folder / "ca.pem")
        self._write("ca.pem", self.certificate.public_bytes(serialization.Encoding.PEM))
        self._count = 0

    def _write(self, name: str, data: bytes) -> str:
        path = self.folder / name
        path.write_bytes(data)
        return str(path)

    def _sign(
        self,
        subject: Any,
        public: Any,
        start: Any,
        end: Any,
        extensions: Any,
        key: Any = None,
        issuer: Any = None,
    ) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer or self.name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(end)
        )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder.sign(key or self.key, hashes.SHA256())

    def issue(
        self,
        name: str = "server.test",
        *,
        start_days: int = -1,
        end_days: int = 3650,
        self_signed: bool = False,
        usage: Any = ExtendedKeyUsageOID.SERVER_AUTH,
    ) -> tuple[str, str, bytes]:
        """Return the paths of certificate and key, and the key's pin."""
        key = ec.generate_private_key(ec.SECP256R1())
        try:
            alternative: x509.GeneralName = x509.IPAddress(ip_address(name))
        except ValueError:
            alternative = x509.DNSName(name)
        certificate = self._sign(
            _name("leaf"),
            key.public_key(),
            NOW + timedelta(days=start_days),
            NOW + timedelta(days=end_days),
            [
                (x509.SubjectAlternativeName([alternative]), False),
                (x509.ExtendedKeyUsage([usage]), False),
            ],
            key=key if self_signed else None,
            issuer=_name("leaf") if self_signed else None,
        )
        self._count += 1
        digest = hashes.Hash(hashes.SHA256())
        digest.update(
            key.public_key().public_bytes(
                serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )
        return (
            self._write(f"{self._count}.pem", certificate.public_bytes(serialization.Encoding.PEM)),
            self._write(
                f"{self._count}.key",
                key.private_bytes(
                    serialization.Encoding.PEM,
                    serialization.PrivateFormat.PKCS8,
                    serialization.NoEncryption(),
                ),
            ),
            digest.finalize(),
        )


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="session")
def certificate(authority: Authority) -> tuple[str, str, bytes]:
    return authority.issue()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def _runtime(reactor: Any, clock: Any) -> Runtime:
    return attrs.evolve(
        system_runtime(reactor),
        clock=clock,
        wall_time=lambda: (NOW + timedelta(hours=1)).timestamp(),
    )


@pytest.fixture
def runtime(clock: Clock) -> Runtime:
    """Everything by the test's own clock."""
    return _runtime(None, clock)


@pytest.fixture
def live_runtime() -> Runtime:
    """The real reactor, at the certificates' time of day."""
    from twisted.internet import reactor

    return _runtime(reactor, reactor)


class MemoryTransport:
    """One end of a `Wire`: what a TCP transport does, without a kernel.

    Closing is seen by the other end once everything before it was delivered.
    """

    HIGH_WATER = 65536

    def __init__(self) -> None:
        self.queue = bytearray()
        self.protocol: Any = None
        self.producer: Any = None
        self.streaming = False
        self.asked_to_pause = False
        self.reading = True
        self.closing = False
        self.half_closed = False
        self.eof_sent = False
        self.aborted = False
        self.lost = False
        self.peak = 0

    def write(self, data: bytes) -> None:
        if self.lost or self.half_closed or self.aborted:
            return
        self.queue += data
        self.peak = max(self.peak, len(self.queue))
        if self.producer and self.streaming and len(self.queue) > self.HIGH_WATER:
            self.asked_to_pause = True
            self.producer.pauseProducing()

    def loseConnection(self) -> None:
        self.closing = True

    def loseWriteConnection(self) -> None:
        self.half_closed = True

    def abortConnection(self) -> None:
        self.aborted = True
        self.queue.clear()

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        self.producer, self.streaming = producer, streaming

    def unregisterProducer(self) -> None:
        self.producer = None

    def pauseProducing(self) -> None:
        self.reading = False

    def resumeProducing(self) -> None:
        self.reading = True

    def stopProducing(self) -> None:
        self.loseConnection()

    def getPeer(self) -> Any:
        return None

    def getHost(self) -> Any:
        return None

    def drained(self) -> None:
        if self.producer and not self.queue and (self.asked_to_pause or not self.streaming):
            self.asked_to_pause = False
            self.producer.resumeProducing()


class Wire:
    """Two protocols joined by two `MemoryTransport`."""

    def __init__(self, clock: Clock, near: Any, far: Any) -> None:
        self.clock = clock
        self.ends = MemoryTransport(), MemoryTransport()
        for end, protocol in zip(self.ends, (near, far), strict=True):
            end.protocol = protocol
        for end in self.ends:
            end.protocol.makeConnection(end)

    def _lose(self, end: MemoryTransport, error: type[Exception]) -> None:
        if not end.lost:
            end.lost = True
            end.protocol.connectionLost(Failure(error()))

    def step(self, size: int) -> bool:
        """Move up to `size` bytes each way; False when nothing moved."""
        moved = False
        self.clock.advance(0)
        for end, other in (self.ends, self.ends[::-1]):
            if end.aborted and not end.lost:
                self._lose(end, ConnectionLost)
                self._lose(other, ConnectionLost)
                return True
            if end.queue and (other.lost or other.closing):
                end.queue.clear()
            if end.queue and other.reading:
                piece = bytes(end.queue[:size])
                del end.queue[:size]
                other.protocol.dataReceived(piece)
                end.drained()
                moved = True
            elif not end.queue and end.producer and not end.streaming and not end.lost:
                end.drained()
                moved = moved or bool(end.queue)
            if not end.queue and (end.closing or end.half_closed) and not end.eof_sent:
                end.eof_sent = moved = True
                if not other.lost and not other.closing:
                    other.protocol.readConnectionLost()
            if not end.queue and end.closing and not end.lost:
                moved = True
                self._lose(end, ConnectionDone)
                if other.eof_sent:
                    self._lose(other, ConnectionDone)
        for end, other in (self.ends, self.ends[::-1]):
            if end.eof_sent and other.eof_sent and not end.lost and (end.closing or other.lost):
                self._lose(end, ConnectionDone)
                moved = True
        return moved

    def run(self, sizes: Callable[[], int] = lambda: 65536) -> None:
        """Move until nothing moves any more."""
        for _ in range(1_000_000):
            if not self.step(sizes()):
                return
        raise AssertionError("the wire never came to rest")


@pytest.fixture
def wire() -> type[Wire]:
    return Wire


def _engines(name: str) -> Any:
    if name == "openssl":
        return OpenSSLClientEngines("server.test", ("http/1.1",)).engine
    if not tls_utls.AVAILABLE:
        pytest.skip("the package utls is not installed")
    return tls_utls.UTLSClientEngines("server.test", ("http/1.1",), "chrome").engine


@pytest.fixture(params=["openssl", "utls"])
def client_engine(request: pytest.FixtureRequest) -> Any:
    """Makes client engines, once by each implementation."""
    return _engines(request.param)


@pytest.fixture
def openssl_engine() -> Any:
    """For properties: pytest-twisted cannot run one with a parametrised fixture."""
    return _engines("openssl")


@pytest.fixture
def utls_engine() -> Any:
    return _engines("utls")
